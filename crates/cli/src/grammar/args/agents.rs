//! `install`, `uninstall`, `hook`: their flags (CLI spec §3.19, §6.1, §6.3, §6.6).

use clap::{Args, ValueEnum};
use claudemesh_agents::agent::AgentKind;

/// `install`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag of the command line")]
pub(crate) struct InstallArgs {
    /// claude, codex; those found on this machine when left out
    #[arg(value_name = "agent", value_parser = agent)]
    pub(crate) agents: Vec<AgentKind>,
    /// No hooks: messages come by the MCP server alone
    #[arg(long)]
    pub(crate) no_hooks: bool,
    /// No bell: an idle session is not woken
    #[arg(long)]
    pub(crate) no_bell: bool,
    /// No skill
    #[arg(long)]
    pub(crate) no_skill: bool,
    /// No service: the daemon starts on demand
    #[arg(long)]
    pub(crate) no_service: bool,
    /// Our line in Claude Code's status bar, where there is none yet
    #[arg(long)]
    pub(crate) status_line: bool,
    /// Nothing runs unasked
    #[arg(long, conflicts_with_all = ["allow", "allow_bash"])]
    pub(crate) no_permissions: bool,
    /// Let the agent run every claudemesh command unasked
    #[arg(long, value_name = "WHAT", value_enum)]
    pub(crate) allow: Option<AllowWord>,
    /// As --allow all
    #[arg(long, hide = true)]
    pub(crate) allow_bash: bool,
    /// Tools of the MCP server, such as messaging,state
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub(crate) tools: Option<String>,
    /// A service also where an automated build is running
    #[arg(long)]
    pub(crate) allow_ci_persistent: bool,
    /// Show what would change, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `install --allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AllowWord {
    /// Every command
    All,
}

/// `uninstall`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UninstallAgentsArgs {
    /// claude, codex; all of them when left out
    #[arg(value_name = "agent", value_parser = agent)]
    pub(crate) agents: Vec<AgentKind>,
    /// Leave service and daemon as they are
    #[arg(long)]
    pub(crate) keep_service: bool,
    /// Show what would change, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn agent(text: &str) -> Result<AgentKind, String> {
    let words = || AgentKind::ALL.map(|kind| kind.agent().word).join(", ");
    AgentKind::ALL.into_iter().find(|kind| kind.agent().word == text).ok_or_else(words)
}

/// `hook`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HookArgs {
    /// claude or codex
    #[arg(value_name = "agent")]
    pub(crate) agent: Option<String>,
    /// The agent's own name of the event, or bell
    #[arg(value_name = "event")]
    pub(crate) event: Option<String>,
}

impl HookArgs {
    /// What was typed.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.agent.iter().chain(&self.event).map(String::as_str).collect()
    }
}

//! The declared grammar: every command with its flags, as the parser, the help pages and the completions see it
//! (CLI spec §1.2–§1.4, §3).

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use claudemesh_mcp::client_config::Program;
use claudemesh_protocol::limits;
use claudemesh_protocol::ops::policy::ApprovalMode;

use super::values::{duration, listed};

mod agents;
mod care;
mod daemon;
mod mesh;
mod outbox;
mod policy;
mod service;
mod talk;

pub(crate) use agents::{HookArgs, InstallArgs, UninstallAgentsArgs};
pub(crate) use care::{
    BackupArgs, PassphraseArgs, RecoverArgs, RecoverChoice, ResetArgs, RestoreArgs, UninstallArgs,
};
pub(crate) use daemon::{
    DaemonEventsArgs, DaemonLogsArgs, DaemonRemintArgs, DaemonStartArgs, DaemonUpArgs, DaemonVerb,
    LogLevel,
};
pub(crate) use mesh::{CreateArgs, InviteRole, JoinArgs, LeaveArgs, MeshVerb, ShareArgs};
pub(crate) use outbox::{OutboxListArgs, OutboxPruneArgs, OutboxRequeueArgs, OutboxVerb};
pub(crate) use policy::{PolicyCheckArgs, PolicyVerb};
pub(crate) use service::InstallServiceArgs;
pub(crate) use talk::{
    InboxArgs, InboxFlushArgs, InboxSearchArgs, InboxVerb, MemberListArgs, MemberVerb, MessageVerb,
    PeerListArgs, PeerVerb, PriorityWord, SendArgs,
};

/// The program without any flag or verb.
pub(crate) fn root() -> clap::Command {
    clap::Command::new("claudemesh")
        .about("Lets agents and people on different machines talk, end-to-end encrypted")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .args_override_self(true)
        .max_term_width(80)
}

/// The program with every verb that is drawn by hand.
pub(crate) fn hand_drawn() -> clap::Command {
    <Cli as Args>::augment_args(root())
}

/// What is drawn by hand of the command line; the rest follows from the operation table.
#[derive(Debug, Parser)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags every verb takes (§1.4).
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag of the command line")]
pub(crate) struct Global {
    /// Mesh to work on
    #[arg(long, global = true, value_name = "SLUG")]
    pub(crate) mesh: Option<String>,
    /// Print JSON; with =a,b only these fields
    #[arg(long, global = true, value_name = "FIELDS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) json: Option<String>,
    /// Print these fields as JSON
    #[arg(long, global = true, value_name = "FIELDS")]
    pub(crate) fields: Option<String>,
    /// Wrap JSON lists in an object
    #[arg(long, global = true)]
    pub(crate) json_envelope: bool,
    /// Form of the output
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) output_format: Option<OutputFormat>,
    /// Refuse to print another version of the JSON contract
    #[arg(long, global = true, value_name = "VERSION", hide_short_help = true)]
    pub(crate) schema_version: Option<String>,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print more: full ids and keys
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Print causes of errors
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) debug: bool,
    /// Answer yes to confirmations
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
    /// What runs unasked: plan, read-only, write, yolo
    #[arg(long, global = true, value_name = "MODE", value_parser = approval_mode, hide_short_help = true)]
    pub(crate) approval_mode: Option<ApprovalMode>,
    /// Rules of what runs, is asked about, is refused
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) policy: Option<std::path::PathBuf>,
    /// Never ask anything
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) non_interactive: bool,
    /// Fail when the daemon cannot be reached
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) strict: bool,
    /// Never use or start the daemon
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_daemon: bool,
    /// Budget of the operation, such as 10s
    #[arg(long, global = true, value_name = "DURATION", value_parser = operation_timeout, hide_short_help = true)]
    pub(crate) timeout: Option<Duration>,
    /// No colours
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_color: bool,
    /// No spinners
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_progress: bool,
}

fn approval_mode(text: &str) -> Result<ApprovalMode, String> {
    ApprovalMode::parse(text).ok_or_else(|| {
        let modes: Vec<&str> = ApprovalMode::ALL.iter().map(|mode| mode.as_str()).collect();
        modes.join(", ")
    })
}

fn operation_timeout(text: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    let range = limits::CLI_TIMEOUT_MIN..=limits::CLI_TIMEOUT_MAX;
    if range.contains(&value) { Ok(value) } else { Err("1s to 10m".to_owned()) }
}

/// Values of `--output-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Text,
    /// One document
    Json,
    /// One compact object per line
    StreamJson,
}

/// The canonical first words.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Start broker, daemon and a first mesh on this machine
    #[command(
        after_help = "Examples:\n  claudemesh up\n  claudemesh up --listen 0.0.0.0 --insecure-http\n\nRun it any time: what is done already is left alone.\nExit codes: 2 not signed in on this server, 6 mesh name taken, 7 refused, 10 files"
    )]
    Up(UpArgs),
    /// Stop daemon and broker; data and memberships stay
    #[command(after_help = "Examples:\n  claudemesh down\n  claudemesh down --broker-only")]
    Down(DownArgs),
    /// Create, join, share, list and leave meshes
    #[command(subcommand)]
    Mesh(MeshVerb),
    /// See who is there
    #[command(subcommand)]
    Peer(PeerVerb),
    /// See who belongs to a mesh
    #[command(subcommand)]
    Member(MemberVerb),
    /// Send and read messages
    #[command(subcommand)]
    Message(MessageVerb),
    /// Decide what runs, is asked about, is refused
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Run the background process
    #[command(subcommand)]
    Daemon(DaemonVerb),
    /// Save memberships, keys and settings in an encrypted file
    #[command(
        after_help = "Examples:\n  claudemesh backup\n  claudemesh backup --out /media/usb/mesh.cmb --with-inbox\n\nAlias: daemon backup\nThe passphrase has at least 12 characters. Whoever has both can be you in every mesh.\nExit codes: 3 short passphrase, 5 no mesh joined, 6 the file exists, 10 files"
    )]
    Backup(BackupArgs),
    /// Bring a backup to this machine
    #[command(
        after_help = "Examples:\n  claudemesh restore --in mesh.cmb\n  claudemesh restore --in mesh.cmb --merge\n\nAlias: daemon restore\nWhat is replaced is kept as <file>.before-restore.<time>.\nExit codes: 2 wrong passphrase or damaged file, 3 no backup, 6 daemon running, 10 files"
    )]
    Restore(RestoreArgs),
    /// Connect Claude Code and Codex: MCP server, hooks, skill
    #[command(
        after_help = "Examples:\n  claudemesh install\n  claudemesh install claude --dry-run\n  claudemesh install codex --no-service -y\n\nOnly our own entries are written; everything else in your settings stays, to the byte.\nRun it any time. What changes is shown first, and asked about once.\nExit codes: 7 nobody to ask, 10 a file stays as it is"
    )]
    Install(InstallArgs),
    /// Take away what install wrote; memberships stay
    #[command(
        after_help = "Examples:\n  claudemesh uninstall\n  claudemesh uninstall codex --dry-run\n\nFiles that nobody else has changed are again what they were, to the byte.\nExit codes: 4 the daemon does not stop, 7 nobody to ask, 10 a file stays as it is"
    )]
    Uninstall(UninstallAgentsArgs),
    /// Print what agents read about this program
    #[command(
        after_help = "Examples:\n  claudemesh skill\n  claudemesh skill > ~/.claude/skills/claudemesh/SKILL.md"
    )]
    Skill,
    /// Show everything at a glance: daemon, meshes, sessions
    #[command(
        after_help = "Examples:\n  claudemesh status\n  claudemesh status --json\n\nWithout a daemon each broker is asked; none is started.\nExit codes: 1 a mesh cannot be reached, 10 a damaged config"
    )]
    Status,
    /// Print one line for an agent's status bar
    #[command(
        after_help = "Examples:\n  claudemesh status-line\n\nIt asks nobody, takes a few milliseconds and always succeeds. The line has no end of line.\nInto Claude Code it comes by: claudemesh install --status-line"
    )]
    StatusLine,
    /// Show this session, account and memberships
    #[command(
        after_help = "Examples:\n  claudemesh whoami\n  claudemesh whoami --json\n\nExit codes: 2 neither account nor mesh nor session"
    )]
    Whoami,
    /// Print a completion script
    #[command(
        after_help = "Examples:\n  claudemesh completions bash > ~/.local/share/bash-completion/completions/claudemesh\n  claudemesh completions fish > ~/.config/fish/completions/claudemesh.fish"
    )]
    Completions(CompletionsArgs),
    /// Serve an MCP client on stdio (started by the client)
    #[command(
        after_help = "Examples:\n  claude mcp add claudemesh -- claudemesh mcp\n  claudemesh mcp --tools messaging,profile,state\n  claudemesh mcp --tools v1 --caps dm,read\n  claudemesh mcp print-config cursor\n\nCapabilities: read, dm, broadcast, state-read, state-write, grant, kick, ban, profile-write,\nservice-deploy; everything the member may do when left out.\nTools: none, v1, all, families, single tools; a leading - removes. docs/mcp.md explains them."
    )]
    Mcp(McpArgs),
    /// Tell the daemon what an agent does (run by the agent)
    #[command(
        after_help = "Examples:\n  claudemesh hook claude UserPromptSubmit\n  claudemesh hook codex Stop\n\nReads the agent's JSON on standard input and prints what the agent is to be told, in\nits own form, or nothing. It ends within 50 ms with exit code 0, whatever happens, and starts no\ndaemon; only the event \"bell\" waits. claudemesh install makes agents run it.\nCLAUDEMESH_HOOK_DEBUG=1 says why nothing is printed."
    )]
    Hook(HookArgs),
    /// Run a broker; also the program claudemesh-broker
    #[command(disable_help_flag = true)]
    Broker(BrokerArgs),
}

/// `claudemesh up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Accept other machines on this address; remembered
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub(crate) listen: Option<String>,
    /// Allow a network address without TLS
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// Run broker and daemon as children until Ctrl-C
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Your name in the mesh (default: name of the OS user)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// `claudemesh down`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DownArgs {
    /// Keep the daemon
    #[arg(long)]
    pub(crate) broker_only: bool,
}

/// `completions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "shell")]
    pub(crate) shell: Shell,
}

/// Shells with a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

/// `claudemesh mcp`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct McpArgs {
    /// What to do instead of serving
    #[command(subcommand)]
    pub(crate) verb: Option<McpVerb>,
    /// Tools to offer, such as messaging,state; none when left out
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub(crate) tools: Option<String>,
    /// What the session may do at most, such as dm,read; an empty list only receives
    #[arg(long, value_name = "LIST")]
    pub(crate) caps: Option<String>,
    /// Text of tool results: the result itself, or what the command line shows
    #[arg(long, value_name = "FORM", value_enum, default_value_t = ToolTextWord::Json)]
    pub(crate) tool_text: ToolTextWord,
    /// Register the session and push nothing
    #[arg(long)]
    pub(crate) no_channel: bool,
}

/// `mcp --tool-text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ToolTextWord {
    Json,
    Human,
}

/// What `mcp` does besides serving.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum McpVerb {
    /// Print settings that let a program start this server
    #[command(
        after_help = "Examples:\n  claudemesh mcp print-config cursor\n  claudemesh mcp print-config codex >> ~/.codex/config.toml"
    )]
    PrintConfig(PrintConfigArgs),
}

/// `mcp print-config`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrintConfigArgs {
    /// cursor, codex, vscode, gemini, or json for others
    #[arg(value_name = "client", value_parser = mcp_program)]
    pub(crate) client: Program,
}

fn mcp_program(text: &str) -> Result<Program, String> {
    Program::parse(text).ok_or_else(|| {
        let programs: Vec<&str> = Program::ALL.iter().map(|program| program.as_str()).collect();
        programs.join(", ")
    })
}

/// `broker …`: the words go to the broker's own grammar.
#[derive(Debug, Clone, Args)]
pub(crate) struct BrokerArgs {
    /// Verb of the broker and its flags
    #[arg(value_name = "verb", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

impl Global {
    /// The requested fields, from either flag.
    pub(crate) fn requested_fields(&self) -> Vec<String> {
        self.fields.as_deref().into_iter().chain(self.json.as_deref()).flat_map(listed).collect()
    }

    /// True when stdout must carry JSON.
    pub(crate) fn wants_json(&self) -> bool {
        self.json.is_some()
            || self.fields.is_some()
            || matches!(self.output_format, Some(OutputFormat::Json | OutputFormat::StreamJson))
    }
}

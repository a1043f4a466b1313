//! Commands on the policy gate (CLI spec §1.17).

use clap::{Args, Subcommand};

/// Verbs on the policy.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Show the rules in force
    #[command(after_help = "Example:\n  claudemesh policy show --json")]
    Show,
    /// Print the path of the policy file
    #[command(after_help = "Example:\n  claudemesh policy path")]
    Path,
    /// Tell what would happen with a verb
    #[command(
        after_help = "Examples:\n  claudemesh policy check peer kick\n  claudemesh policy check state set --mesh dev --approval-mode read-only\n\nExit codes: 7 denied"
    )]
    Check(PolicyCheckArgs),
    /// Write a policy file to edit
    #[command(
        after_help = "Examples:\n  claudemesh policy init\n  claudemesh policy init --force\n\nExit codes: 6 there is one, 10 files"
    )]
    Init(PolicyInitArgs),
}

/// `policy check`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyCheckArgs {
    /// Resource, such as peer
    #[arg(value_name = "resource")]
    pub(crate) resource: String,
    /// Verb, such as kick
    #[arg(value_name = "verb")]
    pub(crate) verb: String,
    /// Whom or what it would concern
    #[arg(value_name = "target")]
    pub(crate) target: Option<String>,
}

/// `policy init`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyInitArgs {
    /// Replace the file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

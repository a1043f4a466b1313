//! Commands on the outbox of the daemon (CLI spec §3.18).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::grammar::values::{duration, positive_limit};

/// Verbs on the outbox.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum OutboxVerb {
    /// Show what waits, is on its way, done or given up
    #[command(
        after_help = "Examples:\n  claudemesh daemon outbox list\n  claudemesh daemon outbox list --failed --json=id,last_error"
    )]
    List(OutboxListArgs),
    /// Show one row, and the rows that took its place
    #[command(
        after_help = "Example:\n  claudemesh daemon outbox inspect 01JD2M7Q8Z3K5V6W9X0Y1A2B3C\n\nExit codes: 5 no such row"
    )]
    Inspect(OutboxRowArgs),
    /// Send a row once more under a new id
    #[command(
        after_help = "Examples:\n  claudemesh daemon outbox requeue 01JD2M7Q8Z3K5V6W9X0Y1A2B3C\n  claudemesh daemon outbox requeue 01JD2M7Q8Z3K5V6W9X0Y1A2B3C --patch-payload fixed.txt\n\nExit codes: 5 no such row, 6 done or aborted"
    )]
    Requeue(OutboxRequeueArgs),
    /// Give up a row
    #[command(
        after_help = "Example:\n  claudemesh daemon outbox drop 01JD2M7Q8Z3K5V6W9X0Y1A2B3C\n\nExit codes: 5 no such row, 6 already done"
    )]
    Drop(OutboxRowArgs),
    /// Take the text out of old rows that are done
    #[command(
        after_help = "Example:\n  claudemesh daemon outbox prune --older-than 7d --confirm\n\nExit codes: 3 without --confirm"
    )]
    Prune(OutboxPruneArgs),
}

/// `daemon outbox list`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag of the command line")]
pub(crate) struct OutboxListArgs {
    /// Only what waits
    #[arg(long, group = "state")]
    pub(crate) pending: bool,
    /// Only what is on its way
    #[arg(long, group = "state")]
    pub(crate) inflight: bool,
    /// Only what the broker has
    #[arg(long, group = "state")]
    pub(crate) done: bool,
    /// Only what will not be sent
    #[arg(long, group = "state")]
    pub(crate) failed: bool,
    /// Only what was replaced or dropped
    #[arg(long, group = "state")]
    pub(crate) aborted: bool,
    /// Rows to show
    #[arg(long, value_name = "N", value_parser = positive_limit, default_value = "50", allow_negative_numbers = true)]
    pub(crate) limit: u32,
}

/// One row.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutboxRowArgs {
    /// Row id, client id, broker id, or 8 or more characters of one
    #[arg(value_name = "id")]
    pub(crate) id: String,
}

/// `daemon outbox requeue`.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutboxRequeueArgs {
    /// Row id, client id, or 8 or more characters of one
    #[arg(value_name = "id")]
    pub(crate) id: String,
    /// Id of the new message
    #[arg(long, value_name = "ID", conflicts_with = "auto")]
    pub(crate) new_client_id: Option<String>,
    /// Let the daemon choose the id (the default)
    #[arg(long)]
    pub(crate) auto: bool,
    /// File with another text
    #[arg(long, value_name = "PATH")]
    pub(crate) patch_payload: Option<PathBuf>,
    /// Send to whom it was addressed first, whatever the name means now
    #[arg(long)]
    pub(crate) keep_target: bool,
    /// Also a row that is on its way; it may arrive twice
    #[arg(long)]
    pub(crate) force: bool,
}

/// `daemon outbox prune`.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutboxPruneArgs {
    /// Least age
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30d")]
    pub(crate) older_than: Duration,
    /// Do it
    #[arg(long)]
    pub(crate) confirm: bool,
}

//! Commands on peers, members and messages (CLI spec §3.4, §3.6).

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::grammar::values::{positive_limit, wait_duration};

/// Verbs on peers.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum PeerVerb {
    /// List who is connected
    #[command(
        after_help = "Examples:\n  claudemesh peers\n  claudemesh peer list --json=name,status\n\nAliases: peers, peer"
    )]
    List(PeerListArgs),
    /// Lift the stop of an endless exchange
    #[command(
        after_help = "Example:\n  claudemesh peer unblock-loop bob\n\nFor a person at a terminal.\nExit codes: 5 unknown peer, 7 no terminal"
    )]
    UnblockLoop(UnblockLoopArgs),
}

/// `peer unblock-loop`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UnblockLoopArgs {
    /// Name, key or key prefix
    #[arg(value_name = "peer")]
    pub(crate) peer: String,
}

/// `peer list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PeerListArgs {
    /// Also the daemons' own connections
    #[arg(long)]
    pub(crate) all: bool,
    /// Leave out who is only leased after a lost connection
    #[arg(long)]
    pub(crate) online: bool,
}

/// Verbs on members.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum MemberVerb {
    /// List who belongs to a mesh, present or not
    #[command(
        after_help = "Examples:\n  claudemesh members\n  claudemesh member list --online\n\nAliases: members, member"
    )]
    List(MemberListArgs),
}

/// `member list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MemberListArgs {
    /// Only who is present
    #[arg(long)]
    pub(crate) online: bool,
}

/// Verbs on messages.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum MessageVerb {
    /// Send to a peer, a member, a @group or @all
    #[command(
        after_help = "Examples:\n  claudemesh send Mou \"the build is green\"\n  claudemesh send @eng deploy at four --priority now\n  git diff | claudemesh send Mou -\n\nAlias: send\nExit codes: 5 unknown peer, 6 id used for another message, 7 forbidden"
    )]
    Send(SendArgs),
    /// Read what arrived
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  claudemesh inbox\n  claudemesh inbox --unread --json\n  claudemesh inbox --wait=1m\n\nAlias: inbox"
    )]
    Inbox(InboxArgs),
    /// Show how far a message came
    #[command(
        after_help = "Example:\n  claudemesh message status 3fK29dLa\n\nAlias: msg-status\nExit codes: 5 unknown id"
    )]
    Status(MessageStatusArgs),
}

/// `message send`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SendArgs {
    /// Name, key, key prefix, name@mesh, @group or @all
    #[arg(value_name = "to")]
    pub(crate) to: String,
    /// The text; - reads it from stdin
    #[arg(value_name = "text", allow_negative_numbers = true)]
    pub(crate) text: Vec<String>,
    /// How urgent it is
    #[arg(long, value_name = "PRIORITY", default_value = "next")]
    pub(crate) priority: PriorityWord,
    /// Allow your own name: to your other sessions
    #[arg(long = "self")]
    pub(crate) to_self: bool,
    /// Message this answers
    #[arg(long, value_name = "ID")]
    pub(crate) reply_to: Option<String>,
    /// Your id for it; the same id is never sent twice
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// Wait until it arrived (10s)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "10s", value_parser = wait_duration)]
    pub(crate) wait: Option<Duration>,
    /// Fail when nobody is addressable now
    #[arg(long)]
    pub(crate) require_online: bool,
    /// Read the text from stdin
    #[arg(long)]
    pub(crate) from_stdin: bool,
}

/// Values of `send --priority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PriorityWord {
    /// Interrupts
    Now,
    /// When the peer is idle
    Next,
    /// Waits in the inbox
    Low,
}

/// `message inbox`, with its two deleting forms.
#[derive(Debug, Clone, Args)]
pub(crate) struct InboxArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<InboxVerb>,
    /// Rows at most
    #[arg(long, value_name = "N", value_parser = positive_limit, default_value = "100", allow_negative_numbers = true)]
    pub(crate) limit: u32,
    /// Only what was not read
    #[arg(long)]
    pub(crate) unread: bool,
    /// Leave it unread
    #[arg(long)]
    pub(crate) peek: bool,
    /// Only what arrived since: 2h, or a date and time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only from this name or key
    #[arg(long, value_name = "PEER")]
    pub(crate) from: Option<String>,
    /// Only of this topic
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// Wait for new messages (30s)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = wait_duration)]
    pub(crate) wait: Option<Duration>,
}

/// Searching the inbox, and deleting from it.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum InboxVerb {
    /// Find messages by their words
    #[command(
        after_help = "Examples:\n  claudemesh inbox search build red\n  claudemesh inbox search '\"deploy at\" OR rollback' --mesh dev\n  claudemesh daemon search invoice --limit 10 --json\n\nAND, OR, NOT, NEAR and \"quoted phrases\" work; sender and topic are searched, too.\nAliases: inbox search, daemon search\nExit codes: 3 nothing to search for, 5 no index (inbox.fts)"
    )]
    Search(InboxSearchArgs),
    /// Delete many messages
    #[command(
        after_help = "Examples:\n  claudemesh inbox flush --before 2026-01-01\n  claudemesh inbox flush --mesh dev"
    )]
    Flush(InboxFlushArgs),
    /// Delete one message
    #[command(
        after_help = "Example:\n  claudemesh inbox delete 01JD2M7Q8Z3K5V6W9X0Y1A2B3C\n\nExit codes: 5 no such row"
    )]
    Delete(InboxDeleteArgs),
}

/// `inbox search`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InboxSearchArgs {
    /// Words to find
    #[arg(value_name = "words", required = true)]
    pub(crate) words: Vec<String>,
    /// Rows at most
    #[arg(long, value_name = "N", value_parser = positive_limit, default_value = "50", allow_negative_numbers = true)]
    pub(crate) limit: u32,
}

/// `inbox flush`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InboxFlushArgs {
    /// Only what arrived before: a date and time
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<String>,
    /// Everything, of every mesh
    #[arg(long)]
    pub(crate) all: bool,
}

/// `inbox delete`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InboxDeleteArgs {
    /// Inbox id, as `inbox --json` prints it
    #[arg(value_name = "id")]
    pub(crate) id: String,
}

/// `message status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MessageStatusArgs {
    /// Message id, your own id, or a prefix of 8 characters or more
    #[arg(value_name = "id")]
    pub(crate) id: String,
}

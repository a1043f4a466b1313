//! Commands on meshes (CLI spec §3.1).

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use claudemesh_protocol::limits;

use crate::grammar::values::duration;

/// Verbs on meshes.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum MeshVerb {
    /// Create a mesh and join it
    #[command(
        after_help = "Examples:\n  claudemesh create \"Platform Team\"\n  claudemesh create platform --slug plat\n\nAliases: create, new\nExit codes: 2 not signed in, 6 name taken"
    )]
    Create(CreateArgs),
    /// Join a mesh by invite
    #[command(
        after_help = "Examples:\n  claudemesh join https://mesh.example.org/i/ABCD2345\n  claudemesh join ABCD2345 --name Ana\n\nAliases: join, add\nExit codes: 2 signature, 5 unknown, expired, revoked or used up, 7 consent missing"
    )]
    Join(JoinArgs),
    /// List meshes, joined here and on the account
    #[command(
        after_help = "Examples:\n  claudemesh list\n  claudemesh list --json=slug,role\n\nAliases: list, ls"
    )]
    List,
    /// Leave a mesh on this machine
    #[command(
        after_help = "Example:\n  claudemesh leave dev\n\nAlias: leave\nExit codes: 5 not joined"
    )]
    Leave(LeaveArgs),
    /// Make an invite link
    #[command(
        after_help = "Examples:\n  claudemesh share\n  claudemesh share --uses 5 --expires 1d\n  claudemesh share --mesh dev --groups eng,qa:lead\n\nAliases: share, invite\nExit codes: 2 not signed in, 7 no right to invite"
    )]
    Share(ShareArgs),
}

/// `mesh create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    /// Name of the mesh
    #[arg(value_name = "name")]
    pub(crate) name: String,
    /// Short name people type (default: from the name)
    #[arg(long, value_name = "SLUG")]
    pub(crate) slug: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

/// `mesh join`.
#[derive(Debug, Clone, Args)]
pub(crate) struct JoinArgs {
    /// Link, code or token
    #[arg(value_name = "invite")]
    pub(crate) invite: String,
    /// Your name in the mesh
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Name of the mesh on this machine only
    #[arg(long, value_name = "ALIAS")]
    pub(crate) slug: Option<String>,
    /// Your role label
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<String>,
    /// Your groups: name or name:role, separated by commas
    #[arg(long, value_name = "GROUPS")]
    pub(crate) groups: Option<String>,
    /// Show what the invite offers and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `mesh leave`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LeaveArgs {
    /// Mesh to leave
    #[arg(value_name = "slug")]
    pub(crate) slug: String,
}

/// `mesh share`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShareArgs {
    /// How long the link works
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "7d")]
    pub(crate) expires: Duration,
    /// How many may join with it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::INVITE_USES_MAX)), default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) uses: u32,
    /// What they become
    #[arg(long, value_name = "ROLE", default_value = "member")]
    pub(crate) role: InviteRole,
    /// Groups they are put in: name or name:role, separated by commas
    #[arg(long, value_name = "GROUPS")]
    pub(crate) groups: Option<String>,
    /// Always print the QR code
    #[arg(long, conflicts_with = "no_qr")]
    pub(crate) qr: bool,
    /// Never print the QR code
    #[arg(long)]
    pub(crate) no_qr: bool,
    /// Do not copy the link
    #[arg(long)]
    pub(crate) no_clipboard: bool,
}

/// Values of `share --role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InviteRole {
    /// Talks
    Member,
    /// Also administers
    Admin,
}

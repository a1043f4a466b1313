//! `backup`, `restore`, `daemon recover`, `reset`, `uninstall`: their flags (CLI spec §3.18, §6.10).

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `backup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupArgs {
    /// File to write; must not exist (default: claudemesh-backup-TIME.cmb here)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Received messages too
    #[arg(long)]
    pub(crate) with_inbox: bool,
    /// Hooks and their settings too
    #[arg(long)]
    pub(crate) with_hooks: bool,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

/// `restore`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// Backup to read
    #[arg(long = "in", value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Add the meshes that are missing here, and change nothing else
    #[arg(long)]
    pub(crate) merge: bool,
    /// Replace memberships that are here, without asking
    #[arg(long)]
    pub(crate) confirm: bool,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

/// Where a passphrase comes from when nobody is asked. Never the command line itself: every process can read that.
#[derive(Debug, Clone, Args)]
pub(crate) struct PassphraseArgs {
    /// Passphrase in the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Passphrase from this open file descriptor
    #[arg(long, value_name = "N")]
    pub(crate) passphrase_fd: Option<u32>,
}

/// `daemon recover`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecoverArgs {
    /// What to do; only a look when left out
    #[arg(long, value_name = "CHOICE")]
    pub(crate) choice: Option<RecoverChoice>,
}

/// Values of `daemon recover --choice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecoverChoice {
    /// Keep what can be read of the outbox
    Salvage,
    /// Begin the inbox anew
    RebuildInbox,
    /// Give up what waits to be sent
    WipeOutbox,
    /// Give up outbox, inbox and sessions
    WipeAll,
}

/// `daemon reset`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ResetArgs {
    /// Do it without asking
    #[arg(long)]
    pub(crate) confirm: bool,
}

/// `daemon uninstall`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UninstallArgs {
    /// Memberships and keys too; asks for typed words
    #[arg(long)]
    pub(crate) purge_keys: bool,
}

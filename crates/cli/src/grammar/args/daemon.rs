//! `daemon …`: its verbs and their flags (CLI spec §3.18).

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{InstallServiceArgs, OutboxVerb, RecoverArgs, ResetArgs, UninstallArgs};
use crate::failure::{Failure, Outcome};
use crate::grammar::values::{ephemeral_ttl, positive_limit};

/// Verbs on the daemon.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DaemonVerb {
    /// Start it
    #[command(
        after_help = "Examples:\n  claudemesh daemon up\n  claudemesh daemon up --tcp\n  claudemesh daemon up --foreground\n  claudemesh daemon up --ephemeral --ttl 1h\n  claudemesh daemon up --ephemeral --invite https://mesh.example/i/abcd1234\n\nOn a build server (CI is set) it is ephemeral unless --persistent says otherwise.\nAlias: daemon start\nExit codes: those of join with --invite, 7 host fingerprint, 10 database; with --foreground those of the daemon itself"
    )]
    Up(DaemonUpArgs),
    /// Stop it
    #[command(after_help = "Example:\n  claudemesh daemon down\n\nAlias: daemon stop")]
    Down,
    /// Stop and start it
    #[command(
        after_help = "Examples:\n  claudemesh daemon restart\n  claudemesh daemon restart --tcp"
    )]
    Restart(DaemonStartArgs),
    /// Show whether it runs and what it is connected to
    #[command(
        after_help = "Example:\n  claudemesh daemon status --json\n\nAlias: daemon ps\nExit codes: 1 not running"
    )]
    Status,
    /// Show its version and what it can do
    #[command(
        after_help = "Example:\n  claudemesh daemon version --json\n\nExit codes: 4 not running"
    )]
    Version,
    /// List the agent sessions registered with it
    #[command(
        after_help = "Examples:\n  claudemesh daemon sessions\n  claudemesh daemon sessions --json=session_id,mesh,pid\n\nExit codes: 4 not running"
    )]
    Sessions,
    /// Print what happens, as it happens
    #[command(
        after_help = "Examples:\n  claudemesh daemon events\n  claudemesh daemon events --mesh dev --kind message,receipt\n  claudemesh daemon events --json\n\nEnds with Ctrl-C, or when the daemon ends.\nExit codes: 4 not running, or it ended"
    )]
    Events(DaemonEventsArgs),
    /// Print its figures for Prometheus
    #[command(
        after_help = "Example:\n  claudemesh daemon metrics\n\nExit codes: 4 not running, 5 switched off"
    )]
    Metrics,
    /// Apply changed settings and memberships
    #[command(
        after_help = "Example:\n  claudemesh daemon reload\n\nExit codes: 3 bad config.toml or config.json, 4 not running"
    )]
    Reload,
    /// Replace the token of SDKs that use TCP
    #[command(
        after_help = "Example:\n  claudemesh daemon rotate-token\n\nThe old token is taken for another minute.\nExit codes: 4 not running"
    )]
    RotateToken,
    /// Let this machine take the place of the one its files were made on
    #[command(
        after_help = "Example:\n  claudemesh daemon accept-host\n\nThe keys stay. Where the other machine goes on, too: claudemesh daemon remint.\nExit codes: 3 bad config.toml, 10 the record cannot be written"
    )]
    AcceptHost,
    /// Make this machine a member of its own
    #[command(
        after_help = "Examples:\n  claudemesh daemon remint\n  claudemesh daemon remint --mesh dev --invite https://mesh.example/i/abcd1234\n\nFor a copied home while the other machine goes on. What waits to be sent is left to it.\nWithout --invite: in each mesh in turn, by an invite of its own, where the member may make one.\nExit codes: 1 declined, 5 unknown mesh, 6 the daemon runs, 7 may not invite, or without -y; those of join"
    )]
    Remint(DaemonRemintArgs),
    /// Give this member another key
    #[command(
        after_help = "Examples:\n  claudemesh daemon rotate-keypair --mesh dev\n  claudemesh daemon rotate-keypair -y\n\nWithout --mesh: in each mesh in turn. Mail for the old key opens for another 7 days.\nExit codes: 1 declined, 4 not running, or the broker did not take it, 5 unknown mesh, 7 without -y and terminal"
    )]
    RotateKeypair,
    /// Trust the other key that a broker signs with now
    #[command(
        after_help = "Example:\n  claudemesh daemon trust-broker --mesh dev\n\nCompare the key with what the operator says; messages flow in any case.\nExit codes: 1 declined, 3 without --mesh, 4 not running, 5 the key is the known one"
    )]
    TrustBroker,
    /// Remove archived keys whose time has passed
    #[command(
        after_help = "Example:\n  claudemesh daemon archive-cleanup\n\nThe daemon does it by itself, too.\nExit codes: 4 not running, 10 the archive cannot be written"
    )]
    ArchiveCleanup,
    /// Print its log
    #[command(
        after_help = "Examples:\n  claudemesh daemon logs --lines 20\n  claudemesh daemon logs -f --level warn\n\nExit codes: 5 no log"
    )]
    Logs(DaemonLogsArgs),
    /// Let the system's service manager start it and keep it running
    #[command(
        after_help = "Examples:\n  claudemesh daemon install-service\n  sudo claudemesh daemon install-service --system\n\nRun it again after an upgrade. systemd (Linux) and launchd (macOS).\nExit codes: 3 no service manager, 4 it did not start, 7 in an automated build, 10 files"
    )]
    InstallService(InstallServiceArgs),
    /// Take it out of the service manager
    #[command(
        after_help = "Example:\n  claudemesh daemon uninstall-service\n\nExit codes: 10 files"
    )]
    UninstallService,
    /// Look whether its databases are damaged, and do something about it
    #[command(
        after_help = "Examples:\n  claudemesh daemon recover\n  claudemesh daemon recover --choice salvage\n\nExit codes: 1 something is damaged, 6 daemon running, 7 nobody to confirm, 10 files"
    )]
    Recover(RecoverArgs),
    /// Remove its messages, sessions and tokens; memberships stay
    #[command(
        after_help = "Example:\n  claudemesh daemon reset --confirm\n\nExit codes: 1 declined, 4 it does not stop, 7 nobody to confirm, 10 files"
    )]
    Reset(ResetArgs),
    /// Leave every mesh, remove service and daemon; keys stay
    #[command(
        after_help = "Examples:\n  claudemesh daemon uninstall\n  claudemesh daemon uninstall --purge-keys\n\nExit codes: 1 declined, 4 it does not stop, 7 nobody to confirm, 10 files"
    )]
    Uninstall(UninstallArgs),
    /// Look after messages on their way out
    #[command(subcommand)]
    Outbox(OutboxVerb),
}

/// `daemon up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DaemonUpArgs {
    /// Stay in this terminal
    #[arg(long)]
    pub(crate) foreground: bool,
    #[command(flatten)]
    pub(crate) start: DaemonStartArgs,
}

/// How the daemon is started; handed on to its own process.
#[derive(Debug, Clone, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag of the command line")]
pub(crate) struct DaemonStartArgs {
    /// Serve SDKs over loopback TCP, too
    #[arg(long, overrides_with = "no_tcp")]
    pub(crate) tcp: bool,
    /// Do not, whatever config.toml says
    #[arg(long, overrides_with = "tcp")]
    pub(crate) no_tcp: bool,
    /// Leave nothing behind: a session of the joined meshes, in memory
    #[arg(long, conflicts_with = "persistent")]
    pub(crate) ephemeral: bool,
    /// End by itself after this time, with exit code 8
    #[arg(long, value_name = "TIME", value_parser = ephemeral_ttl)]
    pub(crate) ttl: Option<Duration>,
    /// Ephemeral: join by this as a member that leaves at the end
    #[arg(long, value_name = "INVITE")]
    pub(crate) invite: Vec<String>,
    /// Last, also on a build server
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Take this machine for a container
    #[arg(long)]
    pub(crate) container: bool,
    /// Memberships come over standard input, from the process that joined
    #[arg(long, hide = true)]
    pub(crate) members_on_stdin: bool,
}

impl DaemonStartArgs {
    /// The same as words of a command line; whether it lasts, and its invites, are left to the caller.
    pub(crate) fn words(&self) -> Vec<&'static str> {
        let flags =
            [(self.tcp, "--tcp"), (self.no_tcp, "--no-tcp"), (self.container, "--container")];
        flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).collect()
    }

    /// Whether it leaves nothing behind (daemon spec §4.2): as the flags say, else on a build server.
    ///
    /// # Errors
    /// Exit 3 for flags of ephemeral daemons with one that lasts.
    pub(crate) fn is_ephemeral(&self, spoken: &str, is_ci: bool) -> Outcome<bool> {
        let is_ephemeral = self.ephemeral || (is_ci && !self.persistent && !self.container);
        let needing = [(self.ttl.is_some(), "--ttl"), (!self.invite.is_empty(), "--invite")];
        match needing.into_iter().find(|(is_set, _)| *is_set && !is_ephemeral) {
            Some((_, flag)) => Err(Failure::invalid(format!("{spoken}: {flag} needs --ephemeral"))),
            None => Ok(is_ephemeral),
        }
    }

    /// Whether TCP is wanted; `None` leaves it to the settings.
    pub(crate) fn wants_tcp(&self) -> Option<bool> {
        match (self.tcp, self.no_tcp) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// `daemon remint`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DaemonRemintArgs {
    /// What the new member joins with; else an invite is made with the old key
    #[arg(long, value_name = "INVITE")]
    pub(crate) invite: Option<String>,
}

/// `daemon events`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DaemonEventsArgs {
    /// Only these kinds, such as message,receipt
    #[arg(long, value_name = "KINDS")]
    pub(crate) kind: Option<String>,
}

/// `daemon logs`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DaemonLogsArgs {
    /// Go on as lines are added
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Lines from the end
    #[arg(long, value_name = "N", value_parser = positive_limit, default_value = "100", allow_negative_numbers = true)]
    pub(crate) lines: u32,
    /// Only this level and above
    #[arg(long, value_name = "LEVEL")]
    pub(crate) level: Option<LogLevel>,
}

/// Values of `daemon logs --level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

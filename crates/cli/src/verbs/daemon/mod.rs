//! `daemon …`: one module for each verb or pair of verbs (CLI spec §3.18).

use claudemesh_ipc::Client;
use claudemesh_protocol::error::ErrorCode;

use super::{outbox, service};
use crate::cold::Mode;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::DaemonVerb;
use crate::link::{self, Probe};
use crate::output::{Fields, Report};

mod events;
mod host;
mod keys;
mod life;
mod metrics;
mod recover;
mod reload;
mod remint;
mod sessions;
mod status;
mod token;
mod trust;
mod version;
mod wipe;

pub(crate) use life::{Stopped, foreground, stop, stop_process, terminate};

/// Keys of the JSON that a verb prints.
pub(crate) fn fields(verb: &DaemonVerb) -> Fields<'static> {
    match verb {
        DaemonVerb::Up(_) | DaemonVerb::Down | DaemonVerb::Restart(_) => life::FIELDS,
        DaemonVerb::Status | DaemonVerb::Logs(_) => status::FIELDS,
        DaemonVerb::Version => version::FIELDS,
        DaemonVerb::Sessions => sessions::FIELDS,
        DaemonVerb::Events(_) => events::FIELDS,
        DaemonVerb::Metrics => metrics::FIELDS,
        DaemonVerb::Reload => reload::FIELDS,
        DaemonVerb::RotateToken => token::FIELDS,
        DaemonVerb::AcceptHost => host::FIELDS,
        DaemonVerb::TrustBroker => trust::FIELDS,
        DaemonVerb::Remint(_) => remint::FIELDS,
        DaemonVerb::RotateKeypair => keys::ROTATED_FIELDS,
        DaemonVerb::ArchiveCleanup => keys::CLEANED_FIELDS,
        DaemonVerb::InstallService(_) => service::INSTALL_FIELDS,
        DaemonVerb::UninstallService => service::UNINSTALL_FIELDS,
        DaemonVerb::Recover(_) => recover::FIELDS,
        DaemonVerb::Reset(_) => wipe::RESET_FIELDS,
        DaemonVerb::Uninstall(_) => wipe::UNINSTALL_FIELDS,
        DaemonVerb::Outbox(verb) => outbox::fields(verb),
    }
}

/// Runs a verb. `daemon up --foreground` and `daemon logs` are run by [`crate::run`] and never come here.
///
/// # Errors
/// The verb's own failures.
pub(crate) async fn run(verb: DaemonVerb, context: &Context) -> Outcome<Report> {
    match verb {
        DaemonVerb::Up(args) => life::up(context, &args.start).await,
        DaemonVerb::Down => life::down(context).await,
        DaemonVerb::Restart(start) => life::restart(context, &start).await,
        DaemonVerb::Status | DaemonVerb::Logs(_) => status::run(context).await,
        DaemonVerb::Version => version::run(context).await,
        DaemonVerb::Sessions => sessions::run(context).await,
        DaemonVerb::Events(args) => events::run(context, &args).await,
        DaemonVerb::Metrics => metrics::run(context).await,
        DaemonVerb::Reload => reload::run(context).await,
        DaemonVerb::RotateToken => token::rotate(context).await,
        DaemonVerb::AcceptHost => host::accept(context),
        DaemonVerb::TrustBroker => trust::run(context).await,
        DaemonVerb::Remint(args) => remint::run(context, &args).await,
        DaemonVerb::RotateKeypair => keys::rotate(context).await,
        DaemonVerb::ArchiveCleanup => keys::clean_up(context).await,
        DaemonVerb::InstallService(args) => Box::pin(service::install(context, &args)).await,
        DaemonVerb::UninstallService => service::uninstall(context).await,
        DaemonVerb::Recover(args) => Box::pin(recover::run(context, &args)).await,
        DaemonVerb::Reset(args) => Box::pin(wipe::reset(context, &args)).await,
        DaemonVerb::Uninstall(args) => Box::pin(wipe::uninstall(context, &args)).await,
        DaemonVerb::Outbox(verb) => outbox::run(verb, context).await,
    }
}

/// A daemon that runs. None is started for verbs that ask about a running one.
///
/// # Errors
/// Exit 4 when none runs, or it does not answer.
async fn running(context: &Context) -> Outcome<Client> {
    running_with(context, "version").await
}

/// A daemon that runs and can do this. None is started for verbs that ask about a running one.
///
/// # Errors
/// Exit 4 when none runs, it does not answer, or it is too old for this.
async fn running_with(context: &Context, feature: &str) -> Outcome<Client> {
    if context.mode() == Mode::NoDaemon {
        return Err(context.needs_daemon());
    }
    match context.probe().await? {
        Probe::Up(version) => {
            context.need_feature(&version, feature)?;
            context.client()
        }
        Probe::Down => Err(Failure::new(ErrorCode::DaemonUnreachable, "the daemon does not run")
            .action("claudemesh daemon up")),
        Probe::Unusable(error) => Err(link::failure(error)),
    }
}

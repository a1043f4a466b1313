//! Which road a verb takes: the daemon, or a connection of its own to the broker (CLI spec §1.15).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use claudemesh_daemon::cold::{Cold, Patience};
use claudemesh_ipc::Client;
use claudemesh_protocol::error::ExitCode;
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value};

use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// Time for the connection and for each answer when `--timeout` says nothing (CLI spec §9).
const PATIENCE: Duration = Duration::from_secs(5);
/// What is left of `--timeout` to say what went wrong: a tenth, at most this.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What was said about the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is started when it does not run, and done without when that fails.
    Auto,
    /// Nothing goes without it.
    Strict,
    /// It is left alone.
    NoDaemon,
}

/// The meshes of this run without a daemon, once they are needed.
#[derive(Default)]
pub(crate) struct ColdPath(OnceLock<Arc<Cold>>);

impl Context {
    /// A flag stands above the environment, and no daemon above a strict one.
    pub(crate) const fn mode(&self) -> Mode {
        let (flags, environment) = (&self.global, &self.environment);
        if flags.no_daemon {
            Mode::NoDaemon
        } else if flags.strict {
            Mode::Strict
        } else if environment.no_daemon {
            Mode::NoDaemon
        } else if environment.strict_daemon {
            Mode::Strict
        } else {
            Mode::Auto
        }
    }

    /// Who does an operation with these arguments: the daemon, or this program itself over a connection that ends with
    /// the verb.
    ///
    /// # Errors
    /// Exit 4 when it needs the daemon and there is none; the daemon's own refusal when this machine may not be used.
    pub(crate) async fn client_for(
        &self,
        kind: OperationKind,
        arguments: &Map<String, Value>,
    ) -> Outcome<Client> {
        // A connection of one's own speaks as the member: a session may be allowed less, and only the daemon knows it.
        let needs_daemon = self.environment.in_session || kind.spec().needs_daemon_for(arguments);
        let mode = self.mode();
        if mode == Mode::Strict || mode == Mode::NoDaemon && needs_daemon {
            return self.daemon_with(feature_of(kind)).await;
        }
        if !needs_daemon && (mode == Mode::NoDaemon || self.cold.0.get().is_some()) {
            return self.cold_client();
        }
        let failure = match self.daemon_with(feature_of(kind)).await {
            Ok(client) => return Ok(client),
            // This machine may not speak for the member: not by another road either.
            Err(failure) if failure.exit == ExitCode::PermissionDenied as u8 => {
                return Err(failure);
            }
            Err(failure) => failure,
        };
        if needs_daemon {
            return Err(without_it(self.needs_daemon(), failure));
        }
        self.tell_slower(&failure);
        self.cold_client()
    }

    /// The same for an operation that takes no arguments, or never needs the daemon for them.
    ///
    /// # Errors
    /// As [`Context::client_for`].
    pub(crate) async fn client_of(&self, kind: OperationKind) -> Outcome<Client> {
        self.client_for(kind, &Map::new()).await
    }

    /// Once in a process, why this takes longer (lifecycle table of §1.15).
    fn tell_slower(&self, failure: &Failure) {
        if self.environment.no_autospawn || claudemesh_ipc::env::is_ci() {
            return self.out.notice("daemon not running, using the slower direct path");
        }
        let why = failure.details.first().map(|detail| format!(": {detail}")).unwrap_or_default();
        let look = failure.action.as_deref().unwrap_or("claudemesh daemon logs");
        let message = &failure.message;
        if !self.out.is_json() {
            self.out.warning(&format!("{message}{why}; using the slower direct path → {look}"));
        }
    }

    fn cold_client(&self) -> Outcome<Client> {
        let cold = if let Some(cold) = self.cold.0.get() {
            cold
        } else {
            let asked = self.global.timeout;
            let asked = asked.map(|all| all.saturating_sub((all / 10).min(LAST_WORDS)));
            let patience = Patience { asked, usual: PATIENCE };
            let cold = Arc::new(Cold::new(&self.config()?, patience));
            self.cold.0.get_or_init(|| cold)
        };
        Ok(Client::answered_by(Arc::<Cold>::clone(cold)))
    }

    /// The verb is over: what it opened itself is closed with a goodbye.
    pub(crate) async fn end_connections(&self) {
        if let Some(cold) = self.cold.0.get() {
            cold.say_goodbye().await;
        }
    }
}

/// What a daemon calls the part of it that does an operation.
fn feature_of(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::MessageSend => "send",
        OperationKind::PeerList => "peers",
        _ => "ops",
    }
}

/// What needs the daemon, and why there is none.
fn without_it(mut needs: Failure, why: Failure) -> Failure {
    needs.details.push(why.message);
    needs.details.extend(why.details);
    needs.action = why.action.or(needs.action);
    needs
}

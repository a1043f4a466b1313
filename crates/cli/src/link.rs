//! The way to the daemon: find it, start it, or say why it cannot be used (CLI spec §1.15).

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use claudemesh_daemon::home::file::{self, FileLock, Symlinks};
use claudemesh_ipc::api::Version;
use claudemesh_ipc::client::PROBE_TIMEOUT;
use claudemesh_ipc::{Client, IpcError, env};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;

use crate::cold::Mode;
use crate::context::Context;
use crate::detach;
use crate::environment::NO_AUTOSPAWN;
use crate::failure::{Failure, Outcome};
use crate::service::Manager;

/// First and longest step between two looks at a daemon that is starting.
const POLL_STEPS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(150));
/// How long a session that the daemon does not know is waited for: after a restart that lost it, its MCP server registers
/// it again within [`limits::MCP_STREAM_RETRY`] and a moment.
const SESSION_PATIENCE: Duration = Duration::from_secs(3);
/// Lines of its log that are quoted when it does not start.
const LOG_LINES: usize = 2;

/// A daemon that answers.
pub(crate) struct Running {
    /// Client of its local API, with the session of this process.
    pub(crate) client: Client,
    /// What it says about itself.
    pub(crate) version: Version,
    /// True when this process started it.
    pub(crate) was_started: bool,
}

/// What a probe found.
pub(crate) enum Probe {
    /// It answers.
    Up(Box<Version>),
    /// Nobody listens.
    Down,
    /// Somebody listens and does not answer as a daemon.
    Unusable(IpcError),
}

impl Context {
    /// A client of the daemon's socket, wherever it lies now.
    ///
    /// # Errors
    /// Exit 10 when `sock.path` cannot be read.
    pub(crate) fn client(&self) -> Outcome<Client> {
        Client::for_paths(&self.paths)
            .map(|client| client.with_patience(SESSION_PATIENCE))
            .map_err(|error| Failure::io("cannot find the daemon's socket", &error))
    }

    /// Asks whether a daemon is there.
    ///
    /// # Errors
    /// As [`Context::client`].
    pub(crate) async fn probe(&self) -> Outcome<Probe> {
        let client = self.client()?.with_token(None).with_timeout(PROBE_TIMEOUT);
        let deadline = Instant::now() + PROBE_TIMEOUT;
        loop {
            return Ok(match client.version().await {
                Ok(version) => Probe::Up(Box::new(version)),
                Err(IpcError::NotRunning(_)) => Probe::Down,
                // It is there, and many ask at once.
                Err(error) if error.is(ErrorCode::DaemonBusy) && Instant::now() < deadline => {
                    tokio::time::sleep(POLL_STEPS.0).await;
                    continue;
                }
                Err(error) => Probe::Unusable(error),
            });
        }
    }

    /// A daemon to work with; starts one when none runs, and says so once on stderr.
    ///
    /// # Errors
    /// Exit 4 under `--no-daemon`, and when none can be reached or started.
    pub(crate) async fn daemon(&self) -> Outcome<Running> {
        if self.mode() == Mode::NoDaemon {
            return Err(self.needs_daemon());
        }
        if let Probe::Up(version) = self.probe().await? {
            return Box::pin(self.agree(*version)).await;
        }
        let began = Instant::now();
        // The first start of all leaves a log behind.
        let word = if self.paths.log_file().exists() { "restarted" } else { "started" };
        let running = self.out.during("starting the daemon", self.start_daemon()).await?;
        if running.was_started {
            let ms = began.elapsed().as_millis();
            self.out.notice(&format!("daemon {word} automatically ({ms} ms)"));
        }
        Ok(running)
    }

    /// Like [`Context::daemon`], for callers that only need the client.
    ///
    /// # Errors
    /// As [`Context::daemon`].
    pub(crate) async fn daemon_client(&self) -> Outcome<Client> {
        Ok(self.daemon().await?.client)
    }

    /// The same for a verb that needs a daemon which can do this.
    ///
    /// # Errors
    /// As [`Context::daemon`]; exit 4 when it cannot.
    pub(crate) async fn daemon_with(&self, feature: &str) -> Outcome<Client> {
        let running = self.daemon().await?;
        self.need_feature(&running.version, feature)?;
        Ok(running.client)
    }

    /// A daemon that runs already; `None` when there is none or it may not be used.
    pub(crate) async fn running_daemon(&self) -> Option<Client> {
        if self.mode() == Mode::NoDaemon {
            return None;
        }
        match self.probe().await {
            Ok(Probe::Up(_)) => self.client().ok(),
            _ => None,
        }
    }

    pub(crate) fn needs_daemon(&self) -> Failure {
        Failure::new(ErrorCode::DaemonUnreachable, format!("{} needs the daemon", self.spoken))
            .action("claudemesh daemon up")
    }

    /// Starts a daemon that nobody asked for by name, or waits for the one that somebody else is starting.
    ///
    /// # Errors
    /// Exit 4, or what the daemon's own exit code means.
    pub(crate) async fn start_daemon(&self) -> Outcome<Running> {
        self.may_start_unasked()?;
        self.start_daemon_with(&[]).await
    }

    /// False where no daemon is to be started by the way: by the caller's word, or on a build server.
    pub(crate) fn is_daemon_wanted(&self) -> bool {
        let is_excluded = self.mode() == Mode::NoDaemon || self.environment.no_autospawn;
        !is_excluded && self.may_start_unasked().is_ok()
    }

    /// Who names an ephemeral daemon means that one. And on a build server nothing starts a daemon by the way: one that lasts
    /// would take the member's mail to a machine that is gone tomorrow, and one that does not might end, with its job,
    /// before it has sent what it accepted. Verbs that can do without it do, and end when the broker has the message.
    fn may_start_unasked(&self) -> Outcome<()> {
        if self.paths.are_ephemeral() {
            return Err(self.ephemeral_has_ended());
        }
        if env::is_ci() && self.service_unit().is_none() && !self.environment.no_autospawn {
            return Err(self.needs_daemon().detail("on a build server it is not started unasked"));
        }
        Ok(())
    }

    /// The daemon that was named, or found, is gone with everything it had.
    pub(crate) fn ephemeral_has_ended(&self) -> Failure {
        Failure::new(ErrorCode::DaemonUnreachable, "the ephemeral daemon has ended")
            .detail(self.paths.daemon_dir().display().to_string())
            .action("claudemesh daemon up --ephemeral")
    }

    /// Starts a daemon that lasts, with more words on its command line, or waits for the one that somebody else is starting.
    ///
    /// # Errors
    /// As [`Context::start_daemon`].
    pub(crate) async fn start_daemon_with(&self, more: &[&str]) -> Outcome<Running> {
        if self.environment.no_autospawn {
            return Err(self.needs_daemon());
        }
        if let Probe::Unusable(error) = self.probe().await? {
            return Err(Failure::new(error.code(), "the daemon does not answer")
                .detail(error.to_string())
                .action("claudemesh daemon restart")
                .caused_by(&error));
        }
        if let Some(unit) = self.service_unit() {
            return self.wait_for_service(&unit).await;
        }
        self.refuse_after_failure()?;
        file::create_private_dir(self.paths.daemon_dir()).map_err(|error| {
            Failure::io(format!("cannot create {}", self.paths.daemon_dir().display()), &error)
        })?;
        let deadline = Instant::now() + limits::DAEMON_SPAWN_BUDGET;
        let lock_file = self.paths.spawn_lock_file();
        let cannot_lock = |error: &std::io::Error| {
            Failure::io(format!("cannot lock {}", lock_file.display()), error)
        };
        let mut step = POLL_STEPS.0;
        loop {
            if let Some(lock) =
                FileLock::try_take(&lock_file).map_err(|error| cannot_lock(&error))?
            {
                lock.write_text(&std::process::id().to_string())
                    .map_err(|error| cannot_lock(&error))?;
                // Whoever held the lock before may have finished the start in between.
                if let Probe::Up(version) = self.probe().await? {
                    return Ok(Running {
                        client: self.client()?,
                        version: *version,
                        was_started: false,
                    });
                }
                return self.spawn_and_wait(more, deadline).await;
            }
            if let Probe::Up(version) = self.probe().await? {
                return Ok(Running {
                    client: self.client()?,
                    version: *version,
                    was_started: false,
                });
            }
            if Instant::now() >= deadline {
                return Err(self.no_answer());
            }
            tokio::time::sleep(step).await;
            step = (step * 2).min(POLL_STEPS.1);
        }
    }

    async fn spawn_and_wait(&self, more: &[&str], deadline: Instant) -> Outcome<Running> {
        let log = self.paths.log_file();
        let log_length = detach::length(&log);
        let mut words = vec!["daemon", "up", "--foreground"];
        // Its own default there is another one.
        words.extend(env::is_ci().then_some("--persistent"));
        words.extend_from_slice(more);
        let mut child = detach::start(&words, &log, &self.environment, |command| {
            command.env(NO_AUTOSPAWN, "1");
        })?;
        let mut step = POLL_STEPS.0;
        let outcome = loop {
            if let Probe::Up(version) = self.probe().await? {
                let was_started = version.pid == child.id();
                break Ok(Running { client: self.client()?, version: *version, was_started });
            }
            if let Some(status) = exited(&mut child)
                && !(status.code() == Some(1) && self.is_daemon_alive())
            {
                break Err(self.start_failed(status, log_length));
            }
            if Instant::now() >= deadline {
                break Err(self.no_answer());
            }
            tokio::time::sleep(step).await;
            step = (step * 2).min(POLL_STEPS.1);
        };
        self.remember_failure(outcome.as_ref().err());
        outcome
    }

    /// A daemon that gave way to another one ends with 1; so does one that cannot use its files.
    fn is_daemon_alive(&self) -> bool {
        file::is_locked(&self.paths.lock_file()).unwrap_or(false)
    }

    fn start_failed(&self, status: ExitStatus, log_length: u64) -> Failure {
        let words = detach::last_words(&self.paths.log_file(), log_length, LOG_LINES);
        let log = format!("claudemesh daemon logs  ({})", self.paths.log_file().display());
        not_started(status, words, log)
    }

    fn no_answer(&self) -> Failure {
        let seconds = limits::DAEMON_SPAWN_BUDGET.as_secs();
        Failure::new(
            ErrorCode::DaemonUnreachable,
            format!("the daemon did not answer within {seconds} s"),
        )
        .detail(self.paths.log_file().display().to_string())
        .action("claudemesh daemon logs")
    }

    /// A service manager's unit means: it starts the daemon, we do not.
    pub(crate) fn service_unit(&self) -> Option<PathBuf> {
        Manager::installed(&self.environment).map(|manager| manager.unit())
    }

    async fn wait_for_service(&self, unit: &std::path::Path) -> Outcome<Running> {
        let deadline = Instant::now() + limits::DAEMON_SERVICE_BUDGET;
        while Instant::now() < deadline {
            if let Probe::Up(version) = self.probe().await? {
                return Ok(Running {
                    client: self.client()?,
                    version: *version,
                    was_started: false,
                });
            }
            tokio::time::sleep(POLL_STEPS.1).await;
        }
        let look = Manager::installed(&self.environment).map(|manager| manager.inspect());
        let look = look.unwrap_or_else(|| "claudemesh daemon up".to_owned());
        Err(Failure::new(ErrorCode::DaemonUnreachable, "the daemon's service does not answer")
            .detail(unit.display().to_string())
            .action(look))
    }

    /// A start that failed a moment ago is not tried again at once.
    fn refuse_after_failure(&self) -> Outcome<()> {
        let path = self.paths.spawn_failure_file();
        let is_fresh = std::fs::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|at| at.elapsed().ok())
            .is_some_and(|age| age < limits::DAEMON_SPAWN_FAILURE_TTL);
        if !is_fresh {
            return Ok(());
        }
        let why = std::fs::read_to_string(&path).unwrap_or_default();
        let mut failure =
            Failure::new(ErrorCode::DaemonUnreachable, "the daemon failed to start a moment ago");
        if !why.trim().is_empty() {
            failure = failure.detail(claudemesh_protocol::text::sanitized_line(why.trim(), 200));
        }
        Err(failure.action("claudemesh daemon up"))
    }

    /// Leaves or removes the mark that [`Context::refuse_after_failure`] reads.
    fn remember_failure(&self, failure: Option<&Failure>) {
        let path = self.paths.spawn_failure_file();
        // The mark only saves later attempts their time; without it they fail by themselves.
        let _ = match failure {
            None => std::fs::remove_file(&path),
            Some(failure) => {
                let why = failure.details.first().unwrap_or(&failure.message);
                file::replace(&path, why.as_bytes(), file::SECRET, Symlinks::Refuse)
            }
        };
    }

    /// An explicit `daemon up` always tries.
    pub(crate) fn forget_failed_start(&self) {
        let _ = std::fs::remove_file(self.paths.spawn_failure_file());
    }
}

/// The daemon's own exit codes (daemon spec §1.4), in the words of the one who started it (CLI spec §3.18).
pub(crate) fn not_started(status: ExitStatus, words: Vec<String>, log: String) -> Failure {
    let mut failure = Failure::new(ErrorCode::DaemonUnreachable, "the daemon did not start");
    for line in words {
        failure = failure.detail(line);
    }
    match status.code() {
        Some(3) => failure.exit(ExitCode::InvalidArgs).action(log),
        Some(4) => {
            Failure::new(ErrorCode::HostMismatch, "these files were made on another machine")
                .detail("if this machine takes its place: claudemesh daemon accept-host")
                .detail("if both machines go on: claudemesh daemon remint")
                .action("claudemesh daemon accept-host")
        }
        Some(5) => failure.exit(ExitCode::Io).action("claudemesh daemon recover"),
        _ => failure.action(log),
    }
}

pub(crate) fn exited(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().ok().flatten()
}

/// A refusal or failure of the local API, as a failure of the command.
pub(crate) fn failure(error: IpcError) -> Failure {
    match error {
        IpcError::Api(error) => {
            let exit = error.exit_code();
            let mut failure = Failure::from_body(*error.body);
            if failure.exit == ExitCode::Internal as u8 {
                failure = failure.exit(exit);
            }
            if let Some(after) = error.retry_after {
                failure = failure.detail(format!("retry in {} s", after.as_secs()));
            }
            failure
        }
        IpcError::NotRunning(_) => Failure::new(ErrorCode::DaemonUnreachable, error.to_string())
            .action("claudemesh daemon up")
            .caused_by(&error),
        IpcError::Incompatible(_) => Failure::new(ErrorCode::Internal, error.to_string())
            .exit(ExitCode::Network)
            .action("claudemesh daemon restart"),
        other => Failure::new(other.code(), other.to_string())
            .action("claudemesh daemon logs")
            .caused_by(&other),
    }
}

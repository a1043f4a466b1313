//! Ephemeral daemons as the command line finds and starts them (daemon spec §4.1): which one a verb means, and how one is
//! begun in the background by a process that joined for it.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use claudemesh_daemon::home::config::{Config, MeshEntry};
use claudemesh_daemon::home::file;
use claudemesh_daemon::identity;
use claudemesh_ipc::api::Version;
use claudemesh_ipc::client::PROBE_TIMEOUT;
use claudemesh_ipc::{Client, Paths, env};
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;

use crate::context::Context;
use crate::detach;
use crate::environment::NO_AUTOSPAWN;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::DaemonStartArgs;
use crate::link::{exited, not_started};
use crate::output::Output;
use crate::verbs::daemon::terminate;

/// Step between two looks at a daemon that is starting.
const STEP: Duration = Duration::from_millis(20);
/// Lines that are quoted of one that did not start.
const LINES: usize = 2;
/// Memberships that a process hands to the daemon it starts; far more than an invite each would make.
const HANDED_MAX_BYTES: u64 = 1024 * 1024;

/// On a build server, where a daemon is ephemeral unless it is told otherwise, verbs mean the one that runs for this home:
/// the steps of a job share nothing but the machine. Elsewhere, and where several run, `CLAUDEMESH_DAEMON_DIR` names one.
/// A daemon that lasts comes first.
pub(crate) fn found(paths: Paths, out: &Output) -> Paths {
    let living = candidates(&paths);
    if living.len() > 1 {
        let (count, name) = (living.len(), env::DAEMON_DIR);
        out.notice(&format!(
            "{count} ephemeral daemons run for this home: name one of them in {name}"
        ));
    }
    only(paths, &living)
}

/// The same for who must not say anything.
pub(crate) fn found_silently(paths: Paths) -> Paths {
    let living = candidates(&paths);
    only(paths, &living)
}

fn candidates(paths: &Paths) -> Vec<PathBuf> {
    let is_asked = env::is_ci() && env::path(env::DAEMON_DIR).is_none();
    if !is_asked || file::is_locked(&paths.lock_file()).unwrap_or(false) {
        return Vec::new();
    }
    identity::living(paths)
}

fn only(paths: Paths, living: &[PathBuf]) -> Paths {
    match living {
        [only] => paths.ephemeral(only),
        _ => paths,
    }
}

/// One that answers.
pub(crate) struct Begun {
    /// What it says about itself.
    pub(crate) version: Version,
    /// Its directory, for `CLAUDEMESH_DAEMON_DIR`.
    pub(crate) dir: PathBuf,
    /// Its socket.
    pub(crate) socket: PathBuf,
}

impl Context {
    /// Starts an ephemeral daemon in the background; with `members` as those that joined for it.
    ///
    /// # Errors
    /// Exit 4, or what the daemon's own exit code means. It has then left its meshes.
    pub(crate) async fn begin_ephemeral(
        &self,
        start: &DaemonStartArgs,
        members: Option<&[MeshEntry]>,
    ) -> Outcome<Begun> {
        let dir = identity::fresh_dir(&self.paths);
        let paths = self.paths.clone().ephemeral(&dir);
        let mut words = vec!["daemon", "up", "--foreground", "--ephemeral"];
        words.extend(start.words());
        let ttl = start.ttl.map(|ttl| format!("{}ms", ttl.as_millis()));
        words.extend(ttl.iter().flat_map(|ttl| ["--ttl", ttl.as_str()]));
        words.extend(members.map(|_| "--members-on-stdin"));
        let mut child = detach::start_unlogged(&words, &self.environment, |command| {
            command.env(NO_AUTOSPAWN, "1").env(env::INTERNAL_EPHEMERAL_DIR, &dir);
            command.stdin(if members.is_some() { Stdio::piped() } else { Stdio::null() });
        })?;
        if let Some(members) = members {
            hand_over(&mut child, members)?;
        }
        // As long as a manager's: nobody tries again, and nobody would find one that answers later.
        let deadline = Instant::now() + limits::DAEMON_SERVICE_BUDGET;
        loop {
            if let Some((version, socket)) = answer(&paths).await {
                return Ok(Begun { version, dir, socket });
            }
            if let Some(status) = exited(&mut child) {
                let words = detach::chosen_of(&last_words(&mut child), LINES);
                return Err(not_started(status, words, "claudemesh daemon up --foreground".into()));
            }
            if Instant::now() >= deadline {
                terminate(child.id());
                let seconds = limits::DAEMON_SERVICE_BUDGET.as_secs();
                let text = format!("the daemon did not answer within {seconds} s");
                return Err(Failure::new(ErrorCode::DaemonUnreachable, text)
                    .detail(paths.log_file().display().to_string()));
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

/// What a daemon of these paths says about itself, and its socket.
async fn answer(paths: &Paths) -> Option<(Version, PathBuf)> {
    let socket = paths.socket().ok()?;
    let client = Client::new(&socket).with_token(None).with_timeout(PROBE_TIMEOUT);
    client.version().await.ok().map(|version| (version, socket))
}

/// Keys go from one process to the other through a pipe, and into no file, argument or environment.
fn hand_over(child: &mut Child, members: &[MeshEntry]) -> Outcome<()> {
    let bytes = Config::handed_over(members).map_err(|error| Failure::internal(&error))?;
    let mut pipe = child
        .stdin
        .take()
        .ok_or_else(|| Failure::new(ErrorCode::Internal, "the daemon has no standard input"))?;
    match pipe.write_all(&bytes) {
        // It ended already; why, its exit code says.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::io("cannot hand over the memberships", &error)),
    }
}

/// The other end of it.
///
/// # Errors
/// Exit 3 when that is not what comes.
pub(crate) fn taken_over() -> Outcome<Vec<MeshEntry>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let read = std::io::stdin().lock().take(HANDED_MAX_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| Failure::io("cannot read the memberships", &error))?;
    Config::taken_over(&bytes)
        .map_err(|error| Failure::invalid(format!("no memberships on standard input: {error}")))
}

/// What a process that has ended wrote to standard error.
fn last_words(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read cannot be quoted; its exit code says enough.
        let _ = stderr.take(64 * 1024).read_to_string(&mut text);
    }
    text
}

/// The directory that this process makes: the one whose name it was given, else a fresh one.
pub(crate) fn own_dir(paths: &Paths) -> PathBuf {
    let given = env::path(env::INTERNAL_EPHEMERAL_DIR);
    given
        .filter(|dir| dir.is_absolute() && claudemesh_ipc::paths::is_ephemeral_dir(dir))
        .unwrap_or_else(|| identity::fresh_dir(paths))
}

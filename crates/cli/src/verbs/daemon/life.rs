//! `daemon up|down|restart`, and the foreground process itself (CLI spec §3.18).

use std::process::ExitCode;
use std::time::Duration;

use claudemesh_daemon::Options;
use claudemesh_daemon::home::file;
use claudemesh_daemon::identity::{Ephemeral, Surroundings};
use claudemesh_ipc::{Paths, env};
use claudemesh_protocol::error::{self, ErrorCode};
use claudemesh_protocol::limits;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::ephemeral::{self, Begun};
use crate::failure::{Failure, Outcome};
use crate::grammar::args::DaemonStartArgs;
use crate::link::{Probe, Running};
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::service::{Manager, Order};
use crate::verbs::join;

/// Keys of `daemon up`, `down` and `restart`.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "ok",
        "detached",
        "pid",
        "log",
        "already_running",
        "version",
        "ephemeral",
        "dir",
        "socket",
        "stopped",
        "reason",
        "was_pid",
    ],
    id: "pid",
};
/// Exit codes of a daemon whose words or directory are no good, and of one that did not start (daemon spec §1.4).
const WRONG_WORDS: u8 = 3;
const NOT_STARTED: u8 = 1;
/// Step between two looks at a process that is stopping.
const STOP_STEP: Duration = Duration::from_millis(20);

/// `daemon up`.
///
/// # Errors
/// What keeps the daemon from starting, in the codes of CLI spec §3.18.
pub(crate) async fn up(context: &Context, start: &DaemonStartArgs) -> Outcome<Report> {
    if start.is_ephemeral(&context.spoken, env::is_ci())? {
        return up_ephemeral(context, start).await;
    }
    if context.paths.are_ephemeral() {
        let name = env::DAEMON_DIR;
        return Err(Failure::invalid(format!(
            "{}: {name} names an ephemeral daemon",
            context.spoken
        ))
        .action(format!("unset {name}")));
    }
    context.forget_failed_start();
    let (version, already) = if let Probe::Up(version) = context.probe().await? {
        (*version, true)
    } else {
        let words = start.words();
        let starting = context.start_daemon_with(&words);
        let running = context.out.during("starting the daemon", starting).await?;
        let Running { version, was_started, .. } = running;
        (version, !was_started)
    };
    let (pid, version) = (version.pid, version.daemon_version);
    let log = context.paths.log_file().display().to_string();
    let mut screen = Screen::new();
    if already {
        screen.done(format!("daemon already running (pid {pid}, v{version})"));
    } else {
        screen.done(format!("daemon started (pid {pid})"));
        screen.line(Line::new().indent(4).put(Token::Dim, log.clone()));
        screen.hint("stop it: claudemesh daemon down");
    }
    let document = json!({
        "ok": true, "detached": true, "pid": pid, "log": log, "already_running": already, "version": version,
    });
    Ok(Report::new(Document::object(document), screen))
}

/// `daemon up` of one that leaves nothing behind. Asked for by a flag it is always a new one; as the default of a build
/// server it is the one that runs, if there is one.
async fn up_ephemeral(context: &Context, start: &DaemonStartArgs) -> Outcome<Report> {
    let is_asked_for = start.ephemeral || start.ttl.is_some() || !start.invite.is_empty();
    if !is_asked_for && let Probe::Up(version) = context.probe().await? {
        let dir = context.paths.daemon_dir().to_owned();
        let socket = context.paths.socket();
        let socket =
            socket.map_err(|error| Failure::io("cannot find the daemon's socket", &error))?;
        return Ok(begun(&Begun { version: *version, dir, socket }, true));
    }
    let members = if start.invite.is_empty() {
        None
    } else {
        Some(Box::pin(join::in_memory(context, &start.invite)).await?)
    };
    let starting = context.begin_ephemeral(start, members.as_deref());
    match context.out.during("starting the daemon", starting).await {
        Ok(daemon) => Ok(begun(&daemon, false)),
        Err(failure) => {
            // It leaves by itself, unless it did not come as far as that.
            join::leave_all(context, members.as_deref().unwrap_or_default()).await;
            Err(failure)
        }
    }
}

fn begun(daemon: &Begun, already: bool) -> Report {
    let Begun { version, dir, socket } = daemon;
    let (pid, version) = (version.pid, &version.daemon_version);
    let mut screen = Screen::new();
    if already {
        screen.done(format!("ephemeral daemon already running (pid {pid}, v{version})"));
    } else {
        screen.done(format!("ephemeral daemon started (pid {pid})"));
    }
    screen.line(Line::new().indent(4).put(Token::Dim, dir.display().to_string()));
    if env::is_ci() {
        screen.hint("stop it: claudemesh daemon down");
    } else {
        screen.hint(format!("to use it: export {}={}", env::DAEMON_DIR, dir.display()));
    }
    let document = json!({
        "ok": true, "detached": true, "pid": pid, "already_running": already, "version": version,
        "ephemeral": true, "dir": dir, "socket": socket,
    });
    Report::new(Document::object(document), screen)
}

/// How a stop ended.
pub(crate) enum Stopped {
    /// It ran under this pid.
    Was(Option<u32>),
    /// None ran.
    NotRunning,
}

impl Stopped {
    /// True when there was one to stop.
    pub(crate) const fn was_running(&self) -> bool {
        matches!(self, Self::Was(_))
    }
}

/// Stops the daemon, through its service manager when there is one.
///
/// # Errors
/// Exit 4 when it does not stop in time.
pub(crate) async fn stop(context: &Context, budget: Duration) -> Outcome<Stopped> {
    if is_held(&context.paths)?
        // A manager's daemon lasts.
        && !context.paths.are_ephemeral()
        && let Some(manager) = Manager::installed(&context.environment)
    {
        let pid = running_pid(context, &context.paths).await;
        // A manager that has not started it cannot stop it; the signal below does.
        let _ = manager.tell(Order::Stop).await;
        let stopped = stop_process(context, &context.paths, budget).await?;
        return Ok(match stopped {
            Stopped::NotRunning => Stopped::Was(pid),
            stopped @ Stopped::Was(_) => stopped,
        });
    }
    stop_process(context, &context.paths, budget).await
}

/// Stops the process that holds these files.
///
/// # Errors
/// As [`stop`].
pub(crate) async fn stop_process(
    context: &Context,
    paths: &Paths,
    budget: Duration,
) -> Outcome<Stopped> {
    if !is_held(paths)? {
        return Ok(Stopped::NotRunning);
    }
    let pid = running_pid(context, paths).await;
    if let Some(pid) = pid.filter(|_| is_held(paths).unwrap_or(false)) {
        terminate(pid);
    }
    let deadline = Instant::now() + budget;
    while is_held(paths)? {
        if Instant::now() >= deadline {
            return Err(Failure::new(
                ErrorCode::Timeout,
                format!("the daemon did not stop within {} s", budget.as_secs()),
            )
            .with("stopped", false)
            .with("reason", "shutdown_timeout")
            .action(format!(
                "kill -9 {}",
                pid.map_or_else(|| "<pid>".to_owned(), |pid| pid.to_string())
            )));
        }
        sleep(STOP_STEP).await;
    }
    Ok(Stopped::Was(pid))
}

fn is_held(paths: &Paths) -> Outcome<bool> {
    let lock = paths.lock_file();
    file::is_locked(&lock)
        .map_err(|error| Failure::io(format!("cannot read {}", lock.display()), &error))
}

/// What the daemon says of itself, else what its pid file says.
async fn running_pid(context: &Context, paths: &Paths) -> Option<u32> {
    if paths == &context.paths
        && let Ok(Probe::Up(version)) = context.probe().await
    {
        return Some(version.pid);
    }
    std::fs::read_to_string(paths.pid_file()).ok()?.trim().parse().ok()
}

/// SIGTERM; a process that is gone already is what was wanted.
pub(crate) fn terminate(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// `daemon down`.
///
/// # Errors
/// As [`stop`].
pub(crate) async fn down(context: &Context) -> Outcome<Report> {
    let mut budget = limits::DAEMON_STOP_BUDGET;
    if context.paths.are_ephemeral() {
        // It sends what it accepted first, and leaves its meshes.
        budget += limits::EPHEMERAL_LEAVE_BUDGET;
    }
    let stopped = context.out.during("stopping the daemon", stop(context, budget)).await?;
    let mut screen = Screen::new();
    let document = match stopped {
        Stopped::Was(pid) => {
            let pid_text = pid.map_or_else(String::new, |pid| format!(" (was pid {pid})"));
            screen.done(format!("daemon stopped{pid_text}"));
            json!({ "stopped": true, "pid": pid })
        }
        Stopped::NotRunning => {
            screen.note("daemon: not running");
            json!({ "stopped": false, "reason": "not_running" })
        }
    };
    Ok(Report::new(Document::object(document), screen))
}

/// `daemon restart`.
///
/// # Errors
/// As [`down`] and [`up`].
pub(crate) async fn restart(context: &Context, start: &DaemonStartArgs) -> Outcome<Report> {
    if start.is_ephemeral(&context.spoken, false)? || context.paths.are_ephemeral() {
        let message = format!("{}: an ephemeral daemon does not come back", context.spoken);
        return Err(Failure::invalid(message)
            .detail("its keys and messages end with it")
            .action("claudemesh daemon down, then claudemesh daemon up --ephemeral"));
    }
    // What lasted lasts.
    let start = &DaemonStartArgs { persistent: true, ..start.clone() };
    let down = down(context).await?;
    let up = up(context, start).await?;
    let mut map = Map::new();
    if let Document::Object(stopped) = down.document {
        map.insert("was_pid".to_owned(), stopped.get("pid").cloned().unwrap_or(Value::Null));
        map.insert("stopped".to_owned(), stopped.get("stopped").cloned().unwrap_or(Value::Null));
    }
    if let Document::Object(started) = up.document {
        map.extend(started);
    }
    let mut screen = Screen::new();
    let pid = map.get("pid").and_then(Value::as_u64).unwrap_or_default();
    screen.done(format!("daemon restarted (pid {pid})"));
    Ok(Report::new(Document::Object(map), screen))
}

/// `daemon up --foreground`: the daemon itself, with its own exit codes (daemon spec §1.4).
pub(crate) fn foreground(context: &Context, start: &DaemonStartArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure =
                Failure::new(ErrorCode::Internal, "cannot start the runtime").caused_by(&error);
            return ExitCode::from(context.out.failure(&failure));
        }
    };
    match runtime.block_on(options(context, start)) {
        Ok(options) => runtime.block_on(claudemesh_daemon::run(options)),
        Err(failure) => {
            context.out.failure(&failure);
            let is_wrong = failure.exit == error::ExitCode::InvalidArgs as u8;
            ExitCode::from(if is_wrong { WRONG_WORDS } else { NOT_STARTED })
        }
    }
}

/// What the foreground process is started with. One that is ephemeral has joined by then, and made its directory.
async fn options(context: &Context, start: &DaemonStartArgs) -> Outcome<Options> {
    let is_ephemeral = start.is_ephemeral(&context.spoken, env::is_ci())?;
    let mut options = Options::from_env(context.paths.clone());
    options.tcp = start.wants_tcp();
    if start.container {
        options.surroundings = Surroundings::Container;
    }
    if !is_ephemeral {
        return Ok(options);
    }
    let dir = ephemeral::own_dir(&context.paths);
    let own = Ephemeral::begin(&dir)
        .map_err(|error| Failure::io(format!("cannot make {}", dir.display()), &error))?;
    let members = if start.members_on_stdin {
        ephemeral::taken_over().map(Some)
    } else if start.invite.is_empty() {
        Ok(None)
    } else {
        Box::pin(join::in_memory(context, &start.invite)).await.map(Some)
    };
    match members {
        Ok(members) => Ok(options.ephemeral(own.with(start.ttl, members))),
        Err(failure) => {
            // What is left of it the next one removes.
            let _ = own.remove();
            Err(failure)
        }
    }
}

//! `daemon up|down|restart`, and the foreground process itself (CLI spec §3.18).

use std::time::Duration;

use claudemesh_daemon::home::file;
use claudemesh_ipc::Paths;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::DaemonStartArgs;
use crate::link::{Probe, Running};
use crate::output::{Document, Fields, Line, Report, Screen, Token};
use crate::service::{Manager, Order};

/// Keys of `daemon up`, `down` and `restart`.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "ok",
        "detached",
        "pid",
        "log",
        "already_running",
        "version",
        "stopped",
        "reason",
        "was_pid",
    ],
    id: "pid",
};
/// Step between two looks at a process that is stopping.
const STOP_STEP: Duration = Duration::from_millis(20);

/// `daemon up`.
///
/// # Errors
/// What keeps the daemon from starting, in the codes of CLI spec §3.18.
pub(crate) async fn up(context: &Context, start: &DaemonStartArgs) -> Outcome<Report> {
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

/// How a stop ended.
pub(crate) enum Stopped {
    /// It ran under this pid.
    Was(Option<u32>),
    /// None ran.
    NotRunning,
}

/// Stops the daemon, through its service manager when there is one.
///
/// # Errors
/// Exit 4 when it does not stop in time.
pub(crate) async fn stop(context: &Context, budget: Duration) -> Outcome<Stopped> {
    if is_held(&context.paths)?
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
    let stopped = context
        .out
        .during("stopping the daemon", stop(context, limits::DAEMON_STOP_BUDGET))
        .await?;
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
pub(crate) fn foreground(context: &Context, start: &DaemonStartArgs) -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let mut options = claudemesh_daemon::Options::from_env(context.paths.clone());
            options.tcp = start.wants_tcp();
            runtime.block_on(claudemesh_daemon::run(options))
        }
        Err(error) => {
            let failure =
                Failure::new(ErrorCode::Internal, "cannot start the runtime").caused_by(&error);
            std::process::ExitCode::from(context.out.failure(&failure))
        }
    }
}

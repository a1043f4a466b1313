//! `daemon up|down|restart|status`, and the foreground process itself (CLI spec §3.18).

use std::time::Duration;

use claudemesh_daemon::home::file;
use claudemesh_ipc::api::RowStatus;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link::{Probe, Running};
use crate::output::{Document, Fields, Icon, Line, Report, Screen, Token};

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
/// Keys of `daemon status`.
pub(crate) const STATUS_FIELDS: Fields = Fields {
    names: &[
        "running",
        "pid",
        "version",
        "ipc_api",
        "brokers",
        "sessions",
        "outbox",
        "service",
        "socket",
        "ipc_error",
    ],
    id: "pid",
};

/// Step between two looks at a process that is stopping.
const STOP_STEP: Duration = Duration::from_millis(20);

/// `daemon up`.
///
/// # Errors
/// What keeps the daemon from starting, in the codes of CLI spec §3.18.
pub(crate) async fn up(context: &Context) -> Outcome<Report> {
    context.forget_failed_start();
    let (version, already) = if let Probe::Up(version) = context.probe().await? {
        (*version, true)
    } else {
        let running = context.out.during("starting the daemon", context.start_daemon()).await?;
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
    let lock = context.paths.lock_file();
    let is_held = || {
        file::is_locked(&lock)
            .map_err(|error| Failure::io(format!("cannot read {}", lock.display()), &error))
    };
    if !is_held()? {
        return Ok(Stopped::NotRunning);
    }
    let pid = match context.probe().await? {
        Probe::Up(version) => Some(version.pid),
        _ => written_pid(context),
    };
    if context.service_unit().is_some() && !cfg!(target_os = "macos") {
        // A manager that has not started it cannot stop it; the signal below does.
        let _ = std::process::Command::new("systemctl")
            .args(["--user", "stop", "claudemesh-daemon.service"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
    }
    if let Some(pid) = pid.filter(|_| is_held().unwrap_or(false)) {
        terminate(pid);
    }
    let deadline = Instant::now() + budget;
    while is_held()? {
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

fn written_pid(context: &Context) -> Option<u32> {
    std::fs::read_to_string(context.paths.pid_file()).ok()?.trim().parse().ok()
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
pub(crate) async fn restart(context: &Context) -> Outcome<Report> {
    let down = down(context).await?;
    let up = up(context).await?;
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

/// `daemon status`; not running is a result with exit 1.
///
/// # Errors
/// Exit 10 when the daemon directory cannot be read.
pub(crate) async fn status(context: &Context) -> Outcome<Report> {
    let version = match context.probe().await? {
        Probe::Up(version) => version,
        probe => return Ok(not_running(context, &probe)),
    };
    let client = context.client()?;
    let health = client.health().await.map_err(crate::link::failure)?;
    let mut outbox = Map::new();
    for status in [RowStatus::Pending, RowStatus::Inflight, RowStatus::Dead] {
        let count: u64 = match status {
            RowStatus::Pending => health.meshes.iter().map(|mesh| mesh.queue_depth).sum(),
            RowStatus::Inflight => health.meshes.iter().map(|mesh| mesh.inflight).sum(),
            _ => health.meshes.iter().map(|mesh| mesh.dead).sum(),
        };
        outbox.insert(status.as_str().to_owned(), count.into());
    }
    let sessions: u64 = health.meshes.iter().map(|mesh| mesh.sessions).sum();
    let mut screen = Screen::new();
    screen.done(format!("daemon: running (pid {}, v{})", version.pid, version.daemon_version));
    let socket = context.paths.socket().map(|path| path.display().to_string()).unwrap_or_default();
    screen.pairs(&[
        ("socket", socket.clone()),
        ("sessions", sessions.to_string()),
        (
            "outbox",
            outbox
                .iter()
                .map(|(name, count)| format!("{count} {name}"))
                .collect::<Vec<_>>()
                .join(", "),
        ),
    ]);
    for mesh in &health.meshes {
        let icon = if mesh.status == claudemesh_ipc::api::MeshStatus::Open {
            Icon::Online
        } else {
            Icon::Busy
        };
        let mut line =
            Line::new().icon(icon).foreign(Token::Accent, &mesh.slug).put(Token::Plain, " ");
        line = line.put(Token::Plain, mesh.status.as_str());
        if let Some(reason) = &mesh.disabled_reason {
            line = line.foreign(Token::Warn, &format!(" ({reason})"));
        }
        screen.line(line);
    }
    if health.meshes.iter().any(|mesh| mesh.disabled_reason.as_deref() == Some("revoked")) {
        screen.note("revoked: an admin removed you; once you are let in again, restart the daemon");
        screen.hint("claudemesh daemon restart");
    }
    if health.degraded {
        screen.attention(format!("degraded: {}", health.degraded_reasons.join(", ")));
    }
    if health.meshes.iter().any(|mesh| mesh.dead > 0) {
        screen.attention("messages in the outbox could not be sent");
    }
    let unit = context.service_unit().map(|path| path.display().to_string());
    let document = json!({
        "running": true,
        "pid": version.pid,
        "version": version.daemon_version,
        "ipc_api": version.ipc_api,
        "brokers": health.brokers,
        "sessions": sessions,
        "outbox": outbox,
        "service": { "platform": std::env::consts::OS, "path": unit, "managed": unit.is_some() },
        "socket": socket,
    });
    Ok(Report::new(Document::object(document), screen))
}

fn not_running(context: &Context, probe: &Probe) -> Report {
    let mut screen = Screen::new();
    let mut document = Map::from_iter([("running".to_owned(), Value::Bool(false))]);
    if let Probe::Unusable(error) = probe {
        screen.line(Line::new().icon(Icon::Failed).put(Token::Plain, format!("daemon: {error}")));
        screen.hint("claudemesh daemon restart");
        document.insert("ipc_error".to_owned(), error.to_string().into());
    } else {
        screen.note("daemon: not running");
        screen.hint("claudemesh daemon up");
    }
    let unit = context.service_unit().map(|path| path.display().to_string());
    document.insert(
        "service".to_owned(),
        json!({ "platform": std::env::consts::OS, "path": unit, "managed": unit.is_some() }),
    );
    Report::new(Document::Object(document), screen).exit(ExitCode::Cancelled)
}

/// `daemon up --foreground`: the daemon itself, with its own exit codes (daemon spec §1.4).
pub(crate) fn foreground(context: &Context) -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let options = claudemesh_daemon::Options::from_env(context.paths.clone());
            runtime.block_on(claudemesh_daemon::run(options))
        }
        Err(error) => {
            let failure =
                Failure::new(ErrorCode::Internal, "cannot start the runtime").caused_by(&error);
            std::process::ExitCode::from(context.out.failure(&failure))
        }
    }
}

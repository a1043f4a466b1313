//! The orderly end (daemon spec §1.3): no more requests, answers to what is in flight, connections closed as meant,
//! databases written back, socket and pid file gone.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Running;
use crate::daemon::Daemon;
use crate::home::file;
use crate::service::notify;

/// The whole end takes at most this long.
const HARD_LIMIT: Duration = Duration::from_secs(8);
/// How long requests, streams and background work may take to finish.
const TASKS_WAIT: Duration = Duration::from_secs(2);
/// How long messages that an ephemeral daemon has accepted may take to reach their broker: nobody sends them later.
const LAST_SENDS_WAIT: Duration = Duration::from_secs(2);
/// Step between two looks at them.
const LOOK_STEP: Duration = Duration::from_millis(20);
/// The exit code of an ephemeral daemon whose time is over (daemon spec §1.4).
const TIME_OVER: u8 = 8;

/// Serves until SIGTERM, SIGINT or a request; SIGHUP reloads. A second signal ends at once.
pub(super) async fn run_until_signal(running: Running) -> u8 {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals_not_available");
            running.shutdown().await;
            return 1;
        }
    };
    notify::tell(notify::READY);
    loop {
        tokio::select! {
            () = running.stop_asked() => break,
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                if let Err(error) = running.daemon().reload().await {
                    tracing::warn!(%error, "config_not_reloaded");
                }
            }
        }
    }
    let daemon = running.daemon().clone();
    notify::tell(notify::STOPPING);
    tokio::select! {
        () = running.shutdown() => {}
        _ = signals.terminate.recv() => tracing::warn!("second_signal"),
        _ = signals.interrupt.recv() => tracing::warn!("second_signal"),
    }
    daemon.exit_code()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Stops an ephemeral daemon when its time is over, unless it stops before.
pub(super) async fn when_over(daemon: Daemon) {
    let ephemeral = daemon.context().ephemeral.as_ref();
    let Some(ttl) = ephemeral.and_then(crate::identity::Ephemeral::ttl) else { return };
    let stopping = daemon.stopping();
    tokio::select! {
        biased;
        () = stopping.cancelled() => {}
        () = tokio::time::sleep(ttl) => {
            tracing::info!(seconds = ttl.as_secs(), "ephemeral_ttl_reached");
            daemon.stop_with(TIME_OVER);
        }
    }
}

pub(super) async fn shutdown(daemon: &Daemon, socket: &Path) {
    if tokio::time::timeout(HARD_LIMIT, in_order(daemon, socket)).await.is_err() {
        tracing::error!("shutdown_took_too_long");
        remove_names(daemon, socket);
    }
}

async fn in_order(daemon: &Daemon, socket: &Path) {
    tracing::info!("daemon_stopping");
    daemon.stop();
    let context = daemon.context();
    if context.ephemeral.is_some() {
        send_the_last(daemon).await;
    }
    tokio::join!(daemon.meshes().shutdown(), daemon.hooks().shutdown());
    if let Some(ephemeral) = &context.ephemeral {
        ephemeral.leave(daemon.meshes().plain()).await;
    }
    context.shutdown.cancel();
    context.tasks.close();
    if tokio::time::timeout(TASKS_WAIT, context.tasks.wait()).await.is_err() {
        tracing::warn!(tasks = context.tasks.len(), "tasks_left_behind");
    }
    context.outbox.close().await;
    context.inbox.close().await;
    remove_names(daemon, socket);
    tracing::info!("daemon_stopped");
}

/// What was accepted goes out before its outbox is gone.
async fn send_the_last(daemon: &Daemon) {
    let outbox = &daemon.context().outbox;
    let deadline = tokio::time::Instant::now() + LAST_SENDS_WAIT;
    while outbox.open_rows() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LOOK_STEP).await;
    }
    let messages = outbox.open_rows();
    if messages > 0 {
        tracing::error!(messages, "messages_lost_with_ephemeral_daemon");
    }
}

fn remove_names(daemon: &Daemon, socket: &Path) {
    let paths = &daemon.context().paths;
    let names = [paths.pid_file(), paths.socket_path_file(), paths.http_port_file()];
    for path in names.iter().map(std::path::PathBuf::as_path).chain([socket]) {
        if let Err(error) = file::remove(path) {
            tracing::warn!(path = %path.display(), %error, "file_not_removed");
        }
    }
}

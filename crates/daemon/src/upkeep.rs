//! The daemon's periodic work: the end of sessions, retention, the disk.

mod mcp_logs;
mod peer_cache;

use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::MeshStatus;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::daemon::Daemon;
use crate::home::file::FileLock;
use crate::inbox::Retention;
use crate::outbox::operator::COMPACT_AFTER;
use crate::resources::Usage;
use crate::sessions::{EndedSessions, SWEEP_INTERVAL};

pub(crate) use peer_cache::keep as keep_peer_cache;

/// Period of pruning (daemon spec §13.5).
const PRUNE_INTERVAL: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Time for sessions that are not in the file of sessions to say that they are there: their servers notice the start
/// within [`claudemesh_protocol::limits::MCP_STREAM_RETRY`], and may then wait for their turn.
const COMING_BACK: Duration = Duration::from_secs(5);
/// Exit code when every mesh is disabled and the settings ask for it (daemon spec §1.4).
const ALL_DISABLED: u8 = 6;
/// Exit code when the lock file was removed under a running daemon.
const LOCK_LOST: u8 = 1;

/// Ticks of a period, the first at once, until the daemon stops; what was missed meanwhile is not made up for.
struct Ticks {
    stopping: CancellationToken,
    period: Duration,
    due: Instant,
}

impl Ticks {
    fn of(daemon: &Daemon, period: Duration) -> Self {
        Self { stopping: daemon.stopping(), period, due: Instant::now() }
    }

    /// `None` once the daemon stops. Dropping the future loses no tick.
    async fn next(&mut self) -> Option<()> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            () = sleep_until(self.due) => {
                self.due = crate::clock::next_tick(self.period);
                Some(())
            }
        }
    }
}

/// Drops sessions as their processes end, and every 15 s those that were missed.
pub(crate) async fn reap_sessions(daemon: Daemon, mut ended: EndedSessions) {
    let sessions = daemon.context().sessions.clone();
    let mut ticks = Ticks::of(&daemon, SWEEP_INTERVAL);
    loop {
        let is_over = tokio::select! {
            biased;
            tick = ticks.next() => tick.is_none(),
            hash = ended.next() => hash.is_none(),
        };
        if is_over {
            return;
        }
        // Also after a single end: by now the token may belong to another process.
        for hash in sessions.dead(crate::clock::now()) {
            if let Some(session) = daemon.end_session(hash, "process_ended") {
                daemon.context().figures.session_reaped("process_ended");
                tracing::info!(
                    session_id = session.session_id,
                    mesh = session.mesh,
                    "session_reaped"
                );
            }
        }
        daemon.expire_statuses().await;
        exit_when_all_disabled(&daemon);
    }
}

/// Leaves to their members what the sessions were never handed that ended while no daemon ran. A session that lives and
/// whose record was lost has some time to register again.
pub(crate) async fn leave_to_members(daemon: Daemon) {
    let stopping = daemon.stopping();
    if stopping.run_until_cancelled(tokio::time::sleep(COMING_BACK)).await.is_none() {
        return;
    }
    for mesh in daemon.meshes().all() {
        match daemon.context().inbox.unhanded_sessions(mesh.slug()).await {
            Ok(keys) => {
                for key in keys {
                    daemon.leave_key_to_member(mesh.slug(), key).await;
                }
            }
            Err(error) => {
                let error = crate::storage::Causes(&error);
                tracing::warn!(mesh = mesh.slug(), %error, "session_messages_not_moved");
            }
        }
    }
}

/// Stops the daemon when its lock file was removed: another daemon could then open the same databases.
pub(crate) async fn keep_lock(daemon: Daemon, lock: Arc<FileLock>) {
    let path = daemon.context().paths.lock_file();
    let mut ticks = Ticks::of(&daemon, SWEEP_INTERVAL);
    while ticks.next().await.is_some() {
        if !lock.is_still_at(&path) {
            tracing::error!(path = %path.display(), "lock_file_vanished");
            daemon.stop_with(LOCK_LOST);
            return;
        }
    }
}

/// Measures the pressure every 15 s while messages wait, so that health and events tell it also when nobody sends
/// (daemon spec §11.7).
pub(crate) async fn watch_pressure(daemon: Daemon) {
    let mut ticks = Ticks::of(&daemon, SWEEP_INTERVAL);
    while ticks.next().await.is_some() {
        let context = daemon.context();
        if context.outbox.open_rows() > 0 || daemon.pressure().is_degraded() {
            let _level = daemon.measure_pressure().await;
        }
    }
}

/// Looks every 15 s whether the process grows towards its limits (daemon spec §1.5).
pub(crate) async fn watch_resources(daemon: Daemon) {
    let mut ticks = Ticks::of(&daemon, SWEEP_INTERVAL);
    while ticks.next().await.is_some() {
        let looked = crate::blocking::run(Usage::now).await;
        // A system that does not tell has no limits to keep.
        if let Some(Some(usage)) = looked {
            daemon.context().resources.note(usage);
        }
    }
}

fn exit_when_all_disabled(daemon: &Daemon) {
    let meshes = daemon.meshes().all();
    let is_asked = daemon.context().settings.get().daemon.exit_when_all_disabled;
    let is_disabled = |mesh: &crate::mesh::MeshHandle| mesh.status() == MeshStatus::Disabled;
    if is_asked && !meshes.is_empty() && meshes.iter().all(is_disabled) {
        tracing::error!("all_meshes_disabled");
        daemon.stop_with(ALL_DISABLED);
    }
}

/// Removes what is too old: at once, then every hour.
pub(crate) async fn prune(daemon: Daemon) {
    let stopping = daemon.stopping();
    let mut ticks = Ticks::of(&daemon, PRUNE_INTERVAL);
    while ticks.next().await.is_some() {
        tokio::select! {
            biased;
            pruned = prune_once(&daemon) => {
                if let Err(error) = pruned {
                    tracing::warn!(error = %crate::storage::Causes(&error), "prune_failed");
                }
            }
            () = stopping.cancelled() => return,
        }
    }
}

async fn prune_once(daemon: &Daemon) -> Result<(), crate::storage::StorageError> {
    let (context, now) = (daemon.context(), crate::clock::now());
    let settings = context.settings.get();
    let retention = Retention {
        age: DAY.saturating_mul(settings.inbox.retention_days),
        max_bytes: settings.inbox.max_bytes,
    };
    context.inbox.prune(retention, now).await?;
    context.outbox.compact(COMPACT_AFTER, now).await?;
    let needed = daemon.keys_in_use().await?;
    let store = context.sessions.key_store().clone();
    let dir = context.paths.daemon_dir().to_owned();
    if crate::blocking::run(move || mcp_logs::prune(&dir)).await.is_none() {
        tracing::warn!(error = "the pruning panicked", "mcp_logs_not_pruned");
    }
    let pruned = crate::blocking::run(move || store.prune(|_, key| needed.contains(key)));
    match pruned.await {
        Some(Ok(0)) => {}
        Some(Ok(removed)) => tracing::info!(removed, "session_keys_pruned"),
        Some(Err(error)) => tracing::warn!(%error, "session_keys_not_pruned"),
        None => tracing::warn!(error = "the pruning panicked", "session_keys_not_pruned"),
    }
    Ok(())
}

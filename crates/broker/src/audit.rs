//! The way into the audit log for everything that is no security decision (broker spec §4.19): a bounded queue per mesh
//! and one task that writes what has queued up. Security decisions append inside their own transaction, in the store.
//!
//! An entry that waits here is lost when the process dies before its turn; a polite stop writes all. A failed write is
//! counted and repeated until it succeeds. When the connection to PostgreSQL breaks in the very commit, the repeat may
//! write a batch twice: twice is better than never, and the chain holds either way.

mod head;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudemesh_core::presence::{Handshake, Presence};
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::limits::AUDIT_QUEUE_MAX;
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};
use claudemesh_store::{AuditPayload, NewAuditEntry};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use crate::state::Broker;

pub(crate) use head::on_the_wire;

/// Entries of one transaction.
const BATCH: usize = 500;
/// Meshes written at once; on SQLite they share a commit.
const MESHES_AT_ONCE: usize = 16;
/// First wait after a failed write; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a reader of the log waits for the newest entries.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a stop waits for the last entries.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Entries that wait for their turn.
#[derive(Default)]
pub(crate) struct AuditLog {
    waiting: Mutex<BTreeMap<MeshId, Arc<Waiting>>>,
    changed: Notify,
}

/// The entries of one mesh. A place is taken before an entry is put in and given back once it is written.
struct Waiting {
    places: Semaphore,
    entries: Mutex<VecDeque<NewAuditEntry>>,
    /// How many were written since the queue was made.
    written: watch::Sender<u64>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            places: Semaphore::new(AUDIT_QUEUE_MAX),
            entries: Mutex::default(),
            written: watch::Sender::default(),
        }
    }
}

impl AuditLog {
    fn of(&self, mesh: &MeshId) -> Arc<Waiting> {
        Arc::clone(self.waiting.lock().entry(mesh.clone()).or_default())
    }

    /// Entries that wait, over all meshes.
    fn len(&self) -> usize {
        self.waiting.lock().values().map(|waiting| waiting.entries.lock().len()).sum()
    }

    /// Puts an entry into the queue of its mesh; where that is full, the caller waits. Nothing is dropped.
    pub(crate) async fn record(&self, broker: &Broker, entry: NewAuditEntry) {
        let waiting = self.of(&entry.mesh_id);
        if let Ok(place) = waiting.places.acquire().await {
            place.forget();
        }
        waiting.entries.lock().push_back(entry);
        broker.metrics().audit_queue.inc();
        self.changed.notify_one();
    }
}

impl Broker {
    /// Records entries that are no security decisions, in their order.
    pub(crate) async fn record_all(&self, entries: impl IntoIterator<Item = NewAuditEntry> + Send) {
        for entry in entries {
            self.audit().record(self, entry).await;
        }
    }
}

/// Starts the writer.
pub(crate) fn start(broker: &Broker) {
    broker.spawn(run(broker.clone()));
}

/// Writes whenever something waits, until the listener has gone; [`flush`] writes the rest.
async fn run(broker: Broker) {
    let mut wait = RETRY_FIRST;
    loop {
        tokio::select! {
            biased;
            () = broker.closing().cancelled() => return,
            () = broker.audit().changed.notified() => {}
        }
        while !write_waiting(&broker).await {
            if broker.closing().run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
        wait = RETRY_FIRST;
    }
}

/// Waits until what was recorded for a mesh so far is written, so that whoever reads the log finds it; not for long: a
/// reader need not wait for a store that does not write.
pub(crate) async fn catch_up(broker: &Broker, mesh: &MeshId) {
    let Some(waiting) = broker.audit().waiting.lock().get(mesh).cloned() else { return };
    let mut written = waiting.written.subscribe();
    let due = {
        let entries = waiting.entries.lock();
        *waiting.written.borrow() + entries.len() as u64
    };
    let caught_up = written.wait_for(|written| *written >= due);
    // Too late, or the queue is gone: the log is read as far as it goes.
    let _read_as_it_is = tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await;
}

/// The last writes of a stop, when nobody adds entries any more.
pub(crate) async fn flush(broker: &Broker) {
    let is_done = tokio::time::timeout(FLUSH_TIMEOUT, write_waiting(broker)).await;
    if is_done != Ok(true) {
        tracing::error!(lost = broker.audit().len(), "not every audit entry was written");
    }
}

/// Writes what waits now. False when a write failed; its entries keep their places.
async fn write_waiting(broker: &Broker) -> bool {
    let meshes: Vec<(MeshId, Arc<Waiting>)> = {
        let mut all = broker.audit().waiting.lock();
        // Whoever holds a queue is about to use it.
        all.retain(|_, waiting| {
            Arc::strong_count(waiting) > 1 || !waiting.entries.lock().is_empty()
        });
        all.iter().map(|(mesh, waiting)| (mesh.clone(), Arc::clone(waiting))).collect()
    };
    let is_written = AtomicBool::new(true);
    futures_util::stream::iter(meshes)
        .for_each_concurrent(MESHES_AT_ONCE, async |(mesh, waiting)| {
            if !write_mesh(broker, &mesh, &waiting).await {
                is_written.store(false, Ordering::Relaxed);
            }
        })
        .await;
    is_written.into_inner()
}

async fn write_mesh(broker: &Broker, mesh: &MeshId, waiting: &Waiting) -> bool {
    loop {
        let batch: Vec<NewAuditEntry> =
            waiting.entries.lock().iter().take(BATCH).cloned().collect();
        let count = batch.len();
        if count == 0 {
            return true;
        }
        if let Err(error) = broker.store().append_audit_entries(mesh, batch).await {
            broker.metrics().audit_failures.inc();
            tracing::warn!(%error, mesh_id = %mesh, "audit entries could not be written; they are tried again");
            return false;
        }
        // This task alone takes entries out. Both steps under the lock, so that the numbers fit together.
        {
            let mut entries = waiting.entries.lock();
            entries.drain(..count);
            waiting.written.send_modify(|written| *written += count as u64);
        }
        waiting.places.add_permits(count);
        broker.metrics().audit_queue.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// A presence began; `is_restored` when it goes on with what an earlier one left behind.
pub(crate) fn peer_joined(
    mesh: &MeshId,
    presence: &Presence,
    is_restored: bool,
    at: Timestamp,
) -> NewAuditEntry {
    let via = match presence.handshake {
        Handshake::Member => "hello",
        Handshake::Session => "session_hello",
    };
    let groups: Vec<String> =
        presence.groups.iter().map(|group| group.name.as_str().to_owned()).collect();
    let payload = of_presence(presence)
        .with("groups", groups)
        .with("via", via)
        .with("restored", is_restored.then_some(true));
    NewAuditEntry {
        mesh_id: mesh.clone(),
        event: AuditEvent::PeerJoined,
        actor: Some(presence.member_id.clone()),
        payload,
        at,
    }
}

/// A presence ended; `is_replaced` when another one of the same session took its place.
pub(crate) fn peer_left(
    mesh: &MeshId,
    presence: &Presence,
    is_replaced: bool,
    at: Timestamp,
) -> NewAuditEntry {
    NewAuditEntry {
        mesh_id: mesh.clone(),
        event: AuditEvent::PeerLeft,
        actor: Some(presence.member_id.clone()),
        payload: of_presence(presence).with("replaced", is_replaced.then_some(true)),
        at,
    }
}

fn of_presence(presence: &Presence) -> AuditPayload {
    AuditPayload::new()
        .with("pubkey", presence.member_key.to_hex())
        .with("session_pubkey", presence.session_key.map(PublicKey::to_hex))
        .with("role", presence.role.as_str())
        .with("name", presence.display_name.as_str())
}

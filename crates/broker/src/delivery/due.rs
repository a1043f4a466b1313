//! The timer: leases that end, claims that ran out, statuses that decay, messages past their time, and the safety net
//! that wakes whatever a lost wake-up left behind (broker spec §3.5).
//!
//! It sleeps until the next end of a lease, at most the due interval; nothing wakes an idle broker more often.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::gate::Priorities;
use claudemesh_protocol::limits::ROW_SWEEP_INTERVAL;
use claudemesh_protocol::{PublicKey, Timestamp};
use claudemesh_store::Recipient;

use super::drain;
use crate::live::{self, Mesh};
use crate::ops::receipt;
use crate::state::Broker;

/// Period of the bulk update of last-seen times.
const HEARTBEAT: Duration = Duration::from_mins(1);
/// Period of the search for messages past their time.
const EXPIRY: Duration = Duration::from_mins(5);
/// Rows expired by one statement.
const EXPIRY_STEP: usize = 1_000;
/// A wake-up that comes a little early must not make the timer spin.
const SLEEP_MIN: Duration = Duration::from_millis(5);

/// When each part ran last.
struct Ran {
    sweep: Timestamp,
    rows: Timestamp,
    heartbeat: Timestamp,
    expiry: Timestamp,
}

impl Broker {
    /// Makes the timer look at its deadlines now; for clocks that jump, as those of tests do.
    pub fn wake_timer(&self) {
        self.delivery().wake_due();
    }
}

pub(super) async fn run(broker: Broker) {
    let interval = Duration::from_millis(broker.limits().due_interval_ms);
    let start = broker.now();
    let mut ran = Ran { sweep: start, rows: start, heartbeat: start, expiry: start };
    loop {
        let next = live::next_lease_end(&broker).map(|end| end.since(broker.now()));
        let sleep = next.map_or(interval, |next| next.min(interval)).max(SLEEP_MIN);
        tokio::select! {
            biased;
            () = broker.stopping().cancelled() => return,
            () = tokio::time::sleep(sleep) => {}
            () = broker.delivery().due.notified() => {}
        }
        live::end_leases(&broker).await;
        let now = broker.now();
        if now.since(ran.sweep) >= interval {
            ran.sweep = now;
            redeliver(&broker).await;
            live::decay_statuses(&broker).await;
            live::forget_quiet(&broker);
            wake_all(&broker);
        }
        if now.since(ran.rows) >= ROW_SWEEP_INTERVAL {
            ran.rows = now;
            live::sweep_rows(&broker).await;
        }
        if now.since(ran.heartbeat) >= HEARTBEAT {
            ran.heartbeat = now;
            if let Err(error) = live::heartbeat(&broker).await {
                tracing::warn!(%error, "cannot write last-seen times");
            }
        }
        if now.since(ran.expiry) >= EXPIRY {
            ran.expiry = now;
            expire(&broker).await;
            find_stranded(&broker, ran.sweep).await;
        }
    }
}

/// Puts pushed rows whose claim ran out back to held and pushes them again.
async fn redeliver(broker: &Broker) {
    let now = broker.now();
    let mut returned: Vec<(Arc<Mesh>, Vec<PublicKey>)> = Vec::new();
    for mesh in broker.live().all() {
        let mut keys = Vec::new();
        {
            let mut state = mesh.lock();
            let overdue: Vec<_> = state
                .in_flight
                .iter()
                .filter(|(_, row)| row.until <= now)
                .map(|(seq, _)| *seq)
                .collect();
            for seq in overdue {
                if let Some(row) = state.take_in_flight(seq) {
                    state.queue(row.key).releasing(row.priority);
                    keys.push(row.key);
                }
            }
        }
        if !keys.is_empty() {
            broker.metrics().delivery_claim_expired.inc_by(keys.len() as u64);
            returned.push((mesh, keys));
        }
    }
    if returned.is_empty() {
        return;
    }
    if let Err(error) = broker.store().release_expired_claims(now).await {
        // A claim takes rows whose lease ran out all the same.
        tracing::warn!(%error, "cannot release claims");
    }
    for (mesh, keys) in returned {
        let mut state = mesh.lock();
        for key in &keys {
            state.queue(*key).released();
        }
        drop(state);
        for key in keys {
            drain::wake_key(broker, &mesh, key);
        }
    }
}

/// Tries every queue of connected recipients.
fn wake_all(broker: &Broker) {
    for mesh in broker.live().all() {
        let keys: Vec<PublicKey> = {
            let state = mesh.lock();
            let owed = state.presences().filter(|entry| !entry.owed.is_empty());
            let owed: Vec<PublicKey> = owed.map(|entry| entry.presence.member_key).collect();
            state.queues.keys().copied().chain(owed).collect()
        };
        for key in keys {
            drain::wake_key(broker, &mesh, key);
        }
    }
}

/// Asks the store who has held rows, in case memory does not know of some: an acknowledgement that could not be written
/// leaves a claimed row that nobody in memory waits for. What memory does know was handled up to `swept`.
async fn find_stranded(broker: &Broker, swept: Timestamp) {
    if let Err(error) = broker.store().release_expired_claims(swept).await {
        tracing::warn!(%error, "cannot release claims");
        return;
    }
    let recipients = match broker.store().recipients_with_held_rows().await {
        Ok(recipients) => recipients,
        Err(error) => {
            tracing::warn!(%error, "cannot look for stranded messages");
            return;
        }
    };
    remember(broker, recipients);
}

/// Reminds queues of held rows that the store knows and they do not.
pub(super) fn remember(broker: &Broker, recipients: Vec<Recipient>) {
    for one in recipients {
        let Some(mesh) = broker.live().loaded(&one.mesh_id) else { continue };
        let is_forgotten = {
            let mut state = mesh.lock();
            let queue = state.queue(one.recipient_key);
            let is_forgotten = !queue.has_held(Priorities::ALL);
            if is_forgotten {
                queue.arrived_unknown(1);
            }
            is_forgotten
        };
        if is_forgotten {
            drain::wake_key(broker, &mesh, one.recipient_key);
        }
    }
}

async fn expire(broker: &Broker) {
    loop {
        let expired = match broker.store().expire(broker.now(), EXPIRY_STEP).await {
            Ok(expired) => expired,
            Err(error) => {
                tracing::warn!(%error, "cannot expire messages");
                return;
            }
        };
        let mut rows = 0;
        for one in expired {
            rows += one.rows;
            if let Some(mesh) = broker.live().loaded(&one.recipient.mesh_id) {
                let mut state = mesh.lock();
                state.sub_open(&one.recipient_member_id, one.rows);
                for told in &one.told {
                    // An acknowledgement that comes now is too late, and must not count it out once more.
                    state.take_in_flight(told.seq);
                }
                receipt::tell(broker, &state, &one.told, receipt::News::Expired);
            }
        }
        broker.metrics().delivery_expired.inc_by(rows);
        if rows < EXPIRY_STEP as u64 {
            return;
        }
    }
}

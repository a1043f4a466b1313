//! What time does to presences: leases end, `working` decays, last-seen times are written (broker spec §2.2, §2.3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::presence::Lease;
use claudemesh_core::status::StatusChange;
use claudemesh_protocol::limits::{PENDING_STATUS_TTL, RATE_IDLE, STALE_ROW_AFTER};
use claudemesh_protocol::{PeerRole, PeerStatus, PresenceId, StatusSource, Timestamp};
use claudemesh_store::StoreError;

use super::depart::{Ending, end_stale, remove, settle_all};
use super::{Mesh, state_of};
use crate::delivery;
use crate::state::Broker;

/// Stale rows ended by one sweep.
const STALE_ROWS_STEP: usize = 1_000;

/// The next end of a lease, for the timer.
pub(crate) fn next_lease_end(broker: &Broker) -> Option<Timestamp> {
    broker.live().all().iter().filter_map(|mesh| mesh.lock().leases().next_end()).min()
}

/// Ends presences whose lease ran out. A clock that was set back prolongs no lease by more than the wait until this looks.
pub(crate) async fn end_leases(broker: &Broker) {
    let now = broker.now();
    let horizon = now.plus(Duration::from_millis(broker.limits().lease_ttl_ms));
    for mesh in broker.live().all() {
        let departed: Vec<_> = {
            let mut state = mesh.lock();
            for id in state.leases().beyond(horizon) {
                state.set_lease(&id, Lease::Until(horizon));
            }
            let ended = state.leases().ended(now);
            ended
                .iter()
                .filter_map(|id| remove(broker, &mesh, &mut state, id, Ending::Gone))
                .collect()
        };
        broker.metrics().lease_evictions.inc_by(departed.len() as u64);
        settle_all(broker, &mesh, departed).await;
    }
}

/// Lets `working` end where nobody refreshed it, hands over what that releases, and writes what refreshed it.
pub(crate) async fn decay_statuses(broker: &Broker) {
    let now = broker.now();
    let ttl = Duration::from_secs(broker.limits().status_ttl_seconds);
    for mesh in broker.live().all() {
        let (mut changed, mut unsaved) = (Vec::new(), Vec::new());
        for entry in mesh.lock().presences_mut() {
            let has_changed = entry.presence.status.decay(now, ttl) == StatusChange::Changed;
            if has_changed {
                changed.push(entry.presence.id.clone());
            }
            if std::mem::take(&mut entry.is_unsaved) || has_changed {
                unsaved.push((entry.presence.id.clone(), state_of(&entry.presence)));
            }
        }
        broker.metrics().ttl_sweeps.inc(if changed.is_empty() { "false" } else { "true" });
        for id in &changed {
            delivery::wake_presence(broker, &mesh, id);
        }
        if !unsaved.is_empty() {
            save_states(broker, unsaved).await;
        }
    }
}

/// Takes what a hook reported for one session in one directory, whichever meshes it is in (broker spec §2.3). Answers
/// the presences it concerned.
pub(crate) async fn report_status(
    broker: &Broker,
    session_id: &str,
    cwd: &str,
    status: PeerStatus,
) -> Vec<PresenceId> {
    let now = broker.now();
    let window = Duration::from_secs(broker.limits().hook_fresh_window_seconds);
    let mut found = Vec::new();
    for mesh in broker.live().all() {
        let mut changed = Vec::new();
        for entry in mesh.lock().presences_mut() {
            let client = &entry.presence.client;
            if client.session_id != session_id || client.cwd != cwd {
                continue;
            }
            found.push(entry.presence.id.clone());
            match entry.presence.status.report(status, StatusSource::Hook, now, window) {
                StatusChange::Changed => {
                    changed.push((entry.presence.id.clone(), state_of(&entry.presence)));
                }
                StatusChange::Refreshed => entry.is_unsaved = true,
                StatusChange::Ignored => {}
            }
        }
        for (id, _) in &changed {
            delivery::wake_presence(broker, &mesh, id);
        }
        if !changed.is_empty() {
            save_states(broker, changed).await;
        }
    }
    found
}

/// Ends rows that count as present though nobody stands for them: their end could not be written, or the broker died
/// between a row and its place (broker spec §2.2). What memory holds, with a socket or a lease, is never touched. Forgets
/// hellos and reports whose time is over.
pub(crate) async fn sweep_rows(broker: &Broker) {
    let now = broker.now();
    let silent_since = now.minus(STALE_ROW_AFTER);
    match broker.store().stale_presences(silent_since, now, STALE_ROWS_STEP).await {
        Ok(rows) => {
            for row in rows {
                end_stale(broker, row).await;
            }
        }
        Err(error) => tracing::warn!(%error, "cannot look for stale presences"),
    }
    let pending_before = now.minus(PENDING_STATUS_TTL);
    if let Err(error) = broker.store().purge_short_lived(now, pending_before).await {
        tracing::warn!(%error, "cannot forget old hellos");
    }
}

/// Shows how many presences there are, by role and state.
pub(crate) fn count_presences(broker: &Broker) {
    let mut counts: BTreeMap<(&'static str, &'static str), i64> = BTreeMap::new();
    for role in PeerRole::ALL {
        for state in ["online", "leased"] {
            counts.insert((role.as_str(), state), 0);
        }
    }
    for mesh in broker.live().all() {
        for entry in mesh.lock().presences() {
            let state = if entry.lease == Lease::Online { "online" } else { "leased" };
            *counts.entry((entry.presence.role.as_str(), state)).or_insert(0) += 1;
        }
    }
    for ((role, state), count) in counts {
        let labels = [("role", role), ("state", state)];
        broker.metrics().presence.get_or_create(&labels).set(count);
    }
}

/// Writes what presences tell about themselves; a failure is only logged, because memory has it and a client tells it
/// again after a restart.
pub(crate) async fn save_states(
    broker: &Broker,
    states: Vec<(PresenceId, claudemesh_store::PresenceState)>,
) {
    if let Err(error) = broker.store().save_presence_states(states).await {
        tracing::warn!(%error, "cannot write the state of presences");
    }
}

/// One bulk update of the last-seen times of connected presences. One that has not shown life for two rounds of pings is
/// left out: its watchdog is about to end its socket, and nobody has seen it.
pub(crate) async fn heartbeat(broker: &Broker) -> Result<(), StoreError> {
    let seen_after =
        broker.now().minus(Duration::from_millis(2 * broker.limits().ping_interval_ms));
    let mut live = Vec::new();
    for mesh in broker.live().all() {
        let state = mesh.lock();
        live.extend(
            state
                .presences()
                .filter(|entry| entry.connection.is_some() && entry.last_seen() >= seen_after)
                .map(|entry| entry.presence.id.clone()),
        );
    }
    if live.is_empty() {
        return Ok(());
    }
    broker.store().heartbeat(live, broker.now()).await
}

/// Forgets budgets and exchanges that were not used for long, and meshes nobody is in.
pub(crate) fn forget_quiet(broker: &Broker) {
    let now = broker.now();
    let meshes: Vec<Arc<Mesh>> = broker.live().all();
    for mesh in meshes {
        {
            let mut state = mesh.lock();
            state.loops.forget_silent(now, broker.limits().into());
            state.budgets.retain(|_, bucket| now.since(bucket.last_used()) < RATE_IDLE);
            state.receipt_budgets.retain(|_, bucket| now.since(bucket.last_used()) < RATE_IDLE);
            state.forget_idle_queues();
        }
        let id = mesh.id.clone();
        drop(mesh);
        broker.live().drop_mesh_if(&id, |state| {
            state.presence_count() == 0
                && state.joining == 0
                && state.in_flight.is_empty()
                && state.budgets.is_empty()
                && state.open_total() == 0
        });
    }
}

//! What time does to presences: leases end, `working` decays, last-seen times are written (broker spec §2.2, §2.3).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::presence::Lease;
use claudemesh_core::status::StatusChange;
use claudemesh_protocol::limits::RATE_IDLE;
use claudemesh_protocol::{PresenceId, Timestamp};
use claudemesh_store::StoreError;

use super::depart::{Ending, remove};
use super::{Mesh, MeshState, state_of};
use crate::delivery;
use crate::state::Broker;

/// The next end of a lease, for the timer.
pub(crate) fn next_lease_end(broker: &Broker) -> Option<Timestamp> {
    let ends = |state: &MeshState| {
        state
            .presences()
            .filter_map(|entry| match entry.lease {
                Lease::Until(until) => Some(until),
                Lease::Online => None,
            })
            .min()
    };
    broker.live().all().iter().filter_map(|mesh| ends(&mesh.lock())).min()
}

/// Ends presences whose lease ran out.
pub(crate) async fn end_leases(broker: &Broker) {
    let now = broker.now();
    for mesh in broker.live().all() {
        let departed: Vec<_> = {
            let mut state = mesh.lock();
            let ended: Vec<PresenceId> = state
                .presences()
                .filter(|entry| matches!(entry.lease, Lease::Until(until) if until <= now))
                .map(|entry| entry.presence.id.clone())
                .collect();
            ended
                .iter()
                .filter_map(|id| remove(broker, &mesh, &mut state, id, Ending::Gone))
                .collect()
        };
        for one in departed {
            broker.metrics().lease_evictions.inc();
            one.settle(broker, &mesh).await;
        }
    }
}

/// Lets `working` end where nobody refreshed it, and hands over what that releases.
pub(crate) async fn decay_statuses(broker: &Broker) {
    let now = broker.now();
    let ttl = Duration::from_secs(broker.limits().status_ttl_seconds);
    for mesh in broker.live().all() {
        let mut changed = Vec::new();
        for entry in mesh.lock().presences_mut() {
            if entry.presence.status.decay(now, ttl) == StatusChange::Changed {
                changed.push((entry.presence.id.clone(), state_of(&entry.presence)));
            }
        }
        if changed.is_empty() {
            continue;
        }
        for (id, _) in &changed {
            broker.metrics().ttl_sweeps.inc("flipped");
            delivery::wake_presence(broker, &mesh, id);
        }
        save_states(broker, changed).await;
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

/// One bulk update of the last-seen times of connected presences.
pub(crate) async fn heartbeat(broker: &Broker) -> Result<(), StoreError> {
    let mut live = Vec::new();
    for mesh in broker.live().all() {
        let state = mesh.lock();
        live.extend(
            state
                .presences()
                .filter(|entry| entry.connection.is_some())
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
            state.loops.forget_silent(now);
            state.budgets.retain(|_, bucket| now.since(bucket.last_used()) < RATE_IDLE);
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

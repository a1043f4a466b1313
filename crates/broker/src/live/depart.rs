//! The end of presences: a lost socket starts a lease, everything else ends them at once, and all ends are one function
//! (broker spec §2.2).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::presence::{Handshake, Lease};
use claudemesh_protocol::{MemberId, MeshId, PresenceId, PublicKey};
use claudemesh_store::{ClaimId, DeliverySeq, EndPresence, PeerState, Reroute};
use serde_json::json;

use super::event::{Subject, peer_event};
use super::{Close, Connection, InFlight, Mesh, MeshState, stored};
use crate::delivery;
use crate::state::Broker;

/// How a presence ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its client left, or its lease ran out.
    Gone,
    /// The broker ends it.
    Closed(Close),
    /// A newer presence stands for the same session, perhaps with the same key: nobody is told.
    Replaced { by_key: Option<PublicKey> },
}

/// A presence that was removed from memory; what remains is to be written.
#[must_use]
pub(crate) struct Departed {
    end: EndPresence,
    member_key: PublicKey,
    /// Pushed rows of the member's queue that nobody else was given.
    member_rows: Vec<(DeliverySeq, InFlight)>,
}

/// Removes a presence under the lock: out of the indexes, `peer_left` once, its socket closed.
pub(super) fn remove(
    broker: &Broker,
    mesh: &Mesh,
    state: &mut MeshState,
    id: &PresenceId,
    ending: Ending,
) -> Option<Departed> {
    let now = broker.now();
    let orphaned = state.take_unacked(id);
    let entry = state.remove(id)?;
    let (close, successor) = match ending {
        Ending::Gone => (None, None),
        Ending::Closed(close) => (Some(close), None),
        Ending::Replaced { by_key } => (Some(Close::SESSION_REPLACED), Some(by_key)),
    };
    if let (Some(connection), Some(close)) = (&entry.connection, close) {
        connection.close(close);
    }
    let presence = &entry.presence;
    let saved = stored::peer_state_of(&entry, &mesh.id, now);
    if presence.handshake == Handshake::Member && saved.is_some() {
        state.set_last_groups(&presence.member_id, presence.groups.clone());
    }
    state.note_seen(&presence.member_id, now);
    if successor.is_none() && !presence.is_transient() && presence.is_visible {
        let push = peer_event(&mesh.id, "peer_left", &Subject::of(presence), json!({}), now);
        state.announce(push, |other| other.member_id != presence.member_id);
    }
    // Rows of the session key are released and moved by the store, in the commit that ends the presence.
    let session_key = presence
        .session_key
        .filter(|key| state.session(*key).is_none() && successor.flatten() != Some(*key));
    if let Some(key) = session_key {
        state.queues.remove(&key);
    }
    let (session_rows, member_rows): (Vec<_>, Vec<_>) =
        orphaned.into_iter().partition(|(_, row)| Some(row.key) == session_key);
    drop(session_rows);
    for (_, row) in &member_rows {
        state.queue(row.key).releasing(row.priority);
    }
    let end = EndPresence {
        id: presence.id.clone(),
        at: now,
        peer_state: saved,
        claim_id: ClaimId::from(&presence.id),
        reroute: session_key.map(|session_key| Reroute {
            mesh_id: mesh.id.clone(),
            session_key,
            member_key: presence.member_key,
            member_id: presence.member_id.clone(),
        }),
    };
    Some(Departed { end, member_key: presence.member_key, member_rows })
}

impl Departed {
    /// Writes the end, hands rows back and brings them to whoever receives them now.
    pub(crate) async fn settle(self, broker: &Broker, mesh: &Arc<Mesh>) {
        let Self { end, member_key, member_rows } = self;
        broker.delivery().release(mesh, member_rows).await;
        let member_id = end.reroute.as_ref().map(|reroute| reroute.member_id.clone());
        match broker.store().end_presence(end).await {
            Ok(ended) => {
                let mut state = mesh.lock();
                if let Some(member_id) = member_id {
                    state.sub_open(&member_id, ended.merged);
                }
                if ended.rerouted > 0 {
                    state.queue(member_key).arrived_unknown(ended.rerouted);
                }
            }
            Err(error) => {
                // The row keeps its lease in the store; the next start ends it.
                tracing::warn!(%error, mesh_id = %mesh.id, "cannot write the end of a presence");
            }
        }
        delivery::wake_key(broker, mesh, member_key);
    }
}

/// The client left on purpose: its presence ends at once, without a lease.
pub(crate) async fn leave(
    broker: &Broker,
    mesh: &Arc<Mesh>,
    id: &PresenceId,
    connection: &Connection,
) {
    let departed = {
        let mut state = mesh.lock();
        if state.own(id, connection).is_none() {
            return;
        }
        remove(broker, mesh, &mut state, id, Ending::Gone)
    };
    if let Some(departed) = departed {
        departed.settle(broker, mesh).await;
    }
}

/// The socket is gone without a word: the presence is leased. Nothing happens when it has a newer socket already.
pub(crate) async fn lose_socket(
    broker: &Broker,
    mesh: &Arc<Mesh>,
    id: &PresenceId,
    connection: &Connection,
) {
    let until = broker.now().plus(Duration::from_millis(broker.limits().lease_ttl_ms));
    let rows = {
        let mut state = mesh.lock();
        let Some(entry) = state.own(id, connection) else { return };
        entry.connection = None;
        entry.lease = Lease::Until(until);
        let rows = state.take_unacked(id);
        for (_, row) in &rows {
            state.queue(row.key).releasing(row.priority);
        }
        rows
    };
    broker.delivery().wake_due();
    broker.delivery().release(mesh, rows).await;
    if let Err(error) = broker.store().lease_presences(vec![id.clone()], until).await {
        tracing::warn!(%error, mesh_id = %mesh.id, presence_id = %id, "cannot write a lease");
    }
}

/// Ends every presence of a member that was removed from the mesh.
pub(crate) async fn evict_member(
    broker: &Broker,
    mesh_id: &MeshId,
    member: &MemberId,
    close: Close,
) {
    let Some(mesh) = broker.live().loaded(mesh_id) else { return };
    let departed: Vec<Departed> = {
        let mut state = mesh.lock();
        let ids: Vec<PresenceId> =
            state.of_member(member).map(|entry| entry.presence.id.clone()).collect();
        let ending = Ending::Closed(close);
        ids.iter().filter_map(|id| remove(broker, &mesh, &mut state, id, ending)).collect()
    };
    for one in departed {
        one.settle(broker, &mesh).await;
    }
}

/// The broker stops: sockets are closed with 1001, presences keep a lease in the store, saved states are written.
pub(crate) async fn drain(broker: &Broker) {
    let now = broker.now();
    let until = now.plus(Duration::from_millis(broker.limits().lease_ttl_ms));
    let mut leased = Vec::new();
    let mut states: Vec<PeerState> = Vec::new();
    for mesh in broker.live().all() {
        let mut state = mesh.lock();
        for entry in state.presences_mut() {
            if let Some(connection) = entry.connection.take() {
                connection.close(Close::SHUTTING_DOWN);
                entry.lease = Lease::Until(until);
            }
            leased.push(entry.presence.id.clone());
            states.extend(stored::peer_state_of(entry, &mesh.id, now));
        }
    }
    if let Err(error) = broker.store().lease_presences(leased, until).await {
        tracing::warn!(%error, "cannot write the leases of a stopping broker");
    }
    if let Err(error) = broker.store().save_peer_states(states).await {
        tracing::warn!(%error, "cannot write the saved states of a stopping broker");
    }
}

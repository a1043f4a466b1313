//! The end of presences: a lost socket starts a lease, everything else ends them at once, and all ends are one function
//! (broker spec §2.2).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::presence::{Handshake, Lease};
use claudemesh_protocol::wire::Stats;
use claudemesh_protocol::{MemberId, MeshId, PresenceId, PublicKey};
use claudemesh_store::{
    ClaimId, DeliverySeq, EndPresence, NewAuditEntry, PeerState, PresenceRow, Reroute,
};
use futures_util::StreamExt as _;
use serde_json::json;

use super::event::{Subject, peer_event};
use super::sweep::save_states;
use super::{Close, Connection, InFlight, Mesh, MeshState, stored};
use crate::audit::peer_left;
use crate::delivery;
use crate::ops::receipt;
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
    /// What the audit log is told; nothing about a row that memory knew nothing of.
    audited: Option<NewAuditEntry>,
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
        state.queue(key).moving();
        state.queue(presence.member_key).moving();
    }
    let (session_rows, member_rows): (Vec<_>, Vec<_>) =
        orphaned.into_iter().partition(|(_, row)| Some(row.key) == session_key);
    drop(session_rows);
    for (_, row) in &member_rows {
        state.queue(row.key).releasing(row.priority);
    }
    let counted = stored::counted_by(&entry);
    let audited = Some(peer_left(&mesh.id, presence, successor.is_some(), now));
    let end = EndPresence {
        id: presence.id.clone(),
        at: now,
        peer_state: saved,
        counted,
        claim_id: ClaimId::from(&presence.id),
        reroute: session_key.map(|session_key| Reroute {
            mesh_id: mesh.id.clone(),
            session_key,
            member_key: presence.member_key,
            member_id: presence.member_id.clone(),
            at: now,
        }),
    };
    Some(Departed { end, member_key: presence.member_key, audited, member_rows })
}

impl Departed {
    /// Writes the end, hands rows back and brings them to whoever receives them now.
    pub(crate) async fn settle(self, broker: &Broker, mesh: &Arc<Mesh>) {
        let Self { mut end, member_key, audited, member_rows } = self;
        broker.delivery().release(mesh, member_rows).await;
        let ended_session = end.reroute.as_ref().map(|reroute| reroute.session_key);
        // Who came back meanwhile keeps its rows, and its member has none to wait for.
        let is_back = |reroute: &mut Reroute| mesh.lock().session(reroute.session_key).is_some();
        if end.reroute.take_if(is_back).is_some() {
            mesh.lock().queue(member_key).released();
        }
        let to_move = end.reroute.clone();
        match broker.store().end_presence(end).await {
            Ok(ended) => {
                let mut state = mesh.lock();
                if let Some(key) = ended_session {
                    state.end_move(key, true);
                }
                if let Some(reroute) = to_move {
                    state.queue(member_key).released();
                    state.sub_open(&reroute.member_id, ended.merged);
                }
                if ended.rerouted > 0 {
                    state.queue(member_key).arrived_unknown(ended.rerouted);
                }
                let news = receipt::News::Rerouted { to: member_key };
                receipt::tell(broker, &state, &ended.told, news);
            }
            Err(error) => {
                // The row counts as present in the store until the sweep of rows, or the next start, ends it.
                tracing::warn!(%error, mesh_id = %mesh.id, "cannot write the end of a presence");
                if let Some(key) = ended_session {
                    mesh.lock().end_move(key, false);
                }
                // Its messages cannot wait for that, and the member's queue waits for them: the writer keeps the move for
                // as long as the store is away.
                if let Some(reroute) = to_move {
                    broker.delivery().reroute(mesh, reroute).await;
                }
            }
        }
        for key in ended_session.into_iter().chain([member_key]) {
            delivery::wake_key(broker, mesh, key);
        }
        broker.record_all(audited).await;
    }
}

/// Ends a row that nobody stands for. Nothing happens when memory holds its presence.
pub(super) async fn end_stale(broker: &Broker, row: PresenceRow) {
    let mut end = bare_end(broker, row.id.clone());
    let Some(mesh) = broker.live().loaded(&row.mesh_id) else {
        // Whoever loads the mesh moves what waits for sessions that have ended.
        end_unplaced(broker, row.id).await;
        return;
    };
    let departed = {
        let mut state = mesh.lock();
        if state.presence(&row.id).is_some() {
            return;
        }
        let member_key = state.member(&row.member_id).and_then(|entry| entry.member.pubkey);
        let ended_key = row.session_pubkey.filter(|key| state.session(*key).is_none());
        end.reroute = ended_key.zip(member_key).map(|(session_key, member_key)| Reroute {
            mesh_id: row.mesh_id.clone(),
            session_key,
            member_key,
            member_id: row.member_id.clone(),
            at: end.at,
        });
        if let Some(reroute) = &end.reroute {
            state.queue(reroute.session_key).moving();
            state.queue(reroute.member_key).moving();
        }
        member_key.map(|member_key| Departed {
            end,
            member_key,
            audited: None,
            member_rows: Vec::new(),
        })
    };
    tracing::warn!(mesh_id = %row.mesh_id, presence_id = %row.id, "a stale presence is ended");
    match departed {
        Some(departed) => departed.settle(broker, &mesh).await,
        None => end_unplaced(broker, row.id).await,
    }
}

fn bare_end(broker: &Broker, id: PresenceId) -> EndPresence {
    EndPresence {
        claim_id: ClaimId::from(&id),
        id,
        at: broker.now(),
        peer_state: None,
        counted: Stats::default(),
        reroute: None,
    }
}

/// Ends a row that was written for a presence which found no place after all.
pub(super) async fn end_unplaced(broker: &Broker, id: PresenceId) {
    let end = bare_end(broker, id);
    if let Err(error) = broker.store().end_presence(end).await {
        tracing::warn!(%error, "cannot end a row that nobody stands for; the next sweep does");
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
        entry.lost_seen_at = entry.last_seen();
        let rows = state.take_unacked(id);
        if let Some(entry) = state.presence_mut(id) {
            entry.connection = None;
        }
        state.set_lease(id, Lease::Until(until));
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
    let departed = {
        let mut state = mesh.lock();
        let ids: Vec<PresenceId> =
            state.of_member(member).map(|entry| entry.presence.id.clone()).collect();
        remove_all(broker, &mesh, &mut state, &ids, close)
    };
    settle_all(broker, &mesh, departed).await;
}

/// Ends presences that were chosen under the lock; what it answers is settled with [`settle_all`].
pub(crate) fn remove_all(
    broker: &Broker,
    mesh: &Mesh,
    state: &mut MeshState,
    ids: &[PresenceId],
    close: Close,
) -> Vec<Departed> {
    let ending = Ending::Closed(close);
    ids.iter().filter_map(|id| remove(broker, mesh, state, id, ending)).collect()
}

/// Departures written at once: one commit takes many of them.
const SETTLED_AT_ONCE: usize = 64;

/// Settles many departures of one mesh, side by side so that they share commits.
pub(crate) async fn settle_all(broker: &Broker, mesh: &Arc<Mesh>, departed: Vec<Departed>) {
    futures_util::stream::iter(departed)
        .for_each_concurrent(SETTLED_AT_ONCE, |one| one.settle(broker, mesh))
        .await;
}

/// The broker stops: sockets are closed with 1001, presences keep a lease in the store, saved states are written.
pub(crate) async fn drain(broker: &Broker) {
    let now = broker.now();
    let until = now.plus(Duration::from_millis(broker.limits().lease_ttl_ms));
    let mut leased = Vec::new();
    let mut said = Vec::new();
    let mut states: Vec<PeerState> = Vec::new();
    for mesh in broker.live().all() {
        let mut state = mesh.lock();
        let mut unleased = Vec::new();
        for entry in state.presences_mut() {
            if let Some(connection) = entry.connection.take() {
                entry.lost_seen_at = connection.last_seen();
                connection.close(Close::SHUTTING_DOWN);
                unleased.push(entry.presence.id.clone());
            }
            leased.push(entry.presence.id.clone());
            said.push((entry.presence.id.clone(), stored::state_of(&entry.presence)));
            states.extend(stored::peer_state_of(entry, &mesh.id, now));
        }
        for id in unleased {
            state.set_lease(&id, Lease::Until(until));
        }
    }
    if let Err(error) = broker.store().lease_presences(leased, until).await {
        tracing::warn!(%error, "cannot write the leases of a stopping broker");
    }
    save_states(broker, said).await;
    if let Err(error) = broker.store().save_peer_states(states).await {
        tracing::warn!(%error, "cannot write the saved states of a stopping broker");
    }
}

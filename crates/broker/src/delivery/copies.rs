//! Copies for devices that were busy or absent when another device of their member was pushed a row. The row stays the
//! other's claim; each device keeps its own copy, also when the delivery has ended by the other's acknowledgement
//! (broker spec §3.3). At most one task brings copies to a presence.

use std::sync::Arc;

use claudemesh_protocol::limits::CLAIM_BATCH;
use claudemesh_protocol::{PresenceId, PublicKey};
use claudemesh_store::{ClaimedDelivery, DeliverySeq, DeviceCopy, StoreError};

use super::drain::{self, attestations_of, frame_of, sender_of};
use super::router::{Ack, Row, push_to};
use crate::live::{Entry, Mesh, MeshState};
use crate::state::Broker;

/// Receivers of this key that are owed copies and can take some now; each is marked as being served.
pub(super) fn begin(state: &mut MeshState, key: PublicKey) -> Vec<PresenceId> {
    let due: Vec<PresenceId> = state
        .receivers(key)
        .filter(|entry| !entry.owed.is_empty() && !entry.is_copying && entry.room() > 0)
        .filter(|entry| wanted(state, entry, key).next().is_some())
        .map(|entry| entry.presence.id.clone())
        .collect();
    for id in &due {
        if let Some(entry) = state.presence_mut(id) {
            entry.is_copying = true;
        }
    }
    due
}

pub(super) async fn run(broker: Broker, mesh: Arc<Mesh>, id: PresenceId, key: PublicKey) {
    let outcome = loop {
        match step(&broker, &mesh, &id, key).await {
            Ok(Step::More) => {}
            Ok(step) => break Ok(step),
            Err(error) => break Err(error),
        }
    };
    if let Some(entry) = mesh.lock().presence_mut(&id) {
        entry.is_copying = false;
    }
    match outcome {
        // What waited behind the copies; or a copy that became due in this moment.
        Ok(Step::Done | Step::More) => drain::wake_key(&broker, &mesh, key),
        // Its acknowledgements, or the timer, wake it again.
        Ok(Step::Stuck) => {}
        Err(error) => {
            tracing::warn!(%error, mesh_id = %mesh.id, "cannot read copies of messages");
        }
    }
}

/// How bringing copies goes on.
enum Step {
    /// At once.
    More,
    /// Nothing can be brought now.
    Done,
    /// The socket has no room, or the broker stops.
    Stuck,
}

async fn step(
    broker: &Broker,
    mesh: &Arc<Mesh>,
    id: &PresenceId,
    key: PublicKey,
) -> Result<Step, StoreError> {
    if broker.stopping().is_cancelled() {
        return Ok(Step::Stuck);
    }
    let wanted: Vec<DeliverySeq> = {
        let state = mesh.lock();
        let entry = state.presence(id).filter(|entry| entry.connection.is_some());
        let Some(entry) = entry else { return Ok(Step::Done) };
        wanted(&state, entry, key).take(entry.room().min(CLAIM_BATCH)).collect()
    };
    if wanted.is_empty() {
        return Ok(Step::Done);
    }
    let copies = broker.store().copies(&wanted, broker.now()).await?;
    let rows: Vec<ClaimedDelivery> = copies.iter().map(|copy| copy.row.clone()).collect();
    let attestations = attestations_of(broker, mesh, &rows).await;
    let mut state = mesh.lock();
    for DeviceCopy { row, is_held } in &copies {
        let in_flight = state.in_flight.get(&row.seq);
        let is_in_flight = in_flight.is_some();
        let has_it = in_flight.is_some_and(|row| row.pushed_to.contains(id));
        // A row that waits again comes to every device by the drain; one that is claimed and in nobody's flight has
        // just been acknowledged.
        if !has_it && (is_in_flight || !is_held) {
            let sender = sender_of(&state, row, &attestations);
            let ack = if is_in_flight { Ack::Awaited } else { Ack::Pointless };
            let is_pushed = frame_of(&state, row, &sender).is_some_and(|frame| {
                push_to(&mut state, id, &Row::claimed(row), &frame, &sender, ack)
            });
            if !is_pushed {
                return Ok(Step::Stuck);
            }
            if let Some(in_flight) = state.in_flight.get_mut(&row.seq) {
                in_flight.pushed_to.push(id.clone());
            }
        }
        forget(&mut state, id, row.seq);
    }
    for seq in wanted {
        // Given up or removed meanwhile.
        forget(&mut state, id, seq);
    }
    Ok(Step::More)
}

fn forget(state: &mut MeshState, id: &PresenceId, seq: DeliverySeq) {
    if let Some(entry) = state.presence_mut(id) {
        entry.owed.remove(&seq);
    }
}

/// The copies this presence can take, oldest first. One that is not committed yet stops its followers, until the writer
/// knows what became of it and wakes the key.
fn wanted(state: &MeshState, entry: &Entry, key: PublicKey) -> impl Iterator<Item = DeliverySeq> {
    let takes = state.takes_copies(entry, key);
    entry
        .owed
        .iter()
        .take_while(|(seq, _)| !state.uncommitted.contains_key(seq))
        .filter(move |(_, priority)| takes.allows(**priority))
        .map(|(seq, _)| *seq)
}

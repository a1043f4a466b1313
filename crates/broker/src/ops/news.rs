//! Numbered events of a mesh: told to whoever is here, and to whoever was away right after its next hello
//! (broker spec §2.5, wire spec §6.6).

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::wire::{self, Push, ServerFrame};
use claudemesh_store::{MeshEvent, Missed, StoreError};
use serde_json::json;

use super::Peer;
use crate::live::{self, Mesh};

/// Tells an event that was just written.
pub(crate) fn tell(mesh: &Mesh, event: &MeshEvent) {
    mesh.lock().announce(push_of(mesh, event), |_| true);
}

/// A system event with its number in the data.
fn push_of(mesh: &Mesh, event: &MeshEvent) -> Push {
    let mut data = event.data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.insert("seq".to_owned(), json!(event.seq));
    }
    Push::system(&mesh.id, live::event_id(), event.at.to_iso(), &event.event, data)
}

/// What a peer that has just come missed while it was away. A client that counts events is answered by its number; any
/// other is told again what happened since it was last heard of. It may hear of one twice, never of none: what is
/// written after this question reaches its socket.
pub(crate) async fn catch_up(
    peer: &Peer,
    last_known: Option<u64>,
    last_seen: Option<Timestamp>,
) -> Result<(), StoreError> {
    let (newest, newest_at) = {
        let state = peer.mesh.lock();
        (state.info.event_seq, state.info.last_event_at)
    };
    let missed = match (last_known, last_seen) {
        (Some(known), _) if known < newest => Missed::After(known),
        (None, Some(seen)) if newest_at.is_some_and(|at| at >= seen) => Missed::Since(seen),
        _ => return Ok(()),
    };
    let events = peer.broker.store().mesh_events(&peer.mesh.id, missed).await?;
    if last_known.is_none() {
        for event in &events {
            peer.connection.say(&push_of(&peer.mesh, event).into());
        }
        return Ok(());
    }
    let seq = events.last().map_or(newest, |event| event.seq.max(newest));
    let events = events
        .into_iter()
        .map(|event| wire::MeshEvent {
            seq: event.seq,
            event: event.event,
            event_data: event.data,
            created_at: event.at.to_iso(),
        })
        .collect();
    peer.connection.say(&ServerFrame::from(wire::MeshState { seq, events }));
    Ok(())
}

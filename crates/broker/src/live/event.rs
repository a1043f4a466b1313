//! System events about peers (broker spec §2.5, wire spec §3.1).

use claudemesh_core::presence::{Handshake, Presence};
use claudemesh_crypto::random;
use claudemesh_protocol::wire::Push;
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};
use claudemesh_store::PeerState;
use serde_json::{Map, Value, json};

use super::{Mesh, MeshState};

/// Whom a peer event is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    name: String,
    key: PublicKey,
    member_key: PublicKey,
    role: &'static str,
}

impl Subject {
    pub(crate) fn of(presence: &Presence) -> Self {
        Self {
            name: presence.display_name.clone(),
            key: presence.recipient_key(),
            member_key: presence.member_key,
            role: presence.role.as_str(),
        }
    }
}

/// A live event about a peer; `more` are further fields of its data.
pub(crate) fn peer_event(
    mesh_id: &MeshId,
    event: &str,
    subject: &Subject,
    more: Value,
    now: Timestamp,
) -> Push {
    let mut data = Map::new();
    data.insert("name".to_owned(), json!(subject.name));
    data.insert("displayName".to_owned(), json!(subject.name));
    data.insert("pubkey".to_owned(), json!(subject.key));
    data.insert("memberPubkey".to_owned(), json!(subject.member_key));
    data.insert("peerRole".to_owned(), json!(subject.role));
    if let Value::Object(more) = more {
        data.extend(more);
    }
    let id = event_id();
    Push::system(mesh_id, id, now.to_iso(), event, Value::Object(data))
}

/// Tells the others that a presence came, or came back with what it had left.
pub(super) fn announce_arrival(
    mesh: &Mesh,
    state: &MeshState,
    fresh: &Presence,
    restored: Option<&PeerState>,
    now: Timestamp,
) {
    if fresh.is_transient() || !fresh.is_visible {
        return;
    }
    let groups = json!(fresh.groups);
    let (event, more) = match restored {
        None => ("peer_joined", json!({ "groups": groups })),
        Some(saved) => (
            "peer_returned",
            json!({
                "groups": groups,
                "lastSeenAt": saved.last_seen_at.to_iso(),
                "summary": saved.last_summary,
            }),
        ),
    };
    let tells_siblings = fresh.handshake == Handshake::Session;
    let push = peer_event(&mesh.id, event, &Subject::of(fresh), more, now);
    state.announce(push, |other| tells_siblings || other.member_id != fresh.member_id);
}

/// The id of a message that the broker makes up: a random UUID.
pub(crate) fn event_id() -> String {
    uuid::Builder::from_random_bytes(random::bytes()).into_uuid().to_string()
}

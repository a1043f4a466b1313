//! System events about peers (broker spec §2.5, wire spec §3.1).

use claudemesh_core::presence::Presence;
use claudemesh_crypto::random;
use claudemesh_protocol::wire::Push;
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};
use serde_json::{Map, Value, json};

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

/// The id of a message that the broker makes up: a random UUID.
pub(crate) fn event_id() -> String {
    uuid::Builder::from_random_bytes(random::bytes()).into_uuid().to_string()
}

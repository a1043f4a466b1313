//! Shared state: the mesh's key-value store (wire spec §3.5, broker spec §4.1).
//!
//! A removed key begins at version 1 when it is written again; version 0 means that a key is not set, in answers and in
//! `ifVersion` alike.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use claudemesh_crypto::hash::sha256_hex;
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::limits::{
    MAX_FRAME_BYTES, STATE_KEY_MAX_CHARS, STATE_KEYS_MAX, STATE_VALUE_MAX_BYTES,
};
use claudemesh_protocol::wire::{
    GetState, ListState, ServerFrame, SetState, StateChange, StateEntry, StateList, StateResult,
};
use claudemesh_protocol::{ErrorCode, MeshId};
use claudemesh_store::{AuditPayload, StateEntries, StateWritten, WriteState};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Done, Peer, Refusal, Reply, Trace};

/// Keys that share one place in [`WriteOrder`] by chance wait for each other, so there are many more places than writers.
const PLACES: usize = 256;

/// Lets writers of one key commit and tell one after the other, so that everybody hears of the writes in the order in
/// which they happened; writers of different keys share commits.
pub(crate) struct WriteOrder(Vec<Mutex<()>>);

impl Default for WriteOrder {
    fn default() -> Self {
        Self((0..PLACES).map(|_| Mutex::default()).collect())
    }
}

impl WriteOrder {
    fn place(&self, mesh: &MeshId, key: &str) -> Option<&Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        (mesh, key).hash(&mut hasher);
        let place = hasher.finish() % PLACES as u64;
        self.0.get(usize::try_from(place).unwrap_or_default())
    }
}

/// `set_state`; null removes the key.
pub(super) async fn set(peer: &Peer, set: SetState) -> Result<Done, Refusal> {
    let SetState { key, value, if_version } = set;
    check_key(&key)?;
    let text = match &value {
        Value::Null => None,
        value => Some(value.to_string()),
    };
    if text.as_ref().is_some_and(|text| text.len() > STATE_VALUE_MAX_BYTES) {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("a value has at most {STATE_VALUE_MAX_BYTES} bytes of JSON"),
        ));
    }
    let value_sha256 = text.as_ref().map(|text| sha256_hex(text.as_bytes()));
    let by_name = peer
        .mesh
        .lock()
        .member(&peer.member_id)
        .map(|entry| entry.member.display_name.clone())
        .unwrap_or_default();
    let write = WriteState {
        mesh_id: peer.mesh.id.clone(),
        key: key.clone(),
        value: text,
        if_version,
        by: peer.member_id.clone(),
        by_name: by_name.clone(),
        at: peer.broker.now(),
    };
    let _turn = match peer.broker.state_order().place(&peer.mesh.id, &key) {
        Some(place) => Some(place.lock().await),
        None => None,
    };
    let (version, event) = match peer.broker.store().write_state(write).await? {
        StateWritten::Set { version } => (version, AuditEvent::StateSet),
        StateWritten::Removed => (0, AuditEvent::StateDeleted),
        StateWritten::Absent => return Ok(Done::default()),
        StateWritten::Conflict { version: 0 } => {
            return Err(Refusal::new(ErrorCode::VersionConflict, "this key is not set"));
        }
        StateWritten::Conflict { version } => {
            return Err(Refusal::new(
                ErrorCode::VersionConflict,
                format!("this key has version {version}"),
            ));
        }
        StateWritten::Full => {
            return Err(Refusal::new(
                ErrorCode::Limit,
                format!("a mesh has at most {STATE_KEYS_MAX} keys"),
            ));
        }
    };
    let payload = AuditPayload::new().with("key", key.as_str()).with("value_sha256", value_sha256);
    tell(peer, StateChange { key, value, updated_by: by_name, version: Some(version) });
    Ok(Done { frame: None, audit: Some(Trace { event, payload }) })
}

/// Tells every other connected presence that may read the state. Who has no room for it is not told: the value can be
/// asked for.
fn tell(peer: &Peer, change: StateChange) {
    let Ok(text) = ServerFrame::from(change).encode() else { return };
    let text = Utf8Bytes::from(text);
    for entry in peer.mesh.lock().presences() {
        let presence = &entry.presence;
        if presence.id != peer.presence_id
            && presence.session_caps.is_none_or(|caps| caps.contains(Capability::StateRead))
            && let Some(connection) = &entry.connection
        {
            connection.offer(text.clone());
        }
    }
}

/// `get_state`; a key that is not set is no error.
pub(super) async fn get(peer: &Peer, get: GetState, req_id: Option<String>) -> Reply {
    check_key(&get.key)?;
    let found = peer.broker.store().state_entry(&peer.mesh.id, &get.key).await?;
    let entry = match found {
        Some(stored) => entry(stored)?,
        None => StateEntry { key: get.key, version: Some(0), ..StateEntry::default() },
    };
    Ok(Some(StateResult { entry, req_id }.into()))
}

/// `list_state`, by key; a list that fits into no frame is refused as a whole.
pub(super) async fn list(peer: &Peer, list: ListState, req_id: Option<String>) -> Reply {
    let prefix = list.prefix.unwrap_or_default();
    if !prefix.is_empty() {
        check_text("prefix", &prefix)?;
    }
    let too_long = || {
        Refusal::new(
            ErrorCode::TooLarge,
            format!("these entries have more than {MAX_FRAME_BYTES} bytes; list a longer prefix"),
        )
    };
    let max = MAX_FRAME_BYTES as u64;
    let entries = match peer.broker.store().state_entries(&peer.mesh.id, &prefix, max).await? {
        StateEntries::All(entries) => entries,
        StateEntries::TooLong { .. } => return Err(too_long()),
    };
    let entries = entries.into_iter().map(entry).collect::<Result<_, _>>()?;
    let text = ServerFrame::from(StateList { entries, req_id }).encode().map_err(|error| {
        tracing::error!(%error, "cannot write the state as JSON");
        Refusal::new(ErrorCode::Internal, "the request failed at the broker")
    })?;
    if text.len() > MAX_FRAME_BYTES {
        return Err(too_long());
    }
    peer.connection.say_text(text.into());
    Ok(None)
}

fn entry(stored: claudemesh_store::StateEntry) -> Result<StateEntry, Refusal> {
    let value = serde_json::from_str(&stored.value).map_err(|error| {
        tracing::error!(%error, "a stored value of the shared state is no JSON");
        Refusal::new(ErrorCode::Internal, "the request failed at the broker")
    })?;
    Ok(StateEntry {
        key: stored.key,
        value,
        updated_by: stored.updated_by_name,
        updated_at: stored.updated_at.to_iso(),
        version: Some(stored.version),
    })
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::new(ErrorCode::InvalidArgs, "key must not be empty"));
    }
    check_text("key", key)
}

fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    if text.chars().count() > STATE_KEY_MAX_CHARS || text.chars().any(char::is_control) {
        return Err(Refusal::new(
            ErrorCode::InvalidArgs,
            format!(
                "{field} has at most {STATE_KEY_MAX_CHARS} characters and no control characters"
            ),
        ));
    }
    Ok(())
}

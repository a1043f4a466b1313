//! What the broker tells about the mesh, handed on to the event bus (daemon spec §14.1). Texts of strangers are made
//! harmless on the way.

use std::sync::Arc;

use claudemesh_ipc::api::{EventKind, OutboxItem};
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::limits::{HELLO_NAME_MAX_CHARS, STATE_KEY_MAX_CHARS, SUMMARY_MAX_CHARS};
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::wire::{Push, StateChange};
use serde_json::{Map, Value, json};

use super::Mesh;
use crate::events::Event;
use crate::sessions::Session;
use crate::{blocking, clock};

/// The system event of a stopped loop (wire spec §4.10).
pub(super) const LOOP_STOPPED: &str = "loop_stopped";
/// Removed members remembered.
const REMOVED_MAX: usize = 4_096;
/// Stops remembered, so that each is told once.
const LOOPS_REMEMBERED: usize = 256;

impl Mesh {
    /// Publishes an event of this mesh.
    pub(super) fn announce(&self, kind: EventKind, data: Map<String, Value>) {
        self.context.events.publish(Event::of_mesh(kind, &self.slug, data));
    }

    /// Publishes that rows will not be sent.
    pub(super) fn announce_dead(&self, rows: impl IntoIterator<Item = OutboxItem>) {
        for row in rows {
            tracing::warn!(mesh = %self.slug, id = %row.id, code = row.last_error_code, "outbox_dead");
            self.announce(
                EventKind::OutboxDead,
                object(serde_json::to_value(row).unwrap_or_default()),
            );
        }
    }

    /// Takes note of a system event and publishes it. Events about our own keys are for nobody (daemon spec §7.4).
    pub(super) fn take_system_event(&self, push: &Push) {
        let Some(event) = push.event.as_deref() else { return };
        let data = match &push.event_data {
            Some(Value::Object(data)) => data.clone(),
            _ => Map::new(),
        };
        match event {
            "peer_joined" | "peer_returned" | "peer_left" => self.take_presence_event(event, &data),
            LOOP_STOPPED => self.take_loop_stop(data),
            "member_revoked" => {
                self.take_removal(&data);
                self.refresh.soon();
                self.announce_other(event, data);
            }
            // How both keys signed the change stands in the roster: the event alone proves nothing.
            "member_keypair_rotated"
            | "peer_visible"
            | "peer_hidden"
            | "profile_updated"
            | "mesh_state_update" => {
                self.refresh.soon();
                self.announce_other(event, data);
            }
            _ => self.announce_other(event, data),
        }
    }

    /// A member was removed: what it still sends is dropped.
    fn take_removal(&self, data: &Map<String, Value>) {
        let key = data.get("pubkey").and_then(Value::as_str);
        let Some(Ok(key)) = key.map(str::parse::<PublicKey>) else { return };
        let mut removed = self.removed.lock();
        if removed.len() < REMOVED_MAX || removed.contains_key(&key) {
            removed.insert(key, clock::now());
        }
    }

    /// Writes down, in the background, what is remembered between runs.
    pub(super) fn save_state(&self) {
        let (state, slug) = (Arc::clone(&self.state), self.slug.clone());
        self.tasks.spawn(async move {
            if let Some(Err(error)) = blocking::run(move || state.save()).await {
                tracing::warn!(mesh = slug, %error, "mesh_state_not_written");
            }
        });
    }

    /// Tells of a stopped loop once, however many connections hear of it (daemon spec §10.6).
    pub(super) fn take_loop_stop(&self, data: Map<String, Value>) {
        let stop = Value::Object(data.clone()).to_string();
        {
            let mut told = self.loops_told.lock();
            if told.contains(&stop) {
                return;
            }
            if told.len() >= LOOPS_REMEMBERED {
                told.pop_front();
            }
            told.push_back(stop);
        }
        self.announce(EventKind::LoopStopped, data);
    }

    /// Somebody else wrote a key of the shared state. What this daemon writes itself the broker tells it on no
    /// connection that wrote it; see [`super::MeshHandle::state_was_set`].
    pub(super) fn take_state_change(&self, change: &StateChange) {
        let event = self.state_changed(&change.key, &change.value, &change.updated_by);
        self.context.events.publish(event);
    }

    fn state_changed(&self, key: &str, value: &Value, updated_by: &str) -> Event {
        let data = object(json!({
            "key": sanitized_line(key, STATE_KEY_MAX_CHARS),
            "value": value,
            "updated_by": sanitized_line(updated_by, HELLO_NAME_MAX_CHARS),
        }));
        let live = self.context.sessions.live(&self.slug);
        let may_read = |session: &Session| {
            session.caps.is_none_or(|caps| caps.contains(Capability::StateRead))
        };
        let left_out = live.iter().filter(|session| !may_read(session));
        let sessions = left_out.map(|session| session.session_id.clone()).collect();
        Event { sessions, ..Event::of_mesh(EventKind::StateChanged, &self.slug, data) }
    }

    fn take_presence_event(&self, event: &str, data: &Map<String, Value>) {
        let text = |name: &str| data.get(name).and_then(Value::as_str);
        let key = text("pubkey").and_then(|key| key.parse::<PublicKey>().ok());
        let has_left = event == "peer_left";
        if has_left && let Some(key) = key {
            self.roster.remove_presence(key);
        }
        // Also after a departure: an answer that is on its way may still list it.
        self.refresh.soon();
        if key.is_some_and(|key| self.is_own_key(key)) {
            return;
        }
        let name = text("name").or_else(|| text("displayName")).unwrap_or_default();
        let name = sanitized_line(name, HELLO_NAME_MAX_CHARS);
        let mut told = object(json!({"event": event, "name": name}));
        for field in ["pubkey", "memberPubkey", "peerRole", "groups", "lastSeenAt"] {
            if let Some(value) = data.get(field) {
                told.insert(field.to_owned(), value.clone());
            }
        }
        if let Some(summary) = text("summary") {
            let summary = sanitized_line(summary, SUMMARY_MAX_CHARS);
            told.insert("summary".to_owned(), summary.into());
        }
        self.announce(if has_left { EventKind::PeerLeave } else { EventKind::PeerJoin }, told);
    }

    fn announce_other(&self, event: &str, data: Map<String, Value>) {
        /// Broker events that are kinds of their own (daemon spec §14.1).
        const OWN_KINDS: [&str; 16] = [
            "reservation_change",
            "skill_shared",
            "skill_removed",
            "mcp_deployed",
            "mcp_undeployed",
            "mcp_updated",
            "mcp_scope_changed",
            "mcp_registered",
            "mcp_unregistered",
            "mcp_restored",
            "watch_triggered",
            "tick",
            "profile_updated",
            "task_assigned",
            "file_shared",
            "state_changed",
        ];
        if OWN_KINDS.contains(&event) {
            self.announce(EventKind::Other(event.to_owned()), data);
        } else {
            let event = sanitized_line(event, HELLO_NAME_MAX_CHARS);
            self.announce(EventKind::System, object(json!({"event": event, "eventData": data})));
        }
    }
}

impl super::MeshHandle {
    /// Tells everybody here, but the session that did it, that a key of the shared state was written over the member's
    /// connection: the broker tells all presences except the one that wrote.
    pub fn state_was_set(&self, key: &str, value: &Value, by_session: Option<&str>) {
        let name = self.name_of(self.mesh.member.public).unwrap_or_default();
        let mut event = self.mesh.state_changed(key, value, &name);
        event.sessions.extend(by_session.map(str::to_owned));
        self.mesh.context.events.publish(event);
    }
}

/// The fields of an event, written as a JSON object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

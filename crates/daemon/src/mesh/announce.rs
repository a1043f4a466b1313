//! What the broker tells about the mesh, handed on to the event bus (daemon spec §14.1). Texts of strangers are made
//! harmless on the way.

use claudemesh_ipc::api::{EventKind, OutboxItem};
use claudemesh_protocol::limits::{HELLO_NAME_MAX_CHARS, SUMMARY_MAX_CHARS};
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::wire::{Push, Receipt};
use claudemesh_protocol::{PublicKey, Timestamp};
use serde_json::{Map, Value, json};

use super::{Mesh, receipt};
use crate::events::Event;

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

    /// Publishes a receipt about a message of ours, when it can be believed.
    pub(super) fn announce_receipt(&self, receipt: &Receipt) {
        if !receipt::is_credible(receipt, &self.id, &self.roster.view()) {
            tracing::debug!(mesh = %self.slug, state = receipt.state.as_str(), "receipt_not_credible");
            return;
        }
        let mut data = object(json!({
            "client_message_id": receipt.client_message_id,
            "broker_message_id": receipt.broker_message_id,
            "recipient": receipt.recipient,
            "state": receipt.state,
            "assertedBy": if receipt.signature.is_none() {
                "broker"
            } else {
                receipt.asserted_by.as_deref().filter(|by| *by == "agent_record").unwrap_or("recipient_daemon")
            },
            "at": Timestamp::from_millis(receipt.at).to_iso(),
        }));
        for (name, text) in
            [("path", &receipt.path), ("evidence", &receipt.evidence), ("reason", &receipt.reason)]
        {
            if let Some(text) = text {
                let text = sanitized_line(text, HELLO_NAME_MAX_CHARS * 2);
                data.insert(name.to_owned(), text.into());
            }
        }
        self.announce(EventKind::Receipt, data);
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
            "loop_stopped" => self.announce(EventKind::LoopStopped, data),
            "peer_visible" | "peer_hidden" | "profile_updated" | "member_revoked"
            | "mesh_state_update" => {
                self.refresh.soon();
                self.announce_other(event, data);
            }
            _ => self.announce_other(event, data),
        }
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

/// The fields of an event, written as a JSON object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

//! The one resource of this server: what is unread in the inbox, for clients that watch resources (MCP spec §12). Reading
//! it marks nothing as read.

use claudemesh_protocol::limits::MCP_RESOURCE_UPDATED_WINDOW;
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::rpc;
use crate::tools::{Call, Toolset};

/// Its address.
pub(crate) const UNREAD: &str = "inbox://claudemesh/unread";

/// The answer to `resources/list`: nothing without tools, since then messages are pushed.
pub(crate) fn listing(tools: &Toolset) -> Value {
    let unread = json!({
        "uri": UNREAD,
        "name": "unread",
        "title": "Unread messages",
        "description": "Messages from peers that nobody has read yet, oldest first. Reading them here marks none as read.",
        "mimeType": "application/json",
    });
    json!({ "resources": if tools.is_empty() { vec![] } else { vec![unread] } })
}

/// What reading it asks of the daemon: the same as `check_messages`, without the marks.
pub(crate) fn reading(pinned_mesh: Option<&str>) -> Call {
    Call {
        kind: OperationKind::MessageInbox,
        mesh: pinned_mesh.map(str::to_owned),
        arguments: Map::from_iter([("mark_seen".to_owned(), false.into())]),
    }
}

/// The answer to `resources/read`.
pub(crate) fn contents(messages: &Value) -> Value {
    let text = messages.to_string();
    json!({ "contents": [{ "uri": UNREAD, "mimeType": "application/json", "text": text }] })
}

/// Whether the client watches it.
pub(crate) fn subscription() -> (watch::Sender<bool>, Watcher) {
    let (watched_tx, watched_rx) = watch::channel(false);
    (watched_tx, Watcher { watched_rx, due_at: None })
}

/// Tells a client that watches when something came in; several arrivals within a moment are told once.
#[derive(Debug)]
pub(crate) struct Watcher {
    watched_rx: watch::Receiver<bool>,
    due_at: Option<Instant>,
}

impl Watcher {
    /// Something came in, or may have while nobody listened.
    pub(crate) fn changed(&mut self, now: Instant) {
        if *self.watched_rx.borrow() {
            self.due_at.get_or_insert(now + MCP_RESOURCE_UPDATED_WINDOW);
        }
    }

    /// When there is something to tell.
    pub(crate) const fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// What there is to tell now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Value> {
        self.due_at.take_if(|at| *at <= now)?;
        let is_watched = *self.watched_rx.borrow();
        is_watched.then(|| {
            rpc::notification_with("notifications/resources/updated", &json!({ "uri": UNREAD }))
        })
    }
}

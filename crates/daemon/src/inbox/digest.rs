//! Late group messages are counted and announced together, so that an agent who was away is not flooded (daemon spec
//! §13.2).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::{EventKind, InboxItem};
use claudemesh_protocol::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{InboxSettings, NewItem};
use crate::events::{Audience, Event, EventBus};

/// A digest goes out when no late item came for this long.
const QUIET: Duration = Duration::from_secs(2);
/// Or this long after its first item.
const LATEST: Duration = Duration::from_secs(15);
/// Senders named in a digest.
const SENDERS_MAX: usize = 5;

/// The digests being collected, one for each mesh.
pub(super) struct Digests {
    events: EventBus,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    late_after: Mutex<Duration>,
    open: Mutex<HashMap<String, Digest>>,
}

struct Digest {
    messages: HashSet<(String, String)>,
    oldest: Timestamp,
    newest: Timestamp,
    senders: Vec<String>,
    by_channel: BTreeMap<String, u64>,
    first: Instant,
    last: Instant,
}

impl Digests {
    pub(super) fn new(settings: &InboxSettings) -> Self {
        Self {
            events: settings.events.clone(),
            tasks: settings.tasks.clone(),
            shutdown: settings.shutdown.clone(),
            late_after: Mutex::new(settings.digest_after),
            open: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn set_late_after(&self, age: Duration) {
        *self.late_after.lock() = age;
    }

    pub(super) fn is_late(&self, new: &NewItem, now: Timestamp) -> bool {
        let is_collective = matches!(new.channel.as_str(), "group" | "broadcast")
            || new.subtype.as_deref() == Some("webhook");
        let late_after = *self.late_after.lock();
        is_collective && new.created_at.is_some_and(|created| now.since(created) > late_after)
    }

    /// Counts a late item; the first of a mesh starts the timer.
    pub(super) fn add(self: &Arc<Self>, item: &InboxItem, now: Timestamp) {
        let created = item.created_at.as_deref().and_then(Timestamp::parse_iso).unwrap_or(now);
        let at = Instant::now();
        let mut open = self.open.lock();
        let is_first = !open.contains_key(&item.mesh);
        let digest = open.entry(item.mesh.clone()).or_insert_with(|| Digest {
            messages: HashSet::new(),
            oldest: created,
            newest: created,
            senders: Vec::new(),
            by_channel: BTreeMap::new(),
            first: at,
            last: at,
        });
        digest.last = at;
        // The same broadcast may have come to several own keys.
        let message = (item.sender_pubkey.clone(), item.client_message_id.clone());
        if digest.messages.insert(message) {
            digest.oldest = digest.oldest.min(created);
            digest.newest = digest.newest.max(created);
            *digest.by_channel.entry(item.channel.clone()).or_default() += 1;
            if digest.senders.len() < SENDERS_MAX && !digest.senders.contains(&item.sender_name) {
                digest.senders.push(item.sender_name.clone());
            }
        }
        drop(open);
        if is_first {
            let (digests, mesh) = (Arc::clone(self), item.mesh.clone());
            self.tasks.spawn(async move { digests.announce_when_quiet(mesh).await });
        }
    }

    async fn announce_when_quiet(&self, mesh: String) {
        while let Some(due) = self.due(&mesh) {
            if due <= Instant::now() || self.shutdown.is_cancelled() {
                break;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        let Some(digest) = self.open.lock().remove(&mesh) else { return };
        let data: [(&str, Value); 5] = [
            ("count", json!(digest.messages.len())),
            ("oldest", json!(digest.oldest.to_iso())),
            ("newest", json!(digest.newest.to_iso())),
            ("senders", json!(digest.senders)),
            ("by_channel", json!(digest.by_channel)),
        ];
        self.events.publish(Event {
            kind: EventKind::InboxDigest,
            mesh: Some(mesh),
            audience: Audience::Everyone,
            sessions: Vec::new(),
            message: None,
            data: data
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<Map<_, _>>(),
        });
    }

    fn due(&self, mesh: &str) -> Option<Instant> {
        let open = self.open.lock();
        let digest = open.get(mesh)?;
        Some((digest.last + QUIET).min(digest.first + LATEST))
    }
}

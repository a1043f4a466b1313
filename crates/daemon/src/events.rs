//! The event bus: what happens in the daemon, told to whoever subscribed, with a memory of the last 2,048 events for
//! those who come back (daemon spec §14). Publishing never waits.

mod filter;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use claudemesh_crypto::random;
use claudemesh_ipc::api::{EventKind, InboxItem};
use claudemesh_protocol::limits::{EVENT_QUEUE, EVENT_RING};
use claudemesh_protocol::{PublicKey, Timestamp};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use filter::Seen;
pub use filter::{Filter, View};

/// Who may see an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everybody who watches its mesh.
    Everyone,
    /// The session with this key.
    Session(PublicKey),
    /// The member: all its sessions in the mesh.
    Member,
    /// Only the sessions of [`Event::sessions`]: everybody else was told before.
    Listed,
}

/// What makes two `message` events the same message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageKey {
    /// Key that sent it, hex.
    pub sender: String,
    /// The sender's id.
    pub client_message_id: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its kind.
    pub kind: EventKind,
    /// Mesh it belongs to; `None`: the daemon itself.
    pub mesh: Option<String>,
    /// Who may see it.
    pub audience: Audience,
    /// Ids of agent sessions of that mesh: with [`Audience::Listed`] those it is for, else those it is not for, because
    /// they are told otherwise or later (daemon spec §13.2).
    pub sessions: Vec<String>,
    /// Set on `message`, so that a session gets each message once.
    pub message: Option<MessageKey>,
    /// Its fields; `mesh` and `ts` are added.
    pub data: Map<String, Value>,
}

impl Event {
    /// An event of a mesh for everybody.
    pub fn of_mesh(kind: EventKind, mesh: &str, data: Map<String, Value>) -> Self {
        Self {
            kind,
            mesh: Some(mesh.to_owned()),
            audience: Audience::Everyone,
            sessions: Vec::new(),
            message: None,
            data,
        }
    }
}

/// Somebody in this process who hears of everything as it happens, and must not hold it up.
pub(crate) trait Listener: Send + Sync {
    /// A message was stored for the first time, whether it is told to sessions now, later or never.
    fn arrived(&self, item: &InboxItem);

    /// Something is about to be published.
    fn happened(&self, event: &Event);
}

/// An event with its place in the stream.
struct Published {
    seq: u64,
    event: Event,
    /// `id: …`, `event: …` and `data: …` lines and the empty one that ends them; written once for all who listen.
    text: Bytes,
}

/// The bus. Cloning is cheap.
#[derive(Clone)]
pub struct EventBus {
    shared: Arc<Shared>,
}

struct Shared {
    /// Tells the events of this run from those of another.
    boot: String,
    state: Mutex<State>,
    /// Events that readers were too slow for.
    dropped: AtomicU64,
    listener: OnceLock<Box<dyn Listener>>,
    /// Something was published, or changed what nobody is told about.
    touched: Notify,
}

struct State {
    next_seq: u64,
    ring: VecDeque<Arc<Published>>,
    subscribers: Vec<Weak<Queue>>,
}

/// The events waiting for one subscriber.
struct Queue {
    filter: Filter,
    /// Cancelled when what it watches is over.
    over: CancellationToken,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    events: VecDeque<Arc<Published>>,
    /// Who waits for the next one.
    reader: Option<Waker>,
    seen: Seen,
    dropped: u64,
    unknown_id: bool,
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl EventBus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        let state = State { next_seq: 1, ring: VecDeque::new(), subscribers: Vec::new() };
        let boot = hex::encode(random::bytes::<4>());
        let listener = OnceLock::new();
        Self {
            shared: Arc::new(Shared {
                boot,
                state: Mutex::new(state),
                dropped: AtomicU64::new(0),
                listener,
                touched: Notify::new(),
            }),
        }
    }

    /// From now on `listener` hears of everything; the first one stays.
    pub(crate) fn listen(&self, listener: Box<dyn Listener>) {
        // Only the hooks listen, once for each daemon.
        let _ = self.shared.listener.set(listener);
    }

    /// A message was stored for the first time.
    pub(crate) fn arrived(&self, item: &InboxItem) {
        if let Some(listener) = self.shared.listener.get() {
            listener.arrived(item);
        }
    }

    /// Something changed that is no event of its own: the roster, what is read.
    pub(crate) fn touch(&self) {
        self.shared.touched.notify_one();
    }

    /// Waits until something has changed since the last time; for one task.
    pub(crate) async fn touched(&self) {
        self.shared.touched.notified().await;
    }

    /// Tells everybody concerned; never blocks on a subscriber.
    pub fn publish(&self, event: Event) {
        self.touch();
        if let Some(listener) = self.shared.listener.get() {
            listener.happened(&event);
        }
        let data = data_of(&event, now()).to_string();
        let mut state = self.shared.state.lock();
        let seq = state.next_seq;
        state.next_seq += 1;
        let text = render(&self.shared.boot, seq, event.kind.as_str(), &data).into();
        let published = Arc::new(Published { seq, event, text });
        if state.ring.len() == EVENT_RING {
            state.ring.pop_front();
        }
        state.ring.push_back(Arc::clone(&published));
        state.subscribers.retain(|subscriber| {
            let Some(queue) = subscriber.upgrade() else { return false };
            if queue.offer(&published) == Offered::InPlaceOfAnother {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
            true
        });
    }

    /// From now on, or from after `last_event_id` when that is still remembered; else the first thing the subscriber
    /// gets is a `lagged` event.
    pub fn subscribe(&self, filter: Filter, last_event_id: Option<&str>) -> Subscription {
        self.subscribe_until(CancellationToken::new(), filter, last_event_id)
    }

    /// As [`EventBus::subscribe`], for a session that `over` ends: of what is published afterwards it hears its own end
    /// only. What an ended session leaves to its member would otherwise be told to it a second time.
    pub fn subscribe_until(
        &self,
        over: CancellationToken,
        filter: Filter,
        last_event_id: Option<&str>,
    ) -> Subscription {
        let mut waiting = Waiting {
            events: VecDeque::new(),
            reader: None,
            seen: Seen::default(),
            dropped: 0,
            unknown_id: false,
        };
        let mut state = self.shared.state.lock();
        if let Some(id) = last_event_id {
            match self.position(&state, id) {
                Some(last) => {
                    for published in &state.ring {
                        if filter.admits(&published.event, &mut waiting.seen)
                            && published.seq > last
                        {
                            waiting.events.push_back(Arc::clone(published));
                        }
                    }
                    while waiting.events.len() > EVENT_QUEUE {
                        waiting.events.pop_front();
                        waiting.dropped += 1;
                    }
                }
                None => waiting.unknown_id = true,
            }
        }
        let queue = Arc::new(Queue { filter, over, waiting: Mutex::new(waiting) });
        state.subscribers.push(Arc::downgrade(&queue));
        Subscription { queue }
    }

    /// How many events readers were too slow for, since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// How many subscriptions there are.
    pub fn subscribers(&self) -> usize {
        let state = self.shared.state.lock();
        state.subscribers.iter().filter(|queue| queue.strong_count() > 0).count()
    }

    /// The sequence number of an id, when nothing after it has been forgotten.
    fn position(&self, state: &State, id: &str) -> Option<u64> {
        let (boot, seq) = id.split_once('-')?;
        let seq: u64 = seq.parse().ok()?;
        let oldest = state.ring.front().map_or(state.next_seq, |published| published.seq);
        let is_known = boot == self.shared.boot && seq < state.next_seq && seq + 1 >= oldest;
        is_known.then_some(seq)
    }
}

/// What became of an event for one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offered {
    /// It is not for this one.
    NotWanted,
    /// It waits to be read.
    Queued,
    /// It waits, and the oldest had to go for it.
    InPlaceOfAnother,
}

impl Queue {
    fn offer(&self, published: &Arc<Published>) -> Offered {
        if self.over.is_cancelled() && published.event.kind != EventKind::SessionEnded {
            return Offered::NotWanted;
        }
        let mut waiting = self.waiting.lock();
        if !self.filter.admits(&published.event, &mut waiting.seen) {
            return Offered::NotWanted;
        }
        let is_full = waiting.events.len() == EVENT_QUEUE;
        if is_full {
            waiting.events.pop_front();
            waiting.dropped += 1;
        }
        waiting.events.push_back(Arc::clone(published));
        let reader = waiting.reader.take();
        drop(waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
        if is_full { Offered::InPlaceOfAnother } else { Offered::Queued }
    }
}

/// The receiving end; dropping it ends the subscription.
pub struct Subscription {
    queue: Arc<Queue>,
}

impl Subscription {
    /// The next event as the text of the stream, including the empty line that ends it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> String {
        let text = poll_fn(|cx| self.poll_next(cx)).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    /// As [`Subscription::next`]; wakes whoever asked last.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut waiting = self.queue.waiting.lock();
        if let Some(text) = waiting.take() {
            return Poll::Ready(text);
        }
        let is_known = waiting.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker()));
        if !is_known {
            waiting.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.unknown_id) {
            return Some(lagged("\"reason\":\"unknown_id\",\"dropped\":0").into());
        }
        match std::mem::take(&mut self.dropped) {
            0 => {}
            dropped => return Some(lagged(&format!("\"dropped\":{dropped}")).into()),
        }
        Some(self.events.pop_front()?.text.clone())
    }
}

fn now() -> Timestamp {
    crate::clock::now()
}

fn lagged(fields: &str) -> String {
    format!("event: lagged\ndata: {{\"ts\":\"{}\",{fields}}}\n\n", now().to_iso())
}

/// The fields of an event, with what all have.
fn data_of(event: &Event, at: Timestamp) -> Value {
    let mut data = Map::with_capacity(event.data.len() + 2);
    data.insert("ts".to_owned(), at.to_iso().into());
    if let Some(mesh) = &event.mesh {
        data.insert("mesh".to_owned(), mesh.as_str().into());
    }
    data.extend(event.data.clone());
    Value::Object(data)
}

fn render(boot: &str, seq: u64, kind: &str, data: &str) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail; JSON text has no raw line breaks.
    let _ = write!(text, "id: {boot}-{seq}\nevent: {kind}\ndata: {data}\n\n");
    text
}

#[cfg(test)]
mod tests;

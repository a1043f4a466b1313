//! One socket after its handshake: reading, writing and the watchdog, side by side in one task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudemesh_protocol::limits;
use claudemesh_protocol::wire::{ClientAck, ErrorFrame, ServerFrame, ServerInbound};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use super::pending::{Match, Pending};
use super::{Close, ConnectionEvent, OUTBOUND_FRAMES, RequestError, Shared, Timing};
use crate::clock::wall_clock_millis;
use crate::dial::ByteStream;

/// Bytes a close reason may have (RFC 6455 §5.5: control frames carry 125, two are the code).
const CLOSE_REASON_MAX_BYTES: usize = 123;
/// Close code for a frame above the limit.
const TOO_BIG: u16 = 1009;
/// A watchdog this late means that the process stood still for a moment; whether the socket survived is then asked.
const LATE: Duration = Duration::from_secs(5);
/// How long the broker may take to answer that question.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// How long a closing socket may take to say goodbye.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Frames written between two flushes.
const WRITE_BATCH: usize = 32;

pub(super) type WebSocket = WebSocketStream<MaybeTlsStream<Box<dyn ByteStream>>>;
type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// What callers need of the open socket.
#[derive(Clone)]
pub(super) struct Live {
    outbound_tx: mpsc::Sender<Outgoing>,
    outbound_bytes: Arc<Semaphore>,
    pub(super) pending: Arc<Pending>,
    pub(super) terminate: CancellationToken,
    max_frame_bytes: usize,
}

struct Outgoing {
    message: Message,
    reserved_bytes: usize,
}

impl Live {
    pub(super) fn new(max_frame_bytes: usize) -> (Self, Outbound) {
        let (outbound_tx, outbound_rx) = mpsc::channel(OUTBOUND_FRAMES);
        let outbound_bytes = Arc::new(Semaphore::new(limits::OUTBOUND_MAX_BYTES));
        let live = Self {
            outbound_tx,
            outbound_bytes: Arc::clone(&outbound_bytes),
            pending: Arc::default(),
            terminate: CancellationToken::new(),
            max_frame_bytes,
        };
        (live, Outbound { frames_rx: outbound_rx, bytes: outbound_bytes })
    }

    /// Waits for room and queues the text; the caller limits the time.
    pub(super) async fn queue(&self, text: String) -> Result<(), RequestError> {
        let bytes = text.len();
        if bytes > self.max_frame_bytes.min(limits::OUTBOUND_MAX_BYTES) {
            return Err(RequestError::TooLarge { bytes, max: self.max_frame_bytes });
        }
        let permits = u32::try_from(bytes).map_err(|_| RequestError::Encode)?;
        let room = self.outbound_bytes.acquire_many(permits).await;
        let room = room.map_err(|_| RequestError::Disconnected)?;
        let slot = self.outbound_tx.reserve().await.map_err(|_| RequestError::Disconnected)?;
        room.forget();
        slot.send(Outgoing { message: Message::text(text), reserved_bytes: bytes });
        Ok(())
    }

    fn ping(&self) {
        // A full queue means that frames are waiting to be written, which probe the connection as well as a ping.
        let ping = Outgoing { message: Message::Ping(bytes_of_now().into()), reserved_bytes: 0 };
        let _full_queue = self.outbound_tx.try_send(ping);
    }
}

/// The receiving end of the outbound queue.
pub(super) struct Outbound {
    frames_rx: mpsc::Receiver<Outgoing>,
    bytes: Arc<Semaphore>,
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.bytes.close();
    }
}

/// Why the socket is no longer used.
#[derive(Debug)]
pub(super) enum End {
    /// The broker closed it, or it broke.
    Closed(Close),
    /// The owner of the connection asked for it.
    Stopped,
    /// A full queue gave it up, or the owner refused it.
    Terminated,
    /// The watchdog gave it up.
    Stale(Stale),
    /// The broker broke a rule of the protocol; it is told so.
    Broken(Close),
}

/// Why the watchdog gave a socket up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// Nothing came in for too long.
    Silent,
    /// The machine slept or changed its network, and the socket did not survive that.
    Overtaken,
}

/// When something last came in.
struct Activity {
    last: Mutex<Instant>,
}

/// Runs an accepted socket to its end. `events_tx` being full stops the reading.
pub(super) async fn run(
    socket: WebSocket,
    live: &Live,
    mut outbound: Outbound,
    events_tx: &mpsc::Sender<ConnectionEvent>,
    context: Context<'_>,
) -> End {
    let (mut sink, mut stream) = socket.split();
    let activity = Activity { last: Mutex::new(Instant::now()) };
    let end = tokio::select! {
        biased;
        end = read(&mut stream, live, events_tx, &activity, &context) => end,
        close = write(&mut sink, &mut outbound) => End::Closed(close),
        stale = watch(live, &activity, &context) => End::Stale(stale),
        () = live.terminate.cancelled() => End::Terminated,
        () = context.stop.cancelled() => End::Stopped,
        () = events_tx.closed() => End::Stopped,
    };
    match &end {
        End::Stopped => {
            finish(
                &mut sink,
                &mut stream,
                &mut outbound,
                Close { code: 1000, reason: String::new() },
            )
            .await;
        }
        End::Terminated => {
            let refusal =
                context.shared.refusal.lock().clone().filter(|refusal| refusal.says_goodbye);
            if let Some(close) = refusal.map(|refusal| refusal.close) {
                finish(&mut sink, &mut stream, &mut outbound, close).await;
            }
        }
        End::Broken(close) => {
            finish(&mut sink, &mut stream, &mut outbound, close.clone()).await;
        }
        End::Closed(_) | End::Stale(_) => {}
    }
    end
}

/// What the parts of a socket share with the rest of the connection.
pub(super) struct Context<'a> {
    pub(super) shared: &'a Shared,
    /// The limits as they change.
    pub(super) timing: watch::Receiver<Arc<Timing>>,
    pub(super) stop: &'a CancellationToken,
    pub(super) last_error: &'a Mutex<Option<ErrorFrame>>,
    /// Largest frame the broker may send.
    pub(super) max_inbound_bytes: usize,
}

async fn read(
    stream: &mut Stream,
    live: &Live,
    events_tx: &mpsc::Sender<ConnectionEvent>,
    activity: &Activity,
    context: &Context<'_>,
) -> End {
    while let Some(message) = stream.next().await {
        *activity.last.lock() = Instant::now();
        let message = match message {
            Ok(message) => message,
            Err(error @ tungstenite::Error::Capacity(_)) => {
                return End::Broken(close_of_error(&error));
            }
            Err(error) => return End::Closed(close_of_error(&error)),
        };
        if message.len() > context.max_inbound_bytes {
            return End::Broken(Close { code: TOO_BIG, reason: "frame too big".to_owned() });
        }
        let event = match message {
            Message::Text(text) => understand(&text, live, context),
            Message::Binary(bytes) => {
                if let Ok(text) = std::str::from_utf8(&bytes) {
                    understand(text, live, context)
                } else {
                    context.shared.count(|counters| counters.invalid_inbound += 1);
                    None
                }
            }
            Message::Pong(payload) => {
                note_lag(&payload, context);
                None
            }
            Message::Close(frame) => return End::Closed(close_of_frame(frame)),
            Message::Ping(_) | Message::Frame(_) => None,
        };
        if let Some(event) = event
            && events_tx.send(event).await.is_err()
        {
            return End::Closed(Close::transport("owner gone"));
        }
    }
    End::Closed(Close::transport("connection lost"))
}

/// Resolves replies on the spot and returns what the owner has to see.
fn understand(text: &str, live: &Live, context: &Context<'_>) -> Option<ConnectionEvent> {
    let (req_id, frame) = match ServerFrame::decode(text) {
        Ok(ServerInbound::Frame { req_id, frame }) => (req_id, frame),
        Ok(ServerInbound::Unknown { req_id, .. }) => {
            count_unmatched(live.pending.unreadable(req_id.as_deref()), context);
            return None;
        }
        Err(error) => {
            context.shared.count(|counters| counters.invalid_inbound += 1);
            tracing::debug!(mesh = %context.shared.mesh, "invalid_inbound_frame");
            if let Some(req_id) = error.req_id() {
                live.pending.unreadable(Some(req_id));
            }
            return ids_of_broken_push(text).map(ConnectionEvent::UnreadablePush);
        }
    };
    let req_id = req_id.as_deref();
    match frame {
        ServerFrame::Push(push) => return Some(ConnectionEvent::Push(push)),
        ServerFrame::Receipt(receipt) => return Some(ConnectionEvent::Receipt(receipt)),
        ServerFrame::StateChange(change) => return Some(ConnectionEvent::StateChange(change)),
        ServerFrame::Ack(ack) => count_unmatched(live.pending.acknowledge(req_id, *ack), context),
        ServerFrame::Error(error) => {
            let matched = live.pending.refuse(&error);
            if matched == Match::Nobody {
                tracing::debug!(mesh = %context.shared.mesh, code = %error.code, "broker_error_frame");
                *context.last_error.lock() = Some(*error);
            }
        }
        ServerFrame::HelloAck(_) => count_unmatched(Match::Nobody, context),
        reply => count_unmatched(live.pending.answer(req_id, reply), context),
    }
    None
}

fn count_unmatched(matched: Match, context: &Context<'_>) {
    if matched == Match::Nobody {
        context.shared.count(|counters| counters.unmatched_replies += 1);
    }
}

/// The ids of a push whose fields have wrong types, so that it can be acknowledged all the same.
fn ids_of_broken_push(text: &str) -> Option<ClientAck> {
    if claudemesh_protocol::wire::exceeds_depth(text, limits::JSON_MAX_DEPTH) {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| value.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    if !matches!(field("type").as_deref(), Some("push" | "inbound")) {
        return None;
    }
    let ack = ClientAck {
        client_message_id: field("client_message_id"),
        broker_message_id: field("messageId"),
    };
    (ack != ClientAck::default()).then_some(ack)
}

async fn write(sink: &mut Sink, outbound: &mut Outbound) -> Close {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    loop {
        if outbound.frames_rx.recv_many(&mut batch, WRITE_BATCH).await == 0 {
            return Close::transport("outbound queue gone");
        }
        if let Err(error) = write_batch(sink, outbound, &mut batch).await {
            return close_of_error(&error);
        }
    }
}

async fn write_batch(
    sink: &mut Sink,
    outbound: &Outbound,
    batch: &mut Vec<Outgoing>,
) -> Result<(), tungstenite::Error> {
    let mut written_bytes = 0;
    for outgoing in batch.drain(..) {
        written_bytes += outgoing.reserved_bytes;
        sink.feed(outgoing.message).await?;
    }
    sink.flush().await?;
    outbound.bytes.add_permits(written_bytes);
    Ok(())
}

/// Returns when the socket counts as dead.
async fn watch(live: &Live, activity: &Activity, context: &Context<'_>) -> Stale {
    let mut changes = context.timing.clone();
    let mut timing = Arc::clone(&changes.borrow_and_update());
    let mut nudged = context.shared.nudges.subscribe();
    let mut tick_at = Instant::now() + timing.ping_interval;
    let mut probe: Option<Probe> = None;
    loop {
        let wake_at = probe.map_or(tick_at, |probe| probe.until.min(tick_at));
        let before = (Instant::now(), wall_clock_millis());
        tokio::select! {
            biased;
            // Its sender lives as long as the connection.
            _lives = nudged.changed() => {
                probe.get_or_insert_with(|| Probe::begin(live));
                continue;
            }
            // Its sender lives in the options of the connection.
            _lives = changes.changed() => {
                timing = Arc::clone(&changes.borrow_and_update());
                tick_at = tick_at.min(Instant::now() + timing.ping_interval);
                continue;
            }
            () = tokio::time::sleep_until(wake_at) => {}
        }
        let now = Instant::now();
        let late = lateness(before, wake_at);
        let last = *activity.last.lock();
        let idle = now.saturating_duration_since(last);
        let stale = if late > timing.suspend_after {
            Some(Stale::Overtaken)
        } else if late >= LATE {
            // The broker may have given us up meanwhile, or not; what it says now decides.
            probe = Some(Probe::begin(live));
            tick_at = now + timing.ping_interval;
            continue;
        } else if probe.is_some_and(|probe| now >= probe.until && last < probe.since) {
            Some(Stale::Overtaken)
        } else if now >= tick_at && idle > timing.silence_limit {
            Some(Stale::Silent)
        } else {
            None
        };
        if let Some(stale) = stale {
            let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
            let Shared { mesh, session, role, .. } = context.shared;
            let prefix = role.log_prefix();
            tracing::warn!(
                mesh,
                session_pubkey = session,
                idle_ms,
                ?stale,
                "{prefix}ws_stale_terminate"
            );
            return stale;
        }
        probe = probe.filter(|probe| now < probe.until);
        if now >= tick_at {
            live.ping();
            tick_at = now + timing.ping_interval;
        }
    }
}

/// A question whether the broker is still there.
#[derive(Debug, Clone, Copy)]
struct Probe {
    since: Instant,
    until: Instant,
}

impl Probe {
    fn begin(live: &Live) -> Self {
        live.ping();
        let since = Instant::now();
        Self { since, until: since + PROBE_WAIT }
    }
}

/// How much later than `wake_at` it is, by the clock that says more: one of them may stand still in sleep.
fn lateness((before, wall_before): (Instant, i64), wake_at: Instant) -> Duration {
    let wall_slept = wall_clock_millis().saturating_sub(wall_before);
    let wall_slept = Duration::from_millis(u64::try_from(wall_slept).unwrap_or(0));
    let by_wall = wall_slept.saturating_sub(wake_at.saturating_duration_since(before));
    Instant::now().saturating_duration_since(wake_at).max(by_wall)
}

/// Says goodbye: what is queued, then the close frame, then waits for the other side so that nothing written is lost
/// to a reset.
async fn finish(sink: &mut Sink, stream: &mut Stream, outbound: &mut Outbound, close: Close) {
    let is_drained = AtomicBool::new(false);
    let goodbye = async {
        let mut batch = Vec::new();
        while let Ok(outgoing) = outbound.frames_rx.try_recv() {
            batch.push(outgoing);
        }
        write_batch(sink, outbound, &mut batch).await?;
        let frame = CloseFrame { code: CloseCode::from(close.code), reason: close.reason.into() };
        sink.send(Message::Close(Some(frame))).await?;
        is_drained.store(true, Ordering::Relaxed);
        while let Some(Ok(_)) = stream.next().await {}
        Ok::<(), tungstenite::Error>(())
    };
    // The socket is dropped after this, whether or not the other side was polite.
    let _impolite = tokio::time::timeout(CLOSE_WAIT, goodbye).await;
    if !is_drained.load(Ordering::Relaxed) {
        tracing::debug!("ws_close_incomplete");
    }
}

/// Cuts a reason to what a close frame holds, at a character boundary.
pub(super) fn close_reason(reason: &str) -> String {
    let mut end = reason.len().min(CLOSE_REASON_MAX_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default().to_owned()
}

pub(super) fn close_of_frame(frame: Option<CloseFrame>) -> Close {
    match frame {
        Some(frame) => Close { code: frame.code.into(), reason: frame.reason.as_str().to_owned() },
        None => Close { code: 1005, reason: String::new() },
    }
}

pub(super) fn close_of_error(error: &tungstenite::Error) -> Close {
    match error {
        tungstenite::Error::Capacity(_) => {
            Close { code: TOO_BIG, reason: close_reason(&error.to_string()) }
        }
        _ => Close::transport(error.to_string()),
    }
}

fn bytes_of_now() -> Vec<u8> {
    wall_clock_millis().to_be_bytes().to_vec()
}

fn note_lag(payload: &[u8], context: &Context<'_>) {
    let Ok(sent) = <[u8; 8]>::try_from(payload) else { return };
    let millis = wall_clock_millis().saturating_sub(i64::from_be_bytes(sent));
    let Ok(millis) = u64::try_from(millis) else { return };
    context.shared.set_state(|state| state.lag = Some(Duration::from_millis(millis)));
}

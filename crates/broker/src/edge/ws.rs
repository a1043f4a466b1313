//! The WebSocket of one client: upgrade, handshake, one task that reads and one that writes.
//!
//! Frames of a socket are handled strictly in the order they arrive. The writer is the only one that touches the sink;
//! everybody else puts frames into the connection's bounded queue.
//!
//! Most connections are silent most of the time, so that the two tasks hold what waiting needs and nothing else: what a
//! request needs is allocated for the request.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::limits::{FIRST_FRAME_MAX_BYTES, INVALID_JSON_MAX, INVALID_JSON_WINDOW};
use claudemesh_protocol::wire::{ClientFrame, DecodeError, ErrorFrame};
use claudemesh_store::DeliverySeq;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::error::ApiError;
use super::handshake::{self, Greeted};
use super::limit::ClientAddress;
use super::upgrade::{Upgrade, WebSocket};
use crate::live::{self, Close, Connection, Outgoing, Taken};
use crate::ops::{self, Next, Peer, messaging};
use crate::state::Broker;

/// Read buffer of a socket. The library's default of 128 KiB would be most of an idle connection's memory.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Bytes gathered before a write goes to the socket; several queued frames share one system call.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Bytes of one frame at most; a longer text goes out in several. The library keeps the room that the largest frame of a
/// socket took until the socket ends, and a list of a thousand peers has almost a megabyte.
const FRAME_MAX_BYTES: usize = 16 * 1024;
/// The code that is never sent: the socket ends without a close frame.
const ABNORMAL: u16 = 1006;
/// What an address with too many sockets is told to wait, in seconds; nobody knows when one of them closes.
const SOCKETS_RETRY_SECONDS: u64 = 10;
/// How long a client may take to answer our close frame, and a write under way to end once the socket is to close.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// `GET /ws`.
pub(crate) async fn upgrade(
    State(broker): State<Broker>,
    Extension(client): Extension<ClientAddress>,
    upgrade: Upgrade,
) -> Response {
    let Some(guard) = broker.edge_limits().open_socket(client) else {
        broker.metrics().connections_rejected.inc("address");
        return ApiError::new(ErrorCode::RateLimited, "too many open sockets of this address")
            .retry_after_seconds(SOCKETS_RETRY_SECONDS)
            .into_response();
    };
    let max_frame = broker.limits().max_frame_bytes;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(max_frame))
        .max_frame_size(Some(max_frame));
    let answer = upgrade.answer();
    broker.clone().spawn(async move {
        let _guard = guard;
        if let Some(socket) = upgrade.socket(config).await {
            Box::pin(serve(broker, socket)).await;
        }
    });
    answer
}

/// How a socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The client left on purpose.
    Left,
    /// Anything else: the presence is leased.
    Lost,
}

async fn serve(broker: Broker, socket: WebSocket) {
    let (sink, stream) = socket.split();
    let connection = Arc::new(Connection::new());
    let mut reader = Reader::new(&broker, stream, Arc::clone(&connection));
    let (peer_tx, peer_rx) = tokio::sync::oneshot::channel();
    broker.spawn(write(broker.clone(), sink, Arc::clone(&connection), peer_rx));
    if let Some(peer) = greet(&mut reader).await {
        let peer = Arc::new(peer);
        // The writer may have ended already; then the reader notices by itself.
        let _ = peer_tx.send(Arc::clone(&peer));
        broker.metrics().connections.inc();
        broker.metrics().connections_active.inc();
        // A bug in a handler ends this connection and no other; its presence is leased like any lost one.
        let ended = AssertUnwindSafe(reader.run(&peer)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(presence_id = %peer.presence_id, "a frame handler panicked");
            connection.close(Close::INTERNAL);
            Ended::Lost
        });
        broker.metrics().connections_active.dec();
        match ended {
            Ended::Left => {
                Box::pin(live::leave(&broker, &peer.mesh, &peer.presence_id, &connection)).await;
                connection.close(Close { code: 1000, reason: "" });
            }
            Ended::Lost => {
                let lost = live::lose_socket(&broker, &peer.mesh, &peer.presence_id, &connection);
                Box::pin(lost).await;
            }
        }
    }
    // Ends the writer if it has not ended yet; a close that was decided before keeps its reason.
    connection.close(Close { code: ABNORMAL, reason: "" });
    reader.linger().await;
    connection.reader_ended.cancel();
}

/// The handshake phase. Only waiting for the client is timed: a hello that is being settled must not be dropped half-way.
async fn greet(reader: &mut Reader) -> Option<Peer> {
    let limit = Duration::from_millis(reader.broker.limits().hello_timeout_ms);
    let deadline = Instant::now() + limit;
    let connection = Arc::clone(&reader.connection);
    loop {
        let Ok(text) = tokio::time::timeout_at(deadline, reader.next_before_hello()).await else {
            let code = ErrorCode::HelloTimeout;
            reader.broker.metrics().connections_rejected.inc(code.as_str());
            let text = "no accepted hello within the time allowed";
            connection.refuse(ErrorFrame::new(code, text, None));
            connection.close(Close::policy(code.as_str()));
            return None;
        };
        match Box::pin(handshake::greet(&reader.broker, &connection, &text?)).await {
            Greeted::Accepted(peer) => return Some(*peer),
            Greeted::NotYet(error) => connection.refuse(error),
            Greeted::Refused { error, close } => {
                reader.broker.metrics().connections_rejected.inc(close.reason);
                connection.refuse(error);
                connection.close(close);
                return None;
            }
        }
    }
}

struct Reader {
    broker: Broker,
    stream: SplitStream<WebSocket>,
    connection: Arc<Connection>,
    last_pong: Instant,
    next_ping: Instant,
    bad_frames: VecDeque<Instant>,
}

/// What came in.
enum Incoming {
    Text(Utf8Bytes),
    Ended(Ended),
}

impl Reader {
    fn new(broker: &Broker, stream: SplitStream<WebSocket>, connection: Arc<Connection>) -> Self {
        let now = Instant::now();
        let interval = Duration::from_millis(broker.limits().ping_interval_ms);
        Self {
            broker: broker.clone(),
            stream,
            connection,
            last_pong: now,
            next_ping: now + interval,
            bad_frames: VecDeque::new(),
        }
    }

    async fn next_before_hello(&mut self) -> Option<Utf8Bytes> {
        match self.next().await {
            Incoming::Text(text) if text.len() <= FIRST_FRAME_MAX_BYTES => Some(text),
            Incoming::Text(_) => {
                self.connection.close(Close { code: 1009, reason: "first frame too big" });
                None
            }
            Incoming::Ended(_) => None,
        }
    }

    /// The next text, while pings go out and silence is watched.
    async fn next(&mut self) -> Incoming {
        let limits = self.broker.limits();
        let silence = Duration::from_millis(limits.silence_limit_ms);
        let interval = Duration::from_millis(limits.ping_interval_ms);
        let slow = Duration::from_millis(limits.slow_consumer_ms);
        loop {
            let deadline = self.next_ping.min(self.last_pong + silence);
            let message = tokio::select! {
                biased;
                () = self.connection.writer_ended.cancelled() => return Incoming::Ended(Ended::Lost),
                // Before the socket: a client that never pauses is pinged and judged like the others.
                () = tokio::time::sleep_until(deadline) => {
                    let now = Instant::now();
                    if now >= self.last_pong + silence {
                        return Incoming::Ended(Ended::Lost);
                    }
                    if self.connection.is_slow(slow) {
                        self.connection.close(Close::SLOW_CONSUMER);
                        return Incoming::Ended(Ended::Lost);
                    }
                    self.next_ping = now + interval;
                    self.connection.ping();
                    continue;
                }
                message = self.stream.next() => message,
            };
            if matches!(message, Some(Ok(_))) {
                self.connection.touch(self.broker.now());
            }
            match message {
                Some(Ok(Message::Text(text))) => return Incoming::Text(text),
                Some(Ok(Message::Binary(bytes))) => match Utf8Bytes::try_from(bytes) {
                    Ok(text) => return Incoming::Text(text),
                    Err(_) => return Incoming::Text(Utf8Bytes::from_static("")),
                },
                Some(Ok(Message::Pong(_))) => self.last_pong = Instant::now(),
                Some(Ok(Message::Ping(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    // Without a code (1005) or with 1000 the client leaves on purpose.
                    let is_voluntary = frame.is_none_or(|frame| u16::from(frame.code) == 1000);
                    let ended = if is_voluntary && !self.connection.is_closing() {
                        Ended::Left
                    } else {
                        Ended::Lost
                    };
                    return Incoming::Ended(ended);
                }
                Some(Err(error)) => {
                    if matches!(error, tungstenite::Error::Capacity(_)) {
                        self.connection.close(Close { code: 1009, reason: "frame too big" });
                    }
                    return Incoming::Ended(Ended::Lost);
                }
                None => return Incoming::Ended(Ended::Lost),
            }
        }
    }

    async fn run(&mut self, peer: &Peer) -> Ended {
        loop {
            let text = match self.next().await {
                Incoming::Text(text) => text,
                Incoming::Ended(ended) => return ended,
            };
            if self.connection.is_closing() {
                // What a replaced or refused client still says does not count; its close is on the way.
                continue;
            }
            match ClientFrame::decode(&text) {
                Ok(inbound) => {
                    if Box::pin(ops::handle(peer, inbound)).await == Next::Leave {
                        return Ended::Left;
                    }
                }
                Err(error) => {
                    self.connection.refuse(refusal_of(&error));
                    self.broker.metrics().errors.inc(error.code().as_str());
                    if error == DecodeError::InvalidJson && self.is_flooding() {
                        self.connection.close(Close::policy(ErrorCode::InvalidJson.as_str()));
                        return Ended::Lost;
                    }
                }
            }
        }
    }

    /// Reads on without listening until the socket or the writer has ended: a socket that is dropped with unread bytes
    /// would be reset, and the client would not see why it was closed.
    async fn linger(&mut self) {
        loop {
            let message = tokio::select! {
                biased;
                message = self.stream.next() => message,
                () = self.connection.writer_ended.cancelled() => return,
            };
            if !matches!(message, Some(Ok(_))) {
                return;
            }
        }
    }

    /// Counts an unreadable frame.
    fn is_flooding(&mut self) -> bool {
        let now = Instant::now();
        while self.bad_frames.front().is_some_and(|at| now - *at > INVALID_JSON_WINDOW) {
            self.bad_frames.pop_front();
        }
        self.bad_frames.push_back(now);
        self.bad_frames.len() >= INVALID_JSON_MAX
    }
}

/// The error frame for a message that could not be read after the hello.
fn refusal_of(error: &DecodeError) -> ErrorFrame {
    // `malformed` closes a handshake at old clients; a bad field of a request is its own word.
    let code = match error.code() {
        ErrorCode::Malformed => ErrorCode::InvalidArgs,
        code => code,
    };
    ErrorFrame::new(code, error.to_string(), error.req_id())
}

/// The writer task: whatever is queued goes out in order, then the close.
async fn write(
    broker: Broker,
    mut sink: SplitSink<WebSocket, Message>,
    connection: Arc<Connection>,
    mut peer: tokio::sync::oneshot::Receiver<Arc<Peer>>,
) {
    let stall = Duration::from_millis(broker.limits().slow_consumer_ms);
    let mut known_peer: Option<Arc<Peer>> = None;
    loop {
        let Taken { frames, ping, close } = connection.next().await;
        let delivered: Vec<DeliverySeq> =
            frames.iter().filter_map(|frame| frame.delivers).collect();
        let wrote = tokio::select! {
            biased;
            wrote = put(&mut sink, frames, ping) => Some(wrote),
            () = given_up(&connection, stall) => None,
        };
        let is_written = matches!(wrote, Some(Ok(())));
        if is_written && !delivered.is_empty() {
            if known_peer.is_none() {
                known_peer = (&mut peer).await.ok();
            }
            if let Some(peer) = &known_peer {
                Box::pin(messaging::delivered_by_write(peer, delivered)).await;
            }
        }
        let close = match (wrote, close) {
            (Some(Ok(())), None) => continue,
            (Some(Ok(())), Some(close)) => close,
            (Some(Err(_)), _) => Close { code: ABNORMAL, reason: "" },
            // Counts unless another close was decided before.
            (None, _) => Close::SLOW_CONSUMER,
        };
        Box::pin(finish(&broker, &mut sink, &connection, close)).await;
        return;
    }
}

async fn put(
    sink: &mut SplitSink<WebSocket, Message>,
    frames: Vec<Outgoing>,
    ping: bool,
) -> tungstenite::Result<()> {
    if ping {
        sink.feed(Message::Ping(Bytes::new())).await?;
    }
    for frame in frames {
        put_text(sink, frame).await?;
    }
    sink.flush().await
}

/// Writes a text, a long one as several frames, each when the socket has taken the one before.
async fn put_text(
    sink: &mut SplitSink<WebSocket, Message>,
    Outgoing { text, part, .. }: Outgoing,
) -> tungstenite::Result<()> {
    let mut rest = Bytes::from(text);
    let mut kind = if part.begins { Data::Text } else { Data::Continue };
    loop {
        let piece = rest.split_to(rest.len().min(FRAME_MAX_BYTES));
        let ends = part.ends && rest.is_empty();
        sink.feed(Message::Frame(Frame::message(piece, OpCode::Data(kind), ends))).await?;
        if rest.is_empty() {
            return Ok(());
        }
        kind = Data::Continue;
    }
}

/// Waits until a write that does not end is to be abandoned: the buffer behind it has been full for `stall`, or the
/// socket was to be closed a while ago.
async fn given_up(connection: &Connection, stall: Duration) {
    let period = (stall / 8).clamp(Duration::from_millis(10), CLOSE_WAIT);
    let mut closing_for = Duration::ZERO;
    loop {
        tokio::time::sleep(period).await;
        closing_for = if connection.is_closing() { closing_for + period } else { Duration::ZERO };
        if closing_for >= CLOSE_WAIT || connection.is_slow(stall) {
            return;
        }
    }
}

/// Sends the close frame and lets go of the socket, so that the reader ends too.
async fn finish(
    broker: &Broker,
    sink: &mut SplitSink<WebSocket, Message>,
    connection: &Connection,
    close: Close,
) {
    connection.close(close);
    let close = connection.closing().unwrap_or(close);
    broker.metrics().ws_close.inc(code_label(close.code));
    let reason = Utf8Bytes::from_static(close.reason);
    let frame = CloseFrame { code: close.code.into(), reason };
    let goodbye = async {
        if close.code != ABNORMAL {
            let _ = sink.send(Message::Close(Some(frame))).await;
            connection.reader_ended.cancelled().await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_WAIT, goodbye).await;
    connection.writer_ended.cancel();
}

const fn code_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1006 => "1006",
        1008 => "1008",
        1009 => "1009",
        1011 => "1011",
        4001 => "4001",
        4002 => "4002",
        4003 => "4003",
        4004 => "4004",
        _ => "other",
    }
}

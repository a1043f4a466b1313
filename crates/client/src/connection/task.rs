//! The life of a connection: attempt after attempt, until its owner ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudemesh_protocol::wire::{ErrorFrame, HelloAck, ServerFrame, ServerInbound};
use claudemesh_protocol::{Timestamp, limits};
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::client_async_tls_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::socket::{self, Context, End, Live, Stale, WebSocket};
use super::{Close, ConnectionEvent, ConnectionOptions, Shared, Status, Timing};
use crate::clock::{self, wall_clock_millis};
use crate::dial::{DialError, Endpoint, install_tls_provider};
use crate::hello::HelloContext;
use crate::reaction::{Backoff, DisabledReason, NextStep, Reaction, reaction};

/// Bytes of one socket's read buffer; a daemon has few sockets, but each is idle most of the time.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// Bytes gathered before they are written without waiting for the flush.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// How long the socket of a failed handshake may take to say goodbye.
const ABANDON_WAIT: Duration = Duration::from_millis(500);

struct Attempt<'a> {
    options: &'a ConnectionOptions,
    /// The limits in force when it began.
    timing: Arc<Timing>,
    shared: &'a Shared,
    events_tx: &'a mpsc::Sender<ConnectionEvent>,
    stop: &'a CancellationToken,
    /// Set before the hello is written: from then on the broker may know us, and is told when we go.
    has_greeted: &'a AtomicBool,
    /// The broker's clock minus ours, in milliseconds; 0 until the broker complained.
    clock_offset: i64,
    last_error: Mutex<Option<ErrorFrame>>,
}

/// How an attempt went.
struct Outcome {
    close: Close,
    /// When it ended; saying goodbye may take a moment more, which counts as waiting.
    ended_at: Instant,
    open_for: Option<Duration>,
    reaction: Option<Reaction>,
}

/// Runs until `stop` is cancelled or the owner drops its end of the events.
pub(super) async fn run(
    options: ConnectionOptions,
    shared: Arc<Shared>,
    events_tx: mpsc::Sender<ConnectionEvent>,
    stop: CancellationToken,
) {
    let mut backoff = options.timing.now().backoff.clone();
    let mut clock_offset = 0;
    let mut nudged = shared.nudges.subscribe();
    while !stop.is_cancelled() && !events_tx.is_closed() {
        let has_greeted = AtomicBool::new(false);
        let mut attempt = Attempt {
            has_greeted: &has_greeted,
            timing: options.timing.now(),
            options: &options,
            shared: &shared,
            events_tx: &events_tx,
            stop: &stop,
            clock_offset,
            last_error: Mutex::new(None),
        };
        let outcome = tokio::select! {
            biased;
            outcome = attempt.run() => outcome,
            // The dial is abandoned; whoever has said hello sees `stop` itself and says goodbye first.
            () = stopped_before_hello(&stop, &has_greeted) => break,
        };
        clock_offset = attempt.clock_offset;
        if stop.is_cancelled() {
            break;
        }
        let timing = options.timing.now();
        backoff.follow(&timing.backoff);
        note_success(&mut backoff, &outcome, timing.stable_after);
        let next = backoff.next(
            outcome.reaction.unwrap_or_else(|| {
                reaction(outcome.close.code, &outcome.close.reason, options.role)
            }),
            &mut clock::jitter(),
        );
        let (status, retry_in) = match next {
            NextStep::Wait(wait) => (Status::Reconnecting, Some(wait)),
            NextStep::WaitDisabled(reason, wait) => (Status::Disabled(reason), Some(wait)),
            NextStep::Park(reason) => (Status::Disabled(reason), None),
        };
        let retry_at = retry_in.map(|wait| outcome.ended_at + wait);
        nudged.mark_unchanged();
        tell_closed(&shared, (&events_tx, &stop), outcome, status, retry_in).await;
        tokio::select! {
            biased;
            () = wait_until(retry_at) => {}
            _changed = nudged.changed(), if status == Status::Reconnecting => {}
            () = shared.retry_now.notified() => {}
            () = stop.cancelled() => {}
            () = events_tx.closed() => {}
        }
    }
    shared.set_state(|state| {
        state.status = Status::Closed;
        state.hello_ack = None;
    });
}

async fn wait_until(retry_at: Option<Instant>) {
    match retry_at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Completes when the owner has stopped a connection that has not said hello yet.
async fn stopped_before_hello(stop: &CancellationToken, has_greeted: &AtomicBool) {
    stop.cancelled().await;
    if has_greeted.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn note_success(backoff: &mut Backoff, outcome: &Outcome, stable_after: Duration) {
    if let Some(open_for) = outcome.open_for {
        backoff.hello_accepted();
        if open_for >= stable_after {
            backoff.reset();
        }
    }
}

async fn tell_closed(
    shared: &Shared,
    (events_tx, stop): (&mpsc::Sender<ConnectionEvent>, &CancellationToken),
    outcome: Outcome,
    status: Status,
    retry_in: Option<Duration>,
) {
    let close = outcome.close;
    let wait_ms = retry_in.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let Shared { mesh, session, role, .. } = shared;
    let prefix = role.log_prefix();
    tracing::info!(
        mesh, session_pubkey = session, code = close.code, reason = %close.reason,
        status = status.as_str(), "{prefix}ws_closed"
    );
    if let Some(wait_ms) = wait_ms {
        tracing::debug!(mesh, session_pubkey = session, wait_ms, "{prefix}ws_reconnect_scheduled");
    }
    shared.set_state(|state| {
        state.status = status;
        state.last_close = Some(close.clone());
        state.hello_ack = None;
        state.lag = None;
    });
    let was_open = outcome.open_for.is_some();
    tell(events_tx, stop, ConnectionEvent::Closed { close, was_open, status, retry_in }).await;
}

/// Hands an event to the owner; false when there is none any more, or it wants the end.
async fn tell(
    events_tx: &mpsc::Sender<ConnectionEvent>,
    stop: &CancellationToken,
    event: ConnectionEvent,
) -> bool {
    tokio::select! {
        biased;
        sent = events_tx.send(event) => sent.is_ok(),
        () = stop.cancelled() => false,
    }
}

impl Attempt<'_> {
    async fn run(&mut self) -> Outcome {
        self.shared.count(|counters| counters.dials += 1);
        let Shared { mesh, session, role, .. } = self.shared;
        let prefix = role.log_prefix();
        tracing::debug!(mesh, session_pubkey = session, "{prefix}ws_open_attempt");
        let mut socket = match self.connect().await {
            Ok(socket) => socket,
            Err(outcome) => {
                let error = outcome.close.reason.as_str();
                tracing::debug!(mesh, session_pubkey = session, error, "{prefix}ws_error");
                return outcome;
            }
        };
        tracing::debug!(mesh, session_pubkey = session, "{prefix}ws_open_ok");
        let ack = match self.handshake(&mut socket).await {
            Ok(ack) => ack,
            Err(close) => {
                let ended_at = Instant::now();
                abandon(socket).await;
                return self.outcome(close, ended_at, None);
            }
        };
        self.serve(socket, ack).await
    }

    async fn connect(&self) -> Result<WebSocket, Outcome> {
        let failed = |close: Close| Outcome {
            close,
            ended_at: Instant::now(),
            open_for: None,
            reaction: None,
        };
        let dialled = tokio::time::timeout(self.timing.connect, self.dial()).await;
        match dialled {
            Err(_) => Err(failed(Close::transport("connect timed out"))),
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => Err(failed(Close::transport(error))),
        }
    }

    async fn dial(&self) -> Result<WebSocket, String> {
        let url = self.options.url.as_str();
        let text = |error: DialError| error.to_string();
        let endpoint = Endpoint::of_url(url, self.options.plain).map_err(text)?;
        install_tls_provider();
        let stream = self.options.dialer.dial(&endpoint).await.map_err(text)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(limits::OUTBOUND_MAX_BYTES + limits::MAX_FRAME_BYTES)
            .max_message_size(Some(limits::MAX_FRAME_BYTES))
            .max_frame_size(Some(limits::MAX_FRAME_BYTES));
        let upgraded = client_async_tls_with_config(url, stream, Some(config), None).await;
        upgraded.map(|(socket, _response)| socket).map_err(|error| error.to_string())
    }

    /// Sends the hello and waits for its ack; any close is how the attempt ended.
    async fn handshake(&mut self, socket: &mut WebSocket) -> Result<HelloAck, Close> {
        let now = Timestamp::from_millis(wall_clock_millis().saturating_add(self.clock_offset));
        let building = self.options.hello.hello(HelloContext { now });
        let hello = match tokio::time::timeout(self.timing.build_hello, building).await {
            Err(_) => return Err(Close::transport("build_hello timed out")),
            Ok(Err(error)) => return Err(Close::transport(error.to_string())),
            Ok(Ok(hello)) => hello,
        };
        let text = hello.encode(None).map_err(|_| Close::transport("hello has no JSON form"))?;
        self.has_greeted.store(true, Ordering::Relaxed);
        let exchange = async {
            socket
                .send(Message::text(text))
                .await
                .map_err(|error| socket::close_of_error(&error))?;
            let Shared { mesh, session, role, .. } = self.shared;
            let prefix = role.log_prefix();
            tracing::debug!(mesh, session_pubkey = session, "{prefix}ws_hello_sent");
            self.await_ack(socket).await
        };
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout(self.timing.hello_ack, exchange) => answered,
            // The broker may have taken the hello: without a goodbye it would show us until the lease is over.
            () = self.stop.cancelled() => return Err(Close::transport("stopped")),
        };
        if let Ok(answer) = answered {
            answer
        } else {
            let Shared { mesh, session, role, .. } = self.shared;
            let prefix = role.log_prefix();
            tracing::warn!(mesh, session_pubkey = session, "{prefix}hello_ack_timeout");
            Err(Close::transport("hello_ack_timeout"))
        }
    }

    async fn await_ack(&self, socket: &mut WebSocket) -> Result<HelloAck, Close> {
        while let Some(message) = socket.next().await {
            let text = match message.map_err(|error| socket::close_of_error(&error))? {
                Message::Text(text) => text.as_str().to_owned(),
                Message::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Message::Close(frame) => return Err(socket::close_of_frame(frame)),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            match ServerFrame::decode(&text) {
                Ok(ServerInbound::Frame { frame: ServerFrame::HelloAck(ack), .. }) => {
                    return Ok(*ack);
                }
                Ok(ServerInbound::Frame { frame: ServerFrame::Error(error), .. }) => {
                    *self.last_error.lock() = Some(*error);
                }
                Ok(_) => {}
                Err(_) => self.shared.count(|counters| counters.invalid_inbound += 1),
            }
        }
        Err(Close::transport("connection lost"))
    }

    async fn serve(&mut self, socket: WebSocket, ack: HelloAck) -> Outcome {
        let opened_at = Instant::now();
        let announced = ack.limits.as_ref().map(|limits| limits.max_frame_bytes);
        let max_frame_bytes = announced.unwrap_or(limits::LEGACY_FRAME_MAX_BYTES);
        let (live, outbound) = Live::new(max_frame_bytes);
        let ack = Arc::new(ack);
        *self.shared.refusal.lock() = None;
        *self.shared.live.lock() = Some(live.clone());
        self.shared.count(|counters| counters.opens += 1);
        self.shared.set_state(|state| {
            state.status = Status::Open;
            state.hello_ack = Some(Arc::clone(&ack));
        });
        let Shared { mesh, session, role, .. } = self.shared;
        let prefix = role.log_prefix();
        tracing::info!(mesh, session_pubkey = session, "{prefix}ws_hello_acked");
        let end = if tell(self.events_tx, self.stop, ConnectionEvent::Opened(ack)).await {
            let context = Context {
                shared: self.shared,
                timing: self.options.timing.subscribe(),
                stop: self.stop,
                last_error: &self.last_error,
                max_inbound_bytes: announced.unwrap_or(limits::MAX_FRAME_BYTES),
            };
            socket::run(socket, &live, outbound, self.events_tx, context).await
        } else {
            End::Stopped
        };
        *self.shared.live.lock() = None;
        live.pending.fail_all();
        let refusal = self.shared.refusal.lock().take();
        let ended_at = Instant::now();
        let open_for = Some(ended_at.saturating_duration_since(opened_at));
        let by_us = |close, reaction| Outcome { close, ended_at, open_for, reaction };
        match (end, refusal) {
            (End::Terminated, Some(refusal)) => by_us(refusal.close, Some(refusal.reaction)),
            (End::Terminated, None) => by_us(Close::transport("outbound_blocked"), None),
            (End::Stale(Stale::Silent), _) => by_us(Close::transport("ws_stale_terminate"), None),
            (End::Stale(Stale::Overtaken), _) => {
                let close = Close::transport("ws_stale_terminate");
                by_us(close, Some(Reaction::ReconnectNow))
            }
            (End::Broken(close), _) => by_us(close, None),
            (End::Stopped, _) => by_us(Close { code: 1000, reason: String::new() }, None),
            (End::Closed(close), _) => self.outcome(close, ended_at, open_for),
        }
    }

    /// Completes a close with what the broker said before it, and learns the broker's clock.
    fn outcome(
        &mut self,
        mut close: Close,
        ended_at: Instant,
        open_for: Option<Duration>,
    ) -> Outcome {
        let Some(error) = self.last_error.lock().take() else {
            return Outcome { close, ended_at, open_for, reaction: None };
        };
        if let Some(server_time) = error.server_time {
            self.clock_offset = server_time.saturating_sub(wall_clock_millis());
            tracing::warn!(mesh = %self.shared.mesh, offset_ms = self.clock_offset, "clock_skew");
        }
        let mut reaction = None;
        if open_for.is_none() {
            if matches!(error.code.as_str(), "unknown_message_type" | "no_hello")
                && self.options.role == crate::reaction::Role::Session
            {
                reaction = Some(Reaction::Park(DisabledReason::SessionsUnsupported));
            } else if matches!(close.code, 1005 | 1006) {
                // The close frame was lost; the error in front of it said the same.
                close = Close { code: 1008, reason: error.code.clone() };
            }
        }
        if error.code == "revoked" && close.code != 4002 {
            close = Close { code: 4002, reason: error.code };
        }
        Outcome { close, ended_at, open_for, reaction }
    }
}

/// Closes a socket whose handshake failed.
async fn abandon(mut socket: WebSocket) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    // The socket is dropped next, so a failed goodbye changes nothing.
    let _impolite = tokio::time::timeout(ABANDON_WAIT, socket.close(Some(frame))).await;
}

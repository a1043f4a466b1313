//! One connection to a broker that keeps itself open: dial, handshake, watchdog, reconnect, correlation of replies
//! (daemon spec §6, §7.3). It knows nothing about messages beyond their frames.
//!
//! [`Connection::open`] returns at once; failures of the very first attempt take the same road as later ones. What
//! happens is told through one bounded, ordered channel of [`ConnectionEvent`]s. An owner that does not read it stops
//! the reading of the socket, so it must not wait for a reply of the same connection while it handles an event.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::wire::{
    Ack, ClientAck, ClientFrame, ErrorFrame, HelloAck, Push, Receipt, Send, ServerFrame,
    StateChange,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dial::{Dialer, TcpDialer};
use crate::hello::HelloSource;
use crate::reaction::{DisabledReason, Reaction, Role};

mod pending;
mod socket;
mod task;
mod timing;

use socket::Live;

pub use timing::{SharedTiming, Timing};

/// Events waiting for the owner before the socket is no longer read; more than a broker leaves unacknowledged.
const EVENT_QUEUE: usize = 512;
/// Frames waiting to be written (daemon spec §6.2).
const OUTBOUND_FRAMES: usize = 256;

/// Everything a connection is opened with.
pub struct ConnectionOptions {
    /// `ws://` or `wss://` address of the broker.
    pub url: String,
    /// Which kind it is; decides the reactions to close codes.
    pub role: Role,
    /// Whether `ws://` to another machine is allowed.
    pub plain: PlainHttp,
    /// Builds the handshake of every attempt.
    pub hello: Arc<dyn HelloSource>,
    /// Opens the byte stream.
    pub dialer: Arc<dyn Dialer>,
    /// Time limits, which may change while the connection lives.
    pub timing: SharedTiming,
    /// Mesh slug, for logs.
    pub mesh: String,
    /// First characters of the session's key, for logs.
    pub session: Option<String>,
}

impl ConnectionOptions {
    /// Options with TCP and the standard time limits.
    pub fn new(
        url: impl Into<String>,
        role: Role,
        plain: PlainHttp,
        hello: Arc<dyn HelloSource>,
    ) -> Self {
        Self {
            url: url.into(),
            role,
            plain,
            hello,
            dialer: Arc::new(TcpDialer),
            timing: SharedTiming::default(),
            mesh: String::new(),
            session: None,
        }
    }

    /// Names the session in logs.
    #[must_use]
    pub fn session(mut self, key: impl Into<String>) -> Self {
        self.session = Some(key.into());
        self
    }

    /// Names the mesh in logs.
    #[must_use]
    pub fn mesh(mut self, slug: impl Into<String>) -> Self {
        self.mesh = slug.into();
        self
    }
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The first attempt is under way.
    Connecting,
    /// The handshake was accepted.
    Open,
    /// Waiting for, or in, a further attempt.
    Reconnecting,
    /// Not trying by the ordinary schedule.
    Disabled(DisabledReason),
    /// Ended by its owner; final.
    Closed,
}

impl Status {
    /// The word of status output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Open => "open",
            Self::Reconnecting => "reconnecting",
            Self::Disabled(_) => "disabled",
            Self::Closed => "closed",
        }
    }
}

/// How a socket ended. Code 1006 stands for every end without a close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Close code.
    pub code: u16,
    /// Reason text.
    pub reason: String,
}

impl Close {
    pub(crate) fn transport(reason: impl Into<String>) -> Self {
        Self { code: 1006, reason: reason.into() }
    }
}

/// State for anybody who asks.
#[derive(Debug, Clone)]
pub struct ConnectionState {
    /// Where it stands.
    pub status: Status,
    /// How the last socket ended, if one did.
    pub last_close: Option<Close>,
    /// The broker's answer to the handshake of the open socket.
    pub hello_ack: Option<Arc<HelloAck>>,
    /// Last measured ping time.
    pub lag: Option<Duration>,
}

/// What happens on a connection, in order.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The handshake was accepted; pushes of this socket follow.
    Opened(Arc<HelloAck>),
    /// A message or system event.
    Push(Box<Push>),
    /// A push that could not be read; it is acknowledged with these ids, or the broker repeats it for ever.
    UnreadablePush(ClientAck),
    /// How far a message of ours came.
    Receipt(Box<Receipt>),
    /// A key of the shared state was written by somebody else.
    StateChange(Box<StateChange>),
    /// The socket, or the attempt to open one, has ended. Calls in flight have failed before this is told.
    Closed {
        /// How.
        close: Close,
        /// True when the handshake had been accepted.
        was_open: bool,
        /// What is shown from now on.
        status: Status,
        /// When the next attempt comes; `None` for never by itself.
        retry_in: Option<Duration>,
    },
}

/// Why a call on a connection failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No open socket.
    #[error("no connection to the broker")]
    NotOpen,
    /// The socket ended before the answer came; whether the broker did it is unknown.
    #[error("the connection ended before the answer came")]
    Disconnected,
    /// No answer in time; whether the broker did it is unknown.
    #[error("the broker did not answer in time")]
    Timeout,
    /// The outbound queue stayed full; the socket is given up.
    #[error("the connection takes no more frames")]
    Blocked,
    /// The frame is larger than the broker accepts.
    #[error("the frame has {bytes} bytes, the broker accepts {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The broker refuses.
    #[error("{}: {}", .0.code, .0.message)]
    Refused(Box<ErrorFrame>),
    /// The broker's answer is of another kind than asked for.
    #[error("the broker's answer is of an unexpected kind")]
    UnexpectedReply,
    /// The frame has no JSON form.
    #[error("the frame cannot be written as JSON")]
    Encode,
}

/// Counters since the connection was opened by its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Dials.
    pub dials: u64,
    /// Handshakes accepted.
    pub opens: u64,
    /// Frames that could not be read.
    pub invalid_inbound: u64,
    /// Replies nobody waited for.
    pub unmatched_replies: u64,
}

struct Shared {
    role: Role,
    mesh: String,
    session: Option<String>,
    state: watch::Sender<ConnectionState>,
    live: Mutex<Option<Live>>,
    counters: Mutex<Counters>,
    retry_now: Notify,
    /// Counts changes of the network; waiting connections dial, open ones ask whether they still work.
    nudges: watch::Sender<u64>,
    refusal: Mutex<Option<Refusal>>,
    outbound_blocked: Duration,
}

/// The owner wants the socket gone: with its own close code (daemon spec §18.3), or dropped without one.
#[derive(Debug, Clone)]
struct Refusal {
    close: Close,
    says_goodbye: bool,
    reaction: Reaction,
}

/// A handle on one connection; clones share it. The connection lives until [`Connection::close`] or until the token
/// it was opened with is cancelled.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Connection {
    /// Starts a connection as a task of `tasks`, and hands out its handle and its events at once.
    pub fn open(
        options: ConnectionOptions,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<ConnectionEvent>) {
        let (events_tx, events_rx) = mpsc::channel(EVENT_QUEUE);
        let initial = ConnectionState {
            status: Status::Connecting,
            last_close: None,
            hello_ack: None,
            lag: None,
        };
        let shared = Arc::new(Shared {
            role: options.role,
            mesh: options.mesh.clone(),
            session: options.session.clone(),
            state: watch::Sender::new(initial),
            live: Mutex::new(None),
            counters: Mutex::default(),
            retry_now: Notify::new(),
            nudges: watch::Sender::new(0),
            refusal: Mutex::new(None),
            outbound_blocked: options.timing.now().outbound_blocked,
        });
        let connection = Self { shared: Arc::clone(&shared), stop: stop.clone() };
        tasks.spawn(task::run(options, shared, events_tx, stop));
        (connection, events_rx)
    }

    /// Where it stands now.
    pub fn state(&self) -> ConnectionState {
        self.shared.state.borrow().clone()
    }

    /// The state as it changes.
    pub fn watch(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state.subscribe()
    }

    /// True while frames can be sent.
    pub fn is_open(&self) -> bool {
        self.shared.state.borrow().status == Status::Open
    }

    /// Counters so far.
    pub fn counters(&self) -> Counters {
        *self.shared.counters.lock()
    }

    /// Queues a frame that has no answer. It is lost when the socket ends before it was written.
    ///
    /// # Errors
    /// [`RequestError::NotOpen`], [`RequestError::Blocked`], [`RequestError::TooLarge`], [`RequestError::Encode`].
    ///
    /// # Cancel safety
    /// A cancelled call has queued the frame wholly or not at all.
    pub async fn send(&self, frame: &ClientFrame) -> Result<(), RequestError> {
        let live = self.live()?;
        let text = frame.encode(None).map_err(|_| RequestError::Encode)?;
        self.queue(&live, text).await
    }

    /// Sends a frame and waits for its one answer. When the socket ends before it, and a new one opens in time, a
    /// frame that may be repeated without harm is sent once more (daemon spec §7.3).
    ///
    /// # Errors
    /// As [`Connection::send`], and [`RequestError::Refused`], [`RequestError::Timeout`],
    /// [`RequestError::Disconnected`].
    pub async fn request(
        &self,
        frame: &ClientFrame,
        timeout: Duration,
    ) -> Result<ServerFrame, RequestError> {
        let deadline = Instant::now() + timeout;
        let opens = self.counters().opens;
        let first = self.request_once(frame, deadline).await;
        if !matches!(first, Err(RequestError::Disconnected))
            || !frame.kind().spec().effect.is_repeatable()
        {
            return first;
        }
        let mut state = self.watch();
        let reopened =
            state.wait_for(|state| state.status == Status::Open && self.counters().opens > opens);
        match tokio::time::timeout_at(deadline, reopened).await {
            Ok(Ok(_)) => {}
            _ => return first,
        }
        self.request_once(frame, deadline).await
    }

    async fn request_once(
        &self,
        frame: &ClientFrame,
        deadline: Instant,
    ) -> Result<ServerFrame, RequestError> {
        let live = self.live()?;
        let (req_id, reply) = live.pending.expect_reply();
        let text = frame.encode(Some(&req_id)).map_err(|_| RequestError::Encode)?;
        let answer = async {
            self.queue(&live, text).await?;
            reply.await.map_err(|_| RequestError::Disconnected)?
        };
        let answer = tokio::time::timeout_at(deadline, answer).await;
        live.pending.forget_reply(&req_id);
        answer.unwrap_or(Err(RequestError::Timeout))
    }

    /// Sends a message and waits for its acknowledgement, matched by `id`. A failed send is an `Ok` whose `queued` is
    /// false.
    ///
    /// # Errors
    /// As [`Connection::request`]; a message without `id` is [`RequestError::Encode`].
    pub async fn send_message(
        &self,
        message: Send,
        timeout: Duration,
    ) -> Result<Ack, RequestError> {
        self.send_message_then(message, timeout, || {}).await
    }

    /// As [`Connection::send_message`]; calls `queued` when the frame has been handed to the socket's queue.
    ///
    /// # Errors
    /// As [`Connection::send_message`].
    pub async fn send_message_then(
        &self,
        message: Send,
        timeout: Duration,
        queued: impl FnOnce(),
    ) -> Result<Ack, RequestError> {
        let live = self.live()?;
        let id = message.id.clone().filter(|id| !id.is_empty()).ok_or(RequestError::Encode)?;
        let frame = ClientFrame::Send(Box::new(message));
        let text = frame.encode(None).map_err(|_| RequestError::Encode)?;
        let reply = live.pending.expect_ack(&id);
        let answer = async {
            self.queue(&live, text).await?;
            queued();
            reply.await.map_err(|_| RequestError::Disconnected)?
        };
        let answer = tokio::time::timeout(timeout, answer).await;
        live.pending.forget_ack(&id);
        answer.unwrap_or(Err(RequestError::Timeout))
    }

    /// Dials at once when the connection is waiting or parked: the network came back, the owner changed its mind.
    pub fn retry_now(&self) {
        self.shared.retry_now.notify_one();
    }

    /// The machine woke up or has another network (daemon spec §6.3): a connection that waits for its next attempt
    /// dials at once, an open one is given up unless the broker answers within two seconds. One that is disabled
    /// keeps waiting.
    pub fn network_changed(&self) {
        self.shared.nudges.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Refuses the open socket: closes it with `code` and `reason` (cut to what a close frame holds) and tries again
    /// after `retry_every`.
    pub fn refuse(&self, code: u16, reason: &str, disabled: DisabledReason, retry_every: Duration) {
        let close = Close { code, reason: socket::close_reason(reason) };
        *self.shared.refusal.lock() = Some(Refusal {
            close,
            says_goodbye: true,
            reaction: Reaction::Disable(disabled, retry_every),
        });
        self.terminate();
    }

    /// Drops the open socket without goodbye and opens another at once: the broker sees the same presence come back,
    /// with a fresh attestation, and tells nobody.
    pub fn renew(&self) {
        let close = Close::transport("renewed");
        *self.shared.refusal.lock() =
            Some(Refusal { close, says_goodbye: false, reaction: Reaction::SignAgain });
        self.terminate();
    }

    /// Drops the open socket without goodbye and opens another by the schedule; `reason` is shown as that of the close.
    pub fn drop_socket(&self, reason: &str) {
        let close = Close::transport(reason);
        *self.shared.refusal.lock() =
            Some(Refusal { close, says_goodbye: false, reaction: Reaction::Reconnect });
        self.terminate();
    }

    fn terminate(&self) {
        if let Some(live) = self.shared.live.lock().as_ref() {
            live.terminate.cancel();
        }
    }

    /// Ends the connection for good: what is queued is written, then the socket is closed with 1000.
    pub fn close(&self) {
        self.stop.cancel();
    }

    fn live(&self) -> Result<Live, RequestError> {
        self.shared.live.lock().clone().ok_or(RequestError::NotOpen)
    }

    async fn queue(&self, live: &Live, text: String) -> Result<(), RequestError> {
        if let Ok(queued) =
            tokio::time::timeout(self.shared.outbound_blocked, live.queue(text)).await
        {
            queued
        } else {
            let Shared { mesh, session, role, .. } = &*self.shared;
            let prefix = role.log_prefix();
            tracing::warn!(
                mesh,
                session_pubkey = session,
                "{prefix}ws_error: outbound queue blocked"
            );
            live.terminate.cancel();
            Err(RequestError::Blocked)
        }
    }
}

impl Shared {
    fn set_state(&self, change: impl FnOnce(&mut ConnectionState)) {
        self.state.send_modify(change);
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters.lock());
    }
}

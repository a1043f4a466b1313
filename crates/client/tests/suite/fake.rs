//! A broker that does what a test tells it, one dial at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use claudemesh_client::dial::{ByteStream, DialError, Endpoint};
use claudemesh_client::hello::{HelloClock, MemberHello, PresenceInfo, daemon_capabilities};
use claudemesh_client::{
    Connection, ConnectionEvent, ConnectionOptions, Dialer, Role, SharedTiming, Status,
};
use claudemesh_crypto::KeyPair;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::{MemberId, MeshId};
use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, accept_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// In paused time this costs nothing; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_hours(1);

pub struct FakeBroker {
    accepted_tx: mpsc::Sender<DuplexStream>,
    /// One for each stream the connection holds.
    held: Arc<()>,
    dialled_at: Arc<Mutex<Vec<Instant>>>,
    refuse_first: Arc<Mutex<usize>>,
}

impl Dialer for FakeBroker {
    fn dial<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, DialError>> {
        Box::pin(async move {
            self.dialled_at.lock().push(Instant::now());
            let is_refused = {
                let mut left = self.refuse_first.lock();
                let is_refused = *left > 0;
                *left = left.saturating_sub(1);
                is_refused
            };
            if is_refused {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            self.accepted_tx.send(far).await.unwrap();
            let held = Held { stream: near, _one: Arc::clone(&self.held) };
            Ok(Box::new(held) as Box<dyn ByteStream>)
        })
    }
}

/// A stream that is counted while it is held.
struct Held {
    stream: DuplexStream,
    _one: Arc<()>,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection under test and the broker's end of it.
pub struct Bench {
    pub connection: Connection,
    pub events: mpsc::Receiver<ConnectionEvent>,
    /// The time limits it follows.
    pub timing: SharedTiming,
    pub tasks: TaskTracker,
    accepted: mpsc::Receiver<DuplexStream>,
    held: Arc<()>,
    refuse_first: Arc<Mutex<usize>>,
    dialled_at: Arc<Mutex<Vec<Instant>>>,
}

impl Bench {
    pub fn new(role: Role) -> Self {
        Self::refusing(role, 0)
    }

    /// The first `dials` dials find nobody.
    pub fn refusing(role: Role, dials: usize) -> Self {
        let (accepted_tx, accepted) = mpsc::channel(64);
        let dialled_at = Arc::new(Mutex::new(Vec::new()));
        let held = Arc::new(());
        let refuse_first = Arc::new(Mutex::new(dials));
        let broker = FakeBroker {
            accepted_tx,
            held: Arc::clone(&held),
            dialled_at: Arc::clone(&dialled_at),
            refuse_first: Arc::clone(&refuse_first),
        };
        let hello = MemberHello {
            mesh_id: MeshId::new("MeshOfTheTest"),
            member_id: MemberId::new("MemberOfTheTest"),
            key: Arc::new(KeyPair::generate()),
            info: PresenceInfo::default(),
            capabilities: daemon_capabilities(),
            channel: "claudemesh-daemon",
            host_fingerprint: None,
            clock: Arc::new(HelloClock::default()),
        };
        let mut options = ConnectionOptions::new(
            "ws://127.0.0.1:7900/ws",
            role,
            PlainHttp::LoopbackOnly,
            Arc::new(hello),
        );
        options.dialer = Arc::new(broker);
        let timing = options.timing.clone();
        let tasks = TaskTracker::new();
        let (connection, events) = Connection::open(options, &tasks, CancellationToken::new());
        Self { connection, events, timing, tasks, accepted, held, refuse_first, dialled_at }
    }

    pub fn dials(&self) -> Vec<Instant> {
        self.dialled_at.lock().clone()
    }

    /// The next `dials` dials find nobody.
    pub fn refuse_more(&self, dials: usize) {
        *self.refuse_first.lock() = dials;
    }

    /// Streams the connection holds now.
    pub fn streams(&self) -> usize {
        // The broker and the bench hold one each.
        Arc::strong_count(&self.held) - 2
    }

    /// The next socket, upgraded, and its hello.
    pub async fn accept_with_hello(&mut self) -> (Socket, Value) {
        let stream = timeout(PATIENCE, self.accepted.recv()).await.unwrap().unwrap();
        let mut socket = Socket(accept_async(stream).await.unwrap());
        let hello = socket.receive().await;
        assert!(matches!(hello["type"].as_str(), Some("hello" | "session_hello")), "{hello}");
        (socket, hello)
    }

    /// The next socket, upgraded, hello read.
    pub async fn accept(&mut self) -> Socket {
        self.accept_with_hello().await.0
    }

    /// The next socket, open.
    pub async fn open(&mut self) -> Socket {
        let mut socket = self.accept().await;
        socket.acknowledge_hello().await;
        assert!(matches!(self.event().await, ConnectionEvent::Opened(_)));
        socket
    }

    pub async fn event(&mut self) -> ConnectionEvent {
        timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap()
    }

    /// The next end of a socket: its code, what is shown then, and when the next dial comes.
    pub async fn closed(&mut self) -> (u16, Status, Option<Duration>) {
        loop {
            if let ConnectionEvent::Closed { close, status, retry_in, .. } = self.event().await {
                return (close.code, status, retry_in);
            }
        }
    }
}

pub struct Socket(pub WebSocketStream<DuplexStream>);

impl Socket {
    pub async fn receive(&mut self) -> Value {
        loop {
            match timeout(PATIENCE, self.0.next()).await.unwrap().unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("a text frame was expected, not {other:?}"),
            }
        }
    }

    pub async fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Accepts the hello with these limits.
    pub async fn acknowledge_hello_with(&mut self, limits: &Value) {
        let ack = json!({
            "type": "hello_ack", "presenceId": "P", "memberDisplayName": "a", "limits": limits,
        });
        self.send(&ack).await;
    }

    /// Reads, which answers pings, until the other side ends.
    pub async fn serve(&mut self) {
        while let Some(Ok(_)) = self.0.next().await {}
    }

    pub async fn acknowledge_hello(&mut self) {
        self.send(&json!({"type": "hello_ack", "presenceId": "P", "memberDisplayName": "a"})).await;
    }

    pub async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.0.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = self.0.next().await {}
    }
}

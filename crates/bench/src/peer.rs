//! One connection of the generator: hello, sends, pushes and acks, with as little work per frame as possible.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use claudemesh_crypto::identity::KeyPair;
use claudemesh_protocol::encoding::b64;
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig};

use crate::broker_process::{BrokerProcess, Member};

/// Frames that may wait to be written by one connection.
const OUTBOUND_FRAMES: usize = 4096;
/// Longest wait for one answer before a measurement counts as failed.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_mins(1);

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message arrived; its id tells when it was sent.
    Pushed { id: String, at: Instant },
    /// A send was acknowledged.
    Acked { id: String, at: Instant },
}

/// Whether the others are told that this peer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// As a daemon: everybody in the mesh hears of it.
    Announced,
    /// As a one-shot call: nobody does, so that thousands can come at once.
    Unannounced,
}

/// A connected and greeted peer.
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    outbound: mpsc::Sender<Utf8Bytes>,
    events: mpsc::Receiver<Event>,
    pushed: usize,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Peer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    word: &'a str,
    #[serde(default)]
    id: Option<&'a str>,
    #[serde(default, rename = "presenceId")]
    presence_id: Option<&'a str>,
    #[serde(default, rename = "messageId")]
    message_id: Option<&'a str>,
    #[serde(default)]
    client_message_id: Option<&'a str>,
    #[serde(default)]
    subtype: Option<&'a str>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    code: Option<&'a str>,
}

impl Peer {
    /// Connects and says hello as a daemon would.
    pub(crate) async fn connect(
        broker: &BrokerProcess,
        member: &Member,
        presence: Presence,
    ) -> anyhow::Result<Self> {
        let mut socket = open(&broker.ws_url).await?;
        greet(&mut socket, &broker.mesh, member, presence).await?;
        let (sink, stream) = socket.split();
        let (outbound, outbound_rx) = mpsc::channel(OUTBOUND_FRAMES);
        let (events_tx, events) = mpsc::channel(1_000_000);
        // The two tasks end when this peer is dropped, which aborts them.
        #[expect(clippy::disallowed_methods, reason = "owned by the peer, aborted on drop")]
        let tasks = [
            tokio::spawn(write(sink, outbound_rx)),
            tokio::spawn(read(stream, outbound.clone(), events_tx)),
        ];
        Ok(Self { key: member.keys.public(), outbound, events, pushed: 0, tasks })
    }

    /// Queues one message; the body is noise of the right size, because the broker cannot read bodies anyway.
    pub(crate) async fn send(&self, target: &str, id: &str, body: &Body) -> anyhow::Result<()> {
        let frame = format!(
            r#"{{"type":"send","id":"{id}","client_message_id":"{id}","request_fingerprint":"{}","targetSpec":"{target}","priority":"next","nonce":"{}","ciphertext":"{}","bodyVersion":{},"hops":0{}}}"#,
            body.fingerprint, body.nonce, body.ciphertext, body.version, body.wrapped_keys,
        );
        self.outbound.send(frame.into()).await.context("the connection has ended")
    }

    /// The next event, within the deadline.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Event> {
        let event = tokio::time::timeout(ANSWER_DEADLINE, self.events.recv())
            .await
            .context("no answer within a minute")?
            .context("the connection has ended")?;
        self.count(&event);
        Ok(event)
    }

    /// Messages that arrived so far, read or not.
    pub(crate) fn pushed_so_far(&mut self) -> usize {
        self.drain_ready();
        self.pushed
    }

    /// Takes what has arrived without waiting; returns how many of it were messages.
    pub(crate) fn drain_ready(&mut self) -> usize {
        let before = self.pushed;
        while let Ok(event) = self.events.try_recv() {
            self.count(&event);
        }
        self.pushed - before
    }

    fn count(&mut self, event: &Event) {
        if matches!(event, Event::Pushed { .. }) {
            self.pushed += 1;
        }
    }

    /// Waits until `count` messages arrived; returns the arrival times by id.
    pub(crate) async fn receive(
        &mut self,
        count: usize,
    ) -> anyhow::Result<HashMap<String, Instant>> {
        let mut arrivals = HashMap::with_capacity(count);
        while arrivals.len() < count {
            if let Event::Pushed { id, at } = self.next().await? {
                arrivals.insert(id, at);
            }
        }
        Ok(arrivals)
    }
}

/// A peer that said hello and then never reads.
pub(crate) struct Stalled {
    pub(crate) key: PublicKey,
    _socket: WebSocketStream<TcpStream>,
}

impl Stalled {
    /// Connects, says hello, and falls silent.
    pub(crate) async fn connect(broker: &BrokerProcess, member: &Member) -> anyhow::Result<Self> {
        let mut socket = open(&broker.ws_url).await?;
        greet(&mut socket, &broker.mesh, member, Presence::Announced).await?;
        Ok(Self { key: member.keys.public(), _socket: socket })
    }
}

/// A prepared message body.
pub(crate) struct Body {
    nonce: String,
    ciphertext: String,
    fingerprint: String,
    version: u8,
    wrapped_keys: String,
}

impl Body {
    /// A direct body that stands for `plain_bytes` bytes of text.
    pub(crate) fn direct(plain_bytes: usize) -> Self {
        Self {
            nonce: b64(&[0x42; 24]),
            ciphertext: b64(&vec![0x5a; plain_bytes + 16]),
            fingerprint: "0f".repeat(32),
            version: 1,
            wrapped_keys: String::new(),
        }
    }

    /// A short direct body that its receiver can open.
    pub(crate) fn sealed(from: &KeyPair, to: PublicKey) -> anyhow::Result<Self> {
        let sealed = claudemesh_crypto::direct::seal(b"a message of a measurement", from, to)?;
        let (nonce, ciphertext) = (sealed.nonce.to_b64(), b64(&sealed.ciphertext));
        Ok(Self { nonce, ciphertext, ..Self::direct(0) })
    }

    /// A group body with one content key for each of `members`.
    pub(crate) fn group(plain_bytes: usize, members: &[PublicKey]) -> Self {
        let (nonce, key) = (b64(&[0x42; 24]), b64(&[0x24; 80]));
        let keys: Vec<String> = members
            .iter()
            .map(|to| format!(r#"{{"to":"{to}","nonce":"{nonce}","key":"{key}"}}"#))
            .collect();
        Self {
            version: 2,
            wrapped_keys: format!(r#","wrappedKeys":[{}]"#, keys.join(",")),
            ..Self::direct(plain_bytes)
        }
    }
}

/// A socket that has said nothing yet.
pub(crate) async fn open(url: &str) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let authority =
        url.trim_start_matches("ws://").split('/').next().unwrap_or_default().to_owned();
    let stream = TcpStream::connect(&authority).await?;
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(16 * 1024);
    let (socket, _) =
        tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
    Ok(socket)
}

/// Says hello as a daemon would; answers the presence id.
pub(crate) async fn greet(
    socket: &mut WebSocketStream<TcpStream>,
    mesh: &MeshId,
    member: &Member,
    presence: Presence,
) -> anyhow::Result<String> {
    let pubkey = member.keys.public();
    let timestamp = fresh_timestamp();
    let signature = claudemesh_crypto::hello::sign(mesh, &member.id, &member.keys, timestamp)?;
    let mut capabilities = vec!["client_ack", "group_e2e", "local_gate", "features"];
    if presence == Presence::Unannounced {
        capabilities.push("transient");
    }
    let hello = serde_json::json!({
        "type": "hello", "meshId": mesh, "memberId": member.id, "pubkey": pubkey,
        "displayName": format!("bench-{}", pubkey.short(8)), "sessionId": format!("daemon-{}", pubkey.short(8)),
        "pid": std::process::id(), "cwd": "/", "peerType": "ai", "channel": "claudemesh-daemon",
        "capabilities": capabilities,
        "timestamp": timestamp.as_millis(), "signature": signature,
    });
    socket.send(Message::text(hello.to_string())).await?;
    loop {
        let message =
            tokio::time::timeout(ANSWER_DEADLINE, socket.next()).await?.context("closed")??;
        let Message::Text(text) = message else { continue };
        let frame: Frame<'_> = serde_json::from_str(&text)?;
        match frame.word {
            "hello_ack" => return Ok(frame.presence_id.unwrap_or_default().to_owned()),
            "error" => bail!("hello refused: {}", frame.code.unwrap_or_default()),
            _ => {}
        }
    }
}

async fn write(
    mut sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    mut outbound: mpsc::Receiver<Utf8Bytes>,
) {
    let mut batch = Vec::new();
    while outbound.recv_many(&mut batch, 64).await > 0 {
        for text in batch.drain(..) {
            if sink.feed(Message::Text(text)).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
}

async fn read(
    mut stream: SplitStream<WebSocketStream<TcpStream>>,
    outbound: mpsc::Sender<Utf8Bytes>,
    events: mpsc::Sender<Event>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else { continue };
        let at = Instant::now();
        let Ok(frame) = serde_json::from_str::<Frame<'_>>(&text) else { continue };
        let event = match frame.word {
            "push" if frame.subtype.is_none() => {
                let ack = format!(
                    r#"{{"type":"client_ack","brokerMessageId":"{}"}}"#,
                    frame.message_id.unwrap_or_default(),
                );
                if outbound.send(ack.into()).await.is_err() {
                    return;
                }
                Event::Pushed { id: frame.client_message_id.unwrap_or_default().to_owned(), at }
            }
            "ack" if frame.error.is_some() => {
                use std::io::Write as _;
                let _ = writeln!(std::io::stderr(), "refused: {}", frame.error.unwrap_or_default());
                return;
            }
            "ack" => Event::Acked { id: frame.id.unwrap_or_default().to_owned(), at },
            _ => continue,
        };
        if events.try_send(event).is_err() {
            return;
        }
    }
}

/// Hello timestamps are never used twice, whatever the clock says.
fn fresh_timestamp() -> Timestamp {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let previous = LAST.fetch_max(now, Ordering::SeqCst);
    if previous >= now {
        Timestamp::from_millis(LAST.fetch_add(1, Ordering::SeqCst) + 1)
    } else {
        Timestamp::from_millis(now)
    }
}

/// Connects the first `count` members, at most 64 at a time.
pub(crate) async fn connect_all(
    broker: &BrokerProcess,
    count: usize,
    presence: Presence,
) -> anyhow::Result<Vec<Peer>> {
    futures_util::stream::iter(broker.members.iter().take(count))
        .map(|member| Peer::connect(broker, member, presence))
        .buffered(64)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect()
}

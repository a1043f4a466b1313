//! A hostile member of the mesh: it hears every frame on the wire, and repeats, forges and acknowledges what is not its
//! own. The broker must refuse each time with the answer of the specification; what others accepted, stored and were told
//! is judged as in every run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claudemesh_broker::provision::ProvisionedMember;
use claudemesh_core::dedupe::{FirstUse, Reuse, compare};
use claudemesh_crypto::receipt::Statement;
use claudemesh_crypto::{KeyPair, hello};
use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{MemberId, MeshId, MessageId, PublicKey, Timestamp};
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::broker_node::BROKER_URL;
use crate::dice::Dice;
use crate::network::SimStream;
use crate::overheard::{Overheard, Taken};
use crate::world::World;

/// Runs of a hundred that have an attacker.
const SHARE_PERCENT: u32 = 50;
/// Pause between two attacks, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 300..=6_000;
/// Longest wait for an answer; a broker that died gives none.
const PATIENCE: Duration = Duration::from_secs(20);
/// How far a clock may be off in a hello (wire spec §2.3), less what the wire takes.
const SKEW_MS: std::ops::RangeInclusive<u64> = 0..=50_000;
/// How far is too far, whatever the wire takes.
const TOO_FAR_MS: std::ops::RangeInclusive<u64> = 90_000..=900_000;
/// Messages that are acknowledged at once.
const ACKS_MAX: usize = 30;
/// Codes of a broker in trouble, which judges nothing.
const TROUBLE: &[&str] = &["unavailable", "internal", "capacity", "rate_limited", "queue_full"];

/// The attacker of a run.
pub(crate) struct Attacker {
    dice: Mutex<Dice>,
    link: usize,
    overheard: Arc<Overheard>,
    mesh: MeshId,
    id: MemberId,
    keys: KeyPair,
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    /// Somebody's hello again, byte for byte.
    RepeatHello,
    /// Somebody's hello with the time of today.
    FreshenHello,
    /// A hello of its own with somebody's session key.
    ClaimSession,
    /// A hello of its own by a clock that is too far off.
    WrongClock,
    /// A hello of its own, twice.
    DoubleHello,
    /// A proper hello, and then what a member must not do.
    Inside,
}

#[derive(Debug, Clone, Copy)]
enum Abuse {
    AckOthers,
    ForgeReceipts,
    ReuseOthersIds,
    RepeatOwn,
}

struct Socket {
    stream: WebSocketStream<SimStream>,
    /// The answer to the hello.
    greeting: Value,
}

impl Attacker {
    /// The attacker's decisions, in runs that have one.
    pub(crate) fn dice(seed: u64) -> Option<Dice> {
        let mut dice = Dice::new(seed, "attacker");
        dice.chance(SHARE_PERCENT).then_some(dice)
    }

    pub(crate) fn new(
        dice: Dice,
        link: usize,
        overheard: Arc<Overheard>,
        mesh: MeshId,
        member: &ProvisionedMember,
    ) -> anyhow::Result<Self> {
        let keys = KeyPair::from_hex(&member.secret_key).context("the attacker's key")?;
        let id = member.member_id.clone();
        Ok(Self { dice: Mutex::new(dice), link, overheard, mesh, id, keys })
    }

    /// Its member key.
    pub(crate) fn member(&self) -> PublicKey {
        self.keys.public()
    }

    /// Attacks until the future is dropped.
    pub(crate) async fn attack(&self, world: &World) {
        loop {
            let (pause, attack) = {
                let mut dice = self.dice.lock();
                let attack = dice.weighted(
                    &[
                        (4, Attack::RepeatHello),
                        (1, Attack::FreshenHello),
                        (1, Attack::ClaimSession),
                        (1, Attack::WrongClock),
                        (1, Attack::DoubleHello),
                        (6, Attack::Inside),
                    ],
                    Attack::Inside,
                );
                (dice.millis(PAUSE_MS), attack)
            };
            sleep(pause).await;
            world.trace.note(&format!("attacker: {attack:?}"));
            match attack {
                Attack::RepeatHello | Attack::FreshenHello => self.use_hello(world, attack).await,
                Attack::ClaimSession => self.claim_session(world).await,
                Attack::WrongClock => self.be_out_of_time(world).await,
                Attack::DoubleHello => self.greet_twice(world).await,
                Attack::Inside => self.go_inside(world).await,
            }
        }
    }

    async fn use_hello(&self, world: &World, attack: Attack) {
        let greetings = self.overheard.greetings();
        // The newest are those whose time is still good.
        let newest = greetings.len().saturating_sub(6);
        let chosen = self.dice.lock().pick(greetings.get(newest..).unwrap_or_default()).cloned();
        let Some(greeting) = chosen else { return };
        let text = match attack {
            Attack::FreshenHello => {
                let Ok(mut frame) = serde_json::from_str::<Value>(&greeting.text) else { return };
                let now = world.broker.clock.now_ms();
                set(&mut frame, "timestamp", json!(now));
                frame.to_string()
            }
            _ => greeting.text,
        };
        let what = format!("{attack:?}");
        self.must_be_refused(world, &what, text, &["bad_signature", "timestamp_skew"]).await;
    }

    async fn claim_session(&self, world: &World) {
        let Some(session) = self.some_session() else { return };
        let Some(mut frame) = self.hello(world, 0) else { return };
        set(&mut frame, "sessionPubkey", json!(session));
        // The broker's clock may be set while the hello is on its way.
        let codes = ["unauthorized", "timestamp_skew"];
        self.must_be_refused(world, "ClaimSession", frame.to_string(), &codes).await;
    }

    async fn be_out_of_time(&self, world: &World) {
        let off = self.off_by(TOO_FAR_MS);
        let offset = world.broker.clock.offset_ms();
        let Some(frame) = self.hello(world, off) else { return };
        let answer = self.knock(world, frame.to_string()).await;
        // Unless the broker's clock was set meanwhile.
        if let Some(socket) = answer
            && world.broker.clock.offset_ms() == offset
        {
            judge_refusal(world, "WrongClock", &socket.greeting, &["timestamp_skew"]);
        }
    }

    async fn greet_twice(&self, world: &World) {
        let off = self.off_by(SKEW_MS);
        let Some(text) = self.hello(world, off).map(|frame| frame.to_string()) else { return };
        let first = self.knock(world, text.clone()).await;
        if first.is_some_and(|socket| socket.is_inside()) {
            let codes = ["bad_signature", "timestamp_skew"];
            self.must_be_refused(world, "DoubleHello", text, &codes).await;
        }
    }

    async fn go_inside(&self, world: &World) {
        let off = self.off_by(SKEW_MS);
        let Some(frame) = self.hello(world, off) else { return };
        let socket = self.knock(world, frame.to_string()).await;
        let Some(mut socket) = socket.filter(Socket::is_inside) else { return };
        let steps = self.dice.lock().number(1..=5);
        for _ in 0..steps {
            let abuse = self.dice.lock().weighted(
                &[
                    (4, Abuse::AckOthers),
                    (2, Abuse::ForgeReceipts),
                    (3, Abuse::ReuseOthersIds),
                    (2, Abuse::RepeatOwn),
                ],
                Abuse::AckOthers,
            );
            world.trace.note(&format!("attacker inside: {abuse:?}"));
            let done = match abuse {
                Abuse::AckOthers => self.ack_others(&mut socket).await,
                Abuse::ForgeReceipts => self.forge_receipt(world, &mut socket).await,
                Abuse::ReuseOthersIds => self.reuse_id(world, &mut socket).await,
                Abuse::RepeatOwn => self.repeat_own(world, &mut socket).await,
            };
            if done.is_none() {
                return;
            }
        }
        // Half of the time it leaves with a word, otherwise its lease goes on.
        if self.dice.lock().chance(50) {
            let _ = timeout(PATIENCE, socket.stream.close(None)).await;
        }
    }

    /// Says that it has what is on its way to others. There is no answer; the messages must arrive all the same.
    async fn ack_others(&self, socket: &mut Socket) -> Option<()> {
        let taken = self.overheard.taken();
        let newest = taken.len().saturating_sub(ACKS_MAX);
        for message in taken.get(newest..)? {
            let mut frame = json!({ "type": "client_ack" });
            let which = self.dice.lock().number(0..=2);
            if which != 0 {
                set(&mut frame, "clientMessageId", json!(message.client_message_id));
            }
            if which != 1 {
                set(&mut frame, "brokerMessageId", json!(message.message_id));
            }
            socket.say(&frame).await?;
        }
        Some(())
    }

    /// Says that somebody's message was answered. Nothing of it may reach its sender.
    async fn forge_receipt(&self, world: &World, socket: &mut Socket) -> Option<()> {
        let taken = self.overheard.taken();
        let Some(message) = self.dice.lock().pick(&taken).cloned() else { return Some(()) };
        // A message to many is the attacker's own too; what others have of it is not.
        let recipient: PublicKey = match message.target.parse() {
            Ok(recipient) => recipient,
            Err(_) => self.some_session()?,
        };
        let id = MessageId::new(message.message_id.clone());
        let at = Timestamp::from_millis(world.broker.clock.now_ms());
        let state = ReceiptState::Answered;
        let statement = Statement { mesh: &self.mesh, message: &id, recipient, state, at };
        let frame = json!({
            "type": "receipt", "brokerMessageId": id, "clientMessageId": message.client_message_id,
            "recipient": recipient, "state": state, "at": at.as_millis(),
            "signature": statement.sign(&self.keys).ok()?,
        });
        socket.say(&frame).await
    }

    /// Sends under an id that is taken: the same request, or another one.
    async fn reuse_id(&self, world: &World, socket: &mut Socket) -> Option<()> {
        let taken = self.overheard.taken();
        let Some(first) = self.dice.lock().pick(&taken).cloned() else { return Some(()) };
        let mut frame: Value = serde_json::from_str(&first.text).ok()?;
        // Its time may be over by now, which is another refusal.
        frame.as_object_mut()?.remove("expiresAt");
        let mut fingerprint = first.fingerprint;
        if self.dice.lock().chance(50) {
            fingerprint = self.dice.lock().bytes32();
            set(&mut frame, "request_fingerprint", json!(hex::encode(fingerprint)));
        }
        self.use_again(world, socket, &first, frame, &fingerprint).await
    }

    /// Sends something of its own, then the same again, then something else under the same id.
    async fn repeat_own(&self, world: &World, socket: &mut Socket) -> Option<()> {
        let Some(target) = self.some_session() else { return Some(()) };
        let (id, fingerprint, body) = {
            let mut dice = self.dice.lock();
            (hex::encode(dice.bytes16()), dice.bytes32(), dice.bytes32())
        };
        let frame = json!({
            "type": "send", "targetSpec": target, "bodyVersion": 1, "client_message_id": id,
            "request_fingerprint": hex::encode(fingerprint),
            "nonce": STANDARD.encode(body.get(..24)?), "ciphertext": STANDARD.encode(body),
        });
        let ack = self.ask(socket, frame.clone()).await?;
        if ack.get("status").and_then(Value::as_i64) != Some(201) {
            return Some(());
        }
        let first = Taken {
            text: frame.to_string(),
            sender: self.id.clone(),
            target: target.to_hex(),
            client_message_id: id,
            fingerprint,
            message_id: ack.get("messageId")?.as_str()?.to_owned(),
        };
        self.use_again(world, socket, &first, frame.clone(), &fingerprint).await?;
        let other = self.dice.lock().bytes32();
        let mut frame = frame;
        set(&mut frame, "request_fingerprint", json!(hex::encode(other)));
        self.use_again(world, socket, &first, frame, &other).await
    }

    /// The answer must be what the rule says about the first use and this one.
    async fn use_again(
        &self,
        world: &World,
        socket: &mut Socket,
        first: &Taken,
        frame: Value,
        fingerprint: &[u8; 32],
    ) -> Option<()> {
        let ack = self.ask(socket, frame).await?;
        let text = |name: &str| ack.get(name).and_then(Value::as_str).unwrap_or_default();
        let code = text("error").split(':').next().unwrap_or_default();
        if TROUBLE.contains(&code) {
            return Some(());
        }
        let status = ack.get("status").and_then(Value::as_i64);
        let first_use = FirstUse { sender: &first.sender, fingerprint: &first.fingerprint };
        let is_right = match compare(first_use, FirstUse { sender: &self.id, fingerprint }) {
            Reuse::Duplicate => status == Some(200) && text("messageId") == first.message_id,
            Reuse::Conflict { fingerprint_prefix } => {
                status == Some(409)
                    && code == "idempotency_conflict"
                    && text("broker_fingerprint_prefix") == fingerprint_prefix
            }
        };
        if !is_right {
            world.ledger.violated(format!(
                "the second use of {} was answered {ack}",
                first.client_message_id
            ));
        }
        Some(())
    }

    /// Sends a frame with an id of its own and waits for its ack; `None` when there is none.
    async fn ask(&self, socket: &mut Socket, mut frame: Value) -> Option<Value> {
        let id = hex::encode(self.dice.lock().bytes16());
        set(&mut frame, "id", json!(id));
        socket.say(&frame).await?;
        timeout(PATIENCE, socket.answer(&id)).await.ok()?
    }

    async fn must_be_refused(&self, world: &World, what: &str, hello: String, codes: &[&str]) {
        if let Some(socket) = self.knock(world, hello).await {
            judge_refusal(world, what, &socket.greeting, codes);
        }
    }

    /// The key of a session that has said hello.
    fn some_session(&self) -> Option<PublicKey> {
        let sessions: Vec<PublicKey> =
            self.overheard.greetings().iter().filter_map(|greeting| greeting.session).collect();
        self.dice.lock().pick(&sessions).copied()
    }

    /// Connects and says hello; `None` when nobody answered.
    async fn knock(&self, world: &World, hello: String) -> Option<Socket> {
        let knocking = async {
            let stream = world.network.dial(self.link).await.ok()?;
            let upgraded = tokio_tungstenite::client_async(BROKER_URL, stream).await;
            let (mut stream, _response) = upgraded.ok()?;
            stream.send(Message::text(hello)).await.ok()?;
            while let Some(Ok(message)) = stream.next().await {
                let Some(frame) = frame_of(&message) else { continue };
                if matches!(kind(&frame), "hello_ack" | "error") {
                    return Some(Socket { stream, greeting: frame });
                }
            }
            None
        };
        timeout(PATIENCE, Box::pin(knocking)).await.ok()?
    }

    /// A hello of its own, by a clock that is off by so many milliseconds.
    fn hello(&self, world: &World, off_by_ms: i64) -> Option<Value> {
        let at = Timestamp::from_millis(world.broker.clock.now_ms().saturating_add(off_by_ms));
        let signature = hello::sign(&self.mesh, &self.id, &self.keys, at).ok()?;
        Some(json!({
            "type": "hello", "capabilities": ["client_ack", "receipts"], "meshId": self.mesh,
            "memberId": self.id, "pubkey": self.member(), "sessionId": "attacker", "pid": 666,
            "cwd": "/", "channel": "claudemesh-daemon", "timestamp": at.as_millis(),
            "signature": signature,
        }))
    }

    fn off_by(&self, bounds: std::ops::RangeInclusive<u64>) -> i64 {
        let mut dice = self.dice.lock();
        let by = i64::try_from(dice.number(bounds)).unwrap_or_default();
        if dice.chance(50) { -by } else { by }
    }
}

impl Socket {
    fn is_inside(&self) -> bool {
        kind(&self.greeting) == "hello_ack"
    }

    async fn say(&mut self, frame: &Value) -> Option<()> {
        let sending = self.stream.send(Message::text(frame.to_string()));
        timeout(PATIENCE, sending).await.ok()?.ok()
    }

    /// Waits for the ack of `id`; what is pushed meanwhile is its own to acknowledge.
    async fn answer(&mut self, id: &str) -> Option<Value> {
        while let Some(Ok(message)) = self.stream.next().await {
            let Some(frame) = frame_of(&message) else { continue };
            match kind(&frame) {
                "ack" if frame.get("id").and_then(Value::as_str) == Some(id) => return Some(frame),
                "push" => {
                    let message = frame.get("messageId").cloned().unwrap_or_default();
                    self.say(&json!({ "type": "client_ack", "brokerMessageId": message })).await?;
                }
                _ => {}
            }
        }
        None
    }
}

fn judge_refusal(world: &World, what: &str, answer: &Value, codes: &[&str]) {
    let code = answer.get("code").and_then(Value::as_str).unwrap_or_else(|| kind(answer));
    world.trace.note(&format!("attacker: {what} was answered {code}"));
    if !codes.contains(&code) && !TROUBLE.contains(&code) {
        world.ledger.violated(format!("the attack {what} was answered {answer}"));
    }
}

fn frame_of(message: &Message) -> Option<Value> {
    serde_json::from_str(message.to_text().ok()?).ok()
}

fn kind(frame: &Value) -> &str {
    frame.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn set(frame: &mut Value, name: &str, value: Value) {
    if let Some(fields) = frame.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

//! What somebody who hears every frame on the wire knows: greetings and sends that the broker has taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use claudemesh_protocol::{MemberId, PublicKey};
use parking_lot::Mutex;
use serde_json::Value;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToBroker,
    FromBroker,
}

/// The ear at one connection.
#[derive(Clone)]
pub(crate) struct Ear {
    overheard: Arc<Overheard>,
    connection: u64,
}

impl Ear {
    pub(crate) fn new(overheard: Arc<Overheard>, connection: u64) -> Self {
        Self { overheard, connection }
    }

    /// Takes a frame in, when it is one that can be used.
    pub(crate) fn hear(&self, direction: Direction, text: &str) {
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return };
        self.overheard.inner.lock().hear(self.connection, direction, text, &frame);
    }
}

/// A hello that was answered with `hello_ack`.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    /// Its bytes.
    pub(crate) text: String,
    /// The session's key, of a `session_hello`.
    pub(crate) session: Option<PublicKey>,
    member: MemberId,
}

/// A send that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// Its bytes.
    pub(crate) text: String,
    pub(crate) sender: MemberId,
    pub(crate) target: String,
    pub(crate) client_message_id: String,
    pub(crate) fingerprint: [u8; 32],
    /// The broker's id.
    pub(crate) message_id: String,
}

/// Everything that was overheard in a run.
#[derive(Default)]
pub(crate) struct Overheard {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By connection: the hello, and whether it was answered.
    hellos: BTreeMap<u64, (Greeting, bool)>,
    /// Sends that wait for their ack, by connection and client message id.
    sent: BTreeMap<(u64, String), Taken>,
    taken: Vec<Taken>,
}

impl Overheard {
    /// The hellos that were answered, oldest first.
    pub(crate) fn greetings(&self) -> Vec<Greeting> {
        let inner = self.inner.lock();
        let answered = inner.hellos.values().filter(|(_, is_answered)| *is_answered);
        answered.map(|(greeting, _)| greeting.clone()).collect()
    }

    /// The sends that were acknowledged, oldest first.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.inner.lock().taken.clone()
    }
}

impl Inner {
    fn hear(&mut self, connection: u64, direction: Direction, text: &str, frame: &Value) {
        let word = |name: &str| frame.get(name).and_then(Value::as_str);
        match (direction, word("type")) {
            (Direction::ToBroker, Some("hello" | "session_hello")) => {
                let member = word("memberId").or_else(|| word("parentMemberId"));
                let greeting = Greeting {
                    text: text.to_owned(),
                    session: word("sessionPubkey").and_then(|key| key.parse().ok()),
                    member: MemberId::new(member.unwrap_or_default()),
                };
                self.hellos.insert(connection, (greeting, false));
            }
            (Direction::FromBroker, Some("hello_ack")) => {
                if let Some((_, is_answered)) = self.hellos.get_mut(&connection) {
                    *is_answered = true;
                }
            }
            (Direction::ToBroker, Some("send")) => {
                if let Some(send) = self.send(connection, text, frame) {
                    self.sent.insert((connection, send.client_message_id.clone()), send);
                }
            }
            (Direction::FromBroker, Some("ack")) => {
                let is_taken =
                    matches!(frame.get("status").and_then(Value::as_i64), Some(200 | 201));
                if let (true, Some(id), Some(message_id)) =
                    (is_taken, word("client_message_id"), word("messageId"))
                    && let Some(send) = self.sent.remove(&(connection, id.to_owned()))
                {
                    self.taken.push(Taken { message_id: message_id.to_owned(), ..send });
                }
            }
            _ => {}
        }
    }

    fn send(&self, connection: u64, text: &str, frame: &Value) -> Option<Taken> {
        let word = |name: &str| frame.get(name).and_then(Value::as_str);
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(word("request_fingerprint")?, &mut fingerprint).ok()?;
        Some(Taken {
            text: text.to_owned(),
            sender: self.hellos.get(&connection)?.0.member.clone(),
            target: word("targetSpec")?.to_owned(),
            client_message_id: word("client_message_id")?.to_owned(),
            fingerprint,
            message_id: String::new(),
        })
    }
}

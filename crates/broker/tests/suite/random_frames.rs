//! Random well-formed frames of every kind: the right types everywhere; values at their limits, past them and nonsense.

use std::cell::RefCell;
use std::collections::VecDeque;

use claudemesh_crypto::{KeyPair, statement};
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::limits::{
    AUDIT_QUERY_MAX, AVATAR_MAX_CHARS, BAN_REASON_MAX_CHARS, BIO_MAX_CHARS,
    CLIENT_MESSAGE_ID_MAX_CHARS, GRANTS_MAX, GROUP_AUDIENCE_MAX, GROUP_NAME_MAX_CHARS,
    GROUP_ROLE_MAX_CHARS, JSON_MAX_DEPTH, MENTIONS_MAX, PROFILE_CAPABILITIES_MAX,
    PROFILE_WORD_MAX_CHARS, RECEIPT_EVIDENCE_MAX_CHARS, RECEIPT_PATH_MAX_CHARS,
    RECEIPT_REASON_MAX_CHARS, REPLY_TO_MAX_CHARS, REQUEST_ID_MAX_BYTES, STATE_KEY_MAX_CHARS,
    STATE_VALUE_MAX_BYTES, SUMMARY_MAX_CHARS, TARGET_MAX_CHARS, TITLE_MAX_CHARS,
};
use claudemesh_protocol::permission::Grant;
use claudemesh_protocol::status::{PeerStatus, Priority, StatusSource};
use claudemesh_protocol::wire::{FrameKind, ReceiptState};
use claudemesh_protocol::{PublicKey, Timestamp, canonical};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use crate::peers::Person;
use crate::receipts::receipt;
use crate::world::World;

/// Ids of messages that are remembered to be asked for again.
const IDS_KEPT: usize = 64;
/// Characters of a message as it is accepted by default.
const MESSAGE_MAX_CHARS: usize = 65_536;

/// What frames can name.
#[derive(Default)]
pub struct Names {
    /// Keys and names of everybody.
    pub anybody: Vec<String>,
    /// Keys and names of those who may be ended and banned: they come back.
    pub victims: Vec<String>,
    /// Messages that were sent or received.
    pub messages: RefCell<VecDeque<String>>,
}

impl Names {
    pub fn saw_message(&self, id: &Value) {
        let Some(id) = id.as_str().filter(|id| !id.is_empty()) else { return };
        let mut messages = self.messages.borrow_mut();
        messages.push_back(id.to_owned());
        if messages.len() > IDS_KEPT {
            messages.pop_front();
        }
    }
}

/// The caller a frame is made for.
pub struct Speaker<'a> {
    pub world: &'a World,
    pub names: &'a Names,
    pub person: &'a Person,
    /// The key of its connection.
    pub key: PublicKey,
    /// A push it got and has not confirmed yet.
    pub push: Option<Value>,
    /// It may take a new key: nobody waits for an earlier one.
    pub may_rotate: bool,
}

/// A frame, and the key that is the speaker's when the broker accepts it.
pub struct Made {
    pub frame: Value,
    pub new_key: Option<KeyPair>,
}

pub struct Dice {
    rng: StdRng,
    /// The frame being made has good values only: one bad one hides what is behind the check.
    is_tame: bool,
    /// Its texts may contain NUL, for which it is refused as a whole.
    has_nul: bool,
}

impl Dice {
    pub fn of(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), is_tame: false, has_nul: false }
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    /// True once in `times`, for something bad.
    fn is_bad(&mut self, times: usize) -> bool {
        !self.is_tame && self.once_in(times)
    }

    /// Below `end`, and at least `good` in a tame frame: lower numbers stand for what is bad.
    fn choice(&mut self, good: usize, end: usize) -> usize {
        let least = if self.is_tame { good } else { 0 };
        self.rng.random_range(least..end)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for index in (1..list.len()).rev() {
            list.swap(index, self.below(index + 1));
        }
    }

    fn word<T: Copy>(&mut self, all: &[T], as_str: fn(T) -> &'static str) -> Value {
        if self.is_bad(12) {
            return json!(self.text(20));
        }
        json!(as_str(*self.pick(all)))
    }

    /// A request id of at most as many bytes as are allowed; `serial` keeps it apart from all others.
    pub fn request_id(&mut self, serial: u64) -> String {
        let mut id = format!("{serial}-");
        let wanted = *self.pick(&[0, 8, 20, REQUEST_ID_MAX_BYTES]);
        while id.len() < wanted {
            let letter = *self.pick(&['r', '"', '\\', '\u{1}', 'é', '\u{1f600}', ' ']);
            id.push(if id.len() + letter.len_utf8() > wanted { '_' } else { letter });
        }
        id
    }

    /// Text around a limit.
    fn text(&mut self, max_chars: usize) -> String {
        let length = match self.choice(4, 24) {
            0 => 0,
            1 => max_chars,
            2 => max_chars + 1,
            3 => max_chars * 2 + 7,
            4 => 1,
            _ => 1 + self.below(max_chars.min(24)),
        };
        let letters: &[char] = match self.choice(4, 8) {
            0 => &['\u{1f600}', 'é', 'ß', '\u{0301}', '漢', '\u{fffd}'],
            1 => &['\u{202e}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{ffff}', '\u{10ffff}'],
            2 if self.has_nul => &['\u{0}', 'a', '\\'],
            2 => &['\u{1}', '\n', '\t', '\u{7f}', '\u{1b}', '\u{85}'],
            3 => &['%', '_', '\'', '"', '\\', ';', '*', '@', '#', '/', ' '],
            _ => &['a', 'b', 'c', 'X', '7', '-', '_', ' '],
        };
        (0..length).map(|_| *self.pick(letters)).collect()
    }

    fn hex(&mut self, bytes: usize) -> String {
        let bytes: Vec<u8> = (0..bytes).map(|_| self.rng.random()).collect();
        hex::encode(bytes)
    }

    /// A whole number, mostly small.
    fn count(&mut self, limit: u64) -> Value {
        let numbers = [
            0,
            1,
            2,
            limit.saturating_sub(1),
            limit,
            limit.saturating_add(1),
            u64::from(u16::MAX),
            u64::from(u32::MAX),
            u64::from(u32::MAX) + 1,
            i64::MAX.unsigned_abs(),
            u64::MAX,
        ];
        json!(if self.is_tame { self.below(3) as u64 } else { *self.pick(&numbers) })
    }

    fn time(&mut self, now: Timestamp) -> Value {
        let now = now.as_millis();
        let day = 86_400_000;
        if self.is_tame {
            return json!(now + 5_000);
        }
        let times = [now, now + 1, now + 5_000, now + day, now + 60 * day, now - 61_000, now - day];
        let edges = [0, -1, 1, i64::MAX, i64::MIN, 253_402_300_800_000, -62_135_596_800_001];
        json!(if self.once_in(4) { *self.pick(&edges) } else { *self.pick(&times) })
    }

    fn scalar(&mut self) -> Value {
        match self.below(9) {
            0 => Value::Null,
            1 => json!(self.once_in(2)),
            2 => json!(*self.pick(&[0.5, -0.0, 1e308, 1e-320, 1e21])),
            3 => json!(*self.pick(&[i64::MIN, -1, i64::MAX])),
            4 => json!(u64::MAX),
            5 => json!(self.text(200)),
            _ => json!(self.below(1000)),
        }
    }

    /// JSON of at most this depth.
    fn json(&mut self, depth: usize) -> Value {
        if depth == 0 || self.once_in(3) {
            return self.scalar();
        }
        if self.once_in(8) {
            // As deep as it may be.
            return (0..depth).fold(self.scalar(), |inner, level| {
                if level % 2 == 0 { json!([inner]) } else { json!({ "": inner }) }
            });
        }
        let items = self.below(5);
        if self.once_in(2) {
            return (0..items).map(|_| self.json(depth.min(4) - 1)).collect();
        }
        Value::Object((0..items).map(|_| (self.text(12), self.json(depth.min(4) - 1))).collect())
    }

    /// A value of the shared state, now and then as large as allowed or a byte more.
    fn state_value(&mut self) -> Value {
        match self.below(40) {
            0 => json!("x".repeat(STATE_VALUE_MAX_BYTES - 2)),
            1 => json!("x".repeat(STATE_VALUE_MAX_BYTES - 1)),
            _ => self.json(JSON_MAX_DEPTH - 1),
        }
    }

    /// Somebody: a key, a name, part of a key, somebody else's, nobody's.
    fn somebody(&mut self, names: &Names) -> String {
        let one = self.pick(&names.anybody).clone();
        match self.choice(5, 12) {
            0 => one.chars().take(*self.pick(&[1, 7, 8, 16, 63])).collect(),
            1 => one.to_uppercase(),
            2 => self.nobody(),
            3 => format!(" {one} "),
            4 => self.text(TARGET_MAX_CHARS),
            _ => one,
        }
    }

    fn nobody(&mut self) -> String {
        match self.below(4) {
            0 => "00".repeat(32),
            1 => "ff".repeat(32),
            2 => self.hex(31),
            _ => self.hex(32),
        }
    }

    /// A key where a frame takes nothing else; some are none.
    fn key(&mut self, names: &Names) -> String {
        match self.choice(2, 6) {
            0 => self.nobody(),
            1 => self.somebody(names),
            _ => loop {
                let one = self.pick(&names.anybody);
                if one.len() == 64 {
                    return one.clone();
                }
            },
        }
    }

    /// Who is ended or banned: never one of the speakers.
    fn victim(&mut self, names: &Names) -> String {
        let one = self.pick(&names.victims).clone();
        match self.choice(4, 10) {
            0 => self.nobody(),
            1 => self.text(TARGET_MAX_CHARS),
            2 if one.len() == 64 => one.chars().take(*self.pick(&[7, 8, 9, 32])).collect(),
            3 => String::new(),
            _ => one,
        }
    }

    fn message(&mut self, names: &Names) -> String {
        let known: Vec<String> = names.messages.borrow().iter().cloned().collect();
        match self.choice(3, 8) {
            0 => self.text(REPLY_TO_MAX_CHARS),
            1..=2 if !known.is_empty() => {
                self.pick(&known).chars().take(*self.pick(&[1, 7, 8, 12])).collect()
            }
            _ if !known.is_empty() => self.pick(&known).clone(),
            _ => crate::peers::row_id(),
        }
    }

    fn group(&mut self) -> String {
        match self.choice(3, 8) {
            0 => self.text(GROUP_NAME_MAX_CHARS),
            1 => "g".repeat(GROUP_NAME_MAX_CHARS + self.below(2)),
            2 => {
                self.pick(&["", "@", "@@ops", "eng//core", "/eng", "eng/", "*", "all"]).to_string()
            }
            3 => format!("group-{}", self.below(40)),
            _ => self.pick(&["ops", "@ops", "eng", "eng/core", "eng/core/db"]).to_string(),
        }
    }

    fn texts(&mut self, limit: usize, max_chars: usize) -> Value {
        let counts = [0, 1, 2, limit, limit + 1];
        let count = counts[self.below(if self.is_tame { 4 } else { 5 })];
        (0..count).map(|_| json!(self.text(max_chars))).collect()
    }
}

/// A frame under construction.
struct Fields<'d> {
    dice: &'d mut Dice,
    map: Map<String, Value>,
}

impl Fields<'_> {
    fn must(&mut self, name: &str, make: impl FnOnce(&mut Dice) -> Value) -> &mut Self {
        self.map.insert(name.to_owned(), make(self.dice));
        self
    }

    /// Left out, null, or made.
    fn may(&mut self, name: &str, make: impl FnOnce(&mut Dice) -> Value) -> &mut Self {
        match self.dice.below(6) {
            0..=1 => self,
            2 => self.must(name, |_| Value::Null),
            _ => self.must(name, make),
        }
    }
}

/// A frame of this kind. A kind without a line here does not compile.
pub fn frame(dice: &mut Dice, kind: FrameKind, speaker: &Speaker<'_>) -> Made {
    let names = speaker.names;
    let mut new_key = None;
    dice.is_tame = dice.once_in(2);
    dice.has_nul = dice.once_in(8);
    let mut fields = Fields { dice, map: Map::new() };
    match kind {
        FrameKind::Hello | FrameKind::SessionHello | FrameKind::Goodbye => {
            panic!("begins or ends a connection")
        }
        FrameKind::ListMembers
        | FrameKind::ListBans
        | FrameKind::GetGrants
        | FrameKind::AuditVerify
        | FrameKind::MeshInfo
        | FrameKind::PullMessages => {}
        FrameKind::Send => send(&mut fields, speaker),
        FrameKind::ClientAck => {
            let pushed = speaker.push.as_ref().map(|push| push["messageId"].clone());
            fields
                .may("clientMessageId", |dice| json!(dice.message(names)))
                .may("brokerMessageId", |dice| {
                    pushed.unwrap_or_else(|| json!(dice.message(names)))
                });
        }
        FrameKind::Receipt => a_receipt(&mut fields, speaker),
        FrameKind::LoopUnblock => {
            fields.must("peer", |dice| json!(dice.key(names)));
        }
        FrameKind::MessageStatus => {
            fields.must("messageId", |dice| json!(dice.message(names)));
        }
        FrameKind::ListPeers => {
            fields.may("debug", |dice| json!(dice.once_in(2)));
        }
        FrameKind::SetStatus => {
            fields
                .must("status", |dice| dice.word(PeerStatus::ALL, PeerStatus::as_str))
                .may("source", |dice| dice.word(StatusSource::ALL, StatusSource::as_str));
        }
        FrameKind::SetSummary => {
            fields.must("summary", |dice| json!(dice.text(SUMMARY_MAX_CHARS)));
        }
        FrameKind::SetVisible => {
            fields.must("visible", |dice| json!(!dice.once_in(4)));
        }
        FrameKind::SetProfile => profile(&mut fields),
        FrameKind::SetStats => stats(&mut fields),
        FrameKind::JoinGroup => {
            fields
                .must("name", |dice| json!(dice.group()))
                .may("role", |dice| json!(dice.text(GROUP_ROLE_MAX_CHARS)));
        }
        FrameKind::LeaveGroup => {
            fields.must("name", |dice| json!(dice.group()));
        }
        FrameKind::SetState => {
            fields
                .must("key", state_key)
                .may("value", Dice::state_value)
                .may("ifVersion", |dice| dice.count(5));
        }
        FrameKind::GetState => {
            fields.must("key", state_key);
        }
        FrameKind::ListState => {
            fields.may("prefix", |dice| {
                json!(if dice.is_bad(2) { dice.text(256) } else { "key-1".to_owned() })
            });
        }
        FrameKind::Kick | FrameKind::Disconnect => whom(&mut fields, names),
        FrameKind::Ban => {
            fields
                .must("target", |dice| json!(dice.victim(names)))
                .may("reason", |dice| json!(dice.text(BAN_REASON_MAX_CHARS)));
        }
        FrameKind::Unban => {
            fields.must("target", |dice| json!(dice.victim(names)));
        }
        FrameKind::SetGrants => {
            fields.must("grants", |dice| grants(dice, names));
        }
        FrameKind::RotateMemberKey => new_key = rotation(&mut fields, speaker),
        FrameKind::AuditQuery => {
            fields
                .may("limit", |dice| dice.count(u64::from(AUDIT_QUERY_MAX)))
                .may("offset", |dice| dice.count(100))
                .may("eventType", |dice| dice.word(AuditEvent::ALL, AuditEvent::as_str));
        }
    }
    if fields.dice.once_in(10) {
        let name = format!("future {}", fields.dice.text(64));
        fields.must(&name, |dice| dice.json(JSON_MAX_DEPTH - 1));
    }
    fields.must("type", |_| json!(kind.spec().word));
    Made { frame: Value::Object(fields.map), new_key }
}

fn state_key(dice: &mut Dice) -> Value {
    json!(if dice.is_bad(6) {
        dice.text(STATE_KEY_MAX_CHARS)
    } else {
        format!("key-{}", dice.below(40))
    })
}

fn send(fields: &mut Fields<'_>, speaker: &Speaker<'_>) {
    let names = speaker.names;
    let now = speaker.world.clock_now();
    fields
        .must("targetSpec", |dice| {
            json!(match dice.choice(2, 10) {
                0 => format!("#{}", dice.text(32)),
                1 => dice.somebody(names),
                2 => "*".to_owned(),
                3 => format!("@{}", dice.group().trim_start_matches('@')),
                _ => dice.key(names),
            })
        })
        .may("priority", |dice| dice.word(Priority::ALL, Priority::as_str))
        .must("nonce", |dice| json!(if dice.once_in(4) { dice.text(32) } else { "AAAA".repeat(8) }))
        .must("ciphertext", |dice| {
            json!(match dice.choice(1, 60) {
                0 => "A".repeat(MESSAGE_MAX_CHARS + 1),
                1 => "A".repeat(MESSAGE_MAX_CHARS - 32 - 64),
                _ => dice.text(300),
            })
        })
        .may("id", |dice| json!(dice.text(64)))
        .may("client_message_id", |dice| {
            json!(match dice.below(3) {
                0 => dice.text(CLIENT_MESSAGE_ID_MAX_CHARS),
                1 => format!("again-{}", dice.below(200)),
                _ => dice.hex(16),
            })
        })
        .may("request_fingerprint", |dice| {
            json!(match dice.choice(1, 6) {
                0 => dice.text(64),
                1 => dice.hex(32),
                _ => "ab".repeat(32),
            })
        })
        .may("mentions", |dice| dice.texts(MENTIONS_MAX, 64))
        .may("replyToId", |dice| json!(dice.message(names)))
        .may("bodyVersion", |dice| json!([0, 3, 255, 256, 1, 2][dice.choice(4, 6)]))
        .may("wrappedKeys", |dice| wrapped_keys(dice, names))
        .may("keyEpoch", |dice| dice.count(1))
        .may("expiresAt", |dice| dice.time(now))
        .may("hops", |dice| json!([13, u32::MAX, 0, 1, 2, 11, 12][dice.choice(2, 7)]));
}

fn wrapped_keys(dice: &mut Dice, names: &Names) -> Value {
    let count = match dice.choice(1, 100) {
        0 => GROUP_AUDIENCE_MAX + 1,
        1 => GROUP_AUDIENCE_MAX,
        _ => dice.below(6),
    };
    let one = |dice: &mut Dice| {
        let to = if dice.is_bad(20) { dice.somebody(names) } else { dice.key(names) };
        json!({ "to": to, "nonce": dice.text(32), "key": dice.text(108) })
    };
    (0..count).map(|_| one(dice)).collect()
}

fn a_receipt(fields: &mut Fields<'_>, speaker: &Speaker<'_>) {
    let state = *fields.dice.pick(ReceiptState::ALL);
    if let Some(push) = &speaker.push
        && !fields.dice.once_in(4)
    {
        let said = receipt(speaker.world, speaker.person, speaker.key, push, state);
        let Value::Object(said) = said else { panic!("{said}") };
        fields.map.extend(said);
        if fields.dice.once_in(4) {
            let now = speaker.world.clock_now();
            fields.must("at", |dice| dice.time(now));
        }
    } else {
        let names = speaker.names;
        let now = speaker.world.clock_now();
        fields
            .must("brokerMessageId", |dice| json!(dice.message(names)))
            .must("clientMessageId", |dice| json!(dice.text(CLIENT_MESSAGE_ID_MAX_CHARS)))
            .must("recipient", |dice| json!(dice.key(names)))
            .must("state", |dice| dice.word(ReceiptState::ALL, ReceiptState::as_str))
            .must("at", |dice| dice.time(now))
            .may("signature", |dice| json!(dice.hex(64)));
    }
    fields
        .may("path", |dice| json!(dice.text(RECEIPT_PATH_MAX_CHARS)))
        .may("evidence", |dice| json!(dice.text(RECEIPT_EVIDENCE_MAX_CHARS)))
        .may("reason", |dice| json!(dice.text(RECEIPT_REASON_MAX_CHARS)))
        .may("assertedBy", |dice| json!(dice.text(32)));
}

fn profile(fields: &mut Fields<'_>) {
    fields
        .may("avatar", |dice| json!(dice.text(AVATAR_MAX_CHARS)))
        .may("title", |dice| json!(dice.text(TITLE_MAX_CHARS)))
        .may("bio", |dice| json!(dice.text(BIO_MAX_CHARS)))
        .may("role", |dice| json!(dice.text(PROFILE_WORD_MAX_CHARS)))
        .may("capabilities", |dice| dice.texts(PROFILE_CAPABILITIES_MAX, PROFILE_WORD_MAX_CHARS));
}

fn stats(fields: &mut Fields<'_>) {
    let mut inner = Fields { dice: &mut *fields.dice, map: Map::new() };
    for name in ["messagesIn", "messagesOut", "toolCalls", "uptime", "errors"] {
        inner.may(name, |dice| dice.count(1_000));
    }
    let counters = inner.map;
    fields.must("stats", |_| Value::Object(counters));
}

/// A choice of connections to end, at times none or two.
fn whom(fields: &mut Fields<'_>, names: &Names) {
    let way = fields.dice.choice(4, 30);
    if way == 1 || way == 2 || way > 5 {
        fields.must("target", |dice| json!(dice.victim(names)));
    }
    if way == 2 || way == 3 || way == 4 {
        fields.must("stale", |dice| dice.count(600_000));
    }
    if way == 1 || way == 3 || way == 5 {
        fields.must("all", |dice| json!(!dice.once_in(4)));
    }
}

fn grants(dice: &mut Dice, names: &Names) -> Value {
    let count = if dice.is_bad(80) { GRANTS_MAX + 1 } else { dice.below(4) };
    let mut map = Map::new();
    for _ in 0..count {
        let key = if count > 4 { dice.hex(32) } else { dice.key(names) };
        let given = match dice.below(4) {
            0 => Value::Null,
            1 => json!([]),
            _ => (0..dice.below(8)).map(|_| dice.word(Grant::ALL, Grant::as_str)).collect(),
        };
        map.insert(key, given);
    }
    Value::Object(map)
}

/// A new key, at times one that both keys have signed.
fn rotation(fields: &mut Fields<'_>, speaker: &Speaker<'_>) -> Option<KeyPair> {
    let now = speaker.world.clock_now();
    if speaker.may_rotate && fields.dice.once_in(8) {
        let (person, new) = (speaker.person, KeyPair::generate());
        let old = person.key.public();
        let sign = |key: &KeyPair| {
            let (mesh, member) = (&person.mesh, &person.id);
            statement::sign(canonical::member_rotation(mesh, member, old, new.public(), now), key)
        };
        let (by_old, by_new) = (sign(&person.key).unwrap(), sign(&new).unwrap());
        fields
            .must("newPubkey", |_| json!(new.public()))
            .must("timestamp", |_| json!(now.as_millis()))
            .must("signature_old", |_| json!(by_old))
            .must("signature_new", |_| json!(by_new));
        return Some(new);
    }
    fields
        .must("newPubkey", |dice| json!(dice.key(speaker.names)))
        .must("timestamp", |dice| dice.time(now))
        .must("signature_old", |dice| json!(dice.hex(64)))
        .must("signature_new", |dice| json!(dice.hex(64)));
    None
}

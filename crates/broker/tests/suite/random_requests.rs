//! Clients that ask for anything, right or wrong, as fast as they are answered: the broker answers every request, never
//! with a failure of its own, and is as well afterwards as before.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use claudemesh_broker::Settings;
use claudemesh_crypto::KeyPair;
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::limits::AUDIT_VERIFY_INTERVAL;
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::wire::{Access, FrameKind, has_nul};
use claudemesh_protocol::{ErrorCode, MemberId, MeshId, PublicKey};
use claudemesh_store::{NewIdentity, NewMember};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::peers::{Person, Session, Socket, row_id};
use crate::random_frames::{Dice, Names, Speaker, frame};
use crate::world::World;

/// A request that has no answer after this time has none.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Requests that one caller has under way at once.
const AT_ONCE: usize = 16;
/// An owner, a member, and a session with one capability.
const CALLERS: usize = 3;
/// Rounds after which more than [`AUDIT_VERIFY_INTERVAL`] has passed.
const ROUNDS_PER_INTERVAL: usize = 8;
/// Rounds after which a rotation without an answer is taken for lost.
const UNSETTLED_ROUNDS: usize = 10;
/// Pushes that a caller keeps to confirm them.
const PUSHES_KEPT: usize = 256;
/// Requests of each frame in a long run.
const LONG: usize = 10_000;
/// Growth of the process over the second half of a long run, in KiB.
const GROWTH_MAX_KIB: u64 = 50 * 1024;
/// How the broker ends connections that one of the callers asks it to end.
const ENDS: [(u16, &str); 4] = [
    (4001, "kicked"),
    (4001, "kicked_stale"),
    (1000, "disconnected"),
    (1000, "disconnected_stale"),
];

/// Every frame but those that begin or end a connection.
fn kinds() -> Vec<FrameKind> {
    let is_asked =
        |kind: &FrameKind| kind.spec().access != Access::Handshake && *kind != FrameKind::Goodbye;
    FrameKind::ALL.iter().copied().filter(is_asked).collect()
}

/// Answers of each frame by their type word, or by the code of a refusal.
type Tally = BTreeMap<&'static str, BTreeMap<String, u64>>;

enum Role {
    /// The member's own connection.
    Daemon,
    /// One capability, another one at every connection.
    Limited(Session),
    /// All capabilities.
    Full(Session),
}

/// Somebody who comes back whenever it is sent away.
struct Client<'w> {
    world: &'w World,
    person: Person,
    role: Role,
    socket: Socket,
    /// The key of a rotation that was asked for and not answered, maybe because its socket was closed before.
    next_key: Option<KeyPair>,
    /// Earlier such keys, of rotations that are taken for lost; the newest last.
    lost_keys: Vec<KeyPair>,
    /// The last refusal of a hello.
    refusal: Value,
}

impl<'w> Client<'w> {
    async fn new(world: &'w World, person: Person, role: Role) -> Self {
        let socket = world.socket().await;
        let mut client = Self {
            world,
            person,
            role,
            socket,
            next_key: None,
            lost_keys: Vec::new(),
            refusal: Value::Null,
        };
        assert!(client.connect(0).await, "{} is let in: {}", client.person.name, client.refusal);
        client
    }

    fn key(&self) -> PublicKey {
        match &self.role {
            Role::Daemon => self.person.key.public(),
            Role::Limited(session) | Role::Full(session) => session.key.public(),
        }
    }

    fn hello(&self, draw: usize) -> Value {
        let mut hello = match &self.role {
            Role::Daemon => self.world.daemon_hello(&self.person),
            Role::Full(session) => self.world.session_hello(&self.person, session),
            Role::Limited(session) => {
                let capability = Capability::ALL[draw % Capability::ALL.len()].as_str();
                self.world.limited_hello(&self.person, session, &[capability])
            }
        };
        hello["capabilities"] = json!(["client_ack", "group_e2e", "receipts"]);
        hello
    }

    /// Says hello anew; true when it was let in.
    async fn connect(&mut self, draw: usize) -> bool {
        loop {
            self.socket = self.world.socket().await;
            let hello = self.hello(draw);
            self.socket.send(&hello).await;
            let answer = self.socket.next().await;
            if answer["type"] == "hello_ack" {
                return true;
            }
            self.refusal = answer;
            match self.next_key.take().or_else(|| self.lost_keys.pop()) {
                Some(key) => self.person.key = key,
                None => return false,
            }
        }
    }

    /// Reads what has come so far; false when the connection has ended.
    fn drain(&mut self) -> bool {
        loop {
            match self.socket.ws().next().now_or_never() {
                None => return true,
                Some(Some(Ok(Message::Close(_)) | Err(_)) | None) => return false,
                Some(Some(Ok(_))) => {}
            }
        }
    }
}

struct Asked {
    kind: FrameKind,
    text: String,
    /// Both keys have signed the new one.
    is_rotation: bool,
}

struct Caller<'w> {
    client: Client<'w>,
    names: &'w Names,
    seed: u64,
    dice: Dice,
    serial: u64,
    pushes: VecDeque<Value>,
    waiting: BTreeMap<String, Asked>,
    /// How often its connection was ended.
    ends: usize,
    /// Rounds since a rotation was asked for that is neither done nor known to be lost.
    unsettled: usize,
    tally: Tally,
}

impl<'w> Caller<'w> {
    async fn new(
        world: &'w World,
        names: &'w Names,
        seed: u64,
        person: Person,
        role: Role,
    ) -> Self {
        let dice = Dice::of(seed.wrapping_add(u64::from(person.name.as_bytes()[0])));
        Self {
            client: Client::new(world, person, role).await,
            names,
            seed,
            dice,
            serial: 0,
            pushes: VecDeque::new(),
            waiting: BTreeMap::new(),
            ends: 0,
            unsettled: 0,
            tally: Tally::new(),
        }
    }

    /// Fails with all that is needed to see it again.
    fn fail(&self, what: &str) -> ! {
        let short = |asked: &Asked| asked.text.chars().take(2_000).collect::<String>();
        let open: Vec<String> = self.waiting.values().map(short).collect();
        panic!("seed {}, {}: {what}\nunanswered: {open:#?}", self.seed, self.client.person.name);
    }

    /// One frame of every kind.
    async fn round(&mut self) {
        // A rotation whose connection was ended may still be committed a moment after that.
        self.unsettled = if self.client.next_key.is_some() { self.unsettled + 1 } else { 0 };
        if self.unsettled > UNSETTLED_ROUNDS {
            let lost = self.client.next_key.take();
            self.client.lost_keys.extend(lost);
        }
        let mut kinds = kinds();
        self.dice.shuffle(&mut kinds);
        while !kinds.is_empty() {
            self.batch(&mut kinds).await;
        }
    }

    /// Sends some of these and waits for all answers.
    async fn batch(&mut self, kinds: &mut Vec<FrameKind>) {
        let mut rotation = None;
        for _ in 0..=self.dice.below(AT_ONCE) {
            let Some(kind) = kinds.pop() else { break };
            let client = &self.client;
            let speaker = Speaker {
                world: client.world,
                names: self.names,
                person: &client.person,
                key: client.key(),
                push: self.pushes.front().cloned(),
                may_rotate: matches!(client.role, Role::Daemon) && client.next_key.is_none(),
            };
            let made = frame(&mut self.dice, kind, &speaker);
            if kind == FrameKind::ClientAck {
                self.pushes.pop_front();
            }
            let is_rotation = made.new_key.is_some();
            self.client.next_key = made.new_key.or(self.client.next_key.take());
            let id = self.ask(kind, made.frame).await;
            if is_rotation {
                self.waiting.entry(id.clone()).and_modify(|asked| asked.is_rotation = true);
                // It ends the connection, and everything after it would go unheard.
                rotation = Some(id);
                break;
            }
        }
        let ends = self.ends;
        let answers = self.answers().await;
        let is_rotated = rotation
            .is_some_and(|id| answers.get(&id).is_some_and(|answer| answer["type"] == "ack"));
        while is_rotated && self.ends == ends {
            self.hear().await;
        }
    }

    /// Sends a request; its id.
    async fn ask(&mut self, kind: FrameKind, mut frame: Value) -> String {
        self.serial += 1;
        let id = self.dice.request_id(self.serial);
        frame["_reqId"] = json!(id);
        let text = frame.to_string();
        let asked = Asked { kind, text: text.clone(), is_rotation: false };
        self.waiting.insert(id.clone(), asked);
        // A connection that was ended says so when it is read.
        let sending = self.client.socket.ws().send(Message::text(text));
        if tokio::time::timeout(ANSWER_WITHIN, sending).await.is_err() {
            self.fail("the broker reads nothing");
        }
        id
    }

    /// Everything that is waited for, or what came before the connection was ended.
    async fn answers(&mut self) -> BTreeMap<String, Value> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut answers = BTreeMap::new();
        while !self.waiting.is_empty() {
            let Ok(heard) = tokio::time::timeout_at(deadline, self.hear()).await else {
                self.fail("no answer");
            };
            let Some(frame) = heard else {
                self.waiting.clear();
                break;
            };
            let Some(id) = frame["_reqId"].as_str() else { continue };
            let Some(asked) = self.waiting.remove(id) else {
                self.fail(&format!("answered twice, or never asked: {frame}"));
            };
            self.judge(&asked, &frame);
            if asked.is_rotation {
                self.take_rotation(&frame);
            }
            answers.insert(id.to_owned(), frame);
        }
        answers
    }

    /// What a rotation came to.
    fn take_rotation(&mut self, answer: &Value) {
        let client = &mut self.client;
        if answer["type"] == "ack" {
            client.person.key = client.next_key.take().unwrap();
            client.lost_keys.clear();
        } else if answer["code"] != "unavailable" {
            client.next_key = None;
        }
    }

    /// The next frame; `None` when the connection was ended and there is a new one.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            let reading = tokio::time::timeout(ANSWER_WITHIN, self.client.socket.ws().next());
            let text = match reading.await {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Close(Some(close))))) => {
                    if !ENDS.contains(&(close.code.into(), close.reason.as_str())) {
                        self.fail(&format!("closed with {} {}", close.code, close.reason));
                    }
                    self.ends += 1;
                    self.pushes.clear();
                    let draw = self.dice.below(Capability::ALL.len());
                    if !self.client.connect(draw).await {
                        self.fail(&format!("not let in again: {}", self.client.refusal));
                    }
                    return None;
                }
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                other => self.fail(&format!("read {other:?}")),
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            let is_message = frame["type"] == "push" && frame["subtype"] != "system";
            if is_message || frame["type"] == "ack" {
                self.names.saw_message(&frame["messageId"]);
            }
            if is_message {
                self.pushes.push_back(frame.clone());
                self.pushes.truncate(PUSHES_KEPT);
            }
            return Some(frame);
        }
    }

    /// An answer is the frame's own, or a refusal that the broker means.
    fn judge(&mut self, asked: &Asked, answer: &Value) {
        let spec = asked.kind.spec();
        let word = answer["type"].as_str().unwrap_or_default();
        let refusal = match word {
            "error" => Some(answer["code"].as_str().unwrap_or_default()),
            "ack" => answer["error"].as_str().and_then(|text| text.split(':').next()),
            _ => None,
        };
        let is_sound = match refusal {
            Some(code) if has_nul(&asked.text) => code == "invalid_args",
            None if has_nul(&asked.text) => false,
            Some(code) => ErrorCode::parse(code).is_some_and(|code| code != ErrorCode::Internal),
            None => word == spec.reply.unwrap_or("ack") && is_of_send(asked, answer),
        };
        if !is_sound {
            self.fail(&format!("not a sound answer: {answer} to {}", asked.text));
        }
        let counts = self.tally.entry(spec.word).or_default();
        *counts.entry(refusal.unwrap_or(word).to_owned()).or_default() += 1;
    }

    /// One request that is not random.
    async fn now(&mut self, kind: FrameKind, mut frame: Value) -> Value {
        frame["type"] = json!(kind.spec().word);
        let id = self.ask(kind, frame).await;
        self.answers().await.remove(&id).unwrap_or_else(|| self.fail("the connection was ended"))
    }
}

/// The ack of a `send` carries its `id`; older clients know it by nothing else.
fn is_of_send(asked: &Asked, answer: &Value) -> bool {
    let sent: Value = serde_json::from_str(&asked.text).unwrap();
    asked.kind != FrameKind::Send || answer["id"] == sent["id"].as_str().unwrap_or_default()
}

/// A member that has just joined.
async fn newcomer(world: &World, mesh: &MeshId, name: &str) -> Person {
    let person = Person {
        mesh: mesh.clone(),
        id: MemberId::new(row_id()),
        key: KeyPair::generate(),
        name: name.to_owned(),
    };
    let row = NewMember {
        id: person.id.clone(),
        mesh_id: mesh.clone(),
        user_id: None,
        identity: NewIdentity::Key(person.key.public()),
        display_name: name.to_owned(),
        role: MemberRole::Member,
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: MessageMode::Push,
        joined_at: world.clock_now(),
    };
    let broker = world.broker().broker();
    broker.store().add_members(vec![row]).await.unwrap();
    broker.roster_changed(mesh);
    person
}

/// Memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

struct Outcome {
    tally: Tally,
    /// At the middle and at the end, in KiB.
    resident: [u64; 2],
}

/// So many rounds, in each of which every caller sends one frame of every kind; then a look at the mesh.
async fn run(world: &World, seed: u64, rounds: usize) -> Outcome {
    let mut people =
        world.mesh_of(&["owner", "member", "limited", "absent", "vic one", "vic two"]).await;
    let strangers = world.mesh_of(&["stranger", "vic two"]).await;
    let _stranger = world.daemon(&strangers[0]).await;
    let mesh = people[0].mesh.clone();
    let sessions: Vec<Session> = (0..3).map(|_| Session::new()).collect();
    let mut names = Names::default();
    for person in people.iter().chain(&strangers) {
        names.anybody.extend([person.key.public().to_hex(), person.name.clone()]);
    }
    names.anybody.extend(sessions.iter().map(Session::pubkey));
    for person in people[4..].iter().chain(&strangers) {
        names.victims.extend([person.key.public().to_hex(), person.name.clone()]);
    }
    names.victims.extend(sessions[1..].iter().map(Session::pubkey));
    let [limited_session, first, second] = <[Session; 3]>::try_from(sessions).ok().unwrap();
    let mut victims = Vec::new();
    for (person, session) in people.split_off(4).into_iter().zip([first, second]) {
        let twin = Person {
            mesh: person.mesh.clone(),
            id: person.id.clone(),
            key: person.key.clone(),
            name: person.name.clone(),
        };
        victims.push(Client::new(world, person, Role::Daemon).await);
        victims.push(Client::new(world, twin, Role::Full(session)).await);
    }
    let _absent = people.pop();
    let roles = [Role::Daemon, Role::Daemon, Role::Limited(limited_session)];
    let mut callers = Vec::new();
    for (person, role) in people.into_iter().zip(roles) {
        callers.push(Caller::new(world, &names, seed, person, role).await);
    }
    let mut resident = [0; 2];
    for round in 0..rounds {
        if round == rounds / 2 {
            resident[0] = resident_kib();
        }
        if round % ROUNDS_PER_INTERVAL == 0 {
            world.pass(AUDIT_VERIFY_INTERVAL.as_secs() + 1);
        }
        for victim in &mut victims {
            if victim.drain() || victim.connect(0).await {
                continue;
            }
            let key = victim.person.key.public();
            callers[0].now(FrameKind::Unban, json!({ "target": key })).await;
            assert!(victim.connect(0).await, "seed {seed}: let in again: {}", victim.refusal);
        }
        futures_util::future::join_all(callers.iter_mut().map(Caller::round)).await;
    }
    resident[1] = resident_kib();
    Box::pin(is_well(world, &mesh, &mut callers[0])).await;
    let mut tally = Tally::new();
    for (word, counts) in callers.into_iter().flat_map(|caller| caller.tally) {
        for (answer, count) in counts {
            *tally.entry(word).or_default().entry(answer).or_default() += count;
        }
    }
    Outcome { tally, resident }
}

/// Who comes now is let in, sends and receives; the audit log is whole.
async fn is_well(world: &World, mesh: &MeshId, owner: &mut Caller<'_>) {
    let (alice, bob) = (newcomer(world, mesh, "alice").await, newcomer(world, mesh, "bob").await);
    let (mut sender, mut receiver) = (world.daemon(&alice).await, world.daemon(&bob).await);
    let ack = sender.message(json!({"targetSpec": bob.key.public()})).await;
    assert_eq!(ack["queued"], true, "{ack}");
    let push = receiver.push().await;
    assert_eq!(push["messageId"], ack["messageId"]);
    receiver.confirm(&push).await;
    world.pass(AUDIT_VERIFY_INTERVAL.as_secs() + 1);
    let verified = owner.now(FrameKind::AuditVerify, json!({})).await;
    assert_eq!(verified["valid"], true, "{verified}");
}

/// Frames that were never done, only refused.
fn never_done(tally: &Tally) -> Vec<&'static str> {
    let is_done = |word: &'static str, reply: &str| {
        tally.get(word).is_some_and(|counts| counts.contains_key(reply))
    };
    let specs = kinds().into_iter().map(FrameKind::spec);
    specs
        .filter(|spec| !is_done(spec.word, spec.reply.unwrap_or("ack")))
        .map(|spec| spec.word)
        .collect()
}

/// Requests reach the handlers instead of the rate limits.
fn without_rates(settings: &mut Settings) {
    settings.limits.send_burst = 1_000_000;
    settings.limits.send_per_min = 1_000_000;
}

#[tokio::test]
async fn random_requests_are_all_answered() {
    let world = World::start_with(without_rates).await;
    let outcome = Box::pin(run(&world, 1, 60 / CALLERS)).await;
    assert_eq!(never_done(&outcome.tally), [""; 0], "{:#?}", outcome.tally);
}

/// With the limits of a broker nobody has configured.
#[tokio::test]
async fn random_requests_are_all_answered_on_postgres() {
    let Some(world) = World::on_postgres().await else { return };
    let outcome = Box::pin(run(&world, 2, 60 / CALLERS)).await;
    assert_eq!(never_done(&outcome.tally), [""; 0], "{:#?}", outcome.tally);
}

#[tokio::test]
async fn random_requests_beyond_tight_limits_are_all_answered() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 2;
        settings.limits.send_per_min = 1;
        settings.limits.backlog_per_member = 1;
        settings.limits.max_message_bytes = 256;
        settings.limits.group_audience_max = 2;
        settings.limits.loop_max_hops = 1;
    })
    .await;
    let outcome = Box::pin(run(&world, 3, 90 / CALLERS)).await;
    let answers = &outcome.tally["send"];
    // Whether one is stopped as a loop depends on the order of the callers.
    for code in ["rate_limited", "payload_too_large"] {
        assert!(answers.contains_key(code), "{code}: {answers:#?}");
    }
}

#[tokio::test]
async fn a_text_with_nul_is_refused() {
    a_text_with_nul_is_refused_on(&World::start().await).await;
}

/// PostgreSQL itself stores no such text.
#[tokio::test]
async fn a_text_with_nul_is_refused_on_postgres() {
    let Some(world) = World::on_postgres().await else { return };
    a_text_with_nul_is_refused_on(&world).await;
}

async fn a_text_with_nul_is_refused_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let key = people[1].key.public();
    for frame in [
        json!({"type": "set_summary", "summary": "a\0b"}),
        json!({"type": "set_profile", "capabilities": ["\0"]}),
        json!({"type": "set_state", "key": "k", "value": {"a": ["\0"]}}),
        json!({"type": "set_state", "key": "k", "value": {"\0": 1}}),
        json!({"type": "client_ack", "brokerMessageId": "a\0b"}),
        json!({"type": "get_grants", "unknown": "\0"}),
        json!({"type": "send", "targetSpec": key, "nonce": "n", "ciphertext": "a\0b"}),
        json!({"type": "send", "targetSpec": "\0", "nonce": "n", "ciphertext": "c"}),
        json!({"type": "nope\0"}),
    ] {
        let refused = alice.ask(frame.clone()).await;
        assert_eq!(
            (&refused["type"], &refused["code"]),
            (&json!("error"), &json!("invalid_args")),
            "{frame}"
        );
    }
    // An escaped backslash is none.
    let summary = json!({"type": "set_summary", "summary": "a\\u0000b"});
    assert_eq!(alice.ask(summary).await["type"], "ack");
    for field in ["cwd", "hostname", "sessionId", "peerType", "model", "unknown"] {
        let mut hello = world.daemon_hello(&people[1]);
        hello[field] = json!("a\0b");
        assert_eq!(world.refused(hello).await.0["code"], "malformed", "{field}");
    }
    assert_eq!(alice.message(json!({ "targetSpec": key })).await["queued"], true);
    // Over HTTP likewise; a path with it names nothing.
    let token = world.sign_up().await;
    let body = json!({"name": "a\0b", "pubkey": key, "display_name": "ana"});
    world.post_as(&token, "/cli/mesh/create", &body).await.refused(400, "malformed");
    let hidden = json!({"name": "Beta", "pubkey": key, "more": {"\0": 1}});
    world.post_as(&token, "/cli/mesh/create", &hidden).await.refused(400, "malformed");
    for path in ["/cli/mesh/a%00b/permissions", "/mesh/%00/members"] {
        world.get_as(&token, path).await.refused(404, "not_found");
    }
}

/// A number from the environment.
fn asked_for(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[tokio::test]
#[ignore = "long: make test-all"]
async fn ten_thousand_random_requests_of_every_frame_leave_nothing_behind() {
    leave_nothing_behind(&World::start_with(without_rates).await).await;
}

#[tokio::test]
#[ignore = "long: make test-all"]
async fn ten_thousand_random_requests_of_every_frame_leave_nothing_behind_on_postgres() {
    let Some(world) = World::on_postgres_with(without_rates).await else { return };
    leave_nothing_behind(&world).await;
}

/// `RANDOM_REQUESTS` of every frame, 10,000 by default. `SEED`, which a failure names, makes the same choices again; keys
/// and ids are new in every run.
#[expect(clippy::print_stdout, reason = "how a long run went")]
async fn leave_nothing_behind(world: &World) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = asked_for("SEED").unwrap_or(now);
    let requests =
        asked_for("RANDOM_REQUESTS").map_or(LONG, |count| usize::try_from(count).unwrap());
    let started = Instant::now();
    let outcome = Box::pin(run(world, seed, requests.div_ceil(CALLERS))).await;
    let [middle, end] = outcome.resident;
    println!(
        "seed {seed}, {:?}, {middle} KiB, then {end} KiB\n{:#?}",
        started.elapsed(),
        outcome.tally
    );
    assert!(end < middle + GROWTH_MAX_KIB, "seed {seed}: {middle} KiB grew to {end} KiB");
    assert_eq!(never_done(&outcome.tally), [""; 0], "seed {seed}: {:#?}", outcome.tally);
}

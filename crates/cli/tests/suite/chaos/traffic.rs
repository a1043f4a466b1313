//! The people: they send to members, sessions, groups and everybody, repeat themselves under the same id, and watch what
//! their sessions are shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use claudemesh_ipc::api::session::{HookEvent, PromptOrigin, StatusReport};
use claudemesh_ipc::api::{EventKind, EventsQuery, SendRequest};
use claudemesh_ipc::{Client, IpcError};
use claudemesh_protocol::{ErrorCode, Priority};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::Stage;
use super::operator::Operator;
use super::system::{ABSENT, GROUP, Session, System};

/// Every text contains this; nothing but the daemons' own files may.
pub const MARKER: &str = "the-heron-stands-in-the-shallow-water";
/// Longest time a send may take to be accepted: daemons are down or frozen, disks full, for seconds only.
const ACCEPT_PATIENCE: Duration = Duration::from_mins(3);
/// Pause between two tries of the same send.
const RETRY: Duration = Duration::from_millis(50);
/// Time for one call: a frozen daemon must not hold a sender for long.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// Who a message is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A person, by member key.
    Member(usize),
    /// A session of a person.
    Session(usize, usize),
    /// The group of all first sessions.
    Group,
    /// All others.
    Everyone,
}

/// A send that a daemon answered with 2xx.
#[derive(Debug, Clone)]
pub struct Sent {
    pub id: String,
    /// Person that sent.
    pub from: usize,
    /// Sender as one line of speech: a member, or one of its sessions.
    pub speaker: String,
    pub to: Target,
    /// As it was written: a member can have had several keys.
    pub address: String,
    pub priority: Priority,
    /// Position in the speaker's speech.
    pub number: u64,
    pub body: String,
}

/// What the outside sees while the storm blows.
#[derive(Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    pub tries: AtomicU64,
    pub repeats: AtomicU64,
    pub conflicts: AtomicU64,
    pub events: AtomicU64,
    pub requeued: AtomicU64,
    pub pruned: AtomicU64,
}

impl Counters {
    /// For a line of progress.
    pub fn line(&self) -> String {
        let [accepted, tries, shown] = [&self.accepted, &self.tries, &self.events]
            .map(|counter| counter.load(Ordering::Relaxed));
        format!("{accepted:>6} accepted of {tries:>6} tries  {shown:>6} shown")
    }
}

/// Everybody's activity.
pub struct Traffic {
    pub counters: Arc<Counters>,
    /// Cancelled to let senders finish.
    stop_sending: CancellationToken,
    stop_watching: CancellationToken,
    is_paused: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Vec<Sent>>>,
    operators: Vec<JoinHandle<Vec<String>>>,
    watchers: Vec<JoinHandle<Shown>>,
    faults: Arc<Mutex<Vec<String>>>,
    tracker: TaskTracker,
}

/// What one session was shown: how often, by (life, sender's key, client message id).
pub struct Shown {
    pub session: String,
    pub counts: BTreeMap<(u32, String, String), u32>,
}

/// What is left when everybody has stopped.
pub struct Spoken {
    pub sent: Vec<Sent>,
    /// Ids of messages that took the place of others, as far as daemons said so.
    pub requeued: Vec<String>,
    pub shown: Vec<Shown>,
    /// Answers that no fault explains.
    pub faults: Vec<String>,
}

struct Speaker {
    from: usize,
    name: String,
    client: Client,
    session: Option<Session>,
    targets: Vec<(Target, String)>,
    addresses: Arc<Mutex<Vec<String>>>,
    random: StdRng,
    pause: Duration,
    counters: Arc<Counters>,
    stop: CancellationToken,
    is_paused: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<String>>>,
}

impl Traffic {
    /// Everybody but the absent one begins to talk, as a member and as each session.
    pub fn start(system: &System, seed: u64, pause: Duration) -> Self {
        let tracker = TaskTracker::new();
        let mut traffic = Self {
            counters: Arc::default(),
            stop_sending: CancellationToken::new(),
            stop_watching: CancellationToken::new(),
            is_paused: Arc::default(),
            senders: Vec::new(),
            operators: Vec::new(),
            watchers: Vec::new(),
            faults: Arc::default(),
            tracker,
        };
        for (from, person) in system.people.iter().enumerate().take(ABSENT) {
            let client = person.client().with_token(None).with_timeout(CALL_LIMIT);
            let operator = Operator {
                client: client.clone(),
                random: StdRng::seed_from_u64(seed.rotate_left(32).wrapping_add(from as u64)),
                counters: Arc::clone(&traffic.counters),
                faults: Arc::clone(&traffic.faults),
                stop: traffic.stop_sending.clone(),
            };
            traffic.operators.push(traffic.tracker.spawn(operator.work()));
            let identities = std::iter::once(None).chain(person.sessions.iter().cloned().map(Some));
            for session in identities {
                let name = session.as_ref().map_or(person.name, |session| &session.name).to_owned();
                let stream = u64::try_from(traffic.senders.len()).unwrap();
                let speaker = Speaker {
                    from,
                    targets: targets(system, from, session.as_ref()),
                    addresses: Arc::clone(&system.addresses),
                    client: client.clone().with_token(session.as_ref().map(|s| s.token.clone())),
                    name,
                    random: StdRng::seed_from_u64(seed.wrapping_add(stream + 1)),
                    pause,
                    counters: Arc::clone(&traffic.counters),
                    stop: traffic.stop_sending.clone(),
                    is_paused: Arc::clone(&traffic.is_paused),
                    faults: Arc::clone(&traffic.faults),
                    session: session.clone(),
                };
                traffic.senders.push(traffic.tracker.spawn(speaker.talk()));
                if let Some(session) = session {
                    let client = client.clone().with_token(Some(session.token.clone()));
                    let counters = Arc::clone(&traffic.counters);
                    let stop = traffic.stop_watching.clone();
                    let watching = watch(client, session, counters, stop);
                    traffic.watchers.push(traffic.tracker.spawn(watching));
                }
            }
        }
        traffic
    }

    /// Nobody begins a new message while paused.
    pub fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Everybody finishes the sentence; watchers go on. What was sent, and what was put in the place of it.
    pub async fn stop_sending(&mut self) -> (Vec<Sent>, Vec<String>) {
        self.stop_sending.cancel();
        let (mut sent, mut requeued) = (Vec::new(), Vec::new());
        for sender in std::mem::take(&mut self.senders) {
            sent.extend(sender.await.unwrap());
        }
        for operator in std::mem::take(&mut self.operators) {
            requeued.extend(operator.await.unwrap());
        }
        (sent, requeued)
    }

    /// Everything that was seen.
    pub async fn stop(mut self, (sent, requeued): (Vec<Sent>, Vec<String>)) -> Spoken {
        self.stop_watching.cancel();
        let mut shown = Vec::new();
        for watcher in std::mem::take(&mut self.watchers) {
            shown.push(watcher.await.unwrap());
        }
        self.tracker.close();
        self.tracker.wait().await;
        let faults = std::mem::take(&mut *self.faults.lock());
        Spoken { sent, requeued, shown, faults }
    }
}

fn targets(system: &System, from: usize, session: Option<&Session>) -> Vec<(Target, String)> {
    let mut targets =
        vec![(Target::Group, format!("@{GROUP}")), (Target::Everyone, "*".to_owned())];
    for (to, person) in system.people.iter().enumerate() {
        if to != from {
            targets.push((Target::Member(to), person.pubkey().to_owned()));
        }
        for (number, other) in person.sessions.iter().enumerate() {
            // Siblings talk to each other; nobody talks to itself.
            let is_self = session.is_some_and(|session| session.id == other.id);
            if to != from || (session.is_some() && !is_self) {
                targets.push((Target::Session(to, number), other.pubkey.clone()));
            }
        }
    }
    targets
}

impl Speaker {
    async fn talk(mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut number = 0;
        while !self.stop.is_cancelled() {
            let pause = self.pause.mul_f64(self.random.random_range(0.2..1.8));
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            let is_silent = self.session.as_ref().is_some_and(|s| s.agent.stage() != Stage::Talks);
            if is_silent || self.is_paused.load(Ordering::Relaxed) {
                continue;
            }
            let (message, request) = self.compose(number);
            // Somebody typed it: without that, answers to answers would stop as a loop. The first prompt brings what waited,
            // the second comes after it.
            self.report(HookEvent::Prompt).await;
            self.report(HookEvent::Prompt).await;
            number += 1;
            if !self.send(&message.id, &request).await {
                break;
            }
            self.counters.accepted.fetch_add(1, Ordering::Relaxed);
            sent.push(message);
            if self.random.random_bool(0.15) {
                self.repeat(&request).await;
            }
            let is_at_rest = self.random.random_bool(0.7);
            let still_talks = self.session.as_ref().is_none_or(|s| s.agent.stage() == Stage::Talks);
            if is_at_rest && still_talks {
                self.report(HookEvent::Stop).await;
            }
        }
        sent
    }

    fn compose(&mut self, number: u64) -> (Sent, SendRequest) {
        // Multicasts make many deliveries each: rarer than their share among the targets.
        let choice = match self.random.random_range(0..10) {
            0 => self.random.random_range(0..2),
            _ => self.random.random_range(2..self.targets.len()),
        };
        let (to, mut spec) = self.targets[choice].clone();
        if let Target::Member(person) = to {
            spec.clone_from(&self.addresses.lock()[person]);
        }
        let priority = match self.random.random_range(0..10) {
            0..2 => Priority::Now,
            2..4 => Priority::Low,
            _ => Priority::Next,
        };
        let filler = match self.random.random_range(0..40) {
            0 => 20_000,
            1..6 => 2_000,
            _ => self.random.random_range(0..200),
        };
        let id = format!("{}.{number}", self.name);
        let body = format!("{MARKER} {id} {}", "~".repeat(filler));
        let request = SendRequest {
            to: spec.clone(),
            message: body.clone(),
            priority: Some(priority),
            client_message_id: Some(id.clone()),
            ..SendRequest::default()
        };
        let speaker = self.name.clone();
        let sent = Sent { id, from: self.from, speaker, to, address: spec, priority, number, body };
        (sent, request)
    }

    /// Sends until the daemon says yes; the id makes the repeats harmless.
    async fn send(&mut self, id: &str, request: &SendRequest) -> bool {
        let deadline = Instant::now() + ACCEPT_PATIENCE;
        loop {
            self.counters.tries.fetch_add(1, Ordering::Relaxed);
            match self.client.send(request).await {
                Ok(_) => return true,
                Err(error) if error.is(ErrorCode::UnknownSession) => self.register_again().await,
                // Accepted by a try whose answer got lost.
                Err(error) if was_put_back(&error) => return true,
                Err(error) if !is_passing(&error) => {
                    self.faults.lock().push(format!("{id} is refused: {error:?}"));
                    return true;
                }
                Err(error) if Instant::now() > deadline => {
                    self.faults.lock().push(format!("{id} is never accepted: {error}"));
                    return false;
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The same request once more, or another text under its id.
    async fn repeat(&mut self, request: &SendRequest) {
        if self.random.random_bool(0.8) {
            self.counters.repeats.fetch_add(1, Ordering::Relaxed);
            match self.client.send(request).await {
                // As for any other request.
                Err(error) if error.is(ErrorCode::UnknownSession) => self.register_again().await,
                Err(error) if !is_passing(&error) && !was_put_back(&error) => {
                    self.faults.lock().push(format!("a repeat is refused: {error:?}"));
                }
                _ => {}
            }
            return;
        }
        let mut other = request.clone();
        "another text".clone_into(&mut other.message);
        match self.client.send(&other).await {
            Err(error) if error.is(ErrorCode::IdempotencyConflict) => {
                self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is(ErrorCode::UnknownSession) => self.register_again().await,
            Err(error) if is_passing(&error) => {}
            answer => self.faults.lock().push(format!("another text is taken: {answer:?}")),
        }
    }

    /// What a session's hook says; not heard while the daemon is down, as with real hooks.
    async fn report(&mut self, event: HookEvent) {
        if self.session.is_some() {
            let origin = (event == HookEvent::Prompt).then_some(PromptOrigin::Human);
            let report = StatusReport { event: Some(event), origin, ..StatusReport::default() };
            let _ = self.client.session_status(&report).await;
        }
    }

    async fn register_again(&mut self) {
        if let Some(session) = &mut self.session {
            session.register(&self.client).await;
        }
    }
}

/// An operator has put the row back under another id meanwhile: the old one is aborted, and says so (daemon spec §10.4).
fn was_put_back(error: &IpcError) -> bool {
    let detail = error.api().and_then(|error| error.body.extra.get("detail"));
    detail.is_some_and(|detail| detail == "outbox_aborted_fingerprint_match")
}

/// Errors that a fault explains and time heals.
pub fn is_passing(error: &IpcError) -> bool {
    match error {
        IpcError::NotRunning(_)
        | IpcError::TimedOut(_)
        | IpcError::Broken(_)
        | IpcError::Malformed(_) => true,
        IpcError::Api(error) => error.status >= 500 || error.status == 429,
        _ => false,
    }
}

/// Counts what one session is shown, across restarts of its daemon.
async fn watch(
    client: Client,
    mut session: Session,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Shown {
    let mut shown = Shown { session: session.name.clone(), counts: BTreeMap::new() };
    let mut last_id: Option<String> = None;
    let mut life = session.agent.lives();
    while !stop.is_cancelled() {
        // Each process looks for itself; where the last one had stopped reading went with it.
        if std::mem::replace(&mut life, session.agent.lives()) != life {
            last_id = None;
        }
        if session.agent.stage() == Stage::Gone {
            stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
            continue;
        }
        let watching = async {
            let stream = client.events(&EventsQuery::default(), last_id.as_deref()).await;
            let mut stream = match stream {
                Ok(stream) => stream,
                Err(error) if error.is(ErrorCode::UnknownSession) => {
                    session.register(&client).await;
                    return;
                }
                Err(_) => return,
            };
            while let Ok(Some(event)) = stream.next().await {
                last_id.clone_from(&event.id);
                if event.kind == EventKind::Message {
                    counters.events.fetch_add(1, Ordering::Relaxed);
                    let text =
                        |field: &str| event.data[field].as_str().unwrap_or_default().to_owned();
                    let key = (life, text("sender_pubkey"), text("client_message_id"));
                    *shown.counts.entry(key).or_default() += 1;
                }
            }
        };
        stop.run_until_cancelled(watching).await;
        stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
    shown
}

/// Every session is at rest: what waited for that may come.
pub async fn rest(system: &System) {
    for person in &system.people {
        for session in &person.sessions {
            let client = person.client().with_token(Some(session.token.clone()));
            let report = StatusReport { event: Some(HookEvent::Stop), ..StatusReport::default() };
            let _ = client.session_status(&report).await;
        }
    }
}

//! The registered agent sessions (daemon spec §8): by token and by (mesh, session id), ended when their process ends,
//! known again after a restart. Their broker connections belong to the mesh side.

pub mod activity;
pub mod counters;
mod heard;
pub mod key_store;
mod persist;
pub mod process;
mod register;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::hash::sha256;
use claudemesh_ipc::SessionToken;
use claudemesh_ipc::api::{EventKind, MeshStatus, MessageMode, SessionView};
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::{Group, PublicKey, Timestamp};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::{Event, EventBus};

pub use activity::{Activity, Change, Opening, Report};
pub use counters::{Counters, Counts};
pub use key_store::{KeyStore, StoredKey};
pub use process::{Processes, SystemProcesses};
pub use register::{NewSession, Offer, RegisterError, Registered};

/// Period of the safety-net sweep (daemon spec §8.4).
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// Ancestors of a hook that are looked at, nearest first (daemon spec §8.7).
pub const ANCESTORS_MAX: usize = 4;
/// Ended sessions that may wait for their clean-up; more are found by the sweep.
const ENDED_QUEUE: usize = 256;

/// SHA-256 of a token: all that is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of a token.
    pub fn of(token: &SessionToken) -> Self {
        Self(sha256(token.reveal().as_bytes()))
    }

    /// Wraps stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// 64 hex.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// A registered session. Replaced as a whole when it changes.
///
/// # Security
/// May hold the session's secret key; no `Debug`.
pub struct Session {
    /// How its requests are recognised.
    pub token_hash: TokenHash,
    /// First 8 characters of the token.
    pub token_prefix: String,
    /// UUID of the agent session.
    pub session_id: String,
    /// Mesh slug.
    pub mesh: String,
    /// Name.
    pub display_name: String,
    /// Its process.
    pub pid: u32,
    /// When that process began, so that another one with its number is not taken for it.
    pub start_time: Option<String>,
    /// Its directory.
    pub cwd: Option<String>,
    /// Free text.
    pub role: Option<String>,
    /// Its groups.
    pub groups: Vec<Group>,
    /// How messages reach it.
    pub message_mode: MessageMode,
    /// What it may do; `None`: all its member may.
    pub caps: Option<CapabilitySet>,
    /// Directories it shares.
    pub share_dirs: Vec<String>,
    /// Model name.
    pub model: Option<String>,
    /// Kind of agent.
    pub kind: Option<String>,
    /// Registered by an MCP server without a launch.
    pub ambient: bool,
    /// Its key pair: with one it has a presence of its own.
    pub keys: Option<Arc<KeyPair>>,
    /// When it was registered.
    pub registered_at: Timestamp,
    last_seen_at: AtomicI64,
    /// What it is doing; the same for every registration of one agent session.
    pub activity: Arc<Activity>,
    ended: CancellationToken,
}

impl Session {
    /// Its public key, when it has a key pair.
    pub fn key(&self) -> Option<PublicKey> {
        self.keys.as_ref().map(|keys| keys.public())
    }

    /// When it was last heard of.
    pub fn last_seen_at(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen_at.load(Ordering::Relaxed))
    }

    /// It was heard of.
    pub fn touch(&self, now: Timestamp) {
        self.last_seen_at.store(now.as_millis(), Ordering::Relaxed);
    }

    /// A message with so many hops was put before the agent: what it sends from now on counts as an answer.
    pub fn was_shown(&self, hops: u32) {
        self.activity.was_shown(hops);
    }

    /// Hops of what it sends now.
    pub fn next_hops(&self) -> u32 {
        self.activity.next_hops()
    }

    /// Cancelled when it is no longer registered.
    pub const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// As lists show it.
    pub fn view(
        &self,
        member_pubkey: Option<PublicKey>,
        broker_status: Option<MeshStatus>,
    ) -> SessionView {
        SessionView {
            session_id: self.session_id.clone(),
            mesh: self.mesh.clone(),
            display_name: self.display_name.clone(),
            pid: self.pid,
            cwd: self.cwd.clone(),
            role: self.role.clone(),
            groups: self.groups.clone(),
            message_mode: self.message_mode,
            caps: self.caps,
            session_pubkey: self.key(),
            member_pubkey,
            broker_status,
            registered_at: self.registered_at.to_iso(),
            token_prefix: self.token_prefix.clone(),
            kind: self.kind.clone(),
            ambient: self.ambient,
            status: self.activity.status(),
            paths: Vec::new(),
        }
    }
}

/// Limits of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions at once.
    pub max: usize,
    /// Life of an entry whose process cannot be told from another with its number.
    pub unverified_ttl: Duration,
}

/// The registry. Cloning is cheap.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    file: PathBuf,
    key_store: KeyStore,
    processes: Arc<dyn Processes>,
    limits: Mutex<SessionLimits>,
    events: EventBus,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    changed: Notify,
    /// Changes so far.
    changes: AtomicU64,
    /// Somebody waits until they are in the file.
    is_awaited: Notify,
    /// How many of them are.
    tried: watch::Sender<persist::Tried>,
    ended_tx: mpsc::Sender<TokenHash>,
}

#[derive(Default)]
struct State {
    by_token: BTreeMap<TokenHash, Arc<Session>>,
}

/// What the registry needs.
pub struct SessionsSettings {
    /// `sessions.json`.
    pub file: PathBuf,
    /// Directory of the stored key pairs.
    pub key_dir: PathBuf,
    /// How processes are looked at.
    pub processes: Arc<dyn Processes>,
    /// Limits.
    pub limits: SessionLimits,
    /// Where changes are told.
    pub events: EventBus,
    /// Who waits for the registry's tasks.
    pub tasks: TaskTracker,
    /// Ends them.
    pub shutdown: CancellationToken,
}

/// Tokens of sessions whose process ended.
pub struct EndedSessions {
    queue: mpsc::Receiver<TokenHash>,
}

impl EndedSessions {
    /// The next one; `None` when the registry is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<TokenHash> {
        self.queue.recv().await
    }
}

impl Sessions {
    /// An empty registry, whose file is written 50 ms after each change, or as soon as somebody waits in
    /// [`Sessions::saved`]. The receiver tells whose process ended; its owner removes those sessions and closes their
    /// connections.
    pub fn new(settings: SessionsSettings) -> (Self, EndedSessions) {
        let (ended_tx, queue) = mpsc::channel(ENDED_QUEUE);
        let shared = Shared {
            state: Mutex::new(State::default()),
            file: settings.file,
            key_store: KeyStore::new(settings.key_dir),
            processes: settings.processes,
            limits: Mutex::new(settings.limits),
            events: settings.events,
            tasks: settings.tasks,
            shutdown: settings.shutdown,
            changed: Notify::new(),
            changes: AtomicU64::new(0),
            is_awaited: Notify::new(),
            tried: watch::Sender::default(),
            ended_tx,
        };
        let sessions = Self { shared: Arc::new(shared) };
        let writer = sessions.clone();
        sessions.shared.tasks.spawn(async move { writer.write_changes().await });
        (sessions, EndedSessions { queue })
    }

    /// The session of a token; it has been heard of now.
    pub fn by_token(&self, hash: TokenHash, now: Timestamp) -> Option<Arc<Session>> {
        let session = self.shared.state.lock().by_token.get(&hash).cloned()?;
        session.touch(now);
        Some(session)
    }

    /// The session of a key in a mesh.
    pub fn by_key(&self, mesh: &str, key: &PublicKey) -> Option<Arc<Session>> {
        let state = self.shared.state.lock();
        let found = |session: &&Arc<Session>| session.mesh == mesh && session.key() == Some(*key);
        state.by_token.values().find(found).cloned()
    }

    /// The sessions of a mesh, in order of registration.
    pub fn live(&self, mesh: &str) -> Vec<Arc<Session>> {
        self.all().into_iter().filter(|session| session.mesh == mesh).collect()
    }

    /// All sessions, in order of registration.
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.shared.state.lock().by_token.values().cloned().collect();
        all.sort_by(|left, right| {
            (left.registered_at, &left.session_id).cmp(&(right.registered_at, &right.session_id))
        });
        all
    }

    /// Removes a session. The caller closes its connection.
    pub fn remove(&self, hash: TokenHash) -> Option<Arc<Session>> {
        let removed = self.shared.state.lock().by_token.remove(&hash)?;
        removed.ended.cancel();
        self.changed();
        Some(removed)
    }

    /// The file is to be written.
    fn changed(&self) {
        self.shared.changes.fetch_add(1, Ordering::Release);
        self.shared.changed.notify_one();
    }

    /// A moderator ended the session: removed and published. Its connection is closed already.
    pub fn kicked(&self, mesh: &str, key: &PublicKey) {
        let Some(session) = self.by_key(mesh, key) else { return };
        if let Some(session) = self.remove(session.token_hash) {
            self.publish_ended(&session, "kicked");
        }
    }

    /// Tells subscribers that a session is no longer registered, and why.
    pub fn publish_ended(&self, session: &Session, reason: &str) {
        self.publish(EventKind::SessionEnded, session, Some(reason));
    }

    /// The counters of a session were told: the next run of the daemon goes on from there.
    pub fn counters_told(&self) {
        self.changed();
    }

    /// Tells subscribers that a session was registered.
    pub fn publish_registered(&self, session: &Session) {
        self.publish(EventKind::SessionRegistered, session, None);
    }

    /// The status of a session has changed: told, and kept for the next run.
    pub fn status_changed(&self, session: &Session) {
        self.changed();
        let mut data = Self::data_of(session);
        data.insert("changed".to_owned(), serde_json::json!(["status"]));
        let event = Event::of_mesh(EventKind::SessionUpdated, &session.mesh, data);
        self.shared.events.publish(event);
    }

    fn publish(&self, kind: EventKind, session: &Session, reason: Option<&str>) {
        let mut data = Self::data_of(session);
        if let Some(reason) = reason {
            data.insert("reason".to_owned(), reason.into());
        }
        self.shared.events.publish(Event::of_mesh(kind, &session.mesh, data));
    }

    fn data_of(session: &Session) -> Map<String, Value> {
        match serde_json::to_value(session.view(None, None)) {
            Ok(Value::Object(data)) => data,
            _ => Map::new(),
        }
    }

    /// Removes the sessions of a mesh. The mesh closes their connections.
    pub fn remove_mesh(&self, mesh: &str) -> Vec<Arc<Session>> {
        let live = self.live(mesh);
        live.iter().filter_map(|session| self.remove(session.token_hash)).collect()
    }

    /// The sessions whose process is gone, or was replaced by another with its number, or cannot be verified any
    /// longer (daemon spec §8.4). Forks nothing.
    pub fn dead(&self, now: Timestamp) -> Vec<TokenHash> {
        let ttl = self.shared.limits.lock().unverified_ttl;
        let is_dead = |session: &&Arc<Session>| {
            let processes = &self.shared.processes;
            match &session.start_time {
                Some(start) => processes.start_time(session.pid).as_ref() != Some(start),
                None => !processes.is_alive(session.pid) || now.since(session.registered_at) > ttl,
            }
        };
        self.all().iter().filter(is_dead).map(|session| session.token_hash).collect()
    }

    /// Matches a hook's report to sessions when it carries no token (daemon spec §8.7): by session id on any mesh, by
    /// an ancestor process, by being the only session in that directory where the report names none.
    pub fn matching(
        &self,
        session_id: Option<&str>,
        pids: &[u32],
        cwd: Option<&str>,
    ) -> Vec<Arc<Session>> {
        let all = self.all();
        let pick = |want: &dyn Fn(&Session) -> bool| -> Vec<Arc<Session>> {
            all.iter().filter(|session| want(session)).cloned().collect()
        };
        if let Some(id) = session_id {
            let found = pick(&|session| session.session_id == id);
            if !found.is_empty() {
                return found;
            }
        }
        for pid in pids.iter().take(ANCESTORS_MAX) {
            let found = pick(&|session| session.pid == *pid);
            if !found.is_empty() {
                return found;
            }
        }
        // Another agent of the same person may work in the same directory, unregistered: it is not this session.
        let Some(cwd) = cwd.filter(|_| session_id.is_none()) else { return Vec::new() };
        let found = pick(&|session| session.cwd.as_deref() == Some(cwd));
        if found.len() == 1 { found } else { Vec::new() }
    }

    /// The stored key pairs.
    pub fn key_store(&self) -> &KeyStore {
        &self.shared.key_store
    }

    /// Changes the limits, on reload.
    pub fn set_limits(&self, limits: SessionLimits) {
        *self.shared.limits.lock() = limits;
    }

    /// Waits in the background for the end of a session's process.
    fn watch(&self, session: &Arc<Session>) {
        let Some(process) = self.shared.processes.watch(session.pid) else { return };
        // Between the look at the start time and the handle, the number may have changed hands.
        let start_time = self.shared.processes.start_time(session.pid);
        let (hash, ended) = (session.token_hash, session.ended.clone());
        let is_same = start_time == session.start_time;
        let (ended_tx, shutdown) = (self.shared.ended_tx.clone(), self.shared.shutdown.clone());
        self.shared.tasks.spawn(async move {
            if is_same {
                tokio::select! {
                    biased;
                    () = ended.cancelled() => return,
                    () = shutdown.cancelled() => return,
                    () = process => {}
                }
            }
            // A full queue means that the sweep will find it.
            let _ = ended_tx.try_send(hash);
        });
    }
}

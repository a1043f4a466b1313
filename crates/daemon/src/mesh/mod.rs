//! The broker side of the daemon: for each joined mesh one supervised tree of tasks that holds its connections, knows
//! its roster, sends what the outbox holds and stores what comes in.
//!
//! The rest of the daemon talks to [`Meshes`] and [`MeshHandle`]; results of sending and receiving come back through
//! the outbox, the inbox and the event bus.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use claudemesh_client::connection::ConnectionState;
use claudemesh_client::{Connection, Dialer, HelloClock, SharedTiming, Status, Timing};
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::direct::SharedKeyCache;
use claudemesh_ipc::api::MeshStatus;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::{MemberId, MeshId, PublicKey, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::EventBus;
use crate::home::config::MeshEntry;
use crate::identity::{Identity, MeshState};
use crate::inbox::Inbox;
use crate::metrics::Figures;
use crate::outbox::Outbox;
use crate::sessions::Sessions;

mod announce;
mod cold;
mod control;
mod counts;
mod drain;
mod features;
mod figures;
mod flush;
mod handle;
mod hearsay;
mod http;
mod line;
mod lineage;
mod open;
mod outcome;
mod ping;
mod proof;
mod receipt;
mod receive;
mod refresh;
mod rekey;
mod report;
mod resolve;
mod roster;
mod seal;
mod sender;
mod session;
mod supervise;
mod voice;

pub(crate) use cold::{ColdLine, Terms};
pub(crate) use features::REQUIRED_FEATURES;
pub use features::{FeatureTerms, Negotiated};
pub(crate) use handle::banned;
pub use handle::{MeshError, MeshLink, RequestError, Sender, Via};
pub(crate) use line::Line;
pub use ping::PingTimes;
pub use receive::DroppedCounts;
pub use resolve::{Candidate, Resolution, Resolved};
pub use roster::{Listing, Peers};
pub use seal::{SealError, Sealed};
pub use voice::Standing;

use drain::InFlight;
use refresh::Refresh;
use roster::Roster;
use sender::SenderBook;
use session::SessionLinks;
use voice::OwnSession;

/// Agreed keys kept per mesh: a full group audience for the member and a few sessions.
const SHARED_KEYS: usize = 4_096;
/// How long a mesh may take to end (daemon spec §1.3 leaves 3 s for all of it).
const SHUTDOWN_WAIT: Duration = Duration::from_secs(3);
/// How long the answers to rows in flight are waited for at the end.
const LAST_ACKS_WAIT: Duration = Duration::from_secs(1);

/// What the broker side works with.
#[derive(Clone)]
pub struct MeshContext {
    /// What goes out.
    pub outbox: Outbox,
    /// What came in.
    pub inbox: Inbox,
    /// Who wants to know.
    pub events: EventBus,
    /// The registered sessions.
    pub sessions: Sessions,
    /// What is counted.
    pub figures: Figures,
    /// Keys that were ours, and those that are to be.
    pub identity: Identity,
    /// How to connect.
    pub settings: Arc<MeshSettings>,
}

/// How this daemon connects.
pub struct MeshSettings {
    /// Whether `ws://` to another machine is allowed.
    pub plain: PlainHttp,
    /// Host name shown to peers.
    pub hostname: Option<String>,
    /// Working directory shown to the own member.
    pub cwd: String,
    /// Number of this process, shown to the own member.
    pub pid: u32,
    /// As whom it connects.
    pub standing: Standing,
    /// Hash of this machine, hex64 (daemon spec §4.3).
    pub host_fingerprint: Option<String>,
    /// Whether a broker that states no features is refused (daemon spec §18.1).
    pub legacy: LegacyBrokers,
    /// What is asked of those that state some.
    pub features: FeatureTerms,
    /// Opens the byte streams below the connections.
    pub dialer: Arc<dyn Dialer>,
    /// Time limits of connections; a reload may replace them.
    pub timing: SharedTiming,
    /// How long messages may wait.
    pub max_age: AgeSettings,
    /// Time between two reports of a session's counters.
    pub stats_every: Duration,
}

/// How long messages may wait for a broker, in hours (daemon spec §11.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgeSettings {
    /// A fixed time; it must lie inside what the broker remembers.
    pub fixed: Option<u64>,
    /// At a broker that never forgets an id.
    pub default: u64,
    /// Upper bound of that.
    pub cap: u64,
    /// How long the key of an ended session may be missing before what it sent is given up (daemon spec §11.3).
    pub sender_gone: Duration,
}

impl Default for AgeSettings {
    fn default() -> Self {
        Self { fixed: None, default: 168, cap: 720, sender_gone: Duration::from_mins(10) }
    }
}

/// What is done about a broker that states no features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LegacyBrokers {
    /// It is used as far as it goes.
    #[default]
    Used,
    /// It counts as one that lacks everything (`features.strict`).
    Refused,
}

/// Our member in one mesh.
#[derive(Clone)]
pub struct MemberIdentity {
    /// The member.
    pub member_id: MemberId,
    /// Its key.
    pub public: PublicKey,
    /// Its key pair.
    pub keys: Arc<KeyPair>,
}

/// What [`Meshes::apply`] changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Slugs of meshes that are new.
    pub attached: Vec<String>,
    /// Slugs of meshes that are gone.
    pub detached: Vec<String>,
}

/// All attached meshes. Cloning is cheap.
#[derive(Clone)]
pub struct Meshes {
    context: MeshContext,
    by_slug: Arc<Mutex<BTreeMap<String, MeshHandle>>>,
    /// Detached meshes whose connections still say goodbye.
    ending: Arc<Mutex<Vec<MeshHandle>>>,
}

/// One attached mesh. Cloning is cheap.
#[derive(Clone)]
pub struct MeshHandle {
    mesh: Arc<Mesh>,
}

/// What the tasks of one mesh share.
struct Mesh {
    context: MeshContext,
    slug: String,
    id: MeshId,
    broker_url: String,
    member: MemberIdentity,
    /// The session that the daemon is, where it is not its member.
    own_session: Option<OwnSession>,
    hello_clock: Arc<HelloClock>,
    /// What is remembered about it between runs.
    state: Arc<MeshState>,
    negotiated: Mutex<Arc<Negotiated>>,
    roster: Roster,
    refresh: Refresh,
    senders: SenderBook,
    pings: ping::Pings,
    shared_keys: SharedKeyCache,
    control: Mutex<Option<Connection>>,
    sessions: Mutex<SessionLinks>,
    reports: report::Reports,
    hearsay: hearsay::Hearsay,
    unproved: proof::Unproved,
    /// Members whose removal was told, and when; their messages are dropped (daemon spec §7.4).
    removed: Mutex<BTreeMap<PublicKey, Timestamp>>,
    dropped: receive::Dropped,
    /// Loop stops that were told.
    loops_told: Mutex<std::collections::VecDeque<String>>,
    in_flight: InFlight,
    pulls: Mutex<HashMap<Option<PublicKey>, tokio::time::Instant>>,
    /// The broker said last that our member was removed.
    is_revoked: AtomicBool,
    /// Wakes the drain worker: rows, or a connection to send them on.
    wake: Arc<Notify>,
    stop: CancellationToken,
    stop_draining: CancellationToken,
    tasks: TaskTracker,
}

impl Meshes {
    /// No mesh yet.
    pub fn new(context: MeshContext) -> Self {
        Self { context, by_slug: Arc::default(), ending: Arc::default() }
    }

    /// Attaches what is new in `entries`, detaches what is gone or changed. Detached meshes end in the background.
    /// Must be called inside the runtime.
    pub fn apply(&self, entries: Vec<MeshEntry>) -> Changes {
        let mut changes = Changes::default();
        let mut ended = Vec::new();
        let mut by_slug = self.by_slug.lock();
        by_slug.retain(|slug, handle| {
            let is_same = entries.iter().any(|entry| handle.mesh.is_of(entry));
            if !is_same {
                changes.detached.push(slug.clone());
                ended.push(handle.clone());
            }
            is_same
        });
        for entry in entries {
            if !by_slug.contains_key(&entry.slug) {
                changes.attached.push(entry.slug.clone());
                let slug = entry.slug.clone();
                by_slug.insert(slug, MeshHandle { mesh: Mesh::start(self.context.clone(), entry) });
            }
        }
        drop(by_slug);
        for handle in ended {
            handle.mesh.begin_end();
            self.ending.lock().push(handle);
        }
        self.ending.lock().retain(|handle| !handle.mesh.tasks.is_empty());
        changes
    }

    /// Whether `ws://` to another machine is allowed.
    pub(crate) fn plain(&self) -> PlainHttp {
        self.context.settings.plain
    }

    /// The mesh with this slug.
    pub fn get(&self, slug: &str) -> Option<MeshHandle> {
        self.by_slug.lock().get(slug).cloned()
    }

    /// All meshes, in order of their slugs.
    pub fn all(&self) -> Vec<MeshHandle> {
        self.by_slug.lock().values().cloned().collect()
    }

    /// Tries again where a mesh is disabled or waiting, now.
    pub fn reconnect_disabled(&self) {
        for handle in self.all() {
            if let Some(connection) = handle.mesh.control()
                && !connection.is_open()
            {
                connection.retry_now();
            }
        }
    }

    /// Puts other time limits in force, for the connections that are open, too.
    pub(crate) fn set_timing(&self, timing: Timing) {
        self.context.settings.timing.set(timing);
    }

    /// The machine woke up or has another network: whatever waits dials now, whatever is open proves that it works.
    pub fn network_changed(&self) {
        for handle in self.all() {
            let mesh = &handle.mesh;
            let sessions = mesh.sessions.lock();
            let links = sessions.values().filter_map(|link| link.connection.lock().clone());
            for connection in mesh.control().into_iter().chain(links) {
                connection.network_changed();
            }
        }
    }

    /// Ends all meshes: rows in flight get a moment to be answered, then the sessions' connections are closed, then
    /// the members'. Takes at most three seconds.
    pub async fn shutdown(&self) {
        let mut handles = self.all();
        handles.append(&mut self.ending.lock());
        let ends = handles.iter().map(|handle| handle.mesh.shutdown());
        futures_util::future::join_all(ends).await;
    }
}

impl Mesh {
    fn start(context: MeshContext, entry: MeshEntry) -> Arc<Self> {
        let public = entry.keys.public();
        let wake = context.outbox.wake(&entry.slug);
        let state = context.identity.state(&entry.slug, &entry.mesh_id);
        let mesh = Arc::new(Self {
            own_session: OwnSession::of(context.settings.standing),
            context,
            member: MemberIdentity {
                member_id: entry.member_id,
                public,
                keys: Arc::new(entry.keys),
            },
            slug: entry.slug,
            id: entry.mesh_id,
            broker_url: entry.broker_url,
            hello_clock: Arc::default(),
            negotiated: Mutex::default(),
            roster: Roster::knowing(state.former_keys()),
            state,
            refresh: Refresh::default(),
            senders: SenderBook::default(),
            pings: ping::Pings::default(),
            shared_keys: SharedKeyCache::new(SHARED_KEYS),
            control: Mutex::new(None),
            sessions: Mutex::default(),
            reports: report::Reports::default(),
            hearsay: hearsay::Hearsay::default(),
            unproved: proof::Unproved::default(),
            removed: Mutex::default(),
            dropped: receive::Dropped::default(),
            loops_told: Mutex::default(),
            in_flight: InFlight::default(),
            pulls: Mutex::default(),
            is_revoked: AtomicBool::new(false),
            wake,
            stop: CancellationToken::new(),
            stop_draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        mesh.spawn("control", &mesh.stop, control::run);
        mesh.spawn("refresh", &mesh.stop, refresh::run);
        mesh.spawn("drain", &mesh.stop_draining, drain::run);
        mesh.spawn("receipts_out", &mesh.stop, report::run);
        mesh.spawn("receipts_in", &mesh.stop, hearsay::run);
        mesh
    }

    /// Starts a supervised task of this mesh.
    fn spawn<F>(
        self: &Arc<Self>,
        name: &'static str,
        stop: &CancellationToken,
        run: impl Fn(Arc<Self>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let (mesh, stop) = (Arc::clone(self), stop.clone());
        self.tasks.spawn(async move {
            supervise::supervise(name, &mesh.slug, &stop, || run(Arc::clone(&mesh))).await;
        });
    }

    fn is_of(&self, entry: &MeshEntry) -> bool {
        self.slug == entry.slug
            && self.id == entry.mesh_id
            && self.broker_url == entry.broker_url
            && self.member.member_id == entry.member_id
            && self.member.public == entry.keys.public()
    }

    fn control(&self) -> Option<Connection> {
        self.control.lock().clone()
    }

    fn is_open(&self) -> bool {
        self.control().is_some_and(|connection| connection.is_open())
    }

    fn negotiated(&self) -> Arc<Negotiated> {
        Arc::clone(&self.negotiated.lock())
    }

    /// True while somebody here looks at the roster: a session, or a subscriber of events.
    fn has_audience(&self) -> bool {
        !self.sessions.lock().is_empty() || self.context.events.subscribers() > 0
    }

    /// True for our member key, also a former one, and the keys of our live sessions here.
    fn is_own_key(&self, key: PublicKey) -> bool {
        self.is_own_member_key(key)
            || self.own_session_key() == Some(key)
            || self.sessions.lock().contains(&key)
    }

    /// True for our member key, also a former one.
    fn is_own_member_key(&self, key: PublicKey) -> bool {
        key == self.member.public || self.state.was_ours(key)
    }

    async fn shutdown(&self) {
        self.stop_draining.cancel();
        let acknowledged = self.in_flight.is_empty();
        // Rows without an answer are sent again after the next start, under the same id.
        let _unanswered = tokio::time::timeout(LAST_ACKS_WAIT, acknowledged).await;
        self.end_tasks().await;
    }

    async fn end_tasks(&self) {
        self.begin_end();
        // A task that does not end in time is dropped with the runtime.
        let _late = tokio::time::timeout(SHUTDOWN_WAIT, self.tasks.wait()).await;
    }

    /// Tells every task to end: sessions first, then the member's connection.
    fn begin_end(&self) {
        self.stop_draining.cancel();
        self.sessions.lock().end_all();
        self.stop.cancel();
        self.tasks.close();
    }
}

/// The word of the local API for a connection.
fn api_status(state: &ConnectionState) -> MeshStatus {
    match state.status {
        Status::Connecting => MeshStatus::Connecting,
        Status::Open => MeshStatus::Open,
        Status::Reconnecting => MeshStatus::Reconnecting,
        Status::Disabled(_) => MeshStatus::Disabled,
        Status::Closed => MeshStatus::Closed,
    }
}

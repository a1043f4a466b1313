//! A daemon without its local API: stores, bus, sessions and meshes, on a broker of this process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_broker::provision::{self, Provisioned};
use claudemesh_broker::settings::Settings;
use claudemesh_broker::{RunningBroker, StartOptions};
use claudemesh_client::{Backoff, TcpDialer, Timing};
use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_crypto::fingerprint::{Request, of_request};
use claudemesh_crypto::{KeyPair, random};
use claudemesh_daemon::clock;
use claudemesh_daemon::events::{EventBus, Filter, Subscription};
use claudemesh_daemon::home::config::MeshEntry;
use claudemesh_daemon::identity::{HostSources, Identity};
use claudemesh_daemon::inbox::{Inbox, InboxFilter, InboxSettings, Scope};
use claudemesh_daemon::mesh::{
    AgeSettings, FeatureTerms, LegacyBrokers, MeshContext, MeshHandle, MeshSettings, Meshes,
    Resolution, Resolved, Sender, Standing,
};
use claudemesh_daemon::outbox::{NewRow, Outbox, SealedBody};
use claudemesh_daemon::sessions::{
    NewSession, Offer, Session, SessionLimits, Sessions, SessionsSettings, SystemProcesses,
};
use claudemesh_ipc::SessionToken;
use claudemesh_ipc::api::{InboxItem, MeshStatus, MessageMode};
use claudemesh_protocol::canonical::DestinationKind;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::limits::{BrokerLimits, STATS_EVERY};
use claudemesh_protocol::{Group, MemberId, MeshId, Priority, PublicKey, TargetSpec, Timestamp};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub const SLUG: &str = "home";
/// A condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(25);

/// A broker with one mesh and its members.
pub struct World {
    pub broker: RunningBroker,
    pub mesh: Provisioned,
    dir: TempDir,
}

impl World {
    pub async fn new(members: usize) -> Self {
        let wide = |limits: &mut BrokerLimits| {
            limits.send_burst = 100_000;
            limits.send_per_min = 100_000;
        };
        Self::limited(members, wide).await
    }

    /// With other limits at the broker.
    pub async fn limited(members: usize, limits: impl FnOnce(&mut BrokerLimits)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut settings = Settings::embedded(dir.path());
        limits(&mut settings.limits);
        let broker = claudemesh_broker::start(StartOptions::new(settings)).await.unwrap();
        let request = provision::Request {
            slug: SLUG.parse().unwrap(),
            members,
            url: broker.ws_url().to_owned(),
            settings: claudemesh_store::MeshSettings::default(),
        };
        let store = broker.broker().store();
        let mesh = provision::members(store, &AtRestKey::generate(), &request, clock::now())
            .await
            .unwrap();
        Self { broker, mesh, dir }
    }

    /// A number from the broker's own database.
    pub async fn count(&self, from: &str) -> u64 {
        let count = self.text(&format!("SELECT CAST(count(*) AS TEXT) FROM {from}")).await;
        count.parse().unwrap()
    }

    /// A text from the broker's own database.
    pub async fn text(&self, sql: &str) -> String {
        let file = Settings::embedded(self.dir.path()).database_path();
        let options = SqliteConnectOptions::new().filename(file).read_only(true);
        let mut conn = options.connect().await.unwrap();
        let text: String =
            sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        text
    }

    /// The entry of `config.json` of one member.
    pub fn entry(&self, member: usize) -> MeshEntry {
        self.entry_at(member, self.broker.ws_url())
    }

    /// As [`World::entry`], reaching the broker by another address.
    pub fn entry_at(&self, member: usize, url: &str) -> MeshEntry {
        let row = &self.mesh.members[member];
        entry(&self.mesh.mesh_id, &row.member_id, KeyPair::from_hex(&row.secret_key).unwrap(), url)
    }

    pub fn key(&self, member: usize) -> PublicKey {
        self.mesh.members[member].pubkey.parse().unwrap()
    }
}

pub fn entry(mesh: &MeshId, member: &MemberId, keys: KeyPair, url: &str) -> MeshEntry {
    MeshEntry {
        mesh_id: mesh.clone(),
        member_id: member.clone(),
        slug: SLUG.to_owned(),
        name: SLUG.to_owned(),
        keys,
        broker_url: url.to_owned(),
        joined_at: String::new(),
        root_key: None,
        invite_version: None,
        owner_pubkey: None,
        role: None,
    }
}

/// One daemon.
pub struct Node {
    pub meshes: Meshes,
    pub outbox: Outbox,
    pub inbox: Inbox,
    pub events: EventBus,
    pub sessions: Sessions,
    stop: CancellationToken,
    tasks: TaskTracker,
    entry: MeshEntry,
    dir: Arc<TempDir>,
}

impl Node {
    pub async fn start(entry: MeshEntry) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), entry).await
    }

    /// On files that are there, with other ages.
    pub async fn start_in(dir: Arc<TempDir>, entry: MeshEntry) -> Self {
        Self::start_with(dir, entry, AgeSettings::default()).await
    }

    pub async fn start_with(dir: Arc<TempDir>, entry: MeshEntry, max_age: AgeSettings) -> Self {
        Self::start_counting(dir, entry, max_age, STATS_EVERY).await
    }

    /// With another time between two reports of the counters.
    pub async fn start_counting(
        dir: Arc<TempDir>,
        entry: MeshEntry,
        max_age: AgeSettings,
        stats_every: Duration,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let path = |name: &str| dir.path().join(name);
        let now = clock::now();
        let outbox = Outbox::open(&path("outbox.db"), None, now).await.unwrap();
        let events = EventBus::new();
        let digest_after = Duration::from_mins(10);
        let sessions = sessions(dir.path(), &events, &tasks, &stop);
        let inbox_settings = InboxSettings {
            events: events.clone(),
            sessions: sessions.clone(),
            is_searchable: true,
            tasks: tasks.clone(),
            shutdown: stop.clone(),
            digest_after,
            now,
        };
        let inbox = Inbox::open(&path("inbox.db"), None, inbox_settings).await.unwrap();
        let timing = Timing {
            backoff: Backoff::new(vec![Duration::from_millis(80)], Duration::from_millis(20)),
            ..Timing::default()
        };
        let settings = MeshSettings {
            plain: PlainHttp::LoopbackOnly,
            hostname: Some("test-host".to_owned()),
            cwd: "/work".to_owned(),
            standing: Standing::Member,
            host_fingerprint: None,
            legacy: LegacyBrokers::Used,
            features: FeatureTerms::default(),
            dialer: Arc::new(TcpDialer),
            pid: std::process::id(),
            timing: timing.into(),
            max_age,
            stats_every,
        };
        let meshes = Meshes::new(MeshContext {
            outbox: outbox.clone(),
            inbox: inbox.clone(),
            events: events.clone(),
            sessions: sessions.clone(),
            figures: claudemesh_daemon::metrics::Figures::default(),
            identity: Identity::open(dir.path(), HostSources::default(), now),
            settings: Arc::new(settings),
        });
        meshes.apply(vec![entry.clone()]);
        Self { meshes, outbox, inbox, events, sessions, stop, tasks, entry, dir }
    }

    /// Started, connected, and with the roster fetched.
    pub async fn open(entry: MeshEntry) -> Self {
        let node = Self::start(entry).await;
        node.connected().await;
        node
    }

    pub async fn connected(&self) {
        until("the mesh is open and its roster is there", async || {
            let health = self.mesh().health();
            health.status == MeshStatus::Open && health.roster_age.is_some()
        })
        .await;
    }

    pub fn mesh(&self) -> MeshHandle {
        self.meshes.get(SLUG).unwrap()
    }

    pub async fn stop(self) -> Arc<TempDir> {
        self.meshes.shutdown().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.outbox.close().await;
        self.inbox.close().await;
        self.dir
    }

    /// Stopped and started again on the same files.
    pub async fn restart(self) -> Self {
        let entry = self.entry.clone();
        let dir = self.stop().await;
        Self::start_in(dir, entry).await
    }

    pub fn register(
        &self,
        id: &str,
        caps: Option<CapabilitySet>,
        groups: Vec<Group>,
    ) -> Arc<Session> {
        self.register_with(id, caps, groups, clock::now())
    }

    /// A session that was registered then.
    pub fn register_at(&self, id: &str, at: Timestamp) -> Arc<Session> {
        self.register_with(id, None, vec![], at)
    }

    fn register_with(
        &self,
        id: &str,
        caps: Option<CapabilitySet>,
        groups: Vec<Group>,
        at: Timestamp,
    ) -> Arc<Session> {
        let new = NewSession {
            token: SessionToken::from_bytes(&random::bytes()),
            session_id: id.to_owned(),
            mesh: SLUG.to_owned(),
            display_name: id.to_owned(),
            pid: std::process::id(),
            cwd: None,
            role: None,
            groups,
            message_mode: MessageMode::Push,
            caps,
            share_dirs: Vec::new(),
            model: None,
            kind: None,
            ambient: false,
            offer: Offer::Stored,
        };
        let member = self.mesh().member().public;
        let registered = self.sessions.register(new, member, at).unwrap();
        self.mesh().open_session(&registered.session);
        registered.session
    }

    pub async fn session_open(&self, session: &Session) {
        let key = session.key().unwrap();
        until("the session is open", async || {
            self.mesh().session_status(&key) == Some(MeshStatus::Open)
        })
        .await;
    }

    pub fn resolve(&self, text: &str) -> Resolved {
        match self.mesh().resolve(text, None) {
            Resolution::One(resolved) => resolved,
            other => panic!("{text:?} resolves to {other:?}"),
        }
    }

    /// Puts a message into the outbox, as the local API does; answers its id.
    pub async fn send(&self, to: &str, text: &str) -> String {
        self.send_as(to, text, Sender::Member).await
    }

    pub async fn send_as(&self, to: &str, text: &str, sender: Sender) -> String {
        self.send_with(to, text, sender, None).await
    }

    /// A reply to the message with this broker id.
    pub async fn reply(&self, to: &str, text: &str, reply_to_id: &str) -> String {
        self.send_with(to, text, Sender::Member, Some(reply_to_id.to_owned())).await
    }

    async fn send_with(
        &self,
        to: &str,
        text: &str,
        sender: Sender,
        reply_to_id: Option<String>,
    ) -> String {
        let target = self.resolve(to).target;
        self.send_to(to, target, text, sender, reply_to_id).await
    }

    /// A direct message for exactly this key, whatever the roster says.
    pub async fn send_to_key(&self, key: PublicKey, text: &str) -> String {
        self.send_to(&key.to_hex(), TargetSpec::Key(key), text, Sender::Member, None).await
    }

    async fn send_to(
        &self,
        to: &str,
        target: TargetSpec,
        text: &str,
        sender: Sender,
        reply_to_id: Option<String>,
    ) -> String {
        let sealed = self.mesh().seal(&target, text, None, 0, &sender).unwrap();
        let (kind, reference) = match &target {
            TargetSpec::Key(key) => (DestinationKind::Dm, key.to_hex()),
            TargetSpec::Group(name) => (DestinationKind::Topic, name.as_str().to_owned()),
            other => (DestinationKind::Topic, other.to_string()),
        };
        let request = Request {
            destination_kind: kind,
            destination_ref: &reference,
            reply_to_id: reply_to_id.as_deref(),
            priority: Priority::Next,
            meta: None,
            body: text,
        };
        let id = hex::encode(random::bytes::<8>());
        let now = clock::now();
        let row = NewRow {
            client_message_id: id.clone(),
            fingerprint: of_request(&request).unwrap(),
            mesh: SLUG.to_owned(),
            to_raw: to.to_owned(),
            destination_kind: kind,
            target_spec: target.clone(),
            channel: sealed.channel,
            priority: Priority::Next,
            payload: text.as_bytes().to_vec().into(),
            meta: None,
            reply_to_id,
            mentions: Vec::new(),
            body: SealedBody {
                nonce: sealed.nonce,
                ciphertext: sealed.ciphertext,
                body_version: sealed.body_version,
                content_key: sealed.content_key,
                key_epoch: sealed.key_epoch,
                sealed_by: sealed.sealed_by,
            },
            sender_session_pubkey: match sender {
                Sender::Member => None,
                Sender::Session(keys) => Some(keys.public()),
            },
            hops: 0,
            enqueued_at: now,
            expires_at: now.plus(Duration::from_hours(144)),
        };
        self.outbox.accept(row).await.unwrap();
        id
    }

    /// The inbox, oldest first.
    pub async fn received(&self) -> Vec<InboxItem> {
        let filter = InboxFilter { limit: 10_000, ..InboxFilter::default() };
        let mut items = self.inbox.list(&Scope::Everything, &filter).await.unwrap().items;
        items.sort_by(|left, right| left.id.cmp(&right.id));
        items
    }

    /// Waits until the inbox has `count` messages and answers them.
    pub async fn receives(&self, count: usize) -> Vec<InboxItem> {
        until(&format!("{count} messages have come in"), async || {
            self.received().await.len() >= count
        })
        .await;
        let items = self.received().await;
        assert_eq!(
            items.len(),
            count,
            "{:?}",
            items.iter().map(|item| &item.body).collect::<Vec<_>>()
        );
        items
    }

    /// Waits until nothing waits in the outbox.
    pub async fn sent_everything(&self) {
        until("the outbox is empty", async || {
            let counts = self.outbox.counts(SLUG).await.unwrap();
            assert_eq!(counts.dead, 0, "a row died");
            counts.pending + counts.inflight == 0
        })
        .await;
    }

    pub fn subscribe(&self) -> Subscription {
        self.events.subscribe(Filter::everything(), None)
    }
}

fn sessions(
    dir: &Path,
    events: &EventBus,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Sessions {
    let (sessions, _ended) = Sessions::new(SessionsSettings {
        file: dir.join("sessions.json"),
        key_dir: dir.join("sessions"),
        processes: Arc::new(SystemProcesses::new()),
        limits: SessionLimits { max: 16, unverified_ttl: Duration::from_hours(1) },
        tasks: tasks.clone(),
        shutdown: stop.clone(),
        events: events.clone(),
    });
    sessions
}

/// Waits for an event of this kind and answers its data.
pub async fn event(subscription: &mut Subscription, kind: &str) -> Value {
    let found = async {
        loop {
            let text = subscription.next().await;
            if text.lines().any(|line| line == format!("event: {kind}")) {
                let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
                return serde_json::from_str(data).unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {kind} event came"))
}

/// Waits for a condition.
pub async fn until(what: &str, mut is_met: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !is_met().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

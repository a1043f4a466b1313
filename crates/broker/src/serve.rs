//! Start and stop of a broker, in the order of broker spec §6.2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use axum::Router;
use claudemesh_core::clock::Clock;
use claudemesh_crypto::random;
use claudemesh_protocol::id::random_row_id;
use claudemesh_store::{PostgresLocation, SqliteLocation, Store, StoreError, StoreLocation};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::setup::{SetupCode, SetupCodeError};
use crate::accounts::signed::SignedReplay;
use crate::audit::AuditLog;
use crate::clock::SystemClock;
use crate::data_dir::{self, BrokerRecord, DataDirError, DataDirLock};
use crate::delivery::{self, Delivery};
use crate::edge::hook::HookReports;
use crate::edge::limit::EdgeLimits;
use crate::edge::{http, listener};
use crate::live::{self, Live};
use crate::metrics::Metrics;
use crate::ops::state::WriteOrder;
use crate::secrets::{BrokerKeys, SecretFileError, SecretsError};
use crate::settings::{Links, Migrate, Settings, StorageProfile, is_wildcard, loopback_of};
use crate::state::{Broker, Inner, Readiness};
use crate::{audit, edge, jobs};

/// First wait between two attempts to reach the database; doubles.
const STORE_RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait between two attempts.
const STORE_RETRY_MAX: Duration = Duration::from_secs(30);
/// Time after which a server gives up on its database.
const STORE_RETRY_FOR: Duration = Duration::from_mins(5);
/// Connections to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Time for closing sockets and saving what their presences leave behind.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for requests that still run; all of these together stay under the 8 s of the specification.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for connections and tasks to end after that.
const TASKS_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the store's last writes.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a start needs.
pub struct StartOptions {
    /// The effective settings.
    pub settings: Settings,
    /// The clock; tests give their own.
    pub clock: Arc<dyn Clock>,
    /// Largest size of the SQLite file in pages; makes a full disk in tests.
    pub max_database_pages: Option<u32>,
    /// Where clients come from.
    pub listen: Listen,
}

/// Where the clients of a broker come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// The address and port of the settings.
    Settings,
    /// [`RunningBroker::serve_stream`] alone; the address of the settings stands in links and answers.
    Streams,
}

impl StartOptions {
    /// A start with the system clock and no bound on the database.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            clock: Arc::new(SystemClock),
            max_database_pages: None,
            listen: Listen::Settings,
        }
    }
}

/// Why a broker did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory, or another process holds it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database.
    #[error("cannot open the database: {0}")]
    Store(#[source] StoreError),
    /// Migrations are pending and applying them at start is switched off.
    #[error("migrations are pending: {}; hint: claudemesh broker migrate", names.join(", "))]
    MigrationsPending {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// Keys.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A private file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The address.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl StartError {
    /// Exit code of the process (broker spec §6.2).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::DataDir(DataDirError::Locked { .. }) => 75,
            Self::Bind { .. } => 98,
            Self::Secrets(
                SecretsError::File(_) | SecretsError::WrongKey | SecretsError::KeyMissing { .. },
            ) => 78,
            Self::Secrets(SecretsError::Store(_))
            | Self::DataDir(_)
            | Self::Store(_)
            | Self::MigrationsPending { .. }
            | Self::File(_) => 1,
        }
    }
}

impl From<SetupCodeError> for StartError {
    fn from(error: SetupCodeError) -> Self {
        match error {
            SetupCodeError::Store(error) => Self::Store(error),
            SetupCodeError::File(error) => Self::File(error),
        }
    }
}

/// A broker that serves. Dropping it stops nothing; call [`RunningBroker::shutdown`] or [`RunningBroker::abort`].
#[must_use = "a broker that nobody stops runs on"]
pub struct RunningBroker {
    broker: Broker,
    router: Router,
    lock: Option<DataDirLock>,
}

/// Starts a broker. When this returns, it is ready.
///
/// # Errors
/// [`StartError`], each with its exit code.
pub async fn start(options: StartOptions) -> Result<RunningBroker, StartError> {
    let StartOptions { settings, clock, max_database_pages, listen } = options;
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(data_dir::NOT_OWNER_BITS));
    data_dir::prepare(&settings.data_dir)?;
    let lock = match settings.profile {
        StorageProfile::Embedded => Some(DataDirLock::take(&settings.data_dir)?),
        StorageProfile::Server => None,
    };
    let store = open_store(&settings, max_database_pages).await?;
    migrate(&settings, &store).await?;
    if lock.is_some() {
        // Nobody else writes this file, so that pushes may overtake their commits.
        store.number_rows().await.map_err(StartError::Store)?;
    }
    let started_at = clock.now();
    let keys = BrokerKeys::establish(&settings, &store, started_at).await?;
    let listeners = match listen {
        Listen::Settings => bind(&settings).await?,
        Listen::Streams => Listeners {
            public_address: SocketAddr::new(settings.bind, settings.port),
            sockets: Vec::new(),
        },
    };
    let links = Links::new(&settings, listeners.public_address);
    let setup_code = SetupCode::prepare(&store, &settings.setup_code_path()).await?;
    let broker = Broker::new(Inner {
        live: Live::new(&settings.limits),
        delivery: Delivery::new(&settings),
        audit: AuditLog::default(),
        state_order: WriteOrder::default(),
        edge_limits: EdgeLimits::new(&settings.limits),
        hook_reports: HookReports::default(),
        metrics: Metrics::new(edge::health::VERSION, &settings.git_sha, jobs::NAMES),
        signing_key: keys.signing,
        at_rest_key: keys.at_rest,
        node_id: settings.node_id.clone().unwrap_or_else(|| random_row_id(random::fill)),
        signed_replay: SignedReplay::default(),
        readiness: AtomicU8::new(Readiness::Starting as u8),
        tasks: TaskTracker::new(),
        requests: TaskTracker::new(),
        stopping: CancellationToken::new(),
        closing: CancellationToken::new(),
        killed: CancellationToken::new(),
        settings,
        links,
        store,
        setup_code,
        clock,
        started_at,
    });
    live::recover(&broker).await.map_err(StartError::Store)?;
    delivery::start(&broker);
    audit::start(&broker);
    broker.set_readiness(Readiness::Ready);
    let router = http::router(broker.clone());
    for socket in listeners.sockets {
        broker.spawn(listener::accept(broker.clone(), socket, router.clone()));
    }
    jobs::start(&broker);
    let running = RunningBroker { broker, router, lock };
    if let Err(error) = write_record(&running.broker) {
        running.abort().await;
        return Err(error);
    }
    let (listen, engine) = (running.address(), running.broker.store().engine_name());
    tracing::info!(%listen, engine, "broker ready");
    Ok(running)
}

/// Where the state of these settings lives.
pub(crate) fn store_location(settings: &Settings, max_pages: Option<u32>) -> StoreLocation {
    if let Some(url) = &settings.database_url {
        return StoreLocation::Postgres(PostgresLocation {
            url: url.expose().to_owned(),
            max_connections: POSTGRES_CONNECTIONS,
        });
    }
    let location = SqliteLocation::new(settings.database_path());
    StoreLocation::Sqlite(SqliteLocation { max_pages, ..location })
}

async fn open_store(settings: &Settings, max_pages: Option<u32>) -> Result<Store, StartError> {
    let location = store_location(settings, max_pages);
    let attempts = async {
        let mut wait = STORE_RETRY_FIRST;
        loop {
            match Store::open(&location).await {
                Ok(store) => return Ok(store),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the database cannot be reached yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(STORE_RETRY_MAX);
                }
            }
        }
    };
    match tokio::time::timeout(STORE_RETRY_FOR, attempts).await {
        Ok(opened) => opened.map_err(StartError::Store),
        Err(_elapsed) => Err(StartError::Store(StoreError::Unavailable(
            "it did not answer for five minutes".into(),
        ))),
    }
}

async fn migrate(settings: &Settings, store: &Store) -> Result<(), StartError> {
    match settings.migrate {
        Migrate::AtStart => store.migrate().await.map_err(StartError::Store),
        Migrate::ByHand => {
            let names = store.pending_migrations().await.map_err(StartError::Store)?;
            if names.is_empty() { Ok(()) } else { Err(StartError::MigrationsPending { names }) }
        }
    }
}

struct Listeners {
    /// Where others reach the broker.
    public_address: SocketAddr,
    sockets: Vec<TcpListener>,
}

/// Binds the address, and loopback beside it when the address is neither loopback nor the wildcard: programs of this
/// machine always come by loopback.
async fn bind(settings: &Settings) -> Result<Listeners, StartError> {
    let public = bind_one(SocketAddr::new(settings.bind, settings.port)).await?;
    let public_address = public.local_addr().map_err(|source| StartError::Bind {
        address: SocketAddr::new(settings.bind, settings.port),
        source,
    })?;
    let mut sockets = vec![public];
    let ip = public_address.ip();
    if !ip.is_loopback() && !is_wildcard(ip) {
        sockets.push(bind_one(SocketAddr::new(loopback_of(ip), public_address.port())).await?);
    }
    Ok(Listeners { public_address, sockets })
}

async fn bind_one(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })
}

fn write_record(broker: &Broker) -> Result<(), StartError> {
    let key = broker.signing_key().public().to_hex();
    let record = BrokerRecord::new(broker.links(), broker.started_at(), key);
    Ok(record.write(&broker.settings().record_path())?)
}

impl RunningBroker {
    /// The handle that requests work with.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Serves one byte stream as if it had been accepted from `peer`: for whoever holds the broker in its own process.
    pub fn serve_stream(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
    ) {
        let ends = http::Connection { peer, local: None };
        self.broker.spawn(listener::serve(self.broker.clone(), stream, ends, self.router.clone()));
    }

    /// Where the listener stands.
    pub fn address(&self) -> SocketAddr {
        self.broker.links().listen
    }

    /// `http://…` for this machine, without a trailing slash.
    pub fn http_url(&self) -> &str {
        &self.broker.links().local_url
    }

    /// `ws://…/ws` for this machine.
    #[expect(clippy::misnamed_getters, reason = "who holds the broker itself is on its machine")]
    pub fn ws_url(&self) -> &str {
        &self.broker.links().local_ws_url
    }

    /// Stops politely within 8 s: no new work, requests finished, sockets closed with 1001, presences leased, the store
    /// closed, `broker.json` removed.
    pub async fn shutdown(self) {
        let Self { broker, lock, .. } = self;
        broker.set_readiness(Readiness::Draining);
        tracing::info!("draining");
        broker.stopping().cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, live::drain(&broker)).await.is_err() {
            tracing::warn!("not every socket closed in time");
        }
        broker.requests().close();
        if tokio::time::timeout(REQUESTS_TIMEOUT, broker.requests().wait()).await.is_err() {
            tracing::warn!(left = broker.requests().len(), "not every request ended in time");
        }
        broker.closing().cancel();
        broker.tasks().close();
        if tokio::time::timeout(TASKS_TIMEOUT, broker.tasks().wait()).await.is_err() {
            tracing::warn!(left = broker.tasks().len(), "not every task ended in time");
            broker.kill();
        }
        audit::flush(&broker).await;
        if tokio::time::timeout(STORE_CLOSE_TIMEOUT, broker.store().close()).await.is_err() {
            tracing::warn!("the store did not close in time");
        }
        if let Err(error) = std::fs::remove_file(broker.settings().record_path()) {
            tracing::warn!(%error, "broker.json could not be removed");
        }
        drop(lock);
        tracing::info!("stopped");
    }

    /// Ends everything where it stands, as a kill would: no drain, no last writes, `broker.json` stays. For tests of
    /// what survives.
    pub async fn abort(self) {
        let Self { broker, lock, .. } = self;
        broker.kill();
        broker.tasks().close();
        broker.tasks().wait().await;
        drop(broker);
        drop(lock);
    }
}

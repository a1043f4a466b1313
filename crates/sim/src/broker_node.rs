//! The broker of a run: the shipping one, in this process, on the simulated network and disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use claudemesh_broker::provision::{self, Provisioned};
use claudemesh_broker::{Listen, RunningBroker, Settings, StartOptions};
use claudemesh_core::clock::Clock;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_protocol::{Slug, Timestamp};
use claudemesh_store::{MeshSettings, SqliteLocation, Store, StoreLocation};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::disk::{Death, SimDisk};
use crate::network::{Cut, Network, SimStream};
use crate::trace::Trace;

/// The slug of the one mesh of a run.
pub(crate) const MESH: &str = "sim";
/// The address that stands in the daemons' configuration; nobody listens there.
pub(crate) const BROKER_URL: &str = "ws://127.0.0.1:7900/ws";
/// The first moment of every run: 2026-01-01T00:00:00Z, Unix milliseconds.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// A wall clock that follows virtual time and can be set wrong.
pub(crate) struct SimClock {
    started: Instant,
    offset_ms: AtomicI64,
    /// The latest time it ever showed.
    latest_ms: AtomicI64,
}

impl SimClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            offset_ms: AtomicI64::new(0),
            latest_ms: AtomicI64::new(0),
        })
    }

    /// Sets it wrong by so much more.
    pub(crate) fn jump(&self, millis: i64) {
        self.latest_ms();
        self.offset_ms.fetch_add(millis, Ordering::Relaxed);
    }

    /// How wrong it is.
    pub(crate) fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }

    /// The latest time it has shown so far, Unix milliseconds: it may show an earlier one now.
    pub(crate) fn latest_ms(&self) -> i64 {
        let now = self.now_ms();
        self.latest_ms.fetch_max(now, Ordering::Relaxed).max(now)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        EPOCH_MS.saturating_add(elapsed).saturating_add(self.offset_ms())
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms())
    }
}

/// The broker, up or down.
pub(crate) struct BrokerNode {
    root: PathBuf,
    network: Arc<Network>,
    disk: Arc<SimDisk>,
    trace: Arc<Trace>,
    pub(crate) clock: Arc<SimClock>,
    at_rest_key: Arc<AtRestKey>,
    signing_key: Arc<KeyPair>,
    state: Mutex<State>,
    running: Arc<Mutex<Option<RunningBroker>>>,
    /// Held while it starts or stops.
    changing: tokio::sync::Mutex<()>,
}

struct State {
    incarnation: u32,
    dir: PathBuf,
    power_failures: u32,
}

impl BrokerNode {
    pub(crate) fn new(
        root: &Path,
        network: &Arc<Network>,
        disk: &Arc<SimDisk>,
        trace: &Arc<Trace>,
    ) -> Self {
        let dir = root.join("broker-0");
        Self {
            root: root.to_owned(),
            network: Arc::clone(network),
            disk: Arc::clone(disk),
            trace: Arc::clone(trace),
            clock: SimClock::new(),
            at_rest_key: Arc::new(AtRestKey::generate()),
            signing_key: Arc::new(KeyPair::generate()),
            state: Mutex::new(State { incarnation: 0, dir, power_failures: 0 }),
            running: Arc::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Makes the mesh and its members, before the first start.
    pub(crate) async fn provision(&self, members: usize) -> anyhow::Result<Provisioned> {
        let dir = self.dir();
        std::fs::create_dir_all(&dir)?;
        self.disk.add_machine(&dir);
        let path = self.settings(&dir).database_path();
        let store = Store::open_migrated(&StoreLocation::Sqlite(SqliteLocation::new(path))).await?;
        let request = provision::Request {
            slug: MESH.parse::<Slug>()?,
            members,
            url: BROKER_URL.to_owned(),
            settings: MeshSettings::default(),
        };
        let made =
            provision::members(&store, &self.at_rest_key, &request, self.clock.now()).await?;
        store.close().await;
        Ok(made)
    }

    /// Starts on what the disk holds, unless it runs.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        if self.is_up() {
            return Ok(());
        }
        let dir = self.dir();
        self.disk.add_machine(&dir);
        let options = StartOptions {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            listen: Listen::Streams,
            ..StartOptions::new(self.settings(&dir))
        };
        let running = Box::pin(claudemesh_broker::start(options))
            .await
            .context("the broker did not start")?;
        *self.running.lock() = Some(running);
        let running = Arc::clone(&self.running);
        self.network.listen(Some(Arc::new(move |stream: SimStream, peer: SocketAddr| {
            if let Some(broker) = running.lock().as_ref() {
                broker.serve_stream(stream, peer);
            }
        })));
        self.trace.note("broker started");
        Ok(())
    }

    /// Dies where it stands.
    pub(crate) async fn die(&self, death: Death) -> anyhow::Result<()> {
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        self.trace.note(&format!("broker dies: {death:?}"));
        self.network.listen(None);
        self.network.cut_all(match death {
            Death::Kill => Cut::Reset,
            Death::PowerFailure => Cut::Silence,
        });
        let (old, new) = {
            let mut state = self.state.lock();
            state.incarnation += 1;
            state.power_failures += u32::from(death == Death::PowerFailure);
            let new = self.root.join(format!("broker-{}", state.incarnation));
            (std::mem::replace(&mut state.dir, new.clone()), new)
        };
        self.disk.kill_machine(&old, death, &new)?;
        running.abort().await;
        Ok(())
    }

    /// Stops politely.
    pub(crate) async fn stop(&self) {
        let _alone = self.changing.lock().await;
        let running = self.running.lock().take();
        self.network.listen(None);
        if let Some(running) = running {
            self.trace.note("broker stops");
            running.shutdown().await;
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.lock().is_some()
    }

    /// How often its machine lost what was not synced.
    pub(crate) fn power_failures(&self) -> u32 {
        self.state.lock().power_failures
    }

    /// Where its files lie now.
    pub(crate) fn dir(&self) -> PathBuf {
        self.state.lock().dir.clone()
    }

    /// Its database.
    pub(crate) fn database(&self) -> PathBuf {
        self.settings(&self.dir()).database_path()
    }

    fn settings(&self, dir: &Path) -> Settings {
        Settings {
            encryption_key: Some(Arc::clone(&self.at_rest_key)),
            signing_key: Some(Arc::clone(&self.signing_key)),
            port: 7900,
            ..Settings::embedded(dir)
        }
    }
}

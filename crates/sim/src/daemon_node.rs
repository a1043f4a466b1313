//! A daemon of a run: the shipping one, started as `boot` starts it, on the simulated network and disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use claudemesh_crypto::KeyPair;
use claudemesh_daemon::home::config::{Config, MeshEntry};
use claudemesh_daemon::{Options, Running};
use claudemesh_ipc::{Client, Paths};
use claudemesh_protocol::{MemberId, MeshId, PublicKey};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker_node::{BROKER_URL, MESH};
use crate::disk::{Death, SimDisk};
use crate::network::{Cut, Network, SimDialer};
use crate::trace::Trace;

/// How long a call of the local API may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Processes of agents, as all daemons see them.
#[derive(Default)]
pub(crate) struct AgentProcesses(Mutex<std::collections::BTreeMap<u32, CancellationToken>>);

impl AgentProcesses {
    /// A process begins; the token is cancelled at its end.
    pub(crate) fn begin(&self, pid: u32) {
        self.0.lock().insert(pid, CancellationToken::new());
    }

    /// A process ends.
    pub(crate) fn end(&self, pid: u32) {
        if let Some(process) = self.0.lock().remove(&pid) {
            process.cancel();
        }
    }
}

impl claudemesh_daemon::sessions::Processes for AgentProcesses {
    fn is_alive(&self, pid: u32) -> bool {
        self.0.lock().contains_key(&pid)
    }

    fn is_ours(&self, pid: u32) -> bool {
        self.is_alive(pid)
    }

    fn start_time(&self, pid: u32) -> Option<String> {
        self.is_alive(pid).then(|| format!("sim:{pid}"))
    }

    fn watch(&self, pid: u32) -> Option<BoxFuture<'static, ()>> {
        let process = self.0.lock().get(&pid)?.clone();
        Some(Box::pin(process.cancelled_owned()))
    }
}

/// A daemon, up or down, and the member it belongs to.
pub(crate) struct DaemonNode {
    pub(crate) index: usize,
    pub(crate) member: PublicKey,
    root: PathBuf,
    network: Arc<Network>,
    disk: Arc<SimDisk>,
    trace: Arc<Trace>,
    processes: Arc<AgentProcesses>,
    state: Mutex<State>,
    running: Arc<Mutex<Option<Running>>>,
    /// Held while it starts or stops: two programs on one disk are no fault of this simulation.
    changing: tokio::sync::Mutex<()>,
    zombies: TaskTracker,
}

struct State {
    incarnation: u32,
    dir: PathBuf,
    /// Cancelled when this incarnation dies.
    life: CancellationToken,
    is_alive: Arc<AtomicBool>,
}

/// What all daemons of a run share.
pub(crate) struct Surroundings {
    pub(crate) root: PathBuf,
    pub(crate) network: Arc<Network>,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) processes: Arc<AgentProcesses>,
}

impl DaemonNode {
    /// A machine with the configuration of a joined member on its disk; not started.
    pub(crate) fn install(
        index: usize,
        surroundings: &Surroundings,
        mesh_id: &MeshId,
        member_id: &MemberId,
        keys: KeyPair,
    ) -> anyhow::Result<Self> {
        let dir = surroundings.root.join(format!("d{index}-0"));
        let member = keys.public();
        let paths = Paths::for_home(&dir);
        let entry = MeshEntry {
            mesh_id: mesh_id.clone(),
            member_id: member_id.clone(),
            slug: MESH.to_owned(),
            name: MESH.to_owned(),
            keys,
            broker_url: BROKER_URL.to_owned(),
            joined_at: String::new(),
            root_key: None,
            invite_version: None,
            owner_pubkey: None,
            role: None,
        };
        create_private_dir(&dir)?;
        Config::update(&paths.membership_file(), |config| config.add_mesh(entry))
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        create_private_dir(paths.daemon_dir())?;
        // A real limiter counts real seconds.
        std::fs::write(
            paths.settings_file(),
            "[ipc]\nrate_per_sec = 1000000\nrate_burst = 1000000\n",
        )?;
        Ok(Self {
            index,
            member,
            root: surroundings.root.clone(),
            network: Arc::clone(&surroundings.network),
            disk: Arc::clone(&surroundings.disk),
            trace: Arc::clone(&surroundings.trace),
            processes: Arc::clone(&surroundings.processes),
            state: Mutex::new(State {
                incarnation: 0,
                dir,
                life: CancellationToken::new(),
                is_alive: Arc::new(AtomicBool::new(true)),
            }),
            running: Arc::default(),
            changing: tokio::sync::Mutex::default(),
            zombies: TaskTracker::new(),
        })
    }

    /// Starts on what the disk holds, unless it runs.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        let _alone = self.changing.lock().await;
        if self.is_up() {
            return Ok(());
        }
        let (dir, is_alive) = {
            let state = self.state.lock();
            (state.dir.clone(), Arc::clone(&state.is_alive))
        };
        self.trace.note(&format!("daemon {} starts", self.index));
        self.disk.add_machine(&dir);
        let mut options = Options::from_env(Paths::for_home(&dir));
        options.processes = Arc::clone(&self.processes) as _;
        options.pid = 500 + u32::try_from(self.index).unwrap_or_default();
        options.dialer =
            Arc::new(SimDialer { network: Arc::clone(&self.network), link: self.index, is_alive });
        let running = Box::pin(claudemesh_daemon::start(options))
            .await
            .with_context(|| format!("daemon {} did not start", self.index))?;
        *self.running.lock() = Some(running);
        self.trace.note(&format!("daemon {} started", self.index));
        Ok(())
    }

    /// Dies where it stands.
    pub(crate) fn die(&self, death: Death) -> anyhow::Result<()> {
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        self.trace.note(&format!("daemon {} dies: {death:?}", self.index));
        let (old, new) = {
            let mut state = self.state.lock();
            state.is_alive.store(false, Ordering::Relaxed);
            state.is_alive = Arc::new(AtomicBool::new(true));
            state.incarnation += 1;
            let new = self.root.join(format!("d{}-{}", self.index, state.incarnation));
            (std::mem::replace(&mut state.dir, new.clone()), new)
        };
        self.network.cut_link(
            self.index,
            match death {
                Death::Kill => Cut::Reset,
                Death::PowerFailure => Cut::Silence,
            },
        );
        self.disk.kill_machine(&old, death, &new)?;
        let life = std::mem::replace(&mut self.state.lock().life, CancellationToken::new());
        life.cancel();
        // Nothing of it reaches network or disk any more; this only ends its tasks.
        self.zombies.spawn(running.shutdown());
        Ok(())
    }

    /// Stops politely.
    pub(crate) async fn stop(&self) {
        let _alone = self.changing.lock().await;
        let running = self.running.lock().take();
        if let Some(running) = running {
            self.trace.note(&format!("daemon {} stops", self.index));
            let life = std::mem::replace(&mut self.state.lock().life, CancellationToken::new());
            life.cancel();
            running.shutdown().await;
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.lock().is_some()
    }

    /// Where its files lie now.
    pub(crate) fn paths(&self) -> Paths {
        Paths::for_home(&self.dir())
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.state.lock().dir.clone()
    }

    /// A client of the local API of whichever incarnation runs at the time of a call.
    pub(crate) fn client(&self) -> Client {
        let running = Arc::clone(&self.running);
        let open = move || match running.lock().as_ref() {
            Some(running) => Ok(running.local_stream()),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        Client::over(Arc::new(open)).with_timeout(CALL_TIMEOUT)
    }

    /// Waits for `call`, unless this incarnation dies before: then nobody knows what became of it.
    pub(crate) async fn while_alive<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let life = self.state.lock().life.clone();
        life.run_until_cancelled(call).await
    }
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

//! The daemon's local API: requests while a hundred streams listen, sends as fast as they are taken, and what the daemon
//! costs when nothing happens.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use claudemesh_ipc::api::{EventsQuery, InboxQuery, MeshStatus, SendRequest};
use claudemesh_ipc::client::PeerFilter;
use claudemesh_ipc::{Client, Paths};
use futures_util::future::{join_all, try_join_all};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::broker_process::{BrokerProcess, Member};
use crate::figure::{Figure, latency, per_second};
use crate::process;

/// Listening streams.
const LISTENERS: usize = 100;
/// Requests a second.
const RATE: u32 = 500;
/// Requests measured.
const REQUESTS: usize = 5_000;
/// Every so many requests a message is sent, which each listener hears of.
const SEND_EVERY: usize = 10;
/// Messages sent as fast as they are taken, and how many at a time.
const FLOOD: usize = 15_000;
const AT_ONCE: usize = 64;
/// How long the idle daemon is watched, after it had time to come to rest.
const REST: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_mins(1);
/// How often is looked whether it was awake: what happens within one look is one moment.
const LOOK: Duration = Duration::from_millis(50);
/// Time for the daemon to start and to connect.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Requests at a steady rate beside listening streams, each kind apart.
pub(super) async fn requests(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, 2).await?;
    let daemon = Daemon::start(options, &broker).await?;
    let listeners = Listeners::open(&daemon.client).await?;
    let figures = steady(&daemon).await;
    listeners.close().await?;
    figures
}

/// Streams that are read on a thread of their own, as programs beside the one that asks would read them: what an answer
/// takes is the daemon's affair, and not how many streams this process has to read first.
struct Listeners {
    over: CancellationToken,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Listeners {
    /// All of them are open when this returns.
    async fn open(client: &Client) -> anyhow::Result<Self> {
        let (client, over) = (client.clone(), CancellationToken::new());
        let (open_tx, open_rx) = oneshot::channel();
        let until = over.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let query = EventsQuery::default();
                let streams = (0..LISTENERS).map(|_| client.events(&query, None));
                let streams = try_join_all(streams).await.context("opening the streams")?;
                let _ = open_tx.send(());
                let listening = join_all(streams.into_iter().map(|mut stream| async move {
                    while let Ok(Some(_)) = stream.next().await {}
                }));
                tokio::select! {
                    () = until.cancelled() => Ok(()),
                    _ = listening => bail!("the streams ended"),
                }
            })
        });
        let listeners = Self { over, thread };
        if open_rx.await.is_err() {
            listeners.close().await?;
            bail!("the streams ended");
        }
        Ok(listeners)
    }

    async fn close(self) -> anyhow::Result<()> {
        self.over.cancel();
        self.thread.await?
    }
}

async fn steady(daemon: &Daemon) -> anyhow::Result<Vec<Figure>> {
    let began = Instant::now();
    let asked = (0..REQUESTS).map(|number| async move {
        let at = Duration::from_secs(1) / RATE * u32::try_from(number).unwrap_or(u32::MAX);
        tokio::time::sleep_until((began + at).into()).await;
        let start = Instant::now();
        let what = if number % SEND_EVERY == 0 {
            daemon.send(number).await?;
            "send"
        } else {
            daemon.read(number).await?
        };
        anyhow::Ok((what, start.elapsed()))
    });
    let times = try_join_all(asked).await?;
    let of = |wanted: &str| {
        times.iter().filter(|(what, _)| *what == wanted).map(|(_, took)| *took).collect()
    };
    Ok(["health", "inbox", "peers", "send"]
        .into_iter()
        .flat_map(|what| latency(what, of(what)))
        .collect())
}

/// Sends as fast as the daemon takes them; each is on disk when it is answered.
pub(super) async fn sends(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, 2).await?;
    let daemon = Daemon::start(options, &broker).await?;
    let start = Instant::now();
    let lanes = (0..AT_ONCE).map(|lane| {
        let daemon = &daemon;
        async move {
            for number in (lane..FLOOD).step_by(AT_ONCE) {
                daemon.send(number).await?;
            }
            anyhow::Ok(())
        }
    });
    try_join_all(lanes).await?;
    let elapsed = start.elapsed();
    Ok(vec![Figure::new("accepted /s", per_second(FLOOD, elapsed))])
}

/// A connected daemon to which nothing happens.
pub(super) async fn idle(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, 2).await?;
    let daemon = Daemon::start(options, &broker).await?;
    tokio::time::sleep(REST).await;
    let pid = daemon.pid()?;
    let (cpu, mut switches) = (process::cpu(pid)?, process::switches(pid)?);
    let mut awake = 0_u32;
    let start = Instant::now();
    while start.elapsed() < IDLE {
        tokio::time::sleep(LOOK).await;
        let now = process::switches(pid)?;
        awake += u32::from(now != switches);
        switches = now;
    }
    let busy = process::cpu(pid)?.saturating_sub(cpu);
    let seconds = start.elapsed().as_secs_f64();
    Ok(vec![
        Figure::new("daemon RSS MiB", process::rss_mib(pid)?),
        Figure::new("% of a core", busy.as_secs_f64() / seconds * 100.0),
        Figure::new("moments awake /min", f64::from(awake) / seconds * 60.0),
    ])
}

/// A daemon in a HOME of its own, a member of the broker's mesh.
pub(super) struct Daemon {
    child: Child,
    /// Its local API.
    pub(super) client: Client,
    /// Key of the other member.
    other: String,
    home: TempDir,
}

impl Daemon {
    async fn start(options: &Options, broker: &BrokerProcess) -> anyhow::Result<Self> {
        Self::start_as(options, broker, 0).await
    }

    /// The daemon of the first or the second of two members.
    pub(super) async fn start_as(
        options: &Options,
        broker: &BrokerProcess,
        number: usize,
    ) -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        let [first, second] = broker.members.as_slice() else { bail!("two members are needed") };
        let (own, other) = if number == 0 { (first, second) } else { (second, first) };
        let paths = Paths::for_home(home.path());
        write_private(&paths.membership_file(), &membership(broker, own))?;
        // More streams and rows than anybody needs.
        let settings = "[ipc]\nmax_sse = 200\n[outbox]\nmax_queue_rows = 1000000\n";
        write_private(&paths.settings_file(), settings)?;
        let child = Command::new(&options.binary)
            .args(["daemon", "up", "--foreground"])
            .env_clear()
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let client = Client::new(paths.default_socket());
        let daemon = Self { child, client, other: other.keys.public().to_hex(), home };
        daemon.wait_until_open().await?;
        Ok(daemon)
    }

    async fn wait_until_open(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_DEADLINE {
            if let Ok(health) = self.client.health().await
                && health.brokers.values().any(|status| *status == MeshStatus::Open)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the daemon has no connection after {START_DEADLINE:?}")
    }

    /// Its HOME.
    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the daemon has ended")
    }

    /// Sends a message to the other member.
    pub(super) async fn send(&self, number: usize) -> anyhow::Result<()> {
        let message = format!("message {number} of a measurement, about as long as people write");
        let request = SendRequest { to: self.other.clone(), message, ..SendRequest::default() };
        self.client.send(&request).await?;
        Ok(())
    }

    /// One of three in turn; which. What the peers are is asked of the broker.
    async fn read(&self, number: usize) -> anyhow::Result<&'static str> {
        match number % 3 {
            0 => {
                self.client.health().await?;
                Ok("health")
            }
            1 => {
                self.client.peers(None, PeerFilter::Reachable).await?;
                Ok("peers")
            }
            _ => {
                let query = InboxQuery { mark_seen: Some(false), ..InboxQuery::default() };
                self.client.inbox(&query).await?;
                Ok("inbox")
            }
        }
    }
}

fn membership(broker: &BrokerProcess, member: &Member) -> String {
    let mesh = json!({
        "meshId": member.mesh,
        "memberId": member.id,
        "slug": "bench",
        "name": "bench",
        "pubkey": member.keys.public(),
        "secretKey": member.keys.to_hex().as_str(),
        "brokerUrl": broker.ws_url,
        "joinedAt": "2026-01-01T00:00:00.000Z",
    });
    json!({ "version": 1, "meshes": [mesh] }).to_string()
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let dir = path.parent().context("a directory")?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

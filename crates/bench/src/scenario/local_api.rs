//! The daemon's local API: requests while a hundred streams listen, sends as fast as they are taken, and what the daemon
//! costs when nothing happens.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use claudemesh_ipc::api::InboxQuery;
use claudemesh_ipc::client::PeerFilter;
use futures_util::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::daemon_process::Daemon;
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

/// Requests at a steady rate beside listening streams, each kind apart.
pub(super) async fn requests(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, 2).await?;
    let daemon = Daemon::start(options, &broker).await?;
    let listeners = Listeners::open(daemon.socket.clone()).await?;
    let figures = steady(&daemon).await;
    listeners.close().await?;
    figures
}

/// Streams that are read on a thread of their own and thrown away: what an answer takes is the daemon's affair, and not
/// how many streams this process has to make sense of first.
struct Listeners {
    over: CancellationToken,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Listeners {
    /// All of them are open when this returns.
    async fn open(socket: PathBuf) -> anyhow::Result<Self> {
        let over = CancellationToken::new();
        let (open_tx, open_rx) = oneshot::channel();
        let until = over.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let streams = try_join_all((0..LISTENERS).map(|_| listen(&socket)));
                let streams = streams.await.context("opening the streams")?;
                let _ = open_tx.send(());
                let listening = join_all(streams.into_iter().map(|mut stream| async move {
                    let mut bytes = vec![0; 16 * 1024];
                    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
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

/// A stream whose head has come.
async fn listen(socket: &Path) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut head = [0; 1024];
    let count = stream.read(&mut head).await?;
    let is_open = head.get(..count).is_some_and(|head| head.starts_with(b"HTTP/1.1 200 "));
    if is_open { Ok(stream) } else { bail!("the daemon opens no stream") }
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
            read(daemon, number).await?
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

/// One of three in turn; which. What the peers are is asked of the broker.
async fn read(daemon: &Daemon, number: usize) -> anyhow::Result<&'static str> {
    match number % 3 {
        0 => {
            daemon.client.health().await?;
            Ok("health")
        }
        1 => {
            daemon.client.peers(None, PeerFilter::Reachable).await?;
            Ok("peers")
        }
        _ => {
            let query = InboxQuery { mark_seen: Some(false), ..InboxQuery::default() };
            daemon.client.inbox(&query).await?;
            Ok("inbox")
        }
    }
}

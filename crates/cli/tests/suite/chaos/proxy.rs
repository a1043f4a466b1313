//! The network between one daemon and the broker: a TCP proxy in this process that delays, throttles, stalls, swallows,
//! refuses, cuts, and breaks off in the middle of a frame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes moved at once; small, so that a frame takes several moves.
const CHUNK_BYTES: usize = 2048;

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the network is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Every chunk waits this long.
    Delay(Duration),
    /// So many bytes in a second, each way.
    Throttle(u32),
    /// Nothing moves until it clears up; then everything arrives.
    Stall,
    /// Everything is swallowed. Connections that lived through it never speak again: only a watchdog finds out.
    BlackHole,
    /// New connections are closed at once; old ones go on.
    Refuse,
}

/// One proxy; ends with the value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    upstream: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Cancelled to cut every connection; replaced by a fresh one.
    lifeline: Mutex<CancellationToken>,
    /// Bytes that may still pass before everything breaks off.
    allowance: Mutex<Option<usize>>,
    connections: AtomicU64,
}

impl Proxy {
    /// A proxy on a port of its own, in front of `upstream`.
    pub async fn start(upstream: SocketAddr, tracker: &TaskTracker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            weather: watch::Sender::new(Weather::Clear),
            lifeline: Mutex::new(CancellationToken::new()),
            allowance: Mutex::new(None),
            connections: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        tracker.spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            Arc::clone(&shared),
            tracker.clone(),
        )));
        Self { address, shared, stop }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Ends every connection now.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Ends every connection after `bytes` more have passed in either direction.
    pub fn cut_after(&self, bytes: usize) {
        *self.shared.allowance.lock() = Some(bytes);
    }

    /// Connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.shared.cut();
    }
}

impl Shared {
    fn cut(&self) {
        let mut lifeline = self.lifeline.lock();
        lifeline.cancel();
        *lifeline = CancellationToken::new();
    }

    /// How many of `wanted` bytes may pass.
    fn pass(&self, wanted: usize) -> usize {
        let mut allowance = self.allowance.lock();
        match allowance.as_mut() {
            None => wanted,
            Some(left) if *left > wanted => {
                *left -= wanted;
                wanted
            }
            Some(left) => {
                let last = *left;
                *allowance = None;
                last
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tracker: TaskTracker) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors: others must get a chance to give some back.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if *shared.weather.borrow() == Weather::Refuse {
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let lifeline = shared.lifeline.lock().clone();
        tracker.spawn(carry(client, Arc::clone(&shared), lifeline));
    }
}

/// One connection, until a side ends it or it is cut.
async fn carry(mut client: TcpStream, shared: Arc<Shared>, lifeline: CancellationToken) {
    let Some(Ok(mut broker)) =
        lifeline.run_until_cancelled(TcpStream::connect(shared.upstream)).await
    else {
        return;
    };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_broker, to_broker) = broker.split();
    tokio::select! {
        biased;
        () = lifeline.cancelled() => {}
        () = pump(from_client, to_broker, &shared) => {}
        () = pump(from_broker, to_client, &shared) => {}
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) {
    let mut weather = shared.weather.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        loop {
            let now = *weather.borrow_and_update();
            match now {
                Weather::Clear | Weather::Refuse => break,
                Weather::Delay(pause) => {
                    tokio::time::sleep(pause).await;
                    break;
                }
                Weather::Throttle(per_second) => {
                    let share = f64::from(u32::try_from(read).unwrap()) / f64::from(per_second);
                    tokio::time::sleep(Duration::from_secs_f64(share)).await;
                    break;
                }
                Weather::Stall => {
                    let _ = weather.changed().await;
                }
                Weather::BlackHole => {
                    while let Ok(1..) = from.read(&mut buffer).await {}
                    return;
                }
            }
        }
        let passing = shared.pass(read);
        if to.write_all(&buffer[..passing]).await.is_err() {
            return;
        }
        if passing < read {
            let _ = to.flush().await;
            shared.cut();
            return;
        }
    }
}

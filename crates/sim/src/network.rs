//! The simulated network between daemons and their broker. Inside a connection bytes keep their order, as TCP has it;
//! connections are slow, stand still, are cut with what is under way, or go silent for ever.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use claudemesh_client::dial::{ByteStream, DialError, Dialer, Endpoint};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::dice::Dice;
use crate::overheard::{Direction, Ear, Overheard};
use crate::tap::Tap;
use crate::trace::Trace;

/// Bytes under way in one direction before the writer has to wait.
const WINDOW_BYTES: usize = 64 * 1024;

/// Takes the broker's end of a new connection; `None` while the broker is down.
pub(crate) type Listener = Arc<dyn Fn(SimStream, SocketAddr) + Send + Sync>;

/// How a link treats what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Bytes arrive after the latency.
    Open,
    /// Nothing arrives until it opens again; then everything does.
    Stalled,
}

/// What happens to the connections of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both ends see a reset; what was under way is lost.
    Reset,
    /// Neither end sees anything any more.
    Silence,
}

/// The network of one run.
pub(crate) struct Network {
    inner: Mutex<Inner>,
    trace: Arc<Trace>,
    /// Who hears what passes, and the link of its own.
    eavesdropper: Option<(Arc<Overheard>, usize)>,
}

struct Inner {
    dice: Dice,
    links: Vec<Link>,
    listener: Option<Listener>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    leaks: Vec<String>,
}

struct Link {
    state: LinkState,
    latency_ms: RangeInclusive<u64>,
    opened: Arc<Notify>,
}

struct Connection {
    link: usize,
    up: Weak<Mutex<Pipe>>,
    down: Weak<Mutex<Pipe>>,
}

/// One direction of a connection.
struct Pipe {
    under_way: std::collections::VecDeque<(Instant, Vec<u8>)>,
    buffered: usize,
    last_at: Option<Instant>,
    state: PipeState,
    /// The writer has ended; what is under way still arrives.
    ended_at: Option<Instant>,
    /// Nobody reads any more.
    is_abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    tap: Tap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PipeState {
    Open,
    Stalled,
    Silent,
    Reset,
}

impl Network {
    /// `overheard`: somebody on the last link hears all others.
    pub(crate) fn new(
        seed: u64,
        links: usize,
        trace: Arc<Trace>,
        overheard: Option<Arc<Overheard>>,
    ) -> Arc<Self> {
        let eavesdropper = overheard.map(|overheard| (overheard, links.saturating_sub(1)));
        let mut dice = Dice::new(seed, "network");
        let links = (0..links)
            .map(|_| {
                let least = dice.number(0..=3);
                let most = least + dice.weighted(&[(6, 4), (3, 40), (1, 400)], 4);
                Link { state: LinkState::Open, latency_ms: least..=most, opened: Arc::default() }
            })
            .collect();
        let inner = Inner {
            dice,
            links,
            listener: None,
            connections: BTreeMap::new(),
            next_connection: 0,
            leaks: Vec::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), trace, eavesdropper })
    }

    /// From now on, new connections go to `listener`, or are refused.
    pub(crate) fn listen(&self, listener: Option<Listener>) {
        self.inner.lock().listener = listener;
    }

    /// Opens or stalls a link.
    pub(crate) fn set_link(&self, link: usize, state: LinkState) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.links.get_mut(link) else { return };
        entry.state = state;
        let opened = Arc::clone(&entry.opened);
        let pipes = inner.pipes_of(|connection| connection.link == link);
        drop(inner);
        for pipe in pipes {
            let mut pipe = pipe.lock();
            match (pipe.state, state) {
                (PipeState::Open, LinkState::Stalled) => pipe.state = PipeState::Stalled,
                (PipeState::Stalled, LinkState::Open) => pipe.state = PipeState::Open,
                _ => {}
            }
            pipe.wake();
        }
        if state == LinkState::Open {
            opened.notify_waiters();
        }
    }

    /// Cuts every connection of a link.
    pub(crate) fn cut_link(&self, link: usize, cut: Cut) {
        let pipes = self.inner.lock().pipes_of(|connection| connection.link == link);
        cut_all(&pipes, cut);
    }

    /// Cuts every connection there is.
    pub(crate) fn cut_all(&self, cut: Cut) {
        let pipes = self.inner.lock().pipes_of(|_| true);
        cut_all(&pipes, cut);
    }

    /// Cuts one connection of a link.
    pub(crate) fn cut_one(&self, link: usize, cut: Cut) {
        let mut inner = self.inner.lock();
        let ids: Vec<u64> = inner
            .connections
            .iter()
            .filter(|(_, connection)| connection.link == link && connection.up.strong_count() > 0)
            .map(|(id, _)| *id)
            .collect();
        let Some(id) = inner.dice.pick(&ids).copied() else { return };
        let pipes = inner.connections.get(&id).map(Connection::pipes).unwrap_or_default();
        drop(inner);
        self.trace.note(&format!("net cut connection {id} {cut:?}"));
        cut_all(&pipes, cut);
    }

    /// Plaintext that was seen on the wire.
    pub(crate) fn leaks(&self) -> Vec<String> {
        self.inner.lock().leaks.clone()
    }

    /// A connection to the broker over `link`, as a client makes it.
    pub(crate) async fn dial(self: &Arc<Self>, link: usize) -> io::Result<SimStream> {
        let (delay, opened) = {
            let mut inner = self.inner.lock();
            let opened = inner.links.get(link).map(|link| Arc::clone(&link.opened));
            (inner.latency(link), opened)
        };
        sleep(delay).await;
        // The first packet is sent again until it gets through; the caller limits the time.
        while self.inner.lock().is_stalled(link) {
            match &opened {
                Some(opened) => opened.notified().await,
                None => return Err(io::ErrorKind::HostUnreachable.into()),
            }
        }
        let Some(listener) = self.inner.lock().listener.clone() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (ours, theirs) = self.connect(link);
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
        listener(theirs, peer);
        Ok(ours)
    }

    fn connect(self: &Arc<Self>, link: usize) -> (SimStream, SimStream) {
        let mut inner = self.inner.lock();
        let id = inner.next_connection;
        inner.next_connection += 1;
        let ear = match &self.eavesdropper {
            Some((overheard, own)) if *own != link => Some(Ear::new(Arc::clone(overheard), id)),
            _ => None,
        };
        let pipe = |arrow: &str, direction: Direction| {
            let name = format!("{link}{arrow} c{id}");
            let ear = ear.clone().map(|ear| (ear, direction));
            Arc::new(Mutex::new(Pipe::new(Tap::new(name, Arc::clone(&self.trace), ear))))
        };
        let (up, down) = (pipe(">", Direction::ToBroker), pipe("<", Direction::FromBroker));
        inner.connections.retain(|_, other| other.up.strong_count() > 0);
        let connection = Connection { link, up: Arc::downgrade(&up), down: Arc::downgrade(&down) };
        inner.connections.insert(id, connection);
        drop(inner);
        self.trace.note(&format!("net connection {id} of link {link}"));
        let stream = |incoming: &Arc<Mutex<Pipe>>, outgoing: &Arc<Mutex<Pipe>>| SimStream {
            network: Arc::clone(self),
            link,
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            timer: None,
        };
        (stream(&down, &up), stream(&up, &down))
    }
}

impl Inner {
    fn latency(&mut self, link: usize) -> Duration {
        let bounds = self.links.get(link).map_or(0..=0, |link| link.latency_ms.clone());
        self.dice.millis(bounds)
    }

    fn is_stalled(&self, link: usize) -> bool {
        self.links.get(link).is_some_and(|link| link.state == LinkState::Stalled)
    }

    fn pipes_of(&self, is_wanted: impl Fn(&Connection) -> bool) -> Vec<Arc<Mutex<Pipe>>> {
        let wanted = self.connections.values().filter(|connection| is_wanted(connection));
        wanted.flat_map(Connection::pipes).collect()
    }
}

impl Connection {
    fn pipes(&self) -> Vec<Arc<Mutex<Pipe>>> {
        [&self.up, &self.down].into_iter().filter_map(Weak::upgrade).collect()
    }
}

fn cut_all(pipes: &[Arc<Mutex<Pipe>>], cut: Cut) {
    for pipe in pipes {
        let mut pipe = pipe.lock();
        pipe.under_way.clear();
        pipe.buffered = 0;
        if pipe.state != PipeState::Silent {
            pipe.state = match cut {
                Cut::Reset => PipeState::Reset,
                Cut::Silence => PipeState::Silent,
            };
        }
        pipe.wake();
    }
}

impl Pipe {
    fn new(tap: Tap) -> Self {
        Self {
            under_way: std::collections::VecDeque::new(),
            buffered: 0,
            last_at: None,
            state: PipeState::Open,
            ended_at: None,
            is_abandoned: false,
            reader: None,
            writer: None,
            tap,
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// One end of a connection.
pub(crate) struct SimStream {
    network: Arc<Network>,
    link: usize,
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut guard = this.incoming.lock();
        let pipe = &mut *guard;
        pipe.reader = Some(cx.waker().clone());
        match pipe.state {
            PipeState::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            PipeState::Stalled | PipeState::Silent => return Poll::Pending,
            PipeState::Open => {}
        }
        let now = Instant::now();
        let wait_until = match (pipe.under_way.front_mut(), pipe.ended_at) {
            (Some((at, bytes)), _) if *at <= now => {
                let count = bytes.len().min(buf.remaining());
                buf.put_slice(bytes.get(..count).unwrap_or_default());
                bytes.drain(..count);
                if bytes.is_empty() {
                    pipe.under_way.pop_front();
                }
                pipe.buffered -= count;
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                return Poll::Ready(Ok(()));
            }
            (Some((at, _)), _) => *at,
            (None, Some(at)) if at <= now => return Poll::Ready(Ok(())),
            (None, Some(at)) => at,
            (None, None) => return Poll::Pending,
        };
        drop(guard);
        let mut timer = Box::pin(sleep_until(wait_until));
        if timer.as_mut().poll(cx).is_ready() {
            // Time has come in between.
            cx.waker().wake_by_ref();
        }
        this.timer = Some(timer);
        Poll::Pending
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let delay = this.network.inner.lock().latency(this.link);
        let mut pipe = this.outgoing.lock();
        if pipe.state == PipeState::Reset || pipe.is_abandoned {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(pipe.buffered);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buf.len().min(room);
        let bytes = buf.get(..count).unwrap_or_default();
        let leak = pipe.tap.see(bytes).err();
        pipe.buffered += count;
        let at = (Instant::now() + delay).max(pipe.last_at.unwrap_or_else(Instant::now));
        pipe.last_at = Some(at);
        if pipe.state == PipeState::Silent {
            // The window fills and never empties.
        } else {
            pipe.under_way.push_back((at, bytes.to_vec()));
        }
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        drop(pipe);
        if let Some(leak) = leak {
            this.network.inner.lock().leaks.push(leak.0);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().end();
        Poll::Ready(Ok(()))
    }
}

impl SimStream {
    fn end(&self) {
        let delay = self.network.inner.lock().latency(self.link);
        let mut pipe = self.outgoing.lock();
        if pipe.ended_at.is_none() {
            let at = (Instant::now() + delay).max(pipe.last_at.unwrap_or_else(Instant::now));
            pipe.ended_at = Some(at);
            if let Some(reader) = pipe.reader.take() {
                reader.wake();
            }
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.end();
        let mut pipe = self.incoming.lock();
        pipe.is_abandoned = true;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
    }
}

/// The dialer of one incarnation of a daemon.
pub(crate) struct SimDialer {
    pub(crate) network: Arc<Network>,
    pub(crate) link: usize,
    /// False once the machine has died.
    pub(crate) is_alive: Arc<AtomicBool>,
}

impl Dialer for SimDialer {
    fn dial<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Box<dyn ByteStream>, DialError>> {
        Box::pin(async move {
            if !self.is_alive.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let stream = self.network.dial(self.link).await?;
            if !self.is_alive.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}

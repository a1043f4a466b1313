//! Sockets that are cut in the middle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::node::{Node, World, event, until};

/// A TCP proxy in front of a broker, whose connections a test can cut.
pub struct Proxy {
    stop: CancellationToken,
    address: SocketAddr,
    is_open: watch::Sender<bool>,
    cut: Arc<Mutex<CancellationToken>>,
    /// What the broker says is thrown away.
    is_mute: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn open(broker: SocketAddr) -> Self {
        let proxy = Self::closed(broker).await;
        proxy.open_up();
        proxy
    }

    /// Accepts and drops everything until it is opened up.
    pub async fn closed(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = watch::Sender::new(false);
        let cut = Arc::new(Mutex::new(CancellationToken::new()));
        let is_mute = Arc::new(AtomicBool::new(false));
        let (opened, cut_now) = (is_open.subscribe(), Arc::clone(&cut));
        let mute = Arc::clone(&is_mute);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (links, stopped) = (tasks.clone(), stop.clone());
        tasks.spawn(stopped.run_until_cancelled_owned(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !*opened.borrow() {
                    continue;
                }
                let cut = cut_now.lock().clone();
                let mute = Arc::clone(&mute);
                links.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(broker).await else { return };
                    let (mut near_in, mut near_out) = near.split();
                    let (mut far_in, mut far_out) = far.split();
                    tokio::select! {
                        _ = tokio::io::copy(&mut near_in, &mut far_out) => {}
                        _ = answers(&mut far_in, &mut near_out, &mute, &cut) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        }));
        Self { stop, address, is_open, cut, is_mute }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub fn open_up(&self) {
        self.is_open.send_replace(true);
    }

    /// From now on the broker hears and is not heard, or is heard again.
    pub fn mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Ordering::Release);
    }

    /// Breaks every connection through it; new ones are let in.
    pub fn cut(&self) {
        std::mem::replace(&mut *self.cut.lock(), CancellationToken::new()).cancel();
    }
}

/// Carries what the broker says, unless it is muted. What comes to a cut connection that is heard again just then stays
/// here, too.
async fn answers(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    is_mute: &AtomicBool,
    cut: &CancellationToken,
) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return Ok(());
        }
        if !is_mute.load(Ordering::Acquire) && !cut.is_cancelled() {
            to.write_all(&buffer[..bytes]).await?;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.lock().cancel();
    }
}

/// Daemon spec §11 Accept 4: FIFO: 500 DMs to one peer with the socket cut 20×: received order equals send order, each
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_and_nothing_doubles_through_twenty_cuts() {
    const MESSAGES: usize = 500;
    let world = World::new(2).await;
    let address = world.broker.address();
    let (near, far) = (Proxy::open(address).await, Proxy::open(address).await);
    let ana = Node::open(world.entry_at(0, &near.url())).await;
    let bob = Node::open(world.entry_at(1, &far.url())).await;
    let mut shown = bob.subscribe();
    let sending = async {
        for n in 0..MESSAGES {
            ana.send("bot-1", &n.to_string()).await;
        }
    };
    let cutting = cut_on_the_way(&bob, (&near, &far), MESSAGES);
    tokio::join!(sending, cutting);
    let listed = bob.receives(MESSAGES).await.into_iter().filter_map(|item| item.body);
    assert!(listed.eq((0..MESSAGES).map(|n| n.to_string())), "the list is in another order");
    for expected in 0..MESSAGES {
        assert_eq!(event(&mut shown, "message").await["body"], expected.to_string());
    }
    ana.sent_everything().await;
}

/// Cuts twenty times, evenly over what has come in at `receiver`.
async fn cut_on_the_way(receiver: &Node, (near, far): (&Proxy, &Proxy), messages: usize) {
    const CUTS: usize = 20;
    for cut in 1..=CUTS {
        let mark = cut * messages / (CUTS + 1);
        until(&format!("{mark} messages have come in"), async || {
            receiver.received().await.len() >= mark
        })
        .await;
        // The sender's side and the receiver's side in turn, and now and then both.
        if cut % 2 == 0 || cut % 5 == 0 {
            near.cut();
        }
        if cut % 2 == 1 || cut % 5 == 0 {
            far.cut();
        }
    }
}

/// Daemon spec §12 Accept 1: commit at the broker, drop the ack, saturate the rate limit, reconnect: row becomes `done` with the
/// original id; the peer has one copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_a_committed_message_is_never_rate_limited() {
    let world = World::limited(2, |limits| (limits.send_burst, limits.send_per_min) = (1, 1)).await;
    let near = Proxy::open(world.broker.address()).await;
    let ana = Node::open(world.entry_at(0, &near.url())).await;
    let bob = Node::open(world.entry(1)).await;
    near.mute(true);
    let id = ana.send("bot-1", "the only one").await;
    until("the broker has it", async || world.count("message").await == 1).await;
    near.cut();
    near.mute(false);
    ana.sent_everything().await;
    let row = ana.outbox.by_id(&id).await.unwrap().remove(0);
    let stored = world.text("SELECT id FROM message").await;
    assert_eq!(row.broker_message_id, Some(stored));
    assert!(
        row.answer.unwrap().duplicate,
        "the budget of one message was used up by the first attempt"
    );
    assert_eq!(bob.receives(1).await[0].body.as_deref(), Some("the only one"));
    assert_eq!(world.count("message").await, 1);
}

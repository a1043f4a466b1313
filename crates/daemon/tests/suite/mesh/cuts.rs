//! Sockets that are cut in the middle.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
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
        let (opened, cut_now) = (is_open.subscribe(), Arc::clone(&cut));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (links, stopped) = (tasks.clone(), stop.clone());
        tasks.spawn(stopped.run_until_cancelled_owned(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !*opened.borrow() {
                    continue;
                }
                let cut = cut_now.lock().clone();
                links.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(broker).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        }));
        Self { stop, address, is_open, cut }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub fn open_up(&self) {
        self.is_open.send_replace(true);
    }

    /// Breaks every connection through it; new ones are let in.
    pub fn cut(&self) {
        std::mem::replace(&mut *self.cut.lock(), CancellationToken::new()).cancel();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.lock().cancel();
    }
}

/// Daemon spec §11 Accept, FIFO: 500 direct messages to one peer with the sockets cut 20 times arrive in order, each
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

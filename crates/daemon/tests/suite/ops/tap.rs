//! A relay between a daemon and its broker that reads along.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, client_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What was said, in the order in which it went by.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<Value>>>);

impl Said {
    fn note(&self, message: &Message) {
        if let Message::Text(text) = message {
            self.0.lock().push(serde_json::from_str(text).unwrap());
        }
    }

    /// The last frame of this type.
    pub fn last(&self, word: &str) -> Option<Value> {
        self.0.lock().iter().rev().find(|frame| frame["type"] == word).cloned()
    }

    /// Types of what was said since the last call.
    pub fn take(&self) -> Vec<String> {
        let frames = std::mem::take(&mut *self.0.lock());
        frames.iter().map(|frame| frame["type"].as_str().unwrap().to_owned()).collect()
    }
}

/// The relay.
pub struct Tap {
    pub from_daemon: Said,
    pub from_broker: Said,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Tap {
    pub async fn before(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let tap = Self {
            from_daemon: Said::default(),
            from_broker: Said::default(),
            address: listener.local_addr().unwrap(),
            stop: CancellationToken::new(),
        };
        let (up, down, stop) = (tap.from_daemon.clone(), tap.from_broker.clone(), tap.stop.clone());
        let tasks = TaskTracker::new();
        let links = tasks.clone();
        tasks.spawn(tap.stop.clone().run_until_cancelled_owned(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (up, down) = (up.clone(), down.clone());
                let link = relay(near, broker, up, down);
                links.spawn(stop.clone().run_until_cancelled_owned(link));
            }
        }));
        tap
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn relay(near: TcpStream, broker: SocketAddr, up: Said, down: Said) {
    let mut far = TcpStream::connect(broker).await.unwrap();
    let mut near = near;
    let mut head = [0; 7];
    if near.peek(&mut head).await.is_err() || &head != b"GET /ws" {
        // A signed request over HTTP.
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        return;
    }
    let Ok(near) = accept_async(near).await else { return };
    let (far, _) = client_async(format!("ws://{broker}/ws"), far).await.unwrap();
    let ((mut near_out, mut near_in), (mut far_out, mut far_in)) = (near.split(), far.split());
    let upward = async {
        while let Some(Ok(message)) = near_in.next().await {
            up.note(&message);
            if far_out.send(message).await.is_err() {
                return;
            }
        }
    };
    let downward = async {
        while let Some(Ok(message)) = far_in.next().await {
            down.note(&message);
            if near_out.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = upward => {}
        () = downward => {}
    }
}

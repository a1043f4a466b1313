//! A broker that says what a test wants it to say.

use claudemesh_protocol::{MeshId, PublicKey};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, accept_async};

pub struct FakeBroker {
    listener: TcpListener,
    pub mesh: MeshId,
    pub members: Vec<(PublicKey, &'static str)>,
    /// The key it says it signs with.
    pub key: Option<PublicKey>,
}

impl FakeBroker {
    pub async fn new(members: Vec<(PublicKey, &'static str)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Self { listener, mesh: MeshId::new("FakeMesh"), members, key: None }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.listener.local_addr().unwrap())
    }

    /// The next connection, its hello accepted.
    pub async fn accept(&self, features: Value) -> Peer {
        self.accept_as("hello", features).await.0
    }

    /// The next connection, of a session.
    pub async fn accept_session(&self, features: Value) -> Peer {
        self.accept_as("session_hello", features).await.0
    }

    /// The next connection, and the hello it came with.
    pub async fn accept_as(&self, word: &str, features: Value) -> (Peer, Value) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut peer =
            Peer { socket: accept_async(stream).await.unwrap(), members: self.members.clone() };
        let hello = peer.next().await;
        assert_eq!(hello["type"], word);
        let mut ack = json!({"type": "hello_ack", "presenceId": "P", "memberDisplayName": "me"});
        if !features.is_null() {
            ack["features"] = features;
        }
        if let Some(key) = self.key {
            ack["brokerPubkey"] = json!(key);
        }
        peer.send(&ack).await;
        (peer, hello)
    }
}

pub fn modern_features() -> Value {
    let v1 = json!({"params": {"version": 1}});
    json!({
        "client_message_id_dedupe": {"params": {
            "version": 1, "mode": "retention_scoped", "dedupe_retention_days": 365, "request_fingerprint": true,
        }},
        "concurrent_connection_policy": v1, "group_e2e": v1, "client_ack": v1,
    })
}

pub struct Peer {
    socket: WebSocketStream<TcpStream>,
    pub members: Vec<(PublicKey, &'static str)>,
}

impl Peer {
    pub async fn send(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Closes with a code.
    pub async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.socket.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// The next frame, whatever it is; `Null` when the client closes, with the code under `close`.
    pub async fn next(&mut self) -> Value {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return json!({"close": u16::from(frame.code), "reason": frame.reason.as_str()});
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return json!({"close": format!("{other:?}")}),
            }
        }
    }

    /// Answers lists until a frame of this type comes.
    pub async fn wait_for(&mut self, word: &str) -> Value {
        loop {
            let frame = self.next().await;
            assert!(frame.get("close").is_none(), "closed while waiting for {word}: {frame}");
            let req_id = frame["_reqId"].clone();
            match frame["type"].as_str() {
                Some(found) if found == word => return frame,
                Some("list_peers") => {
                    self.send(&json!({"type": "peers_list", "peers": [], "_reqId": req_id})).await;
                }
                Some("list_members") => {
                    let rows: Vec<Value> = self.members.iter().map(|(key, name)| json!({
                        "memberId": name, "pubkey": key, "displayName": name, "role": "member",
                        "joinedAt": "2026-01-01T00:00:00.000Z", "online": false,
                    })).collect();
                    self.send(&json!({"type": "members_list", "members": rows, "_reqId": req_id}))
                        .await;
                }
                _ => {}
            }
        }
    }
}

/// Answers lists until `done`.
pub async fn serving<T>(peer: &mut Peer, done: impl Future<Output = T>) -> T {
    tokio::select! {
        _ = peer.wait_for("nothing") => unreachable!(),
        done = done => done,
    }
}

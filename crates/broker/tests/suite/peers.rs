//! Meshes with members, and a raw WebSocket client that speaks the protocol frame by frame.
//!
//! It is built on the crypto crate alone, not on our client crate, so that both are not wrong in the same way.

use std::collections::VecDeque;
use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::{attestation, hello};
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::limits::ATTESTATION_TTL;
use claudemesh_protocol::status::{GroupEncryption, MemberRole, MessageMode};
use claudemesh_protocol::{Group, MemberId, MeshId, Timestamp, UserId};
use claudemesh_store::{
    AddMember, CreateMesh, Encrypted, MeshSecrets, MeshSettings, NewIdentity, NewMember, NewMesh,
    NewUser, UserRole,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::world::{PATIENCE, World};

/// Draws a row id.
pub fn row_id() -> String {
    claudemesh_protocol::id::random_row_id(claudemesh_crypto::random::fill)
}

/// One member with its key.
pub struct Person {
    pub mesh: MeshId,
    pub id: MemberId,
    pub key: KeyPair,
    pub name: String,
}

/// A session of a member.
pub struct Session {
    pub key: KeyPair,
    pub id: String,
}

impl Session {
    pub fn new() -> Self {
        Self { key: KeyPair::generate(), id: row_id() }
    }

    pub fn pubkey(&self) -> String {
        self.key.public().to_hex()
    }
}

/// A person to be made, with its default groups.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub groups: &'a [&'a str],
}

pub fn settings(group_encryption: GroupEncryption) -> MeshSettings {
    MeshSettings { group_encryption, ..MeshSettings::default() }
}

impl World {
    /// A mesh whose groups may be plaintext; the first person is its owner.
    pub async fn mesh_of(&self, names: &[&str]) -> Vec<Person> {
        let wanted: Vec<Wanted<'_>> =
            names.iter().map(|name| Wanted { name, groups: &[] }).collect();
        self.mesh_with(settings(GroupEncryption::Preferred), &wanted).await
    }

    pub async fn mesh_with(&self, settings: MeshSettings, wanted: &[Wanted<'_>]) -> Vec<Person> {
        let store = self.broker().broker().store();
        let now = self.clock.now();
        let mesh_id = MeshId::new(row_id());
        let user = UserId::new(row_id());
        let people: Vec<Person> = wanted
            .iter()
            .map(|one| Person {
                mesh: mesh_id.clone(),
                id: MemberId::new(row_id()),
                key: KeyPair::generate(),
                name: one.name.to_owned(),
            })
            .collect();
        let mut rows: Vec<NewMember> = people
            .iter()
            .zip(wanted)
            .enumerate()
            .map(|(index, (person, one))| NewMember {
                id: person.id.clone(),
                mesh_id: mesh_id.clone(),
                user_id: (index == 0).then(|| user.clone()),
                identity: NewIdentity::Key(person.key.public()),
                display_name: person.name.clone(),
                role: if index == 0 { MemberRole::Admin } else { MemberRole::Member },
                role_tag: None,
                default_groups: one
                    .groups
                    .iter()
                    .map(|name| Group::plain(name.parse().unwrap()))
                    .collect(),
                message_mode: MessageMode::Push,
                joined_at: now,
            })
            .collect();
        let account = NewUser {
            id: user.clone(),
            name: "owner".to_owned(),
            email: None,
            role: UserRole::User,
            created_at: now,
        };
        store.create_user(account).await.unwrap();
        let created = store
            .create_mesh(NewMesh {
                id: mesh_id.clone(),
                name: "Test mesh".to_owned(),
                slug: format!("m-{}", row_id().to_lowercase().get(..20).unwrap()).parse().unwrap(),
                owner_pubkey: KeyPair::generate().public(),
                secrets: MeshSecrets { owner_secret_key: None, root_key: Encrypted::new("x") },
                settings,
                owner: rows.remove(0),
                owner_user_id: user,
                created_at: now,
            })
            .await
            .unwrap();
        assert!(matches!(created, CreateMesh::Created { .. }));
        for added in store.add_members(rows).await.unwrap() {
            assert!(matches!(added, AddMember::Added(_)));
        }
        people
    }

    /// A socket that has said nothing yet.
    pub async fn socket(&self) -> Socket {
        let connecting = tokio_tungstenite::connect_async(self.ws_url());
        let (ws, _) = tokio::time::timeout(PATIENCE, connecting).await.unwrap().unwrap();
        Socket { ws, seen: VecDeque::new(), closed: None, hello_ack: Value::Null }
    }

    /// A connection of a daemon.
    pub async fn daemon(&self, person: &Person) -> Socket {
        self.connect(self.daemon_hello(person)).await
    }

    /// A connection of a session.
    pub async fn session(&self, person: &Person, session: &Session) -> Socket {
        self.connect(self.session_hello(person, session)).await
    }

    /// Says this hello and expects to be accepted.
    pub async fn connect(&self, hello: Value) -> Socket {
        let mut socket = self.socket().await;
        socket.send(&hello).await;
        socket.hello_ack = socket.next().await;
        assert_eq!(socket.hello_ack["type"], "hello_ack", "{}", socket.hello_ack);
        socket
    }

    /// As [`World::connect`], with a receive buffer that is soon full when nobody reads.
    pub async fn connect_narrow(&self, hello: Value) -> Socket {
        let url = self.ws_url();
        let address = url.trim_start_matches("ws://").split('/').next().unwrap().parse().unwrap();
        let narrow = tokio::net::TcpSocket::new_v4().unwrap();
        narrow.set_recv_buffer_size(8 * 1024).unwrap();
        let stream = MaybeTlsStream::Plain(narrow.connect(address).await.unwrap());
        let (ws, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut socket = Socket { ws, seen: VecDeque::new(), closed: None, hello_ack: Value::Null };
        socket.send(&hello).await;
        socket.hello_ack = socket.next().await;
        assert_eq!(socket.hello_ack["type"], "hello_ack", "{}", socket.hello_ack);
        socket
    }

    /// Says this hello and expects to be refused; the error and the close.
    pub async fn refused(&self, hello: Value) -> (Value, u16, String) {
        let mut socket = self.socket().await;
        socket.send(&hello).await;
        let error = socket.next().await;
        let (code, reason) = socket.close_reason().await;
        (error, code, reason)
    }

    /// A daemon's hello.
    pub fn daemon_hello(&self, person: &Person) -> Value {
        daemon_hello_at(person, self.fresh_time())
    }

    pub fn session_hello(&self, person: &Person, session: &Session) -> Value {
        let until = self.clock.now().plus(ATTESTATION_TTL);
        let attested = attestation::mint(&person.key, session.key.public(), until, None);
        self.session_hello_with(person, session, &attested)
    }

    /// A session's hello that may use only these capabilities.
    pub fn limited_hello(&self, person: &Person, session: &Session, caps: &[&str]) -> Value {
        let caps = CapabilitySet::parse(caps.iter().copied()).unwrap();
        let until = self.clock.now().plus(ATTESTATION_TTL);
        let attested = attestation::mint(&person.key, session.key.public(), until, Some(caps));
        self.session_hello_with(person, session, &attested)
    }

    pub fn session_hello_with(
        &self,
        person: &Person,
        session: &Session,
        attested: &ParentAttestation,
    ) -> Value {
        let at = self.fresh_time();
        let parent = person.key.public();
        let signature = hello::sign_session(&person.mesh, parent, &session.key, at).unwrap();
        json!({
            "type": "session_hello", "meshId": person.mesh, "parentMemberId": person.id,
            "parentMemberPubkey": parent, "sessionPubkey": session.key.public(),
            "parentAttestation": attested, "displayName": format!("{} session", person.name),
            "sessionId": session.id, "pid": 1, "cwd": "/home/me/work",
            "channel": "claudemesh-session", "capabilities": ["client_ack", "group_e2e"],
            "timestamp": at.as_millis(), "signature": signature,
        })
    }

    /// The broker's time, never the same twice: a repeated hello is refused.
    fn fresh_time(&self) -> Timestamp {
        self.clock.advance(Duration::from_millis(1));
        self.clock.now()
    }

    /// Moves the clock and lets the timer see it.
    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.broker().broker().wake_timer();
    }
}

/// A daemon's hello that states this time.
pub fn daemon_hello_at(person: &Person, at: Timestamp) -> Value {
    let signature = hello::sign(&person.mesh, &person.id, &person.key, at).unwrap();
    json!({
        "type": "hello", "meshId": person.mesh, "memberId": person.id,
        "pubkey": person.key.public(), "sessionId": format!("daemon-{}", person.name), "pid": 4242,
        "cwd": "/home/me/work", "hostname": "laptop", "peerType": "ai",
        "channel": "claudemesh-daemon", "capabilities": ["client_ack", "group_e2e"],
        "timestamp": at.as_millis(), "signature": signature,
    })
}

/// A client's end of a WebSocket.
pub struct Socket {
    ws: WebSocketStream<MaybeTlsStream<TcpStream>>,
    seen: VecDeque<Value>,
    closed: Option<(u16, String)>,
    pub hello_ack: Value,
}

impl Socket {
    pub fn presence_id(&self) -> String {
        self.hello_ack["presenceId"].as_str().unwrap().to_owned()
    }

    pub async fn send(&mut self, frame: &Value) {
        self.send_text(frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        tokio::time::timeout(PATIENCE, self.ws.send(Message::text(text))).await.unwrap().unwrap();
    }

    pub async fn send_binary(&mut self, frame: &Value) {
        self.ws.send(Message::binary(frame.to_string())).await.unwrap();
    }

    /// Reads one frame from the wire; `None` when the socket has ended.
    async fn read(&mut self) -> Option<Value> {
        if self.closed.is_some() {
            return None;
        }
        loop {
            let message = tokio::time::timeout(PATIENCE, self.ws.next())
                .await
                .unwrap_or_else(|_| panic!("nothing came; waiting: {:?}", self.seen));
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).unwrap());
                }
                Some(Ok(Message::Close(frame))) => {
                    self.closed = Some(code_of(frame));
                    // The answer goes out with the next read.
                    let _ = tokio::time::timeout(PATIENCE, self.ws.next()).await;
                    return None;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.closed = Some((1006, String::new()));
                    return None;
                }
            }
        }
    }

    /// The next frame, whatever it is.
    pub async fn next(&mut self) -> Value {
        if let Some(frame) = self.seen.pop_front() {
            return frame;
        }
        self.read().await.unwrap_or_else(|| panic!("the socket has ended: {:?}", self.closed))
    }

    /// The next frame that fits; the others stay for later.
    pub async fn next_where(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.seen.iter().position(&fits) {
            return self.seen.remove(index).unwrap();
        }
        loop {
            let frame = self
                .read()
                .await
                .unwrap_or_else(|| panic!("the socket has ended: {:?}", self.closed));
            if fits(&frame) {
                return frame;
            }
            self.seen.push_back(frame);
        }
    }

    /// The next stored message.
    pub async fn push(&mut self) -> Value {
        self.next_where(|frame| frame["type"] == "push" && frame["subtype"] != "system").await
    }

    /// The next system event of this name.
    pub async fn event(&mut self, name: &str) -> Value {
        self.next_where(|frame| frame["event"] == name).await["eventData"].clone()
    }

    /// Everything that was queued for this client before now, then the stored messages among it.
    pub async fn pushes_so_far(&mut self) -> Vec<Value> {
        self.ask(json!({ "type": "list_members" })).await;
        self.take(|frame| frame["type"] == "push" && frame["subtype"] != "system")
    }

    /// Reads until the broker is gone; the stored messages among what it still said.
    pub async fn last_pushes(&mut self) -> Vec<Value> {
        self.close_reason().await;
        self.take(|frame| frame["type"] == "push" && frame["subtype"] != "system")
    }

    /// Reads until the broker is gone; true when it had acknowledged this send.
    pub async fn was_acked(&mut self, id: &str) -> bool {
        self.close_reason().await;
        !self.take(|frame| frame["type"] == "ack" && frame["id"] == id).is_empty()
    }

    /// As [`Socket::pushes_so_far`], for system events of this name.
    pub async fn events_so_far(&mut self, name: &str) -> Vec<Value> {
        self.ask(json!({ "type": "list_members" })).await;
        self.take(|frame| frame["event"] == name)
    }

    /// As [`Socket::pushes_so_far`], for frames of this type.
    pub async fn frames_so_far(&mut self, kind: &str) -> Vec<Value> {
        self.ask(json!({ "type": "list_members" })).await;
        self.take(|frame| frame["type"] == kind)
    }

    /// True when a frame that fits has been read and not been asked for yet.
    pub fn holds(&self, fits: impl Fn(&Value) -> bool) -> bool {
        self.seen.iter().any(fits)
    }

    fn take(&mut self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let (taken, left): (Vec<Value>, Vec<Value>) = self.seen.drain(..).partition(fits);
        self.seen = left.into();
        taken
    }

    /// A request with its one reply.
    pub async fn ask(&mut self, mut frame: Value) -> Value {
        let req_id = row_id();
        frame["_reqId"] = json!(req_id);
        self.send(&frame).await;
        self.next_where(|reply| reply["_reqId"] == json!(req_id)).await
    }

    /// Sends a message and waits for its ack.
    pub async fn message(&mut self, message: Value) -> Value {
        let id = row_id();
        self.post(&id, message).await;
        self.ack(&id).await
    }

    /// Sends a message under this request id.
    pub async fn post(&mut self, id: &str, message: Value) {
        let mut frame = json!({
            "type": "send", "id": id, "priority": "next", "nonce": "bm9uY2U=", "ciphertext": "Y2lwaGVy",
        });
        for (field, value) in message.as_object().unwrap() {
            frame[field] = value.clone();
        }
        self.send(&frame).await;
    }

    pub async fn ack(&mut self, id: &str) -> Value {
        self.next_where(|frame| frame["type"] == "ack" && frame["id"] == id).await
    }

    /// Confirms a push.
    pub async fn confirm(&mut self, push: &Value) {
        self.send(&json!({ "type": "client_ack", "brokerMessageId": push["messageId"] })).await;
    }

    pub async fn peers(&mut self) -> Vec<Value> {
        self.ask(json!({ "type": "list_peers" })).await["peers"].as_array().unwrap().clone()
    }

    /// Waits until `list_peers` shows this many.
    pub async fn until_peers(&mut self, count: usize) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let peers = self.peers().await;
            if peers.len() == count {
                return peers;
            }
            assert!(tokio::time::Instant::now() < deadline, "{count} expected: {peers:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for the close of the broker.
    pub async fn close_reason(&mut self) -> (u16, String) {
        while self.closed.is_none() {
            if let Some(frame) = self.read().await {
                self.seen.push_back(frame);
            }
        }
        self.closed.clone().unwrap()
    }

    /// Leaves politely.
    pub async fn leave(mut self) {
        self.ws.close(None).await.unwrap();
        while let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE, self.ws.next()).await {}
    }

    /// The network is gone: no close frame.
    pub fn cut(self) {
        drop(self.ws);
    }

    pub fn ws(&mut self) -> &mut WebSocketStream<MaybeTlsStream<TcpStream>> {
        &mut self.ws
    }
}

fn code_of(frame: Option<CloseFrame>) -> (u16, String) {
    frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()))
}

/// Texts of pushes, for comparing order.
pub fn ids(pushes: &[Value]) -> Vec<&str> {
    pushes.iter().map(|push| push["client_message_id"].as_str().unwrap_or_default()).collect()
}

impl Socket {
    /// True when the broker still answers on this socket.
    pub async fn ws_answer(&mut self) -> bool {
        while let Some(frame) = self.read().await {
            if frame["_reqId"] == "x" {
                return true;
            }
        }
        false
    }
}

impl World {
    /// A request that a member signs.
    pub async fn signed_delete(&self, key: &KeyPair, path: &str) -> crate::world::Answer {
        let now = self.clock.now();
        let body = claudemesh_crypto::hash::sha256(b"");
        let text = claudemesh_protocol::canonical::signed_http("DELETE", path, &body, now);
        let signature = claudemesh_crypto::statement::sign(text, key).unwrap();
        let request = self
            .request(reqwest::Method::DELETE, path)
            .header("X-Member-Pubkey", key.public().to_hex())
            .header("X-Timestamp", now.as_millis().to_string())
            .header("X-Signature", signature.to_hex());
        crate::world::Answer::of(request).await
    }
}

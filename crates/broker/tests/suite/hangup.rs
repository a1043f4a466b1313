//! Clients that go away while the broker works for them.

use std::time::Duration;

use claudemesh_protocol::{MemberId, MeshId};
use claudemesh_sqlite::{Database, Options, WriteError};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::peers::{Person, Socket};
use crate::world::{Host, Joiner, PATIENCE, World};

/// Holds the database for writing, so that whoever commits has to wait.
struct Held {
    release: oneshot::Sender<()>,
    holder: JoinSet<()>,
}

impl Held {
    async fn take(world: &World) -> Self {
        let db = Database::open(Options::new(world.settings.database_path())).await.unwrap();
        let (release, released) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let mut holder = JoinSet::new();
        holder.spawn(async move {
            let write = db.write::<(), WriteError, _>(move |_| {
                Box::pin(async move {
                    tell.send(()).unwrap();
                    released.await.unwrap();
                    Ok(())
                })
            });
            write.await.unwrap();
            db.close().await;
        });
        told.await.unwrap();
        Self { release, holder }
    }

    async fn release(self) {
        self.release.send(()).unwrap();
        self.holder.join_all().await;
    }
}

/// Sends a request and hangs up before the answer; comes back when the broker has noticed.
async fn hang_up_after(world: &World, method: &Method, path: &str, head: &str, body: &str) {
    let mut stream = TcpStream::connect(world.broker().address()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: broker\r\ncontent-type: application/json\r\n{head}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ended.expect("the broker lets go of a client that is gone").ok();
    assert!(answer.is_empty(), "it was answered before it hung up");
}

async fn owner(world: &World, host: &Host) -> Socket {
    let owner = Person {
        mesh: MeshId::new(host.mesh["id"].as_str().unwrap()),
        id: MemberId::new(host.mesh["member_id"].as_str().unwrap()),
        key: claudemesh_crypto::KeyPair::from_hex(&host.owner.to_hex()).unwrap(),
        name: "ana".to_owned(),
    };
    world.daemon(&owner).await
}

/// Waits until `list_members` shows these many members.
async fn until_members(socket: &mut Socket, count: usize) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let reply = socket.ask(json!({ "type": "list_members" })).await;
        let members = reply["members"].as_array().unwrap().clone();
        if members.len() == count {
            return members;
        }
        assert!(tokio::time::Instant::now() < deadline, "{count} expected: {members:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client killed in the middle of joining: what is committed is known to those who are connected, without a restart.
#[tokio::test]
async fn a_claim_is_carried_to_its_end_when_the_client_hangs_up() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let mut ana = owner(&world, &host).await;
    until_members(&mut ana, 1).await;
    let newcomer = Joiner::new();
    let body = newcomer.claim_body(&host.code, world.clock_now()).to_string();
    let held = Held::take(&world).await;
    let path = format!("/invites/{}/claim", host.code);
    hang_up_after(&world, &Method::POST, &path, "", &body).await;
    held.release().await;
    let members = until_members(&mut ana, 2).await;
    assert_eq!(members[1]["pubkey"], json!(newcomer.member.public()));
    assert_eq!(world.claim(&host.code, &newcomer).await.ok()["already_member"], true);
}

/// The same for leaving: nobody stays in the roster, or connected, as a ghost.
#[tokio::test]
async fn a_leave_is_carried_to_its_end_when_the_client_hangs_up() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let newcomer = Joiner::new();
    let joined = world.claim(&host.code, &newcomer).await.ok();
    let bob = Person {
        mesh: MeshId::new(joined["mesh_id"].as_str().unwrap()),
        id: MemberId::new(joined["member_id"].as_str().unwrap()),
        key: claudemesh_crypto::KeyPair::from_hex(&newcomer.member.to_hex()).unwrap(),
        name: "bob".to_owned(),
    };
    let mut ana = owner(&world, &host).await;
    let mut connected = world.daemon(&bob).await;
    until_members(&mut ana, 2).await;
    let path = "/cli/mesh/alpha/member/me";
    let now = world.clock_now();
    let text = claudemesh_protocol::canonical::signed_http(
        "DELETE",
        path,
        &claudemesh_crypto::hash::sha256(b""),
        now,
    );
    let signature = claudemesh_crypto::statement::sign(text, &bob.key).unwrap();
    let headers = format!(
        "x-member-pubkey: {}\r\nx-timestamp: {}\r\nx-signature: {}\r\n",
        bob.key.public().to_hex(),
        now.as_millis(),
        signature.to_hex()
    );
    let held = Held::take(&world).await;
    hang_up_after(&world, &Method::DELETE, path, &headers, "").await;
    held.release().await;
    until_members(&mut ana, 1).await;
    assert_eq!(connected.close_reason().await.0, 4002);
}

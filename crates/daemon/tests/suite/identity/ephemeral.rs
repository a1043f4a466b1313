//! Daemons that leave nothing behind, as their brokers see them (daemon spec §4.1). What they are as processes, the suite of
//! the command line shows.

use std::time::Duration;

use claudemesh_crypto::{KeyPair, direct};
use claudemesh_daemon::home::config::MeshEntry;
use claudemesh_daemon::identity::Ephemeral;
use claudemesh_daemon::{Options, Running, clock};
use claudemesh_ipc::api::{InboxItem, InboxQuery, MeshStatus};
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::{MemberId, PublicKey};
use serde_json::{Value, json};

use crate::local::world::{Home, letter};
use crate::mesh::fake_broker::{FakeBroker, modern_features, serving};
use crate::mesh::node::{World, entry, until};

fn ephemeral(home: &Home) -> Ephemeral {
    let dir = home.path().join("run/ephemeral-0123456789abcdef-0123456789abcdef");
    Ephemeral::begin(&dir).unwrap()
}

async fn start(home: &Home, own: Ephemeral) -> Running {
    let options = Options::from_env(home.paths.clone()).ephemeral(own);
    Box::pin(claudemesh_daemon::start(options)).await.unwrap()
}

async fn inbox(running: &Running) -> Vec<InboxItem> {
    let query = InboxQuery { mark_seen: Some(false), ..InboxQuery::default() };
    running.client().inbox(&query).await.unwrap().items
}

async fn opened(running: &Running) {
    until("the mesh is open", async || {
        running.client().health().await.unwrap().meshes[0].status == MeshStatus::Open
    })
    .await;
}

fn push(
    broker: &FakeBroker,
    id: &str,
    sender: &KeyPair,
    behind: PublicKey,
    to: PublicKey,
) -> Value {
    let sealed = direct::seal(id.as_bytes(), sender, to).unwrap();
    json!({
        "type": "push", "messageId": format!("Q-{id}"), "meshId": broker.mesh, "senderPubkey": sender.public(),
        "senderMemberPubkey": behind, "senderName": "somebody", "priority": "next",
        "nonce": sealed.nonce.to_b64(), "ciphertext": sealed.ciphertext_b64(),
        "createdAt": clock::now().to_iso(), "client_message_id": id, "targetSpec": to,
    })
}

/// Daemon spec §4.1: by `session_hello` alone. A broker that does not know the word in it lets the session stand in for its
/// member; what is the member's stays unacknowledged, for the machines that last. What another session of the same member
/// writes is no echo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_takes_what_is_addressed_to_it_alone() {
    let (me, alice, sibling) = (KeyPair::generate(), KeyPair::generate(), KeyPair::generate());
    let broker = FakeBroker::new(vec![(me.public(), "me"), (alice.public(), "alice")]).await;
    let home = Home::new();
    home.join_as(entry(&broker.mesh, &MemberId::new("me"), me.clone(), &broker.url()));
    let own = ephemeral(&home);
    let running = start(&home, own.clone()).await;
    let (mut peer, hello) = broker.accept_as("session_hello", modern_features()).await;
    assert_eq!(hello["parentMemberPubkey"], json!(me.public()));
    assert!(hello["capabilities"].as_array().unwrap().contains(&json!("ephemeral")), "{hello}");
    let key: PublicKey = hello["sessionPubkey"].as_str().unwrap().parse().unwrap();
    for (id, sender, behind, to) in [
        ("for-the-member", &alice, alice.public(), me.public()),
        ("for-the-session", &alice, alice.public(), key),
        ("from-a-sibling", &sibling, me.public(), key),
    ] {
        peer.send(&push(&broker, id, sender, behind, to)).await;
    }
    for id in ["for-the-session", "from-a-sibling"] {
        let ack = peer.wait_for("client_ack").await;
        assert_eq!(ack["clientMessageId"], id, "the member's row is not acknowledged");
    }
    let items = serving(&mut peer, inbox(&running)).await;
    let mut bodies: Vec<_> = items.iter().filter_map(|item| item.body.as_deref()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["for-the-session", "from-a-sibling"]);
    let health = running.client().health().await.unwrap();
    assert_eq!(health.meshes[0].session_pubkey, Some(key));
    serving(&mut peer, running.client().send(&letter(&alice.public().to_hex(), "hi")))
        .await
        .unwrap();
    let sent = peer.wait_for("send").await;
    let sealed = direct::Sealed::from_b64(
        sent["nonce"].as_str().unwrap(),
        sent["ciphertext"].as_str().unwrap(),
    );
    let shared = direct::SharedKeyCache::new(1).between(&alice, key).unwrap();
    assert_eq!(shared.open(&sealed.unwrap()).unwrap(), b"hi", "sealed by the session's key");
    peer.send(&json!({"type": "ack", "id": sent["id"], "messageId": "Q-sent", "queued": true}))
        .await;
    running.shutdown().await;
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2, "config.json and run");
    own.remove().unwrap();
}

/// What was accepted goes out before the outbox is gone, and a member that joined for this daemon alone leaves once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_sends_what_it_accepted_and_leaves() {
    let world = World::new(2).await;
    let stays = Home::new();
    stays.join_as(world.entry(0));
    let stays = stays.start().await;
    opened(&stays).await;
    let home = Home::new();
    let members: Vec<MeshEntry> = vec![world.entry(1)];
    let own = ephemeral(&home).with(None, Some(members));
    let running = start(&home, own.clone()).await;
    opened(&running).await;
    let keys = async || {
        let members = stays.client().members(None).await.unwrap().members;
        members.iter().map(|member| member.row.pubkey).collect::<Vec<_>>()
    };
    assert!(keys().await.contains(&world.key(1)));
    let to = world.key(0).to_hex();
    for number in 0..50 {
        running.client().send(&letter(&to, &format!("{number}"))).await.unwrap();
    }
    running.shutdown().await;
    until("all of it arrived", async || inbox(&stays).await.len() == 50).await;
    until("the member has left", async || !keys().await.contains(&world.key(1))).await;
    // Once more, as after a start that failed: nobody is asked.
    let again =
        tokio::time::timeout(Duration::from_millis(100), own.leave(PlainHttp::LoopbackOnly));
    assert!(again.await.is_ok());
    let files: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "a member needs no home: {files:?}");
    own.remove().unwrap();
    stays.shutdown().await;
}

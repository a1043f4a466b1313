//! What the daemon knows of the others when somebody has just joined, and when a session of its own has just ended.

use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::mesh::{Listing, Resolution, Via};
use claudemesh_protocol::wire::{ClientFrame, JoinGroup, WrappedKey};
use claudemesh_protocol::{MemberId, PublicKey};
use serde_json::json;

use super::fake_broker::{FakeBroker, Peer, modern_features, serving};
use super::node::{Node, World, entry, event, until};

/// Wire spec §5.4, GRP: keys are wrapped for the audience of the moment: whoever joined the group before the message
/// was sent can read it, however young the sender's list is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_just_joined_a_group_can_read_the_next_message() {
    const ROUNDS: usize = 6;
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let session = bob.register("maker", None, vec![]);
    bob.session_open(&session).await;
    let via = Via::Session(session.key().unwrap());
    for round in 1..=ROUNDS {
        let name = format!("makers-{round}");
        // As young a list as there can be that does not know it yet.
        ana.mesh().peers(Listing::Addressable).await.unwrap();
        let join = JoinGroup { name: name.clone(), role: None };
        bob.mesh().request(via, ClientFrame::JoinGroup(Box::new(join))).await.unwrap();
        let mut sent = ana.subscribe();
        ana.send(&format!("@{name}"), &name).await;
        let told = event(&mut sent, "message_sent").await;
        assert_eq!((&told["recipients"], &told["skipped_no_key"]), (&json!(1), &json!(null)));
        let item = bob.receives(round).await.remove(round - 1);
        assert_eq!((item.body, item.recipient_pubkey), (Some(name), session.key()));
    }
}

/// Daemon spec §8.4: an own session that ended is not listed or found any more, at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_session_that_ended_is_gone_from_the_own_list_at_once() {
    let world = World::new(1).await;
    let ana = Node::open(world.entry(0)).await;
    for round in 0..5 {
        let name = format!("short-{round}");
        let session = ana.register(&name, None, vec![]);
        ana.session_open(&session).await;
        let key = session.key().unwrap();
        let is_listed = async || {
            let peers = ana.mesh().peers(Listing::All).await.unwrap().peers;
            peers.iter().any(|row| row.pubkey == key)
        };
        until("the session is listed", is_listed).await;
        ana.mesh().close_session(&key);
        assert!(matches!(ana.mesh().resolve(&name, None), Resolution::None { .. }));
        assert!(!is_listed().await);
        assert!(ana.mesh().own_live_sessions(None).is_empty());
    }
}

struct Scene {
    me: PublicKey,
    node: Node,
    peer: Peer,
    _broker: FakeBroker,
}

/// A daemon at a scripted broker, alone in its mesh, with the roster fetched.
async fn scene() -> Scene {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let entry = entry(&broker.mesh, &MemberId::new("me"), me.clone(), &broker.url());
    let node = Node::start(entry).await;
    let mut peer = broker.accept(modern_features()).await;
    serving(&mut peer, node.connected()).await;
    Scene { me: me.public(), node, peer, _broker: broker }
}

/// Daemon spec §7.5: a name that is missing starts a fetch in the background, and the next try finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_missing_is_looked_for_at_once() {
    let Scene { node, mut peer, .. } = scene().await;
    peer.members.push((KeyPair::generate().public(), "bob"));
    assert!(matches!(node.mesh().resolve("bob", None), Resolution::None { .. }));
    let found = until("bob is found", async || {
        matches!(node.mesh().resolve("bob", None), Resolution::One(_))
    });
    // Long before the list counts as old.
    let in_time = tokio::time::timeout(Duration::from_secs(3), serving(&mut peer, found)).await;
    in_time.expect("the list was not fetched");
}

/// Daemon spec §7.5: what is asked for by name comes from the broker, however young the last answer is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_ask_the_broker_every_time() {
    let Scene { me, node, mut peer, .. } = scene().await;
    for count in 1..=4 {
        let mesh = node.mesh();
        let members = serving(&mut peer, mesh.members()).await.unwrap();
        assert_eq!(members.len(), count);
        assert!(members.iter().any(|row| row.pubkey == me));
        peer.members.push((KeyPair::generate().public(), "newcomer"));
    }
}

/// Wire spec §5.4: whoever could not be given a key is counted, and the sender is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_got_no_key_is_told_to_the_sender() {
    let Scene { node, mut peer, .. } = scene().await;
    let bob = KeyPair::generate();
    peer.members.push((bob.public(), "bob"));
    let mut events = node.subscribe();
    node.send("*", "hello").await;
    let send = peer.wait_for("send").await;
    let wrapped: Vec<WrappedKey> = serde_json::from_value(send["wrappedKeys"].clone()).unwrap();
    assert_eq!(wrapped.iter().map(|key| key.to).collect::<Vec<_>>(), [bob.public()]);
    peer.send(&json!({
        "type": "ack", "id": send["id"], "messageId": "Q", "queued": true, "status": 201,
        "recipients": 1, "skipped_no_key": 2, "_reqId": send["_reqId"],
    }))
    .await;
    let told = serving(&mut peer, event(&mut events, "message_sent")).await;
    assert_eq!((&told["skipped_no_key"], &told["recipients"]), (&json!(2), &json!(1)));
}

//! Two or more daemons on one broker.

use claudemesh_daemon::mesh::{Listing, Resolution};
use claudemesh_ipc::api::{Decrypt, MeshStatus, RecipientKind};
use serde_json::json;

use super::node::{Node, World, event, until};

/// SND: direct messages both ways, sealed end to end, acknowledged, each shown once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_exchange_direct_messages_by_name() {
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let mut sent = ana.subscribe();
    ana.send("bot-1", "hello bob").await;
    bob.send("bot-0", "hello ana").await;
    let at_bob = bob.receives(1).await.remove(0);
    assert_eq!(at_bob.body.as_deref(), Some("hello bob"));
    assert_eq!((at_bob.channel.as_str(), at_bob.decrypt), ("dm", Decrypt::Ok));
    assert_eq!(at_bob.sender_pubkey, world.key(0).to_hex());
    assert_eq!(at_bob.sender_member_pubkey, world.key(0).to_hex());
    assert_eq!((at_bob.sender_name.as_str(), at_bob.sender_verified), ("bot-0", true));
    assert_eq!(at_bob.recipient_kind, Some(RecipientKind::Member));
    assert_eq!(ana.receives(1).await[0].body.as_deref(), Some("hello ana"));
    let told = event(&mut sent, "message_sent").await;
    assert_eq!(told["recipient_online"], json!(true));
    assert_eq!(told["target"], json!(world.key(1)));
    ana.sent_everything().await;
    ana.stop().await;
    bob.stop().await;
    world.broker.shutdown().await;
}

/// GRP: an encrypted body reaches everybody else, and not its sender.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_reaches_everybody_else() {
    let world = World::new(3).await;
    let ana = Node::open(world.entry(0)).await;
    let others = [Node::open(world.entry(1)).await, Node::open(world.entry(2)).await];
    let mut sent = ana.subscribe();
    ana.send("*", "all hands").await;
    for node in &others {
        let item = node.receives(1).await.remove(0);
        assert_eq!(item.body.as_deref(), Some("all hands"));
        assert_eq!((item.channel.as_str(), item.decrypt), ("broadcast", Decrypt::Ok));
        assert!(item.sender_verified);
    }
    assert_eq!(event(&mut sent, "message_sent").await["recipients"], json!(2));
    assert!(ana.received().await.is_empty());
}

/// GRP: a group is its sessions, the descendants of its name included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_message_reaches_its_sessions() {
    let world = World::new(3).await;
    let ana = Node::open(world.entry(0)).await;
    let (bob, eve) = (Node::open(world.entry(1)).await, Node::open(world.entry(2)).await);
    let group = |name: &str| vec![claudemesh_protocol::Group::plain(name.parse().unwrap())];
    let inside = bob.register("inside", None, group("ops/core"));
    let outside = eve.register("outside", None, group("dev"));
    bob.session_open(&inside).await;
    eve.session_open(&outside).await;
    until("ana sees both sessions", async || {
        ana.mesh().peers(Listing::Addressable).await.is_ok_and(|peers| peers.peers.len() == 2)
    })
    .await;
    ana.send("@ops", "to ops").await;
    let item = bob.receives(1).await.remove(0);
    assert_eq!((item.channel.as_str(), item.topic.as_deref()), ("group", Some("ops")));
    assert_eq!((item.body.as_deref(), item.recipient_pubkey), (Some("to ops"), inside.key()));
    ana.sent_everything().await;
    assert!(eve.received().await.is_empty());
}

/// DLV: a member who is away gets the message on return, once, also after another restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_who_is_away_gets_it_on_return_once() {
    let world = World::new(2).await;
    let ana = Node::open(world.entry(0)).await;
    let mut sent = ana.subscribe();
    ana.send("bot-1", "for later").await;
    let told = event(&mut sent, "message_sent").await;
    assert_eq!(told["recipient_online"], json!(false));
    ana.send("*", "for everybody").await;
    assert_eq!(event(&mut sent, "message_sent").await["held"], json!(1));
    let bob = Node::open(world.entry(1)).await;
    let bodies: Vec<_> = bob.receives(2).await.into_iter().filter_map(|item| item.body).collect();
    assert!(
        bodies.contains(&"for later".to_owned()) && bodies.contains(&"for everybody".to_owned())
    );
    let bob = bob.restart().await;
    bob.connected().await;
    ana.send("bot-1", "and now").await;
    assert_eq!(bob.receives(3).await[2].body.as_deref(), Some("and now"));
}

/// Daemon spec §6 Accept 1: broker down at boot, up later: both connection kinds open without restart, and a row queued
/// meanwhile is delivered. (The 20 s by the real schedule: `claudemesh-client`, `the_first_failure_takes_the_reconnect_road`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_wait_for_a_broker_that_comes_later() {
    let world = World::new(2).await;
    let proxy = super::cuts::Proxy::closed(world.broker.address()).await;
    let ana = Node::start(world.entry_at(0, &proxy.url())).await;
    let bob = Node::open(world.entry(1)).await;
    let session = ana.register("8f14e45f-ceea-467f-9a3b-0d5e6f7a8b9d", None, vec![]);
    ana.send(&world.key(1).to_hex(), "queued").await;
    until("ana has tried in vain", async || ana.mesh().status() == MeshStatus::Reconnecting).await;
    assert_eq!(ana.outbox.counts(super::node::SLUG).await.unwrap().pending, 1);
    proxy.open_up();
    assert_eq!(bob.receives(1).await[0].body.as_deref(), Some("queued"));
    ana.sent_everything().await;
    ana.session_open(&session).await;
}

/// Daemon spec §5: a listing is never empty because a connection is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_say_when_the_broker_cannot_be_asked() {
    let world = World::new(1).await;
    let proxy = super::cuts::Proxy::closed(world.broker.address()).await;
    let ana = Node::start(world.entry_at(0, &proxy.url())).await;
    let refused = ana.mesh().peers(Listing::All).await.unwrap_err();
    assert_eq!(refused.code, claudemesh_protocol::ErrorCode::BrokerUnavailable);
}

/// Daemon spec §10.2: whoever has only a daemon is listed without a session and found by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_only_a_daemon_is_listed_and_addressable() {
    let world = World::new(3).await;
    let ana = Node::open(world.entry(0)).await;
    let _bob = Node::open(world.entry(1)).await;
    until("ana sees bob's daemon", async || {
        let peers = ana.mesh().peers(Listing::Addressable).await.unwrap();
        assert!(peers.peers.is_empty(), "daemons are hidden");
        peers.no_session.iter().any(|row| row.pubkey == world.key(1) && row.display_name == "bot-1")
    })
    .await;
    assert_eq!(ana.resolve("BOT-1").recipient_online, Some(true));
    assert_eq!(ana.resolve("bot-2").recipient_online, Some(false));
    assert!(ana.resolve("bot-0").is_self_member);
    assert!(
        matches!(ana.mesh().resolve("nobody", None), Resolution::None { names, .. } if names.len() == 3)
    );
    assert!(!ana.mesh().members().await.unwrap().is_empty());
}

//! Sessions of one member, each with its own key and connection.

use claudemesh_daemon::mesh::{Listing, Sender};
use claudemesh_ipc::api::RecipientKind;
use claudemesh_protocol::capability::{Capability, CapabilitySet};
use std::sync::Arc;

use super::cuts::Proxy;
use super::node::{Node, World, until};

/// Daemon spec §7 Accept: two sessions A and B of one member: a message from A to B arrives once, at B only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_between_two_sessions_of_one_member_arrives_at_the_other_only() {
    let world = World::new(1).await;
    let ana = Node::open(world.entry(0)).await;
    let (a, b) = (ana.register("a", None, vec![]), ana.register("b", None, vec![]));
    ana.session_open(&a).await;
    ana.session_open(&b).await;
    let (key_a, key_b) = (a.key().unwrap(), b.key().unwrap());
    ana.send_as(&key_b.to_hex(), "psst", Sender::Session(Arc::clone(a.keys.as_ref().unwrap())))
        .await;
    let item = ana.receives(1).await.remove(0);
    assert_eq!(item.body.as_deref(), Some("psst"));
    assert_eq!(
        (item.recipient_pubkey, item.recipient_kind),
        (Some(key_b), Some(RecipientKind::Session))
    );
    assert_eq!(item.sender_pubkey, key_a.to_hex());
    assert_eq!(item.sender_member_pubkey, world.key(0).to_hex());
    assert!(item.sender_verified, "attested by its member");
    ana.sent_everything().await;
    assert_eq!(ana.received().await.len(), 1);
}

/// Daemon spec §7 Accept: a session registered with `--caps dm` has the same capabilities after every reconnect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capabilities_survive_every_reconnect() {
    let world = World::new(1).await;
    let proxy = Proxy::open(world.broker.address()).await;
    let ana = Node::open(world.entry_at(0, &proxy.url())).await;
    let caps = CapabilitySet::from_iter([Capability::Dm]);
    let session = ana.register("narrow", Some(caps), vec![]);
    ana.session_open(&session).await;
    for _ in 0..5 {
        proxy.cut();
        until("the narrow session is listed with its capabilities", async || {
            let Ok(peers) = ana.mesh().peers(Listing::Addressable).await else { return false };
            let row = peers.peers.iter().find(|row| Some(row.pubkey) == session.key());
            row.is_some_and(|row| row.allowed_caps.as_deref() == Some(&["dm".to_owned()][..]))
        })
        .await;
        ana.session_open(&session).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_addressed_by_its_name_and_verified_as_its_members() {
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let session = bob.register("builder", None, vec![]);
    bob.session_open(&session).await;
    until("ana sees the session", async || {
        ana.mesh().peers(Listing::Addressable).await.is_ok_and(|peers| peers.peers.len() == 1)
    })
    .await;
    ana.send("builder", "to the session").await;
    let item = bob.receives(1).await.remove(0);
    assert_eq!(item.recipient_pubkey, session.key());
    let sender = Sender::Session(Arc::clone(session.keys.as_ref().unwrap()));
    bob.send_as("bot-0", "from the session", sender).await;
    let item = ana.receives(1).await.remove(0);
    assert_eq!((item.sender_name.as_str(), item.sender_verified), ("builder", true));
    assert_eq!(item.sender_member_pubkey, world.key(1).to_hex());
}

/// Daemon spec §8.4: whoever deregisters is seen to leave at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_session_leaves_at_once() {
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let session = bob.register("short", None, vec![]);
    bob.session_open(&session).await;
    let mut events = ana.subscribe();
    bob.mesh().close_session(&session.key().unwrap());
    let left = super::node::event(&mut events, "peer_leave").await;
    assert_eq!(left["name"], "short");
    assert!(bob.mesh().session_status(&session.key().unwrap()).is_none());
}

/// Daemon spec §11.3: rows of a session that has ended are sent while its key pair is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_an_ended_session_are_flushed() {
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let session = bob.register("8f14e45f-ceea-467f-9a3b-0d5e6f7a8b9c", None, vec![]);
    bob.session_open(&session).await;
    let keys = Arc::clone(session.keys.as_ref().unwrap());
    bob.mesh().close_session(&keys.public());
    bob.sessions.remove(session.token_hash);
    bob.send_as("bot-0", "last words", Sender::Session(keys)).await;
    // The safety net looks every 15 s; a restart looks at once.
    let bob = bob.restart().await;
    let item = ana.receives(1).await.remove(0);
    assert_eq!((item.body.as_deref(), item.sender_verified), (Some("last words"), true));
    bob.sent_everything().await;
}

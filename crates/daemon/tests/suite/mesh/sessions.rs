//! Sessions of one member, each with its own key and connection.

use claudemesh_crypto::{KeyPair, attestation, direct};
use claudemesh_daemon::clock;
use claudemesh_daemon::inbox::{InboxFilter, Scope, SessionScope};
use claudemesh_daemon::mesh::{Listing, Sender};
use claudemesh_ipc::api::session::HookEvent;
use claudemesh_ipc::api::{RecipientKind, StatusReport};
use claudemesh_protocol::MemberId;
use claudemesh_protocol::capability::{Capability, CapabilitySet};
use std::sync::Arc;
use std::time::Duration;

use super::cuts::Proxy;
use serde_json::json;

use super::fake_broker::{FakeBroker, modern_features, serving};
use super::node::{Node, SLUG, World, entry, until};
use crate::local::world::{Home, register};

/// Daemon spec §7 Accept 1: two sessions A and B of one member: a message from A to B arrives once, at B only.
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

/// Daemon spec §7 Accept 2: a session registered with `--caps dm` has the same capabilities after every reconnect.
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

/// Daemon spec §11.3: rows of a session that has ended are sent while its key pair is stored; to its peers it does not come
/// back for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_an_ended_session_are_flushed() {
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let session = bob.register("8f14e45f-ceea-467f-9a3b-0d5e6f7a8b9c", None, vec![]);
    let mut events = ana.subscribe();
    bob.session_open(&session).await;
    let keys = Arc::clone(session.keys.as_ref().unwrap());
    let key = serde_json::json!(keys.public());
    bob.mesh().close_session(&keys.public());
    bob.sessions.remove(session.token_hash);
    while super::node::event(&mut events, "peer_leave").await["pubkey"] != key {}
    bob.send_as("bot-0", "last words", Sender::Session(keys)).await;
    // The safety net looks every 15 s; a restart looks at once.
    let bob = bob.restart().await;
    let item = ana.receives(1).await.remove(0);
    assert_eq!((item.body.as_deref(), item.sender_verified), (Some("last words"), true));
    bob.sent_everything().await;
    let peers = ana.mesh().peers(Listing::Addressable).await.unwrap().peers;
    assert!(peers.iter().all(|row| serde_json::json!(row.pubkey) != key), "{peers:?}");
    let next = bob.register("next", None, vec![]);
    bob.session_open(&next).await;
    let came = loop {
        let came = super::node::event(&mut events, "peer_join").await;
        if came["name"] != "bot-1" {
            break came;
        }
    };
    assert_eq!(came["pubkey"], serde_json::json!(next.key()));
}

/// Daemon spec §8 Accept 6: message queued to a session, session exits: the row arrives through the member's control-plane
/// connection, opens with the stored session key pair, and is in the inbox of the relaunched session and of any live
/// sibling, once each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_an_ended_session_opens_at_its_member() {
    const UUID: &str = "8f14e45f-ceea-467f-9a3b-0d5e6f7a8b9c";
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let sibling = bob.register("sibling", None, vec![]);
    let session = bob.register(UUID, None, vec![]);
    bob.session_open(&session).await;
    bob.session_open(&sibling).await;
    let key = session.key().unwrap();
    until("ana sees the session", async || {
        let peers = ana.mesh().peers(Listing::Addressable).await;
        peers.is_ok_and(|peers| peers.peers.iter().any(|row| row.pubkey == key))
    })
    .await;
    let mut events = ana.subscribe();
    bob.mesh().close_session(&key);
    bob.sessions.remove(session.token_hash);
    while super::node::event(&mut events, "peer_leave").await["pubkey"] != serde_json::json!(key) {}
    ana.send(&key.to_hex(), "are you there").await;
    let item = bob.receives(1).await.remove(0);
    assert_eq!(item.body.as_deref(), Some("are you there"));
    assert_eq!(item.recipient_kind, Some(RecipientKind::Member));
    assert_eq!(item.addressed_to, Some(key.to_hex()));
    let relaunched = bob.register(UUID, None, vec![]);
    assert_eq!(relaunched.key(), Some(key));
    for session in [&relaunched, &sibling] {
        let scope = Scope::Session(SessionScope {
            mesh: SLUG.to_owned(),
            session_id: session.session_id.clone(),
            key: session.key(),
            member_key: world.key(1),
            registered_at: session.registered_at,
        });
        let filter = InboxFilter { unread_only: true, limit: 10, ..InboxFilter::default() };
        let items = bob.inbox.list(&scope, &filter).await.unwrap().items;
        assert_eq!(items.iter().map(|item| &item.id).collect::<Vec<_>>(), [&item.id]);
    }
    ana.sent_everything().await;
}

/// Daemon spec §13.2: what an ended session left is its member's, also when another session stands in for the member's own
/// connection and is handed it; and the one that stands in may have written it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_stands_in_takes_its_members_messages_for_the_member() {
    const ENDED: &str = "8f14e45f-ceea-467f-9a3b-0d5e6f7a8b9e";
    let (me, alice) = (KeyPair::generate(), KeyPair::generate());
    let broker = FakeBroker::new(vec![(me.public(), "me"), (alice.public(), "alice")]).await;
    let joined = entry(&broker.mesh, &MemberId::new("me"), me.clone(), &broker.url());
    let node = Node::start(joined).await;
    let mut control = broker.accept(modern_features()).await;
    let session = node.register(ENDED, None, vec![]);
    let ended = session.key().unwrap();
    let _first = broker.accept_session(modern_features()).await;
    node.mesh().close_session(&ended);
    node.sessions.remove(session.token_hash);
    let live = node.register("stand-in", None, vec![]);
    let mut stand_in = broker.accept_session(modern_features()).await;
    let letter = |id: &str, sender: &KeyPair, member: &KeyPair| {
        let sealed = direct::seal(id.as_bytes(), sender, ended).unwrap();
        let expires_at = clock::now().plus(Duration::from_hours(1));
        let proof = attestation::mint(member, sender.public(), expires_at, None);
        json!({
            "type": "push", "messageId": format!("Q-{id}"), "meshId": broker.mesh,
            "senderPubkey": sender.public(), "senderMemberPubkey": member.public(), "senderName": "x",
            "senderAttestation": proof, "priority": "next", "nonce": sealed.nonce.to_b64(),
            "ciphertext": sealed.ciphertext_b64(), "createdAt": clock::now().to_iso(),
            "client_message_id": id, "targetSpec": ended,
        })
    };
    let both = letter("both", &alice, &alice);
    control.send(&both).await;
    control.wait_for("client_ack").await;
    let own = live.keys.as_ref().unwrap();
    let pushes = [both, letter("only", &alice, &alice), letter("own", own, &me)];
    serving(&mut control, async {
        for push in &pushes {
            stand_in.send(push).await;
            stand_in.wait_for("client_ack").await;
        }
    })
    .await;
    let items = node.receives(3).await;
    let bodies: Vec<_> = items.iter().map(|item| item.body.as_deref().unwrap()).collect();
    assert_eq!(bodies, ["both", "only", "own"]);
    for item in &items {
        assert_eq!(item.recipient_kind, Some(RecipientKind::Member));
        assert_eq!(item.addressed_to, Some(ended.to_hex()));
    }
}

/// Daemon spec §7 Accept 3: a session registered 13 h ago reconnects; the broker sees a new `expiresAt`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_session_reconnects_with_a_new_attestation() {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let joined = entry(&broker.mesh, &MemberId::new("me"), me, &broker.url());
    let node = Node::start(joined).await;
    let _control = broker.accept(modern_features()).await;
    node.register_at("old", clock::now().minus(Duration::from_hours(13)));
    let mut expiries = Vec::new();
    for _ in 0..2 {
        let (peer, hello) = broker.accept_as("session_hello", modern_features()).await;
        let expires_at = hello["parentAttestation"]["expiresAt"].as_i64().unwrap();
        let left = expires_at - clock::now().as_millis();
        assert!(left > 11 * 3_600_000 && left <= 12 * 3_600_000, "{left} ms");
        expiries.push(expires_at);
        drop(peer);
    }
    assert!(expiries[0] < expiries[1]);
}

/// Daemon spec §7 Accept 4: own session restart produces no `peer_joined` channel line in any of the user's sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ones_own_sessions_come_and_go_in_silence() {
    let world = World::new(2).await;
    let ana = Node::open(world.entry(0)).await;
    let mut events = ana.subscribe();
    for _ in 0..3 {
        let session = ana.register("mine", None, vec![]);
        ana.session_open(&session).await;
        ana.mesh().close_session(&session.key().unwrap());
        ana.sessions.remove(session.token_hash);
    }
    let bob = Node::open(world.entry(1)).await;
    let other = bob.register("other", None, vec![]);
    bob.session_open(&other).await;
    loop {
        let joined = super::node::event(&mut events, "peer_join").await;
        assert_ne!(joined["name"], "mine");
        if joined["name"] == "other" {
            break;
        }
    }
}

/// Daemon spec §8 Accept 5: same UUID launched twice concurrently: broker shows one presence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_is_one_presence_however_often_it_is_launched() {
    const UUID: &str = "8f14e45f-ceea-467f-9a3b-0d5e6f7a8b9d";
    let world = World::new(2).await;
    let (ana, bob) = (Node::open(world.entry(0)).await, Node::open(world.entry(1)).await);
    let mut last = bob.register(UUID, None, vec![]);
    for _ in 0..20 {
        last = bob.register(UUID, None, vec![]);
    }
    bob.session_open(&last).await;
    until("ana sees one session of that key", async || {
        let Ok(peers) = ana.mesh().peers(Listing::Addressable).await else { return false };
        assert!(peers.peers.len() <= 1, "{:?}", peers.peers);
        peers.peers.iter().any(|row| Some(row.pubkey) == last.key())
    })
    .await;
}

/// daemon §8.7: each matched session gets broker `set_status`, also when nothing changed here, and again on a new
/// connection: the broker may have missed the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_hears_every_status_and_again_after_a_reconnect() {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let home = Home::new();
    let mut joined = entry(&broker.mesh, &MemberId::new("me"), me, &broker.url());
    joined.slug = "dev".to_owned();
    home.join_as(joined);
    let running = home.start().await;
    let _control = broker.accept(modern_features()).await;
    let (client, _) = register(&running, "dev", 1, |_| {}).await;
    let mut session = broker.accept_session(modern_features()).await;
    let report = async |event| {
        let report = StatusReport { event: Some(event), ..StatusReport::default() };
        client.session_status(&report).await.unwrap();
    };
    for (event, status) in
        [(HookEvent::Stop, "idle"), (HookEvent::Stop, "idle"), (HookEvent::Prompt, "working")]
    {
        report(event).await;
        // One more may come for the new connection itself.
        while session.wait_for("set_status").await["status"] != status {}
    }
    drop(session);
    let mut session = broker.accept_session(modern_features()).await;
    while session.wait_for("set_status").await["status"] != "working" {}
    running.shutdown().await;
}

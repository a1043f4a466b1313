//! A member takes another key (daemon spec §19), with a real broker and a peer that goes on writing to the old one.

use std::sync::Arc;

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::Running;
use claudemesh_daemon::home::config::{Config, ConfigError, MeshEntry};
use claudemesh_ipc::Client;
use claudemesh_ipc::api::identity::{RotateKeypairReply, RotateKeypairRequest};
use claudemesh_ipc::api::{Decrypt, InboxItem, InboxQuery, MeshStatus};
use claudemesh_protocol::PublicKey;
use tempfile::TempDir;

use crate::local::world::{Home, code, letter, register};
use crate::mesh::fake_broker::{FakeBroker, modern_features};
use crate::mesh::node::{Node, SLUG, World, entry, until};

pub(super) const EVERYTHING: RotateKeypairRequest = RotateKeypairRequest { mesh: None };

/// A home whose daemon is the first member of `world`.
pub(super) fn home_of(world: &World) -> Home {
    home_of_member(world, 0)
}

pub(super) fn home_of_member(world: &World, member: usize) -> Home {
    let home = Home::new();
    home.join_as(world.entry(member));
    home
}

pub(super) fn own_key(home: &Home) -> PublicKey {
    membership(home).keys.public()
}

fn membership(home: &Home) -> MeshEntry {
    Config::read(&home.paths.membership_file()).unwrap().mesh(SLUG).unwrap().clone()
}

pub(super) fn has_record(home: &Home) -> bool {
    home.paths.daemon_dir().join(format!("rotation-pending-{SLUG}.json")).exists()
}

async fn is_open(client: &Client) -> bool {
    let health = client.health().await;
    health.is_ok_and(|health| health.brokers.get(SLUG) == Some(&MeshStatus::Open))
}

pub(super) async fn opened(client: &Client) {
    until("the mesh is open", async || is_open(client).await).await;
}

async fn inbox(client: &Client) -> Vec<InboxItem> {
    let query = InboxQuery { mark_seen: Some(false), limit: Some(500), ..InboxQuery::default() };
    let mut items = client.inbox(&query).await.unwrap().items;
    items.reverse();
    items
}

pub(super) async fn received(client: &Client, count: usize) -> Vec<InboxItem> {
    until(&format!("{count} messages are there"), async || inbox(client).await.len() >= count)
        .await;
    let items = inbox(client).await;
    assert_eq!(items.len(), count);
    items
}

pub(super) async fn rotate(client: &Client) -> RotateKeypairReply {
    let reply = client.rotate_keypair(&EVERYTHING).await.unwrap();
    assert_eq!((reply.rotated.len(), reply.errors.len()), (1, 0));
    reply
}

/// Writes `expires_at` of every archived key into the past.
fn let_archive_expire(home: &Home) {
    let path = home.paths.daemon_dir().join("keypair-archive.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in document["keys"].as_array_mut().unwrap() {
        key["expires_at"] = "2020-01-01T00:00:00.000Z".into();
    }
    std::fs::write(&path, document.to_string()).unwrap();
}

fn stale(running: &Running) -> u64 {
    running.daemon().meshes().get(SLUG).unwrap().dropped().stale
}

/// Daemon spec §19 Accept 1: rotate while a peer sends 100 DMs to the old key: all decrypt; after the grace, old-key messages
/// fail and count. §15 Accept 3: a message to the old member key within grace is `archived_key`, later `failed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_to_the_old_key_opens_while_its_time_lasts() {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = home_of(&world);
    let running = home.start().await;
    let client = running.client();
    opened(&client).await;
    let old = own_key(&home);
    let sending = async {
        for n in 0..100 {
            bob.send_to_key(old, &n.to_string()).await;
        }
    };
    let ((), reply) = tokio::join!(sending, rotate(&client));
    let new = reply.rotated[0].pubkey;
    assert_eq!(own_key(&home), new);
    assert_eq!(reply.rotated[0].old_prefix, old.short(16));
    let items = received(&client, 100).await;
    let bodies: Vec<_> = items.iter().filter_map(|item| item.body.clone()).collect();
    assert_eq!(bodies, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    for item in &items {
        assert_eq!(item.recipient_pubkey, Some(new), "{:?}", item.decrypt);
        assert_eq!(item.addressed_to, None, "{:?}", item.decrypt);
    }
    bob.send_to_key(old, "after").await;
    let items = received(&client, 101).await;
    assert_eq!(items[100].decrypt, Decrypt::ArchivedKey);
    assert_eq!(stale(&running), 0);
    assert!(!has_record(&home));
    // The peer is told, and goes on with the new key by itself.
    until("bob knows the new key", async || bob.mesh().is_member(new)).await;
    bob.send("bot-0", "to the new key").await;
    assert_eq!(received(&client, 102).await[101].decrypt, Decrypt::Ok);
    running.shutdown().await;
    let_archive_expire(&home);
    let running = home.start().await;
    let client = running.client();
    opened(&client).await;
    assert!(!home.paths.daemon_dir().join("keypair-archive.json").exists());
    bob.send_to_key(old, "too late").await;
    let items = received(&client, 103).await;
    assert_eq!((items[102].decrypt, items[102].body.as_deref()), (Decrypt::Failed, None));
    assert_eq!(items[102].addressed_to, None);
    assert_eq!(stale(&running), 1);
    running.shutdown().await;
}

/// Sessions see the member's messages and have their presence under the new key, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_go_on_under_the_new_key() {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = home_of(&world);
    let running = home.start().await;
    opened(&running.client()).await;
    let (session, registered) = register(&running, SLUG, 1, |_| {}).await;
    let key = registered.session_pubkey.unwrap();
    let is_present = async || {
        session.session().await.is_ok_and(|view| view.broker_status == Some(MeshStatus::Open))
    };
    until("the session is there", is_present).await;
    bob.send("bot-0", "for the member").await;
    received(&session, 1).await;
    rotate(&running.client()).await;
    assert_eq!(inbox(&session).await.len(), 1, "what came before is still its member's");
    until("the session is there again", is_present).await;
    let own = own_key(&home);
    until("bob knows both", async || {
        bob.mesh().name_of(key).is_some() && bob.mesh().is_member(own)
    })
    .await;
    bob.send_to_key(key, "for the session").await;
    let items = received(&session, 2).await;
    assert!(items.iter().all(|item| item.decrypt == Decrypt::Ok));
    session.send(&letter(&world.key(1).to_hex(), "from the session")).await.unwrap();
    let letters = bob.receives(1).await;
    assert!(letters[0].sender_verified);
    assert_eq!(letters[0].sender_member_pubkey, own.to_hex());
    running.shutdown().await;
}

/// Daemon spec §19.1: rows that wait under the old key are sealed anew before they are sent; id and fingerprint stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_under_the_old_key_is_sealed_by_the_new_one() {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = Home::new();
    home.join_as(world.entry_at(0, "ws://127.0.0.1:1/ws"));
    let running = home.start().await;
    let to = world.key(1).to_hex();
    let sent = running.client().send(&letter(&to, "sealed by the old key")).await.unwrap();
    running.shutdown().await;
    let elsewhere = home_of(&world);
    let there = elsewhere.start().await;
    opened(&there.client()).await;
    rotate(&there.client()).await;
    there.shutdown().await;
    let entry = membership(&elsewhere);
    Config::update(&home.paths.membership_file(), |config| {
        config.change_mesh(SLUG, |mesh| {
            mesh.keys = entry.keys.clone();
            mesh.broker_url.clone_from(&entry.broker_url);
        });
        Ok::<_, ConfigError>(())
    })
    .unwrap();
    let running = home.start().await;
    let items = bob.receives(1).await;
    assert_eq!(items[0].body.as_deref(), Some("sealed by the old key"));
    assert_eq!(items[0].client_message_id, sent.client_message_id);
    assert_eq!(items[0].sender_pubkey, entry.keys.public().to_hex());
    running.shutdown().await;
}

/// Wire spec §5.18: peers remember the key that a member had, also over a start of theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_remember_the_former_key() {
    let world = World::new(2).await;
    let dir = Arc::new(TempDir::new().unwrap());
    let bob = Node::start_in(Arc::clone(&dir), world.entry(1)).await;
    bob.connected().await;
    let home = home_of(&world);
    let running = home.start().await;
    opened(&running.client()).await;
    let old = own_key(&home);
    rotate(&running.client()).await;
    let state = dir.path().join(format!("mesh-state-{SLUG}.json"));
    until("it is written down", async || {
        std::fs::read_to_string(&state).is_ok_and(|text| text.contains(&old.to_hex()))
    })
    .await;
    bob.stop().await;
    running.shutdown().await;
}

/// A broker that does not say it can change keys is not asked to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_the_feature_changes_no_key() {
    let fake = FakeBroker::new(vec![]).await;
    let keys = KeyPair::generate();
    let member = claudemesh_protocol::MemberId::new("member");
    let home = Home::new();
    home.join_as(entry(&fake.mesh, &member, keys.clone(), &fake.url()));
    let running = home.start().await;
    let mut peer = fake.accept(modern_features()).await;
    let client = running.client();
    let refused = crate::mesh::fake_broker::serving(&mut peer, async {
        opened(&client).await;
        client.rotate_keypair(&EVERYTHING).await
    })
    .await;
    assert_eq!(code(refused), "key_rotation_failed");
    assert!(!has_record(&home) && own_key(&home) == keys.public());
    running.shutdown().await;
}

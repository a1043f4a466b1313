//! What members grant each other, and what follows a member that changes its key (broker spec §2.6, §4.22).

use std::time::Duration;

use claudemesh_crypto::{KeyPair, statement};
use claudemesh_protocol::canonical;
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::world::World;

const DAY: Duration = Duration::from_hours(24);

fn to(key: &KeyPair) -> Value {
    json!({"targetSpec": key.public()})
}

fn set(key: impl AsRef<str>, granted: &Value) -> Value {
    json!({"type": "set_grants", "grants": {key.as_ref(): granted}})
}

const BLOCKED: &str = "forbidden: blocked by recipient grants (sender lacks dm capability)";

/// GRN-1, GRN-2.
#[tokio::test]
async fn a_block_holds_for_the_next_message_and_null_lifts_it_without_a_reconnect() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let key = people[1].key.public().to_hex();
    let answer = alice.ask(set(key.as_str(), &json!([]))).await;
    assert_eq!((&answer["type"], &answer["grants"]), (&json!("grants_result"), &json!({&key: []})));
    assert_eq!(bob.message(to(&people[0].key)).await["error"], BLOCKED);
    let ack = bob.message(json!({"targetSpec": "*"})).await;
    assert_eq!((&ack["queued"], &ack["recipients"]), (&json!(true), &json!(0)));
    assert_eq!(alice.pushes_so_far().await.len(), 0);
    assert_eq!(alice.ask(json!({"type": "get_grants"})).await["grants"], json!({&key: []}));
    assert_eq!(alice.ask(set(key.as_str(), &Value::Null)).await["grants"], json!({}));
    assert_eq!(bob.message(to(&people[0].key)).await["queued"], true);
    alice.push().await;
    let log = alice.ask(json!({"type": "audit_query", "eventType": "grants_changed"})).await;
    assert_eq!(log["total"], 2, "{log}");
}

/// GRN-3.
#[tokio::test]
async fn a_block_by_a_session_key_outlives_the_session() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let old = world.session(&people[1], &session).await;
    let answer = alice.ask(set(session.pubkey(), &json!([]))).await;
    let member_key = people[1].key.public().to_hex();
    assert_eq!(answer["grants"], json!({&member_key: []}), "kept under the member key");
    old.leave().await;
    let mut new = world.session(&people[1], &Session::new()).await;
    assert_eq!(new.message(to(&people[0].key)).await["error"], BLOCKED);
    // A key of a session that has ended names its member as well.
    let answer = alice.ask(set(session.pubkey(), &Value::Null)).await;
    assert_eq!(answer["grants"], json!({}));
}

#[tokio::test]
async fn an_own_key_and_an_unknown_grant_are_refused() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let _own = world.session(&people[0], &session).await;
    let other = people[1].key.public().to_hex();
    for frame in [
        set(people[0].key.public().to_hex(), &json!([])),
        set(session.pubkey(), &json!([])),
        set(other, &json!(["dm", "fly"])),
        set("nokey", &json!([])),
    ] {
        assert_eq!(alice.ask(frame.clone()).await["code"], "invalid_args", "{frame}");
    }
}

async fn rotate(world: &World, socket: &mut Socket, person: &Person, new: &KeyPair) -> Value {
    socket.ask(rotation(world, person, new)).await
}

/// A new key that both keys have signed.
pub fn rotation(world: &World, person: &Person, new: &KeyPair) -> Value {
    let now = world.clock_now();
    let old = person.key.public();
    let sign = |key: &KeyPair| {
        let text = canonical::member_rotation(&person.mesh, &person.id, old, new.public(), now);
        statement::sign(text, key).unwrap()
    };
    json!({
        "type": "rotate_member_key", "newPubkey": new.public(), "timestamp": now.as_millis(),
        "signature_old": sign(&person.key), "signature_new": sign(new),
    })
}

/// ROT-1.
#[tokio::test]
async fn the_old_key_is_reached_for_seven_days_and_refused_at_once() {
    let world = World::start().await;
    let mut people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut daemon = world.daemon(&people[1]).await;
    let mut session = world.session(&people[1], &Session::new()).await;
    let new = KeyPair::generate();
    let answer = rotate(&world, &mut daemon, &people[1], &new).await;
    assert_eq!(answer["type"], "ack", "{answer}");
    for socket in [&mut daemon, &mut session] {
        assert_eq!(socket.close_reason().await, (1000, "disconnected".to_owned()));
    }
    let event = alice.event("member_keypair_rotated").await;
    assert_eq!(event["newPubkey"], json!(new.public()));
    assert_eq!(event["oldPubkey"], json!(people[1].key.public()));
    for hello in [world.daemon_hello(&people[1]), world.session_hello(&people[1], &Session::new())]
    {
        let (refusal, ..) = world.refused(hello).await;
        assert_eq!(refusal["code"], "unauthorized", "{refusal}");
    }
    let old = std::mem::replace(&mut people[1].key, new);
    // The same presence goes on under the new key.
    let mut daemon = world.daemon(&people[1]).await;
    assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
    let ack = alice.message(to(&old)).await;
    assert_eq!(
        (&ack["queued"], &ack["rerouted_to"]),
        (&json!(true), &json!(people[1].key.public()))
    );
    let push = daemon.push().await;
    daemon.confirm(&push).await;
    daemon.leave().await;
    world.pass(6 * DAY.as_secs());
    let mut alice = world.daemon(&people[0]).await;
    assert_eq!(alice.message(to(&old)).await["queued"], true);
    let mut daemon = world.daemon(&people[1]).await;
    daemon.push().await;
    world.pass(2 * DAY.as_secs());
    let mut alice = world.daemon(&people[0]).await;
    let ack = alice.message(to(&old)).await;
    assert_eq!(ack["queued"], false, "{ack}");
    assert!(ack["error"].as_str().unwrap().starts_with("target_not_found"), "{ack}");
    assert_eq!(alice.message(to(&people[1].key)).await["queued"], true);
}

/// ROT-1: what waited under the old key, and who was blocked under it.
#[tokio::test]
async fn what_waits_and_who_is_blocked_follow_the_new_key() {
    let world = World::start().await;
    let mut people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut daemon = world.daemon(&people[1]).await;
    daemon.ask(json!({"type": "set_status", "status": "dnd", "source": "manual"})).await;
    let ack = alice.message(json!({"targetSpec": people[1].key.public(), "priority": "low"})).await;
    assert_eq!(ack["queued"], true);
    alice.ask(set(people[1].key.public().to_hex(), &json!([]))).await;
    let new = KeyPair::generate();
    assert_eq!(rotate(&world, &mut daemon, &people[1], &new).await["type"], "ack");
    daemon.close_reason().await;
    people[1].key = new;
    let mut daemon = world.daemon(&people[1]).await;
    daemon.ask(json!({"type": "set_status", "status": "idle", "source": "manual"})).await;
    daemon.push().await;
    assert_eq!(daemon.message(to(&people[0].key)).await["error"], BLOCKED);
}

/// ROT-1: a group message whose content key was sealed for the old key is handed over as long as that key is reached.
#[tokio::test]
async fn a_group_message_sealed_for_the_old_key_is_handed_over_for_a_while() {
    let world = World::start().await;
    let mut people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut daemon = world.daemon(&people[1]).await;
    let new = KeyPair::generate();
    assert_eq!(rotate(&world, &mut daemon, &people[1], &new).await["type"], "ack");
    daemon.close_reason().await;
    let old = std::mem::replace(&mut people[1].key, new).public();
    let mut daemon = world.daemon(&people[1]).await;
    let sealed_for_old = json!({
        "targetSpec": "*", "bodyVersion": 2,
        "wrappedKeys": [{"to": old, "nonce": "bm9uY2U=", "key": "a2V5"}],
    });
    let ack = alice.message(sealed_for_old.clone()).await;
    assert!(ack["queued"] == true && ack.get("skipped_no_key").is_none(), "{ack}");
    let push = daemon.push().await;
    assert_eq!(push["wrappedKey"]["to"], json!(old));
    daemon.confirm(&push).await;
    world.pass(8 * DAY.as_secs());
    let mut alice = world.daemon(&people[0]).await;
    let _daemon = world.daemon(&people[1]).await;
    assert_eq!(alice.message(sealed_for_old).await["skipped_no_key"], 1);
}

#[tokio::test]
async fn a_rotation_needs_both_keys_and_the_members_own_connection() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut daemon = world.daemon(&people[1]).await;
    let mut session = world.session(&people[1], &Session::new()).await;
    let new = KeyPair::generate();
    assert_eq!(rotate(&world, &mut session, &people[1], &new).await["code"], "forbidden");
    let forged = Person {
        mesh: people[1].mesh.clone(),
        id: people[1].id.clone(),
        key: people[0].key.clone(),
        name: String::new(),
    };
    assert_eq!(rotate(&world, &mut daemon, &forged, &new).await["code"], "bad_signature");
    let taken = people[0].key.clone();
    assert_eq!(rotate(&world, &mut daemon, &people[1], &taken).await["code"], "invalid_args");
    assert_eq!(daemon.peers().await.len(), 2);
}

#[tokio::test]
async fn no_hello_under_the_old_key_outlives_a_rotation() {
    let world = World::start().await;
    Box::pin(no_hello_under_the_old_key_outlives_a_rotation_on(&world)).await;
}

#[tokio::test]
async fn no_hello_under_the_old_key_outlives_a_rotation_on_postgres() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(no_hello_under_the_old_key_outlives_a_rotation_on(&world)).await;
}

/// Whatever hello was being judged while the key changed: it is refused, or its connection is ended.
async fn no_hello_under_the_old_key_outlives_a_rotation_on(world: &World) {
    for round in 0..20_u64 {
        let people = world.mesh_of(&["alice", "bob"]).await;
        let bob = &people[1];
        let mut daemon = world.daemon(bob).await;
        let mut late = Vec::new();
        for _ in 0..4 {
            let mut socket = world.socket().await;
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            late.push(async move {
                socket.send(&world.session_hello(bob, &Session::new())).await;
                socket
            });
        }
        let new = KeyPair::generate();
        let (sockets, answer) = tokio::join!(
            futures_util::future::join_all(late),
            rotate(world, &mut daemon, bob, &new)
        );
        assert_eq!(answer["type"], "ack", "{answer}");
        for mut socket in sockets {
            let greeting = socket.next().await;
            let (code, reason) = socket.close_reason().await;
            match greeting["type"].as_str() {
                Some("hello_ack") => assert_eq!((code, &*reason), (1000, "disconnected")),
                _ => assert_eq!((code, &*reason), (1008, "unauthorized"), "{greeting}"),
            }
        }
        assert_eq!(world.refused(world.daemon_hello(bob)).await.0["code"], "unauthorized");
    }
}

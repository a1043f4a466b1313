//! `message_status` in the situations a sender asks in (broker spec §3.7): it says the truth, who says so, and what the
//! message waits for.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_protocol::limits::UNACKED_MAX;
use claudemesh_protocol::permission::Grant;
use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{MessageId, Priority, TargetSpec};
use claudemesh_store::{DeliveryWrite, NewMessage, Revocation, RevokeKind, SenderKind};
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::receipts::{daemon, receipt, session, standing, until_state};
use crate::world::World;

fn to(person: &Person, id: &str) -> Value {
    json!({"targetSpec": person.key.public(), "client_message_id": id})
}

#[track_caller]
fn assert_says(shown: &Value, state: &str, status: &str, reason: &Value, next: &str) {
    assert_eq!(
        (&shown["state"], &shown["status"], &shown["reason"], &shown["assertedBy"]),
        (&json!(state), &json!(status), reason, &json!("broker")),
        "{shown}"
    );
    let said = shown["next"].as_str().unwrap_or_default();
    assert!(said.starts_with(next) && said.is_empty() == next.is_empty(), "{next}: {shown}");
    assert!(shown["since"].as_str().is_some(), "{shown}");
}

async fn set_status(socket: &mut Socket, status: &str) {
    let reply = socket.ask(json!({"type": "set_status", "status": status})).await;
    assert_eq!(reply["type"], "ack");
}

/// Situation 1 of 6: nobody is there.
#[tokio::test]
async fn an_absent_peer() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let ack = alice.message(to(&people[1], "c")).await;
    assert_eq!((&ack["recipient_online"], &ack["held"]), (&json!(false), &json!(1)));
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_says(
        &shown,
        "held",
        "disconnected",
        &json!("absent"),
        "waits until bob connects, expires 20",
    );
    assert_eq!(shown["name"], "bob");
    // It comes, takes the message, and goes again.
    let mut bob = world.daemon(&people[1]).await;
    let push = bob.push().await;
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_says(&shown, "accepted", "held", &Value::Null, "pushed again in ");
    bob.confirm(&push).await;
    bob.pushes_so_far().await;
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_says(&shown, "accepted", "delivered", &Value::Null, "");
}

/// Situation 2 of 6: the peer is busy, at the broker's gate and at its own.
#[tokio::test]
async fn a_busy_peer() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let old = Session::new();
    let mut bob = world.session(&people[1], &old).await;
    for (status, reason, next) in [
        ("working", "busy", "waits until bob is idle, expires "),
        ("dnd", "dnd", "waits until bob may be disturbed, expires "),
    ] {
        set_status(&mut bob, status).await;
        let message = json!({"targetSpec": old.pubkey(), "client_message_id": status});
        let ack = alice.message(message).await;
        let shown = standing(&mut alice, &ack["messageId"]).await;
        assert_says(&shown, "deferred", "held", &json!(reason), next);
        assert_eq!(shown["name"], "bob session");
    }
    // DLV-2b: a daemon that gates itself says so.
    let gated = Session::new();
    let mut bob = session(&world, &people[1], &gated).await;
    set_status(&mut bob, "working").await;
    let message = json!({"targetSpec": gated.pubkey(), "client_message_id": "local"});
    let ack = alice.message(message).await;
    let push = bob.push().await;
    bob.confirm(&push).await;
    let key = gated.key.public();
    let mut held = receipt(&world, &people[1], key, &push, ReceiptState::Held);
    held["reason"] = json!("busy");
    bob.send(&held).await;
    let shown = until_state(&mut alice, &ack["messageId"], "held").await;
    assert_eq!(
        (&shown["reason"], &shown["assertedBy"], &shown["next"]),
        (&json!("busy"), &json!("recipient_daemon"), &json!("waits until bob is idle"))
    );
    bob.send(&receipt(&world, &people[1], key, &push, ReceiptState::Handed)).await;
    let shown = until_state(&mut alice, &ack["messageId"], "handed").await;
    assert_eq!(shown["reason"], Value::Null);
}

/// Situation 3 of 6: the session is dead; first its lease runs, then its member has the message.
#[tokio::test]
async fn a_dead_session() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let bobs = Session::new();
    let mut bob = session(&world, &people[1], &bobs).await;
    let message = json!({"targetSpec": bobs.pubkey(), "client_message_id": "c"});
    let ack = alice.message(message.clone()).await;
    bob.push().await;
    bob.cut();
    let shown = until_state(&mut alice, &ack["messageId"], "held").await;
    assert_says(&shown, "held", "held", &json!("absent"), "waits until bob reconnects, expires 20");
    world.pass(100);
    let shown = until_state(&mut alice, &ack["messageId"], "rerouted").await;
    let next = "waits until bob connects, expires 20";
    assert_says(&shown, "rerouted", "disconnected", &json!("session_ended"), next);
    assert_eq!(shown["pubkey"], json!(people[1].key.public()));
    // A message to the ended session goes there at once; the ack says so and the status again.
    let mut late = message.clone();
    late["client_message_id"] = json!("d");
    let ack = alice.message(late).await;
    assert_eq!(ack["rerouted_to"], json!(people[1].key.public()));
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_says(&shown, "rerouted", "disconnected", &json!("session_ended"), next);
    let mut home = world.daemon(&people[1]).await;
    home.push().await;
    let second = home.push().await;
    home.confirm(&second).await;
    home.pushes_so_far().await;
    assert_eq!(standing(&mut alice, &ack["messageId"]).await["status"], "delivered");
}

/// Situation 4 of 6: the broker was killed between push and confirmation.
#[tokio::test]
async fn a_killed_broker() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let ack = alice.message(to(&people[1], "c")).await;
    bob.push().await;
    world.kill().await;
    world.resume().await;
    let mut alice = daemon(&world, &people[0]).await;
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_says(&shown, "held", "held", &json!("absent"), "waits until bob reconnects, expires 20");
    let mut bob = daemon(&world, &people[1]).await;
    let push = bob.push().await;
    bob.confirm(&push).await;
    let key = people[1].key.public();
    bob.send(&receipt(&world, &people[1], key, &push, ReceiptState::OnDevice)).await;
    let shown = until_state(&mut alice, &ack["messageId"], "on_device").await;
    assert_eq!(
        (&shown["status"], &shown["assertedBy"]),
        (&json!("delivered"), &json!("recipient_daemon"))
    );
    assert_eq!(shown["next"], "waits until a session of bob takes it");
}

/// Situation 5 of 6: the recipient has not granted it. There is no message then; of a broadcast it is not a recipient.
#[tokio::test]
async fn refused_by_a_grant() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let store = world.broker().broker().store();
    let nothing = [(people[0].key.public(), Some(Vec::<Grant>::new()))].into_iter().collect();
    let now = world.clock_now();
    store.merge_grants(&people[1].mesh, &people[1].id, nothing, now).await.unwrap();
    world.broker().broker().roster_changed(&people[1].mesh);
    let ack = alice.message(to(&people[1], "c")).await;
    assert_eq!(
        (&ack["queued"], &ack["messageId"], &ack["error"]),
        (
            &json!(false),
            &json!(""),
            &json!("forbidden: blocked by recipient grants (sender lacks dm capability)")
        )
    );
    let ack = alice.message(json!({"targetSpec": "*", "client_message_id": "all"})).await;
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_eq!(shown["name"], "carol", "the blocked recipient is not listed");
}

/// Situation 6 of 6: it was answered.
#[tokio::test]
async fn an_answered_message() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let bobs = Session::new();
    let mut bob = session(&world, &people[1], &bobs).await;
    let message = json!({"targetSpec": bobs.pubkey(), "client_message_id": "c"});
    let ack = alice.message(message).await;
    let push = bob.push().await;
    bob.confirm(&push).await;
    let key = bobs.key.public();
    for state in [ReceiptState::InContext, ReceiptState::TurnEnded, ReceiptState::Answered] {
        let mut said = receipt(&world, &people[1], key, &push, state);
        said["evidence"] = json!("transcript");
        bob.send(&said).await;
    }
    let shown = until_state(&mut alice, &ack["messageId"], "answered").await;
    assert_eq!(
        (&shown["assertedBy"], &shown["evidence"], &shown["next"]),
        (&json!("agent_record"), &json!("transcript"), &Value::Null)
    );
    let whole = alice.ask(json!({"type": "message_status", "messageId": ack["messageId"]})).await;
    assert_eq!((&whole["delivered"], &whole["targetSpec"]), (&json!(true), &json!(bobs.pubkey())));
    assert!(whole["deliveredAt"].is_string());
}

/// The prefix rules of wire spec §3.1.
#[tokio::test]
async fn a_prefix_finds_the_askers_own_message_and_says_when_it_fits_several() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let mut carol = daemon(&world, &people[2]).await;
    let ack = bob.message(to(&people[0], "c")).await;
    let id = ack["messageId"].as_str().unwrap();
    let ask = |id: &str| json!({"type": "message_status", "messageId": id});
    for length in [8, 20, 31, 32] {
        let reply = bob.ask(ask(&id[..length])).await;
        assert_eq!(reply["messageId"], id[..length], "as asked");
        assert_eq!(carol.ask(ask(&id[..length])).await["code"], "not_found");
    }
    for wrong in [&id[..7], "", "a b c d e", "äöüäöüäö", &"x".repeat(33)] {
        assert_eq!(bob.ask(ask(wrong)).await["code"], "invalid_argument", "{wrong}");
    }
    assert_eq!(bob.ask(ask(&"0".repeat(32))).await["code"], "not_found");
    // Ids are drawn, so two that begin alike are put into the store.
    let stored = |id: &str| {
        let message = NewMessage {
            mesh_id: people[1].mesh.clone(),
            message_id: MessageId::new(id),
            sender_member_id: Some(people[1].id.clone()),
            sender_session_key: None,
            sender_kind: SenderKind::Member,
            target_spec: TargetSpec::Everyone,
            priority: Priority::Next,
            nonce: "bm9uY2U=".into(),
            ciphertext: "Y2lwaGVy".into(),
            body_version: 1,
            reply_to: None,
            mentions: None,
            hops: 0,
            key_epoch: None,
            client_message: None,
            fingerprint: None,
            created_at: world.clock.now(),
            expires_at: world.clock.now().plus(Duration::from_hours(1)),
            deliveries: Vec::new(),
        };
        DeliveryWrite::Accept(Arc::new(message))
    };
    let alike = [format!("{}{}", "A".repeat(20), "b".repeat(12)), "A".repeat(32)];
    let writes = alike.iter().map(|id| stored(id)).collect();
    world.broker().broker().store().commit(writes).await.unwrap();
    assert_eq!(bob.ask(ask(&"A".repeat(20))).await["code"], "ambiguous_prefix");
    assert_eq!(bob.ask(ask(&"A".repeat(21))).await["type"], "message_status_result");
    let reply = carol.ask(ask(&"A".repeat(20))).await;
    assert_eq!(reply["code"], "not_found", "not even that there are several");
}

/// EXP-1.
#[tokio::test]
async fn a_message_past_its_time_is_never_delivered_and_its_status_says_so_at_once() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let until = world.clock.now().plus(Duration::from_secs(5));
    let mut message = to(&people[1], "c");
    message["expiresAt"] = json!(until.as_millis());
    let ack = alice.message(message).await;
    world.pass(6);
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_says(&shown, "expired", "disconnected", &Value::Null, "");
    assert_eq!(shown["since"], json!(until.to_iso()));
    let mut bob = daemon(&world, &people[1]).await;
    assert!(bob.pushes_so_far().await.is_empty());
    world.pass(400);
    let told = alice.next_where(|frame| frame["type"] == "receipt").await;
    assert_eq!((&told["state"], &told["clientMessageId"]), (&json!("expired"), &json!("c")));
    assert!(bob.pushes_so_far().await.is_empty());
    assert_eq!(standing(&mut alice, &ack["messageId"]).await["state"], "expired");
}

/// What can never be handed over does not pretend to wait.
#[tokio::test]
async fn messages_of_and_for_removed_members_say_so() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let from_bob = bob.message(to(&people[2], "from bob")).await["messageId"].clone();
    bob.leave().await;
    let for_bob = alice.message(to(&people[1], "for bob")).await["messageId"].clone();
    let store = world.broker().broker().store();
    let at = world.clock.now();
    let ban = Revocation { at, kind: RevokeKind::Ban, by: None };
    store.revoke_member(&people[1].mesh, &people[1].id, ban).await.unwrap();
    world.broker().broker().roster_changed(&people[1].mesh);
    let shown = standing(&mut alice, &for_bob).await;
    assert_says(&shown, "held", "disconnected", &json!("recipient_removed"), "");
    let shown = standing(&mut alice, &from_bob).await;
    assert_says(&shown, "held", "disconnected", &json!("sender_removed"), "");
}

/// A recipient that is there and free, but has enough to confirm.
#[tokio::test]
async fn a_message_behind_older_ones_says_so() {
    let world = World::start_with(|settings| settings.limits.send_burst = 1_000).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let mut last = Value::Null;
    for number in 0..=UNACKED_MAX {
        last = alice.message(to(&people[1], &number.to_string())).await["messageId"].clone();
    }
    let shown = standing(&mut alice, &last).await;
    assert_says(&shown, "accepted", "held", &Value::Null, "waits behind older messages for bob");
    assert!(alice.frames_so_far("receipt").await.is_empty(), "no gate holds it");
    let first = bob.push().await;
    bob.confirm(&first).await;
    for _ in 0..UNACKED_MAX {
        bob.push().await;
    }
    let shown = standing(&mut alice, &last).await;
    assert_says(&shown, "accepted", "held", &Value::Null, "pushed again in ");
}

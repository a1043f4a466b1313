//! An old client, played frame by frame from the worked frames of the wire specification (appendix B): other field
//! sets, no capabilities, plaintext groups, no acknowledgements.

use claudemesh_core::clock::Clock as _;
use claudemesh_crypto::hello;
use claudemesh_protocol::status::GroupEncryption;
use serde_json::{Value, json};

use crate::peers::{Person, Wanted, row_id, settings};
use crate::world::World;

/// As old one-shot clients and SDKs say it: a session key without proof, an empty one, no cwd.
fn old_hello(world: &World, person: &Person, session_key: &str) -> Value {
    let at = world.clock.now();
    let signature = hello::sign(&person.mesh, &person.id, &person.key, at).unwrap();
    json!({
        "type": "hello", "meshId": person.mesh, "memberId": person.id, "pubkey": person.key.public(),
        "displayName": "laptop", "sessionPubkey": session_key, "sessionId": row_id(), "pid": 4242,
        "timestamp": at.as_millis(), "signature": signature,
    })
}

/// The group part of "works with old clients" (appendix C, row 10).
#[tokio::test]
async fn an_old_client_says_hello_sends_receives_lists_and_joins() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut old = world.connect(old_hello(&world, &people[0], "")).await;
    let ack = &old.hello_ack;
    assert_eq!((&ack["memberDisplayName"], &ack["services"]), (&json!("laptop"), &json!([])));
    assert_eq!(ack["memberProfile"], json!({"roleTag": null, "groups": [], "messageMode": "push"}));
    let mut bob = world.daemon(&people[1]).await;
    let joined = old.event("peer_joined").await;
    assert_eq!((&joined["name"], &joined["groups"]), (&json!("bob"), &json!([])));

    old.send(&json!({
        "type": "send", "id": "c1", "client_message_id": "c1", "request_fingerprint": "ab".repeat(32),
        "targetSpec": people[1].key.public(), "priority": "now", "nonce": "bm9uY2U=", "ciphertext": "Y2lwaGVy",
    }))
    .await;
    let ack = old.ack("c1").await;
    assert_eq!((&ack["type"], &ack["queued"]), (&json!("ack"), &json!(true)));
    assert!(ack.get("error").is_none());
    let push = bob.push().await;
    assert_eq!(push["messageId"], ack["messageId"]);
    assert_eq!((&push["client_message_id"], &push["priority"]), (&json!("c1"), &json!("now")));
    bob.send(&json!({"type": "client_ack", "clientMessageId": "c1", "brokerMessageId": push["messageId"]})).await;

    // Fire and forget: no reply without a request id, so the next answer is that of the question.
    old.send(&json!({"type": "join_group", "name": "@eng", "role": "lead"})).await;
    old.send(&json!({"type": "set_status", "status": "working"})).await;
    old.send(&json!({"type": "set_summary", "summary": "hi"})).await;
    old.send(&json!({"type": "list_peers", "_reqId": "pl-1"})).await;
    let list = old.next().await;
    assert_eq!((&list["type"], &list["_reqId"]), (&json!("peers_list"), &json!("pl-1")));
    let own = list["peers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|peer| peer["displayName"] == "laptop")
        .unwrap();
    assert_eq!(own["groups"], json!([{"name": "eng", "role": "lead"}]));
    assert_eq!((&own["status"], &own["summary"]), (&json!("working"), &json!("hi")));
    assert!(own.get("role").is_none(), "old clients lift profile.role into a field of that name");

    // Plaintext to a group, in a mesh set to `preferred`.
    bob.ask(json!({"type": "join_group", "name": "ops"})).await;
    old.send(&json!({"type": "send", "id": "c2", "targetSpec": "@ops", "nonce": "bm9uY2U=", "ciphertext": "aGk="})).await;
    assert_eq!(old.ack("c2").await["queued"], true);
    let push = bob.push().await;
    assert_eq!(
        (&push["ciphertext"], &push["bodyVersion"], &push["targetSpec"]),
        (&json!("aGk="), &json!(1), &json!("@ops"))
    );
}

#[tokio::test]
async fn plaintext_groups_of_an_old_client_are_refused_where_encryption_is_required() {
    let world = World::start().await;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    let people = world.mesh_with(settings(GroupEncryption::Required), &wanted).await;
    let mut old = world.connect(old_hello(&world, &people[0], "")).await;
    old.send(&json!({"type": "send", "id": "c2", "targetSpec": "*", "nonce": "bm9uY2U=", "ciphertext": "aGk="})).await;
    let ack = old.ack("c2").await;
    assert_eq!((&ack["queued"], &ack["messageId"]), (&json!(false), &json!("")));
    assert!(ack["error"].as_str().unwrap().starts_with("encryption_required: forbidden"), "{ack}");
}

/// A client that never acknowledges sees a message once: the written push counts.
#[tokio::test]
async fn a_client_that_never_acknowledges_gets_each_message_once() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = crate::peers::Session::new();
    alice.message(json!({"targetSpec": "*", "client_message_id": "held"})).await;
    let mut old = world.connect(old_hello(&world, &people[1], &session.pubkey())).await;
    assert_eq!(old.hello_ack["warnings"], json!(["session_pubkey_unproven"]));
    let ack =
        alice.message(json!({"targetSpec": session.pubkey(), "client_message_id": "live"})).await;
    assert_eq!(old.push().await["client_message_id"], "live");
    let question = json!({"type": "message_status", "messageId": ack["messageId"]});
    let deadline = tokio::time::Instant::now() + crate::world::PATIENCE;
    while alice.ask(question.clone()).await["delivered"] != true {
        assert!(tokio::time::Instant::now() < deadline);
    }
    world.pass(60);
    assert_eq!(old.pushes_so_far().await.len(), 0);
    // Its member's queue is not for a one-shot connection with a session key.
    let mut daemon = world.daemon(&people[1]).await;
    assert_eq!(daemon.push().await["client_message_id"], "held");
}

/// The wording rule of the wire specification §4.2: old daemons retry what does not match these words.
#[tokio::test]
async fn permanent_failures_use_the_words_old_daemons_look_for() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 4;
        settings.limits.send_per_min = 1;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut old = world.connect(old_hello(&world, &people[0], "")).await;
    let bob = json!(people[1].key.public());
    for (message, is_permanent) in [
        (json!({"targetSpec": "nobody"}), true),
        (json!({"targetSpec": "00".repeat(32)}), true),
        (json!({"targetSpec": bob, "ciphertext": "x".repeat(70_000)}), true),
        (json!({"targetSpec": bob, "hops": 13}), true),
        (json!({"targetSpec": bob}), false),
        (json!({"targetSpec": bob}), false),
    ] {
        let ack = old.message(message).await;
        let Some(error) = ack["error"].as_str() else { continue };
        let says_so = error.contains("invalid") || error.contains("forbidden");
        assert_eq!(says_so, is_permanent, "{error}");
    }
}

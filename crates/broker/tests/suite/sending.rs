//! Acceptance of messages: checks, limits, idempotency (broker spec §3.1, §3.6).

use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_crypto::KeyPair;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_store::CleanupAges;
use serde_json::{Value, json};

use crate::peers::{Session, Wanted, ids, settings};
use crate::world::World;

fn to(key: &KeyPair) -> Value {
    json!({ "targetSpec": key.public() })
}

fn error(ack: &Value) -> &str {
    assert_eq!((&ack["queued"], &ack["messageId"]), (&json!(false), &json!("")), "{ack}");
    ack["error"].as_str().unwrap()
}

async fn open_rows(world: &World) -> u64 {
    let total = world.broker().broker().store().backlog_total().await.unwrap();
    total.held + total.claimed
}

/// Waits until what was confirmed is written.
async fn until_nothing_is_open(world: &World) {
    let deadline = tokio::time::Instant::now() + crate::world::PATIENCE;
    while open_rows(world).await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "rows stay open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// SND-1.
#[tokio::test]
async fn a_message_to_an_absent_member_waits_and_arrives_once() {
    Box::pin(a_message_to_an_absent_member_waits_and_arrives_once_on(&World::start().await)).await;
}

pub async fn a_message_to_an_absent_member_waits_and_arrives_once_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let ack = alice.message(to(&people[1].key)).await;
    assert_eq!((&ack["queued"], &ack["status"]), (&json!(true), &json!(201)));
    assert_eq!((&ack["recipient_online"], &ack["held"]), (&json!(false), &json!(1)));
    let mut bob = world.daemon(&people[1]).await;
    let push = bob.push().await;
    assert_eq!((&push["messageId"], &push["attempt"]), (&ack["messageId"], &json!(1)));
    assert_eq!(push["senderName"], "alice");
    bob.confirm(&push).await;
    bob.leave().await;
    let mut again = world.daemon(&people[1]).await;
    assert_eq!(again.pushes_so_far().await, Vec::<Value>::new());
    until_nothing_is_open(world).await;
}

#[tokio::test]
async fn a_push_carries_everything_whichever_way_it_comes() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut alice = world.session(&people[0], &session).await;
    let message = json!({
        "targetSpec": people[1].key.public(), "priority": "now", "replyToId": "R", "mentions": ["bob"],
        "client_message_id": "c1", "request_fingerprint": "ab".repeat(32), "hops": 3,
    });
    let mut bob = world.daemon(&people[1]).await;
    let ack = alice.message(message.clone()).await;
    let live = bob.push().await;
    assert_eq!(live["senderPubkey"], session.pubkey());
    assert_eq!(live["senderMemberPubkey"], json!(people[0].key.public()));
    assert_eq!(live["senderMemberId"], json!(people[0].id));
    assert_eq!(live["senderName"], "alice session");
    assert_eq!((&live["priority"], &live["replyToId"]), (&json!("now"), &json!("R")));
    assert_eq!((&live["targetSpec"], &live["bodyVersion"]), (&message["targetSpec"], &json!(1)));
    assert_eq!((&live["mentions"], &live["hops"]), (&json!(["bob"]), &json!(3)));
    assert_eq!(live["request_fingerprint"], "ab".repeat(32));
    assert_eq!((&live["client_message_id"], &live["origin"]), (&json!("c1"), &json!("member")));
    assert_eq!(live["senderAttestation"]["sessionPubkey"], session.pubkey());
    assert_eq!((&live["messageId"], &live["meshId"]), (&ack["messageId"], &json!(people[0].mesh)));
    // The same row again, drained this time: nothing is missing from it.
    bob.cut();
    let mut bob = world.daemon(&people[1]).await;
    let drained = bob.push().await;
    let without_attempt = |mut push: Value| {
        push.as_object_mut().unwrap().remove("attempt");
        push
    };
    assert_eq!(without_attempt(drained), without_attempt(live));
    // The attestation comes with the first push of a session key on a connection only.
    alice.message(to(&people[1].key)).await;
    assert!(bob.push().await.get("senderAttestation").is_none());
}

/// SND-2.
#[tokio::test]
async fn an_unknown_key_is_refused_and_leaves_no_row() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for target in
        [json!(KeyPair::generate().public()), json!(people[0].key.public()), json!("#nope")]
    {
        let ack = alice.message(json!({"targetSpec": target, "client_message_id": "c"})).await;
        assert!(error(&ack).starts_with("target_not_found: invalid target"), "{ack}");
    }
    assert_eq!(open_rows(&world).await, 0);
    let store = world.broker().broker().store();
    assert_eq!(store.lookup_dedupe(&people[0].mesh, "c").await.unwrap(), None);
}

/// SND-3.
#[tokio::test]
async fn the_size_limit_is_exact_and_the_socket_survives() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let sized = |size: usize| json!({"targetSpec": people[1].key.public(), "nonce": "", "ciphertext": "x".repeat(size - 64)});
    assert_eq!(alice.message(sized(65_536)).await["queued"], true);
    let ack = alice.message(sized(65_537)).await;
    assert_eq!(error(&ack), "payload_too_large: invalid size 65537 > MAX_MESSAGE_BYTES=65536");
    assert_eq!(alice.message(to(&people[1].key)).await["queued"], true);
}

/// The broker's part of SND-7.
#[tokio::test]
async fn wrapped_keys_are_counted_apart() {
    let world = World::start_with(|settings| {
        settings.limits.group_audience_max = 3;
        settings.limits.max_wrapped_keys_bytes = 400;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let keys = |count: usize, key: &str| {
        let one = json!({"to": people[1].key.public(), "nonce": "n", "key": key});
        json!({"targetSpec": "*", "bodyVersion": 2, "wrappedKeys": vec![one; count]})
    };
    assert_eq!(alice.message(keys(3, "k")).await["queued"], true);
    assert!(error(&alice.message(keys(4, "k")).await).starts_with("payload_too_large: invalid"));
    assert_eq!(alice.message(keys(1, &"k".repeat(335))).await["queued"], true);
    assert!(
        error(&alice.message(keys(1, &"k".repeat(336))).await)
            .starts_with("payload_too_large: invalid")
    );
}

/// SND-4.
#[tokio::test]
async fn the_budget_refuses_the_eleventh_and_refills() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 10;
        settings.limits.send_per_min = 60;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let message = |id: &str| json!({"targetSpec": people[1].key.public(), "client_message_id": id});
    for number in 0..11 {
        alice.post(&number.to_string(), message(&format!("c{number}"))).await;
    }
    for number in 0..10 {
        assert_eq!(alice.ack(&number.to_string()).await["queued"], true);
    }
    let refused = alice.ack("10").await;
    assert_eq!(error(&refused), "rate_limited: max 60 msg/min (burst 10) — slow down");
    assert!(refused["retry_after_ms"].as_u64().unwrap() <= 1_000);
    world.pass(1);
    assert_eq!(alice.message(message("c10")).await["status"], 201);
}

/// SND-5, the part without a crash inside the commit.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_and_a_retry_is_a_duplicate() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let message = json!({"targetSpec": people[1].key.public(), "client_message_id": "c"});
    let ack = alice.message(message.clone()).await;
    world.kill().await;
    world.resume().await;
    let mut alice = world.daemon(&people[0]).await;
    let again = alice.message(message).await;
    assert_eq!((&again["status"], &again["duplicate"]), (&json!(200), &json!(true)));
    assert_eq!(again["messageId"], ack["messageId"]);
    let mut bob = world.daemon(&people[1]).await;
    assert_eq!(bob.push().await["messageId"], ack["messageId"]);
    assert_eq!(bob.pushes_so_far().await.len(), 0);
}

/// IDM-1.
#[tokio::test]
async fn a_hundred_times_the_same_on_four_sockets_is_one_message() {
    a_hundred_times_the_same_on_four_sockets_is_one_message_on(
        &World::start_with(|settings| settings.limits.send_burst = 100).await,
    )
    .await;
}

pub async fn a_hundred_times_the_same_on_four_sockets_is_one_message_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut bob = world.daemon(&people[1]).await;
    let message = json!({"targetSpec": people[1].key.public(), "client_message_id": "same"});
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(world.session(&people[0], &Session::new()).await);
    }
    for socket in &mut sockets {
        for number in 0..25 {
            socket.post(&number.to_string(), message.clone()).await;
        }
    }
    let (mut accepted, mut repeated, mut ids) = (0, 0, std::collections::BTreeSet::new());
    for socket in &mut sockets {
        for number in 0..25 {
            let ack = socket.ack(&number.to_string()).await;
            accepted += u32::from(ack["status"] == 201);
            repeated += u32::from(ack["status"] == 200 && ack["duplicate"] == true);
            ids.insert(ack["messageId"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!((accepted, repeated, ids.len()), (1, 99, 1));
    assert_eq!(bob.pushes_so_far().await.len(), 1);
}

/// IDM-2.
#[tokio::test]
async fn an_id_used_for_something_else_is_refused_even_in_flight() {
    Box::pin(an_id_used_for_something_else_is_refused_even_in_flight_on(&World::start().await))
        .await;
}

pub async fn an_id_used_for_something_else_is_refused_even_in_flight_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let message = |fingerprint: &str| {
        json!({
            "targetSpec": people[1].key.public(), "client_message_id": "c",
            "request_fingerprint": fingerprint.repeat(32),
        })
    };
    alice.post("1", message("aa")).await;
    alice.post("2", message("bb")).await;
    assert_eq!(alice.ack("1").await["status"], 201);
    let refused = alice.ack("2").await;
    assert_eq!(error(&refused), "idempotency_conflict: invalid reuse of client_message_id");
    assert_eq!(
        (&refused["status"], &refused["broker_fingerprint_prefix"]),
        (&json!(409), &json!("aa".repeat(8)))
    );
    let other = bob
        .message(json!({
            "targetSpec": people[0].key.public(), "client_message_id": "c",
            "request_fingerprint": "aa".repeat(32),
        }))
        .await;
    assert_eq!(other["status"], 409);
    assert_eq!(bob.pushes_so_far().await.len(), 1);
    assert_eq!(alice.pushes_so_far().await.len(), 0);
}

/// IDM-4.
#[tokio::test]
async fn a_duplicate_of_a_removed_message_says_so_and_is_not_sent_again() {
    Box::pin(a_duplicate_of_a_removed_message_says_so_and_is_not_sent_again_on(
        &World::start().await,
    ))
    .await;
}

pub async fn a_duplicate_of_a_removed_message_says_so_and_is_not_sent_again_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let message = json!({"targetSpec": people[1].key.public(), "client_message_id": "c"});
    let ack = alice.message(message.clone()).await;
    let push = bob.push().await;
    bob.confirm(&push).await;
    until_nothing_is_open(world).await;
    let later = world.clock.now().plus(Duration::from_secs(1));
    let ages = CleanupAges { settled_before: later, any_before: later, expired_before: later };
    world.broker().broker().store().cleanup_messages(ages).await.unwrap();
    let again = alice.message(message).await;
    assert_eq!((&again["status"], &again["history_available"]), (&json!(200), &json!(false)));
    assert_eq!(again["messageId"], ack["messageId"]);
    assert_eq!(bob.pushes_so_far().await.len(), 0);
}

/// IDM-5.
#[tokio::test]
async fn a_repeat_of_a_committed_message_costs_no_budget() {
    a_repeat_of_a_committed_message_costs_no_budget_on(
        &World::start_with(|settings| {
            settings.limits.send_burst = 2;
            settings.limits.send_per_min = 1;
        })
        .await,
    )
    .await;
}

pub async fn a_repeat_of_a_committed_message_costs_no_budget_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let message = |id: &str| json!({"targetSpec": people[1].key.public(), "client_message_id": id});
    assert_eq!(alice.message(message("one")).await["status"], 201);
    for _ in 0..5 {
        assert_eq!(alice.message(message("one")).await["status"], 200);
    }
    assert_eq!(alice.message(message("two")).await["status"], 201);
    assert!(error(&alice.message(message("three")).await).starts_with("rate_limited"));
    assert_eq!(alice.message(message("one")).await["status"], 200);
    let mut other = message("one");
    other["request_fingerprint"] = json!("ab".repeat(32));
    assert_eq!(alice.message(other).await["status"], 409);
}

#[tokio::test]
async fn misshapen_sends_are_refused_for_good() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let bob = json!(people[1].key.public());
    for (message, expected) in [
        (json!({"targetSpec": "bob"}), "invalid_target: invalid"),
        (json!({"targetSpec": "@a'b"}), "invalid_target: invalid"),
        (json!({"targetSpec": "x".repeat(257)}), "invalid_target: invalid"),
        (json!({"targetSpec": bob, "priority": "soon"}), "invalid_request: invalid"),
        (json!({"targetSpec": bob, "client_message_id": ""}), "invalid_request: invalid"),
        (json!({"targetSpec": bob, "client_message_id": "é"}), "invalid_request: invalid"),
        (
            json!({"targetSpec": bob, "client_message_id": "x".repeat(129)}),
            "invalid_request: invalid",
        ),
        (json!({"targetSpec": bob, "request_fingerprint": "xy"}), "invalid_request: invalid"),
        (json!({"targetSpec": bob, "mentions": vec!["a"; 17]}), "invalid_request: invalid"),
        (json!({"targetSpec": bob, "bodyVersion": 3}), "invalid_request: invalid"),
        (json!({"targetSpec": bob, "expiresAt": 1}), "invalid_request: invalid"),
    ] {
        let ack = alice.message(message.clone()).await;
        assert!(error(&ack).starts_with(expected), "{message} {ack}");
    }
    let exact =
        alice.message(json!({"targetSpec": bob, "client_message_id": "x".repeat(128)})).await;
    assert_eq!(exact["status"], 201);
}

#[tokio::test]
async fn plaintext_groups_follow_the_policy_of_the_mesh() {
    let world = World::start().await;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    for (policy, is_accepted) in [
        (GroupEncryption::Required, false),
        (GroupEncryption::Preferred, true),
        (GroupEncryption::Off, true),
    ] {
        let people = world.mesh_with(settings(policy), &wanted).await;
        let mut alice = world.daemon(&people[0]).await;
        let mut bob = world.daemon(&people[1]).await;
        let ack = alice.message(json!({"targetSpec": "*"})).await;
        assert_eq!(ack["queued"], is_accepted, "{ack}");
        if is_accepted {
            assert_eq!(bob.push().await["bodyVersion"], 1);
        } else {
            assert!(error(&ack).starts_with("encryption_required: forbidden plaintext"), "{ack}");
        }
        let sealed = json!({
            "targetSpec": "*", "bodyVersion": 2,
            "wrappedKeys": [{"to": people[1].key.public(), "nonce": "n", "key": "k"}],
        });
        let ack = alice.message(sealed).await;
        assert_eq!((&ack["queued"], &ack["recipients"]), (&json!(true), &json!(1)));
        let push = bob.push().await;
        assert_eq!(
            push["wrappedKey"],
            json!({"to": people[1].key.public(), "nonce": "n", "key": "k"})
        );
        assert!(push.get("wrappedKeys").is_none());
    }
}

/// The ack's part of SND-7.
#[tokio::test]
async fn the_sender_learns_who_has_no_key_and_who_cannot_read() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut old = world.daemon_hello(&people[1]);
    old["capabilities"] = json!(["client_ack"]);
    let _bob = world.connect(old).await;
    let mut carol = world.daemon(&people[2]).await;
    let key = |index: usize| json!({"to": people[index].key.public(), "nonce": "n", "key": "k"});
    let message = json!({"targetSpec": "*", "bodyVersion": 2, "wrappedKeys": [key(1), key(3)]});
    let ack = alice.message(message).await;
    assert_eq!((&ack["recipients"], &ack["held"]), (&json!(2), &json!(1)));
    assert_eq!(
        (&ack["skipped_no_key"], &ack["unreadable_by"]),
        (&json!(1), &json!([people[1].id]))
    );
    assert_eq!(carol.pushes_so_far().await.len(), 0);
}

#[tokio::test]
async fn a_full_queue_refuses_direct_messages_and_skips_in_multicast() {
    let world = World::start_with(|settings| settings.limits.backlog_per_member = 2).await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for _ in 0..2 {
        assert_eq!(alice.message(to(&people[1].key)).await["queued"], true);
    }
    let full = alice.message(to(&people[1].key)).await;
    assert!(
        error(&full).starts_with("queue_full: ") && !error(&full).contains("invalid"),
        "{full}"
    );
    let ack = alice.message(json!({"targetSpec": "*"})).await;
    assert_eq!((&ack["recipients"], &ack["held"]), (&json!(1), &json!(1)));
    // Delivery makes room again.
    let mut bob = world.daemon(&people[1]).await;
    for _ in 0..2 {
        let push = bob.push().await;
        bob.confirm(&push).await;
    }
    bob.pushes_so_far().await;
    assert_eq!(alice.message(to(&people[1].key)).await["queued"], true);
}

#[tokio::test]
async fn a_sender_may_shorten_the_life_of_a_message() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let soon = world.clock.now().plus(Duration::from_secs(5)).as_millis();
    let ack = alice.message(json!({"targetSpec": people[1].key.public(), "expiresAt": soon})).await;
    assert_eq!(ack["queued"], true);
    alice
        .message(json!({"targetSpec": people[1].key.public(), "client_message_id": "stays"}))
        .await;
    world.pass(6);
    let mut bob = world.daemon(&people[1]).await;
    assert_eq!(ids(&[bob.push().await]), ["stays"]);
    assert_eq!(bob.pushes_so_far().await.len(), 0);
}

/// CAP-1, CAP-2, CAP-3.
#[tokio::test]
async fn a_session_does_what_its_capabilities_say() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut bob = world.daemon(&people[1]).await;
    let session = Session::new();
    let mut limited = world.connect(world.limited_hello(&people[0], &session, &["dm"])).await;
    assert_eq!(limited.message(to(&people[1].key)).await["queued"], true);
    let ack = limited.message(json!({"targetSpec": "*"})).await;
    assert_eq!(error(&ack), "forbidden: missing session capability \"broadcast\"");
    for (frame, cap) in [
        (json!({"type": "list_peers"}), "read"),
        (json!({"type": "set_summary", "summary": "x"}), "profile-write"),
        (json!({"type": "set_status", "status": "dnd"}), "profile-write"),
        (json!({"type": "join_group", "name": "x"}), "profile-write"),
    ] {
        let reply = limited.ask(frame).await;
        assert_eq!(reply["code"], "forbidden");
        assert_eq!(reply["message"], format!("missing session capability \"{cap}\""));
    }
    let hook = json!({"type": "set_status", "status": "working", "source": "hook"});
    assert_eq!(limited.ask(hook).await["type"], "ack");
    let mute = Session::new();
    let mut empty = world.connect(world.limited_hello(&people[0], &mute, &[])).await;
    let ack = empty.message(to(&people[1].key)).await;
    assert_eq!(error(&ack), "forbidden: missing session capability \"dm\"");
    assert_eq!(bob.message(json!({"targetSpec": mute.pubkey()})).await["queued"], true);
    let push = empty.push().await;
    empty.confirm(&push).await;
    let metrics = world.get("/metrics").await.ok();
    for (cap, count) in [("broadcast", 1), ("read", 1), ("profile-write", 3), ("dm", 1), ("ban", 0)]
    {
        let line = format!("broker_session_cap_denied_total{{cap=\"{cap}\"}} {count}\n");
        assert!(metrics.as_str().unwrap().contains(&line), "{line}");
    }
}

/// PRM-1 for `send`.
#[tokio::test]
async fn a_member_without_permission_to_send_is_refused() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut bob = world.daemon(&people[1]).await;
    let broker = world.broker().broker();
    let muted = [(claudemesh_protocol::permission::Permission::Send, Some(false))].into();
    let now = world.clock.now();
    let mesh = &people[0].mesh;
    let (store, by) = (broker.store(), &people[0].id);
    store.merge_permissions(mesh, &people[1].id, muted, by, now).await.unwrap();
    broker.roster_changed(mesh);
    let ack = bob.message(to(&people[0].key)).await;
    assert_eq!(error(&ack), "forbidden: missing permission \"canSend\"");
}

/// GRN-1 and GRN-2, set in the store.
#[tokio::test]
async fn a_block_holds_for_direct_messages_and_silently_for_broadcasts() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let broker = world.broker().broker();
    let block = |grants| [(people[0].key.public(), grants)].into();
    let (mesh, id) = (&people[1].mesh, &people[1].id);
    broker.store().merge_grants(mesh, id, block(Some(vec![])), world.clock_now()).await.unwrap();
    broker.roster_changed(mesh);
    let ack = alice.message(to(&people[1].key)).await;
    let text = "forbidden: blocked by recipient grants (sender lacks dm capability)";
    assert_eq!(error(&ack), text);
    let ack = alice.message(json!({"targetSpec": "*"})).await;
    assert_eq!((&ack["queued"], &ack["recipients"]), (&json!(true), &json!(0)));
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    assert_eq!(alice.peers().await.len(), 1, "a member that blocks me is not in my list");
    broker.store().merge_grants(mesh, id, block(None), world.clock_now()).await.unwrap();
    broker.roster_changed(mesh);
    assert_eq!(alice.message(to(&people[1].key)).await["queued"], true);
    bob.push().await;
}

/// OPS-5: while the disk is full sends are refused with nothing half done, everything else goes on, and service is back
/// with the space.
#[tokio::test]
async fn a_full_disk_refuses_sends_and_disturbs_nobody_else() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    world.stop().await;
    let pages = std::fs::metadata(world.settings.database_path()).unwrap().len() / 4096;
    world.max_database_pages = Some(u32::try_from(pages).unwrap() + 40);
    world.resume().await;
    let mut alice = world.daemon(&people[0]).await;
    let mut carol = world.daemon(&people[2]).await;
    let large = |turn: u64| {
        json!({
            "targetSpec": people[1].key.public(), "client_message_id": format!("c{turn}"),
            "ciphertext": "x".repeat(8_000),
        })
    };
    let mut accepted = 0;
    let refused = loop {
        let ack = alice.message(large(accepted)).await;
        if ack["queued"] != true {
            break ack;
        }
        accepted += 1;
        assert!(accepted < 50, "the page limit has no effect");
    };
    assert!(error(&refused).starts_with("unavailable"), "{refused}");
    assert_eq!(open_rows(&world).await, accepted, "nothing of the refused one was kept");
    assert_eq!((alice.peers().await.len(), carol.peers().await.len()), (2, 2));
    assert_eq!(world.get("/health").await.ok()["db"], "up");
    assert!(error(&carol.message(large(900)).await).starts_with("unavailable"));
    let store = world.broker().broker().store();
    let later = world.clock.now().plus(Duration::from_secs(1));
    let ages = CleanupAges {
        settled_before: later,
        any_before: later,
        expired_before: later.plus(Duration::from_hours(8 * 24)),
    };
    assert_eq!(store.cleanup_messages(ages).await.unwrap(), accepted);
    let ack = alice.message(large(accepted)).await;
    assert_eq!((&ack["status"], &ack["queued"]), (&json!(201), &json!(true)), "{ack}");
    let mut bob = world.daemon(&people[1]).await;
    assert_eq!(bob.push().await["client_message_id"], format!("c{accepted}"));
}

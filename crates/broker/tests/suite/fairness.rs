//! Budgets, absurd requests and floods: each has its exact answer, and nobody else feels it (broker spec §3.1).

use claudemesh_protocol::limits::{GROUP_AUDIENCE_MAX, INVALID_JSON_MAX};
use serde_json::{Value, json};

use crate::peers::{Person, Session};
use crate::world::World;

fn to(person: &Person, id: &str) -> Value {
    json!({"targetSpec": person.key.public(), "client_message_id": id})
}

fn error(ack: &Value) -> &str {
    assert_eq!((&ack["queued"], &ack["messageId"]), (&json!(false), &json!("")), "{ack}");
    ack["error"].as_str().unwrap()
}

async fn open_rows(world: &World) -> u64 {
    let total = world.broker().broker().store().backlog_total().await.unwrap();
    total.held + total.claimed
}

/// SND-4, of members rather than sockets: a noisy pair uses up its own budgets and mutes nobody.
#[tokio::test]
async fn a_noisy_pair_mutes_nobody_else() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 5;
        settings.limits.send_per_min = 1;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut sibling = world.session(&people[0], &Session::new()).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut carol = world.daemon(&people[2]).await;
    let _dave = world.daemon(&people[3]).await;
    for number in 0..5 {
        assert_eq!(alice.message(to(&people[1], &format!("a{number}"))).await["status"], 201);
        assert_eq!(bob.message(to(&people[0], &format!("b{number}"))).await["status"], 201);
    }
    for number in 0..50 {
        for (socket, other) in [(&mut alice, 1), (&mut sibling, 1), (&mut bob, 0)] {
            let ack = socket.message(to(&people[other], &format!("x{number}"))).await;
            assert_eq!(error(&ack), "rate_limited: max 1 msg/min (burst 5) — slow down");
            assert!(ack["retry_after_ms"].as_u64().unwrap() <= 60_000, "{ack}");
        }
    }
    // Carol has her whole budget, towards the noisy ones too, and a broadcast costs one of it like everything else.
    assert_eq!(carol.message(json!({"targetSpec": "*"})).await["recipients"], 4);
    for (number, person) in [0, 1, 3, 0].into_iter().enumerate() {
        let ack = carol.message(to(&people[person], &format!("c{number}"))).await;
        assert_eq!(ack["status"], 201, "{ack}");
    }
    let spent = carol.message(to(&people[3], "c5")).await;
    assert!(error(&spent).starts_with("rate_limited"), "{spent}");
    // Nothing of what was refused is anywhere.
    let store = world.broker().broker().store();
    assert_eq!(store.lookup_dedupe(&people[0].mesh, "x1").await.unwrap(), None);
}

/// What is no target is told so for good, and the socket goes on.
#[tokio::test]
async fn absurd_targets_are_refused_by_name() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let key = people[1].key.public().to_hex();
    let unknown_forms = [
        String::new(),
        " ".to_owned(),
        "**".to_owned(),
        "* ".to_owned(),
        "@".to_owned(),
        "#".to_owned(),
        "@a//b".to_owned(),
        "@a/".to_owned(),
        "tag:ops".to_owned(),
        "bob".to_owned(),
        "bob,carol".to_owned(),
        key.to_uppercase(),
        key[..63].to_owned(),
        format!("{key}0"),
        format!("{key},{key}"),
        format!("@{}", "x".repeat(65)),
        "x".repeat(257),
        "\u{1}".to_owned(),
        "@\u{202e}spo".to_owned(),
    ];
    for target in unknown_forms {
        let ack = alice.message(json!({"targetSpec": target, "client_message_id": "c"})).await;
        assert!(error(&ack).starts_with("invalid_target: invalid target"), "{target:?}: {ack}");
    }
    let not_text =
        [Value::Null, json!(1), json!([]), json!([key, key]), json!({"key": key}), json!(true)];
    for target in not_text {
        let frame = json!({
            "type": "send", "targetSpec": target, "nonce": "n", "ciphertext": "c", "priority": "next",
        });
        let reply = alice.ask(frame).await;
        assert_eq!((&reply["type"], &reply["code"]), (&json!("error"), &json!("invalid_args")));
    }
    assert_eq!(open_rows(&world).await, 0);
    assert_eq!(alice.message(to(&people[1], "c")).await["status"], 201, "the id is still free");
}

/// Ten thousand wrapped keys, whoever they are for; and keys that mix members, strangers and repeats.
#[tokio::test]
async fn ten_thousand_recipients_are_too_many_and_strangers_among_them_are_nobody() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let stranger =
        |number: usize| json!({"to": format!("{number:064x}"), "nonce": "n", "key": "k"});
    let sealed =
        |keys: Vec<Value>| json!({"targetSpec": "*", "bodyVersion": 2, "wrappedKeys": keys});
    for count in [10_000, GROUP_AUDIENCE_MAX + 1] {
        let ack = alice.message(sealed((0..count).map(stranger).collect())).await;
        let expected = format!("payload_too_large: invalid number of wrapped keys {count} > 1000");
        assert_eq!(error(&ack), expected);
    }
    // Strangers alone reach nobody, and everybody is counted as skipped.
    let ack = alice.message(sealed((0..GROUP_AUDIENCE_MAX).map(stranger).collect())).await;
    assert_eq!(
        (&ack["status"], &ack["recipients"], &ack["skipped_no_key"]),
        (&json!(201), &json!(0), &json!(2))
    );
    let wrapped = |key: &str| json!({"to": people[1].key.public(), "nonce": "n", "key": key});
    let mut mixed: Vec<Value> = (0..5).map(stranger).collect();
    mixed.extend([wrapped("first"), wrapped("second")]);
    mixed.push(json!({"to": people[0].key.public(), "nonce": "n", "key": "own"}));
    let ack = alice.message(sealed(mixed)).await;
    assert_eq!((&ack["recipients"], &ack["skipped_no_key"]), (&json!(1), &json!(1)));
    assert_eq!(bob.push().await["wrappedKey"]["key"], "first");
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    assert_eq!(alice.pushes_so_far().await.len(), 0);
    assert_eq!(open_rows(&world).await, 1);
}

/// Frames that are no JSON: nineteen in a minute are answered one by one, the twentieth ends the socket, and only that.
#[tokio::test]
async fn a_flood_of_unreadable_frames_ends_its_own_socket() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut sibling = world.session(&people[0], &Session::new()).await;
    let mut bob = world.daemon(&people[1]).await;
    for number in 1..=INVALID_JSON_MAX {
        alice.send_text(format!("{{ no json {number}")).await;
        let answer = alice.next_where(|frame| frame["type"] == "error").await;
        assert_eq!(answer["code"], "invalid_json");
    }
    assert_eq!(alice.close_reason().await, (1008, "invalid_json".to_owned()));
    assert_eq!(sibling.message(to(&people[1], "s")).await["status"], 201);
    assert_eq!(bob.push().await["client_message_id"], "s");
}

/// Readable nonsense is answered for as long as somebody sends it; it costs its sender no budget.
#[tokio::test]
async fn a_flood_of_nonsense_is_answered_and_changes_nothing() {
    let world = World::start_with(|settings| settings.limits.send_burst = 1).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let nonsense = [
        (json!({"type": "sned"}), "unknown_message_type"),
        (json!({"type": "send", "priority": 3}), "invalid_args"),
        (json!({"type": "client_ack", "brokerMessageId": 7}), "invalid_args"),
        (json!({"type": "set_status", "status": "asleep"}), "invalid_args"),
    ];
    for _ in 0..50 {
        for (frame, code) in &nonsense {
            let reply = alice.ask(frame.clone()).await;
            assert_eq!(
                (&reply["type"], &reply["code"]),
                (&json!("error"), &json!(code)),
                "{frame}"
            );
        }
    }
    assert_eq!(alice.message(to(&people[1], "c")).await["status"], 201);
}

/// Acks that are forged, foreign, empty or late: no answer, no effect (DLV-6).
#[tokio::test]
async fn forged_acks_are_without_effect_and_without_answer() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let other_mesh = world.mesh_of(&["eve"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let sent = alice.message(to(&people[1], "c")).await;
    let session = Session::new();
    let to_session = json!({"targetSpec": session.pubkey(), "client_message_id": "s"});
    let mut bobs_session = world.session(&people[1], &session).await;
    let second = alice.message(to_session).await;
    let by_id = |id: &Value| json!({"type": "client_ack", "brokerMessageId": id});
    let by_client = |id: &str| json!({"type": "client_ack", "clientMessageId": id});
    // The sender itself, another member, another mesh, another session of the recipient.
    let mut carol = world.daemon(&people[2]).await;
    let mut eve = world.daemon(&other_mesh[0]).await;
    let mut other_session = world.session(&people[1], &Session::new()).await;
    for socket in [&mut alice, &mut carol, &mut eve, &mut other_session] {
        for frame in [
            by_id(&second["messageId"]),
            by_client("s"),
            json!({"type": "client_ack"}),
            by_id(&json!("")),
            by_id(&json!("x".repeat(10_000))),
        ] {
            socket.send(&frame).await;
        }
    }
    for socket in [&mut alice, &mut carol, &mut eve] {
        socket.send(&by_id(&sent["messageId"])).await;
        socket.send(&by_client("c")).await;
        assert_eq!(socket.pushes_so_far().await.len(), 0);
        assert!(!socket.holds(|frame| frame["type"] == "error"), "acks are never answered");
    }
    // The member's message went to its session, for it has no daemon.
    assert_eq!(ids_of(&[bobs_session.push().await, bobs_session.push().await]), ["c", "s"]);
    // The member's message would be pushed to the session that stays.
    other_session.cut();
    bobs_session.cut();
    // Both rows are as open as before.
    assert_eq!(open_rows(&world).await, 2);
    let mut again = world.session(&people[1], &session).await;
    let pushed = [again.push().await, again.push().await];
    let mut found = ids_of(&pushed);
    found.sort_unstable();
    assert_eq!(found, ["c", "s"]);
}

fn ids_of(pushes: &[Value]) -> Vec<&str> {
    crate::peers::ids(pushes)
}

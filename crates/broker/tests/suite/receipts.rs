//! Receipts: what recipients say is checked, kept and told to the sender, and what the broker says itself (broker spec
//! §3.7, wire spec §3.1).

use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::receipt::Statement;
use claudemesh_protocol::limits::{RECEIPT_BURST, RECEIPTS_PER_ROW};
use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{MessageId, PublicKey, Timestamp};
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::world::{PATIENCE, World};

/// A daemon that wants receipts.
pub async fn daemon(world: &World, person: &Person) -> Socket {
    let mut hello = world.daemon_hello(person);
    hello["capabilities"] = json!(["client_ack", "group_e2e", "receipts"]);
    world.connect(hello).await
}

/// A session of ours: it wants receipts and gates itself.
pub async fn session(world: &World, person: &Person, session: &Session) -> Socket {
    let mut hello = world.session_hello(person, session);
    hello["capabilities"] = json!(["client_ack", "group_e2e", "receipts", "local_gate"]);
    world.connect(hello).await
}

/// A receipt about `push`, signed by `signer`.
pub fn receipt(
    world: &World,
    recipient: &Person,
    key: PublicKey,
    push: &Value,
    state: ReceiptState,
) -> Value {
    signed(&recipient.key, recipient, key, push, state, world.clock.now())
}

fn signed(
    signer: &KeyPair,
    recipient: &Person,
    key: PublicKey,
    push: &Value,
    state: ReceiptState,
    at: Timestamp,
) -> Value {
    let message = MessageId::new(push["messageId"].as_str().unwrap());
    let statement =
        Statement { mesh: &recipient.mesh, message: &message, recipient: key, state, at };
    let client_id = push.get("client_message_id").cloned().unwrap_or(json!(""));
    json!({
        "type": "receipt", "brokerMessageId": message, "clientMessageId": client_id,
        "recipient": key, "state": state, "at": at.as_millis(),
        "signature": statement.sign(signer).unwrap().to_hex(),
    })
}

/// Sends a message under this client id and confirms it at its recipient; the push.
async fn delivered(alice: &mut Socket, bob: &mut Socket, to: PublicKey, id: &str) -> Value {
    alice.message(json!({"targetSpec": to, "client_message_id": id})).await;
    let push = bob.push().await;
    bob.confirm(&push).await;
    push
}

/// The entry of the only recipient.
pub async fn standing(asker: &mut Socket, message_id: &Value) -> Value {
    let reply = asker.ask(json!({"type": "message_status", "messageId": message_id})).await;
    let recipients = reply["recipients"].as_array().unwrap_or_else(|| panic!("{reply}"));
    assert_eq!(recipients.len(), 1, "{reply}");
    recipients[0].clone()
}

/// Asks until the only recipient stands there.
pub async fn until_state(asker: &mut Socket, message_id: &Value, state: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = standing(asker, message_id).await;
        if now["state"] == state {
            return now;
        }
        assert!(tokio::time::Instant::now() < deadline, "{state} expected: {now}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn next_receipt(socket: &mut Socket) -> Value {
    socket.next_where(|frame| frame["type"] == "receipt").await
}

/// Receipts dropped so far for this reason.
async fn dropped(world: &World, reason: &str) -> u64 {
    let start = format!("cm_broker_receipts_dropped_total{{reason=\"{reason}\"}} ");
    let text = world.get("/metrics").await.ok();
    let count = text.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&start));
    count.unwrap_or_else(|| panic!("{reason} is not counted")).parse().unwrap()
}

/// Waits until this many receipts were dropped for this reason.
async fn until_dropped(world: &World, reason: &str, count: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let so_far = dropped(world, reason).await;
        if so_far == count {
            return;
        }
        assert!(
            so_far < count && tokio::time::Instant::now() < deadline,
            "{count} {reason} expected: {so_far}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// MST-3.
#[tokio::test]
async fn a_sender_sees_each_step_once_and_in_order_and_an_old_client_nothing_new() {
    use ReceiptState::{Handed, InContext, OnDevice};
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let bobs = Session::new();
    let mut bob = session(&world, &people[1], &bobs).await;
    assert_eq!(alice.hello_ack["features"]["receipts"]["params"]["version"], 1);
    let old = Session::new();
    let mut old_client = world.session(&people[0], &old).await;
    let key = bobs.key.public();
    let push = delivered(&mut alice, &mut bob, key, "c").await;
    let from_old = delivered(&mut old_client, &mut bob, key, "o").await;
    let say = |push: &Value, state| receipt(&world, &people[1], key, push, state);
    let mut context = say(&push, InContext);
    context["path"] = json!("channel");
    context["evidence"] = json!("transcript line 12");
    context["assertedBy"] = json!("broker");
    let steps = [say(&push, OnDevice), say(&push, Handed), context.clone(), say(&push, Handed)];
    for step in &steps {
        bob.send(step).await;
        bob.send(&say(&from_old, step["state"].as_str().unwrap().parse().unwrap())).await;
    }
    for (step, by) in steps.iter().zip(["recipient_daemon", "recipient_daemon", "agent_record"]) {
        let mut told = step.clone();
        told["assertedBy"] = json!(by);
        assert_eq!(next_receipt(&mut alice).await, told, "unchanged but for who asserts it");
    }
    until_dropped(&world, "unchanged", 2).await;
    assert!(alice.frames_so_far("receipt").await.is_empty(), "a later handed changes nothing");
    assert!(old_client.frames_so_far("receipt").await.is_empty());
    let shown = standing(&mut alice, &push["messageId"]).await;
    assert_eq!(
        (&shown["state"], &shown["assertedBy"]),
        (&json!("in_context"), &json!("agent_record"))
    );
    assert_eq!((&shown["path"], &shown["evidence"]), (&context["path"], &context["evidence"]));
    let at = Timestamp::from_millis(context["at"].as_i64().unwrap());
    assert_eq!((&shown["since"], &shown["status"]), (&json!(at.to_iso()), &json!("delivered")));
    assert_eq!(shown["next"], "waits until bob's turn ends");
}

/// MST-4.
#[tokio::test]
async fn forged_and_foreign_receipts_change_nothing() {
    use ReceiptState::{Answered, OnDevice};
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let elsewhere = world.mesh_of(&["alice", "bob"]).await;
    let [alice_person, bob_person, carol_person] = &people[..] else { panic!("three people") };
    let mut alice = daemon(&world, alice_person).await;
    let mut bob = daemon(&world, bob_person).await;
    let mut carol = daemon(&world, carol_person).await;
    let bob_key = bob_person.key.public();
    let push = delivered(&mut alice, &mut bob, bob_key, "c").await;
    let other = delivered(&mut alice, &mut carol, carol_person.key.public(), "d").await;
    let honest = receipt(&world, bob_person, bob_key, &push, OnDevice);
    bob.send(&honest).await;
    next_receipt(&mut alice).await;
    let now = world.clock.now();
    let before = standing(&mut alice, &push["messageId"]).await;
    let good = receipt(&world, bob_person, bob_key, &push, Answered);
    let with = |field: &str, value: Value| {
        let mut frame = good.clone();
        frame[field] = value;
        frame
    };
    // On Bob's own connection: signatures that do not say this.
    let mut elsewhere_signed =
        signed(&bob_person.key, &elsewhere[1], bob_key, &push, Answered, now);
    elsewhere_signed["recipient"] = json!(bob_key);
    let bad_signatures = [
        signed(&carol_person.key, bob_person, bob_key, &push, Answered, now),
        with("state", json!("turn_ended")),
        with("at", json!(good["at"].as_i64().unwrap() - 1)),
        with("brokerMessageId", other["messageId"].clone()),
        with("signature", json!("0".repeat(128))),
        elsewhere_signed,
    ];
    for frame in &bad_signatures {
        bob.send(frame).await;
    }
    until_dropped(&world, "bad_signature", bad_signatures.len() as u64).await;
    // Well signed, but not about a delivery of this member.
    let mut renamed = good.clone();
    renamed["clientMessageId"] = json!("d");
    let unknown = [
        renamed,
        receipt(&world, bob_person, bob_key, &other, Answered),
        receipt(&world, bob_person, bob_key, &json!({"messageId": "x".repeat(32)}), Answered),
        receipt(&world, bob_person, alice_person.key.public(), &push, Answered),
    ];
    for frame in &unknown {
        bob.send(frame).await;
    }
    until_dropped(&world, "unknown", unknown.len() as u64).await;
    // Bob's own words, carried by somebody else: here, and by Bob in another mesh.
    carol.send(&good).await;
    until_dropped(&world, "bad_signature", bad_signatures.len() as u64 + 1).await;
    let mut bob_elsewhere = daemon(&world, &elsewhere[1]).await;
    bob_elsewhere.send(&good).await;
    bob_elsewhere
        .send(&receipt(&world, &elsewhere[1], elsewhere[1].key.public(), &push, Answered))
        .await;
    until_dropped(&world, "unknown", unknown.len() as u64 + 1).await;
    // A session does not speak for its member's other keys.
    let (one, two) = (Session::new(), Session::new());
    let mut first = session(&world, bob_person, &one).await;
    let mut second = session(&world, bob_person, &two).await;
    let to_first = delivered(&mut alice, &mut first, one.key.public(), "e").await;
    second.send(&receipt(&world, bob_person, one.key.public(), &to_first, Answered)).await;
    until_dropped(&world, "not_yours", 1).await;
    assert_eq!(standing(&mut alice, &push["messageId"]).await, before);
    assert_eq!(standing(&mut alice, &to_first["messageId"]).await["state"], "accepted");
    assert!(alice.frames_so_far("receipt").await.is_empty());
    bob.send(&good).await;
    assert_eq!(next_receipt(&mut alice).await["state"], "answered");
}

#[tokio::test]
async fn absurd_receipts_change_nothing_and_are_not_answered() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let key = people[1].key.public();
    let push = delivered(&mut alice, &mut bob, key, "c").await;
    let good = receipt(&world, &people[1], key, &push, ReceiptState::OnDevice);
    let with = |field: &str, value: Value| {
        let mut frame = good.clone();
        frame[field] = value;
        frame
    };
    let future = world.clock.now().plus(Duration::from_mins(2));
    let mut absurd = vec![
        with("path", json!("p".repeat(65))),
        with("evidence", json!("é".repeat(257))),
        with("reason", json!("r".repeat(65))),
        with("reason", json!("two\nlines")),
        with("evidence", json!("bell\u{7}")),
        with("brokerMessageId", json!("")),
        with("brokerMessageId", json!("x".repeat(33))),
        with("brokerMessageId", json!("a|b")),
        with("clientMessageId", json!("c".repeat(129))),
        with("at", json!(-1)),
        with("at", json!(i64::MAX)),
        with("signature", json!("ab")),
        with("signature", Value::Null),
        signed(&people[1].key, &people[1], key, &push, ReceiptState::OnDevice, future),
    ];
    // What the broker alone asserts.
    for state in [ReceiptState::Accepted, ReceiptState::Expired, ReceiptState::Rerouted] {
        absurd.push(receipt(&world, &people[1], key, &push, state));
    }
    for frame in &absurd {
        bob.send(frame).await;
    }
    until_dropped(&world, "malformed", absurd.len() as u64).await;
    assert!(bob.frames_so_far("error").await.is_empty());
    // What is not even the frame is refused like any other.
    for frame in [
        with("state", json!("seen")),
        with("at", json!("now")),
        with("recipient", json!("bob")),
        with("evidence", json!("nul\0")),
    ] {
        assert_eq!(bob.ask(frame).await["code"], "invalid_args");
    }
    let shown = standing(&mut alice, &push["messageId"]).await;
    assert_eq!((&shown["state"], &shown["assertedBy"]), (&json!("accepted"), &json!("broker")));
    assert!(alice.frames_so_far("receipt").await.is_empty());
    // The longest that is allowed, asked about: the bare ack of any upkeep frame.
    let mut longest = with("path", json!("p".repeat(64)));
    longest["evidence"] = json!("é".repeat(256));
    assert_eq!(bob.ask(longest).await["type"], "ack");
    assert_eq!(next_receipt(&mut alice).await["evidence"], json!("é".repeat(256)));
}

#[tokio::test]
async fn a_repeated_receipt_is_told_once_and_an_older_one_does_not_come_back() {
    use ReceiptState::{Handed, Held, OnDevice};
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let key = people[1].key.public();
    let push = delivered(&mut alice, &mut bob, key, "c").await;
    let say = |state, reason: &str| {
        world.clock.advance(Duration::from_secs(1));
        let mut frame = receipt(&world, &people[1], key, &push, state);
        frame["reason"] = json!(reason);
        frame
    };
    let (device, busy, dialog) = (say(OnDevice, ""), say(Held, "busy"), say(Held, "dialog"));
    for frame in [&device, &device, &busy, &busy, &dialog, &busy, &device] {
        bob.send(frame).await;
    }
    until_dropped(&world, "unchanged", 4).await;
    let told = alice.frames_so_far("receipt").await;
    let reasons: Vec<&Value> = told.iter().map(|frame| &frame["reason"]).collect();
    assert_eq!(reasons, ["", "busy", "dialog"]);
    let shown = standing(&mut alice, &push["messageId"]).await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("held"), &json!("dialog")));
    assert_eq!(shown["next"], "waits for a person to answer a dialog in bob's session");
    bob.send(&say(Handed, "")).await;
    next_receipt(&mut alice).await;
    let shown = standing(&mut alice, &push["messageId"]).await;
    assert_eq!(shown["state"], "handed", "a higher rank ends the side state");
}

#[tokio::test]
async fn a_flood_is_bounded_per_delivery_and_per_member_and_costs_no_send() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 1;
        settings.limits.send_per_min = 1;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = session(&world, &people[1], &Session::new()).await;
    let key = people[1].key.public();
    let push = delivered(&mut alice, &mut bob, key, "c").await;
    for turn in 0..2 * RECEIPTS_PER_ROW {
        let state = [ReceiptState::Held, ReceiptState::Deferred][turn as usize % 2];
        bob.send(&receipt(&world, &people[1], key, &push, state)).await;
    }
    bob.send(&receipt(&world, &people[1], key, &push, ReceiptState::OnDevice)).await;
    until_state(&mut alice, &push["messageId"], "on_device").await;
    assert!(alice.frames_so_far("receipt").await.len() <= RECEIPTS_PER_ROW as usize);
    // Bob may still send: receipts are not counted there.
    let own = json!({"targetSpec": people[0].key.public(), "client_message_id": "b"});
    assert_eq!(bob.message(own).await["queued"], true);
    // Somebody else's key is not even looked up, but it is counted.
    let foreign = receipt(&world, &people[1], people[0].key.public(), &push, ReceiptState::Held);
    let text = foreign.to_string();
    let deadline = tokio::time::Instant::now() + 4 * PATIENCE;
    while dropped(&world, "flood").await == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the budget never ends");
        for _ in 0..RECEIPT_BURST / 2 {
            bob.send_text(text.as_str()).await;
        }
        assert_eq!(bob.ask(foreign.clone()).await["type"], "ack", "nobody is told");
    }
    assert!(dropped(&world, "not_yours").await >= u64::from(RECEIPT_BURST) / 2);
    assert_eq!(standing(&mut alice, &push["messageId"]).await["state"], "on_device");
    world.clock.advance(Duration::from_mins(1));
    bob.send(&receipt(&world, &people[1], key, &push, ReceiptState::Handed)).await;
    until_state(&mut alice, &push["messageId"], "handed").await;
}

/// The sender's session hears it while it is connected, else its member's daemons.
#[tokio::test]
async fn receipts_go_to_the_senders_session_and_without_it_to_its_daemon() {
    use ReceiptState::{Handed, InContext, OnDevice};
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut home = daemon(&world, &people[0]).await;
    let alices = Session::new();
    let mut alice = session(&world, &people[0], &alices).await;
    let mut bob = daemon(&world, &people[1]).await;
    let key = people[1].key.public();
    let push = delivered(&mut alice, &mut bob, key, "c").await;
    bob.send(&receipt(&world, &people[1], key, &push, OnDevice)).await;
    assert_eq!(next_receipt(&mut alice).await["state"], "on_device");
    assert!(home.frames_so_far("receipt").await.is_empty());
    alice.cut();
    bob.send(&receipt(&world, &people[1], key, &push, Handed)).await;
    assert_eq!(next_receipt(&mut home).await["state"], "handed");
    // A session that does not list the capability hears nothing, and nobody hears it instead.
    let mut alice = world.session(&people[0], &alices).await;
    bob.send(&receipt(&world, &people[1], key, &push, InContext)).await;
    until_state(&mut home, &push["messageId"], "in_context").await;
    assert!(alice.frames_so_far("receipt").await.is_empty());
    assert!(home.frames_so_far("receipt").await.is_empty());
}

/// README ruling 52: the recipient's other daemons learn that it was answered.
#[tokio::test]
async fn the_recipients_other_devices_hear_what_became_of_their_copy() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut laptop = daemon(&world, &people[1]).await;
    let device = |name: &str, capabilities: Value| {
        let mut hello = world.daemon_hello(&people[1]);
        hello["sessionId"] = json!(name);
        hello["capabilities"] = capabilities;
        hello
    };
    let mut desktop = world.connect(device("desktop", json!(["client_ack", "receipts"]))).await;
    let mut old = world.connect(device("old", json!(["client_ack"]))).await;
    let key = people[1].key.public();
    alice.message(json!({"targetSpec": key, "client_message_id": "c"})).await;
    let push = laptop.push().await;
    desktop.push().await;
    laptop.confirm(&push).await;
    let mut answered = receipt(&world, &people[1], key, &push, ReceiptState::Answered);
    answered["evidence"] = json!("bob session");
    laptop.send(&answered).await;
    answered["assertedBy"] = json!("agent_record");
    assert_eq!(next_receipt(&mut alice).await, answered);
    assert_eq!(next_receipt(&mut desktop).await, answered);
    assert!(laptop.frames_so_far("receipt").await.is_empty(), "it has said so itself");
    assert!(old.frames_so_far("receipt").await.is_empty());
}

#[tokio::test]
async fn a_daemon_says_that_a_session_is_gone_and_its_message_starts_anew_for_the_member() {
    use ReceiptState::{Handed, OnDevice, SessionGone};
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut home = daemon(&world, &people[1]).await;
    let bobs = Session::new();
    let mut bob = session(&world, &people[1], &bobs).await;
    let (session_key, member_key) = (bobs.key.public(), people[1].key.public());
    let push = delivered(&mut alice, &mut bob, session_key, "c").await;
    bob.send(&receipt(&world, &people[1], session_key, &push, Handed)).await;
    next_receipt(&mut alice).await;
    bob.cut();
    home.send(&receipt(&world, &people[1], session_key, &push, SessionGone)).await;
    let told = next_receipt(&mut alice).await;
    assert_eq!((&told["state"], &told["recipient"]), (&json!("session_gone"), &json!(session_key)));
    let shown = standing(&mut alice, &push["messageId"]).await;
    assert_eq!((&shown["state"], &shown["pubkey"]), (&json!("session_gone"), &json!(member_key)));
    assert_eq!(shown["next"], "waits until another session of bob takes it");
    home.send(&receipt(&world, &people[1], session_key, &push, SessionGone)).await;
    home.send(&receipt(&world, &people[1], member_key, &push, OnDevice)).await;
    let told = next_receipt(&mut alice).await;
    assert_eq!((&told["state"], &told["recipient"]), (&json!("on_device"), &json!(member_key)));
    assert!(home.pushes_so_far().await.is_empty(), "its daemon has it already");
}

/// What the ack could not say: unsigned, and only to who asked for receipts.
#[tokio::test]
async fn the_broker_says_itself_that_its_gate_holds_a_message() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut old = world.session(&people[0], &Session::new()).await;
    let bobs = Session::new();
    let mut bob = world.session(&people[1], &bobs).await;
    for (status, reason) in [("working", "busy"), ("dnd", "dnd")] {
        bob.ask(json!({"type": "set_status", "status": status})).await;
        let message = |priority: &str, id: &str| json!({"targetSpec": bobs.pubkey(), "priority": priority, "client_message_id": format!("{status}{id}")});
        let ack = alice.message(message("next", "c")).await;
        let told = next_receipt(&mut alice).await;
        assert_eq!(
            (&told["state"], &told["reason"], &told["assertedBy"]),
            (&json!("deferred"), &json!(reason), &json!("broker"))
        );
        assert_eq!(
            (&told["brokerMessageId"], &told["clientMessageId"], &told["recipient"]),
            (&ack["messageId"], &json!(format!("{status}c")), &json!(bobs.pubkey()))
        );
        assert_eq!(told.get("signature"), None);
        alice.message(message("now", "n")).await;
        old.message(message("next", "o")).await;
        assert!(alice.frames_so_far("receipt").await.is_empty(), "now is not held");
        assert!(old.frames_so_far("receipt").await.is_empty());
    }
}

#[tokio::test]
async fn the_broker_says_itself_that_a_message_waits_moved_or_expired() {
    Box::pin(waits_moves_and_expires(&World::start().await)).await;
}

#[tokio::test]
async fn on_postgres_too_the_broker_says_what_becomes_of_a_message() {
    if let Some(world) = World::on_postgres().await {
        Box::pin(waits_moves_and_expires(&world)).await;
    }
}

async fn waits_moves_and_expires(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(world, &people[0]).await;
    let mut old = world.session(&people[0], &Session::new()).await;
    let bobs = Session::new();
    let bob = session(world, &people[1], &bobs).await;
    let until = world.clock.now().plus(Duration::from_secs(400)).as_millis();
    let message = |id: &str| json!({"targetSpec": bobs.pubkey(), "client_message_id": id, "expiresAt": until});
    let ack = alice.message(message("c")).await;
    old.message(message("o")).await;
    let mut bob = bob;
    bob.push().await;
    bob.push().await;
    bob.cut();
    let expect = |told: &Value, state: &str, reason: &str| {
        assert_eq!(
            (&told["state"], &told["reason"], &told["assertedBy"], &told["recipient"]),
            (&json!(state), &json!(reason), &json!("broker"), &json!(bobs.pubkey()))
        );
        assert_eq!(told["brokerMessageId"], ack["messageId"]);
        assert_eq!(told["clientMessageId"], "c");
    };
    expect(&next_receipt(&mut alice).await, "held", "absent");
    world.pass(100);
    let moved = next_receipt(&mut alice).await;
    expect(&moved, "rerouted", "session_ended");
    assert_eq!(moved["path"], json!(people[1].key.public()), "where it waits now");
    let shown = standing(&mut alice, &ack["messageId"]).await;
    assert_eq!(
        (&shown["state"], &shown["pubkey"], &shown["status"]),
        (&json!("rerouted"), &json!(people[1].key.public()), &json!("disconnected"))
    );
    world.pass(400);
    let expired = next_receipt(&mut alice).await;
    assert_eq!((&expired["state"], &expired["reason"]), (&json!("expired"), &json!("expired")));
    assert_eq!(expired["recipient"], json!(people[1].key.public()));
    assert!(old.frames_so_far("receipt").await.is_empty(), "old clients see nothing new");
    assert_eq!(standing(&mut alice, &ack["messageId"]).await["state"], "expired");
}

/// A receipt of a member-key row may come from a session that stands in for a member without a daemon.
#[tokio::test]
async fn a_session_speaks_for_its_member_while_no_daemon_is_there() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = session(&world, &people[1], &Session::new()).await;
    let key = people[1].key.public();
    let push = delivered(&mut alice, &mut bob, key, "c").await;
    bob.send(&receipt(&world, &people[1], key, &push, ReceiptState::OnDevice)).await;
    assert_eq!(next_receipt(&mut alice).await["state"], "on_device");
}

/// Receipts outlive the broker.
#[tokio::test]
async fn what_was_said_is_known_after_a_restart() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let key = people[1].key.public();
    let push = delivered(&mut alice, &mut bob, key, "c").await;
    bob.send(&receipt(&world, &people[1], key, &push, ReceiptState::Handed)).await;
    next_receipt(&mut alice).await;
    world.stop().await;
    world.resume().await;
    let mut alice = daemon(&world, &people[0]).await;
    let mut bob = daemon(&world, &people[1]).await;
    let shown = standing(&mut alice, &push["messageId"]).await;
    assert_eq!((&shown["state"], &shown["status"]), (&json!("handed"), &json!("delivered")));
    bob.send(&receipt(&world, &people[1], key, &push, ReceiptState::OnDevice)).await;
    until_dropped(&world, "unchanged", 1).await;
}

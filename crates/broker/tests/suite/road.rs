//! The way of a message after acceptance: gates, order, redelivery, acknowledgements (broker spec §3.4, §3.7, §3.10).

use std::time::Duration;

use claudemesh_protocol::limits::LOOP_PAIR_MAX;
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket, ids};
use crate::world::{PATIENCE, World};

fn to(person: &Person, id: &str) -> Value {
    json!({"targetSpec": person.key.public(), "client_message_id": id})
}

/// DLV-1.
#[tokio::test]
async fn an_unacknowledged_push_comes_again_with_doubled_patience() {
    Box::pin(an_unacknowledged_push_comes_again_with_doubled_patience_on(&World::start().await))
        .await;
}

pub async fn an_unacknowledged_push_comes_again_with_doubled_patience_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    alice.message(to(&people[1], "c")).await;
    assert_eq!(bob.push().await["attempt"], 1);
    world.pass(20);
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    world.pass(20);
    assert_eq!(bob.push().await["attempt"], 2);
    world.pass(45);
    assert_eq!(bob.pushes_so_far().await.len(), 0, "the second claim lasts 60 s");
    world.pass(20);
    let third = bob.push().await;
    assert_eq!(third["attempt"], 3);
    bob.confirm(&third).await;
    bob.pushes_so_far().await;
    world.pass(1_000);
    world.pass(20);
    assert_eq!(bob.pushes_so_far().await.len(), 0);
}

async fn set_status(socket: &mut Socket, status: &str, source: &str) {
    let frame = json!({"type": "set_status", "status": status, "source": source});
    assert_eq!(socket.ask(frame).await["type"], "ack");
}

/// DLV-2.
#[tokio::test]
async fn a_working_recipient_is_interrupted_by_now_only_until_it_is_idle() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    for (busy, idle_by) in [("working", "hook"), ("dnd", "manual"), ("working", "sweep")] {
        let source = if busy == "dnd" { "manual" } else { "hook" };
        set_status(&mut bob, busy, source).await;
        let message = |id: &str, priority: &str, target: Value| json!({"targetSpec": target, "client_message_id": format!("{idle_by}{busy}{id}"), "priority": priority});
        let member = json!(people[1].key.public());
        alice.message(message("low", "low", member.clone())).await;
        alice.message(message("next", "next", member.clone())).await;
        alice.message(message("all", "next", json!("*"))).await;
        alice.message(message("now", "now", member)).await;
        let first = bob.push().await;
        assert!(ids(std::slice::from_ref(&first))[0].ends_with("now"));
        bob.confirm(&first).await;
        assert_eq!(bob.pushes_so_far().await.len(), 0);
        if idle_by == "sweep" {
            world.pass(61);
        } else {
            set_status(&mut bob, "idle", idle_by).await;
        }
        let mut rest = Vec::new();
        for _ in 0..3 {
            let push = bob.push().await;
            bob.confirm(&push).await;
            rest.push(push["client_message_id"].as_str().unwrap().to_owned());
        }
        rest.sort_unstable();
        let prefix = format!("{idle_by}{busy}");
        assert_eq!(rest, ["all", "low", "next"].map(|end| format!("{prefix}{end}")));
    }
}

/// DLV-2b, the broker's part.
#[tokio::test]
async fn a_daemon_that_gates_itself_gets_now_and_next_at_once() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut hello = world.session_hello(&people[1], &Session::new());
    hello["capabilities"] = json!(["client_ack", "local_gate"]);
    let mut bob = world.connect(hello).await;
    set_status(&mut bob, "working", "hook").await;
    for priority in ["low", "next", "now"] {
        let message = json!({"targetSpec": people[1].key.public(), "client_message_id": priority, "priority": priority});
        alice.message(message).await;
    }
    assert_eq!(ids(&bob.pushes_so_far().await), ["next", "now"]);
    assert_eq!(bob.ask(json!({"type": "pull_messages"})).await["type"], "ack");
    assert_eq!(ids(&[bob.push().await]), ["low"]);
    assert_eq!(bob.ask(json!({"type": "pull_messages"})).await["code"], "rate_limited");
}

/// DLV-3.
#[tokio::test]
async fn a_thousand_messages_arrive_in_order_though_the_socket_is_cut_twenty_times() {
    a_thousand_messages_arrive_in_order_though_the_socket_is_cut_twenty_times_on(
        &World::start_with(|settings| settings.limits.send_burst = 2_000).await,
    )
    .await;
}

pub async fn a_thousand_messages_arrive_in_order_though_the_socket_is_cut_twenty_times_on(
    world: &World,
) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let mut bob = Some(world.session(&people[1], &session).await);
    let target = session.pubkey();
    let sending = async {
        for number in 0..1_000 {
            let message = json!({"targetSpec": target, "client_message_id": number.to_string()});
            alice.post(&number.to_string(), message).await;
        }
        for number in 0..1_000 {
            assert_eq!(alice.ack(&number.to_string()).await["queued"], true, "{number}");
        }
    };
    let receiving = async {
        // First arrivals, as an inbox that knows doubles keeps them.
        let mut inbox: Vec<u32> = Vec::new();
        let mut cuts = 0;
        while inbox.len() < 1_000 {
            let socket = bob.as_mut().unwrap();
            let push = socket.push().await;
            let number: u32 = push["client_message_id"].as_str().unwrap().parse().unwrap();
            if !inbox.contains(&number) {
                inbox.push(number);
            }
            if cuts < 20 && inbox.len() > cuts * 45 + 20 {
                cuts += 1;
                bob.take().unwrap().cut();
                bob = Some(world.session(&people[1], &session).await);
            } else {
                socket.confirm(&push).await;
            }
        }
        assert_eq!(cuts, 20);
        assert!(inbox.is_sorted(), "{inbox:?}");
    };
    tokio::join!(sending, receiving);
}

/// DLV-5.
#[tokio::test]
async fn a_push_without_ack_comes_again_on_the_next_socket() {
    Box::pin(a_push_without_ack_comes_again_on_the_next_socket_on(&World::start().await)).await;
}

pub async fn a_push_without_ack_comes_again_on_the_next_socket_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let mut bob = world.session(&people[1], &session).await;
    let message = json!({"targetSpec": session.pubkey(), "client_message_id": "c"});
    alice.message(message).await;
    let first = bob.push().await;
    bob.cut();
    let mut bob = world.session(&people[1], &session).await;
    let second = bob.push().await;
    assert_eq!(first["messageId"], second["messageId"]);
    // The ack by the sender's id counts as well, and a late one of an earlier socket does no harm.
    bob.send(&json!({"type": "client_ack", "clientMessageId": "c"})).await;
    bob.confirm(&first).await;
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    until_empty(world).await;
}

async fn until_empty(world: &World) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let total = world.broker().broker().store().backlog_total().await.unwrap();
        if total.held + total.claimed == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{total:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An ack that was on its way when the socket was cut still counts on the next one.
#[tokio::test]
async fn an_ack_on_a_later_socket_delivers_what_an_earlier_one_pushed() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let mut bob = world.session(&people[1], &session).await;
    set_status(&mut bob, "dnd", "manual").await;
    let message =
        json!({"targetSpec": session.pubkey(), "client_message_id": "c", "priority": "next"});
    let ack = alice.message(message).await;
    bob.send(&json!({"type": "client_ack", "brokerMessageId": ack["messageId"]})).await;
    until_empty(&world).await;
    set_status(&mut bob, "idle", "manual").await;
    assert_eq!(bob.pushes_so_far().await.len(), 0);
}

/// DLV-6.
#[tokio::test]
async fn an_ack_of_somebody_elses_message_changes_nothing() {
    Box::pin(an_ack_of_somebody_elses_message_changes_nothing_on(&World::start().await)).await;
}

pub async fn an_ack_of_somebody_elses_message_changes_nothing_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut carol = world.daemon(&people[2]).await;
    let held = alice.message(to(&people[1], "c")).await;
    let broadcast = alice.message(json!({"targetSpec": "*"})).await;
    let own = carol.push().await;
    for id in [&held["messageId"], &broadcast["messageId"], &json!("nope")] {
        carol.send(&json!({"type": "client_ack", "brokerMessageId": id})).await;
    }
    assert_eq!(own["messageId"], broadcast["messageId"]);
    carol.pushes_so_far().await;
    let mut bob = world.daemon(&people[1]).await;
    assert_eq!(bob.push().await["messageId"], held["messageId"]);
    assert_eq!(bob.push().await["messageId"], broadcast["messageId"]);
}

/// DLV-7.
#[tokio::test]
async fn a_message_of_a_banned_sender_is_not_delivered_any_more() {
    use claudemesh_core::clock::Clock as _;
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut bob = world.daemon(&people[1]).await;
    bob.message(to(&people[0], "c")).await;
    let store = world.broker().broker().store();
    let at = world.clock.now();
    let ban =
        claudemesh_store::Revocation { at, kind: claudemesh_store::RevokeKind::Ban, by: None };
    store.revoke_member(&people[1].mesh, &people[1].id, ban).await.unwrap();
    world.broker().broker().roster_changed(&people[1].mesh);
    let mut alice = world.daemon(&people[0]).await;
    assert_eq!(alice.pushes_so_far().await.len(), 0);
}

#[tokio::test]
async fn more_than_the_window_waits_for_acks() {
    let world = World::start_with(|settings| settings.limits.send_burst = 1_000).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for number in 0..300 {
        alice.post(&number.to_string(), to(&people[1], &number.to_string())).await;
    }
    for number in 0..300 {
        alice.ack(&number.to_string()).await;
    }
    let mut bob = world.daemon(&people[1]).await;
    let mut window = Vec::new();
    for _ in 0..256 {
        window.push(bob.push().await);
    }
    assert_eq!(bob.pushes_so_far().await.len(), 0, "256 unacknowledged rows are the limit");
    for push in &window {
        bob.confirm(push).await;
    }
    for number in 256..300 {
        let push = bob.push().await;
        assert_eq!(ids(std::slice::from_ref(&push)), [number.to_string()]);
        bob.confirm(&push).await;
    }
    until_empty(&world).await;
}

/// MST-1.
#[tokio::test]
async fn the_status_of_a_broadcast_tells_each_recipient() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut carol = world.daemon(&people[2]).await;
    let session = Session::new();
    let dave = world.session(&people[3], &session).await;
    dave.cut();
    let ack = loop {
        let peers = alice.ask(json!({"type": "list_peers", "debug": true})).await;
        if peers.to_string().contains("offline") {
            break alice.message(json!({"targetSpec": "*"})).await;
        }
    };
    for socket in [&mut bob, &mut carol] {
        let push = socket.push().await;
        socket.confirm(&push).await;
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let status = loop {
        let prefix = &ack["messageId"].as_str().unwrap()[..8];
        let status = alice.ask(json!({"type": "message_status", "messageId": prefix})).await;
        let rows = status["recipients"].as_array().unwrap();
        if rows.iter().filter(|row| row["status"] == "delivered").count() == 2 {
            break status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status}");
    };
    assert_eq!((&status["delivered"], &status["deliveredAt"]), (&json!(false), &json!(null)));
    let waiting =
        status["recipients"].as_array().unwrap().iter().find(|row| row["name"] == "dave session");
    let waiting = waiting.unwrap();
    assert_eq!(
        (&waiting["status"], &waiting["pubkey"]),
        (&json!("held"), &json!(session.pubkey()))
    );
    assert_eq!(waiting["assertedBy"], "broker");
}

/// MST-2.
#[tokio::test]
async fn only_the_sender_and_admins_may_ask_for_a_status() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut carol = world.daemon(&people[2]).await;
    let ack = bob.message(to(&people[0], "c")).await;
    let question = json!({"type": "message_status", "messageId": ack["messageId"]});
    assert_eq!(carol.ask(question.clone()).await["code"], "not_found");
    assert_eq!(bob.ask(question.clone()).await["type"], "message_status_result");
    assert_eq!(alice.ask(question).await["type"], "message_status_result", "alice is the owner");
    for id in ["short", "no/base62", &"x".repeat(33)] {
        let reply = bob.ask(json!({"type": "message_status", "messageId": id})).await;
        assert_eq!(reply["code"], "invalid_argument");
    }
}

/// LOOP-1.
#[tokio::test]
async fn twelve_hops_are_accepted_and_thirteen_are_not() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let hops = |hops: u32| json!({"targetSpec": people[1].key.public(), "hops": hops});
    assert_eq!(alice.message(hops(12)).await["queued"], true);
    let ack = alice.message(hops(13)).await;
    assert!(ack["error"].as_str().unwrap().starts_with("loop_stopped: forbidden"), "{ack}");
    assert_eq!(alice.event("loop_stopped").await["until"], Value::Null);
    assert_eq!(alice.message(json!({"targetSpec": people[1].key.public()})).await["queued"], true);
    assert_eq!(bob.pushes_so_far().await.len(), 2);
    let broadcast = alice.message(json!({"targetSpec": "*", "hops": 13})).await;
    assert!(broadcast["error"].as_str().unwrap().starts_with("loop_stopped"), "{broadcast}");
}

/// LOOP-2.
#[tokio::test]
async fn two_agents_answering_each_other_are_stopped_and_a_person_lifts_it() {
    let world = World::start_with(|settings| settings.limits.send_burst = 1_000).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let sessions = [Session::new(), Session::new()];
    let mut sockets = [
        world.session(&people[0], &sessions[0]).await,
        world.session(&people[1], &sessions[1]).await,
    ];
    let message = |from: usize| json!({"targetSpec": sessions[1 - from].pubkey()});
    for number in 0..LOOP_PAIR_MAX {
        let from = number % 2;
        assert_eq!(sockets[from].message(message(from)).await["queued"], true, "{number}");
    }
    for from in [0, 1] {
        let ack = sockets[from].message(message(from)).await;
        assert!(ack["error"].as_str().unwrap().starts_with("loop_stopped: forbidden"), "{ack}");
    }
    for socket in &mut sockets {
        let events = socket.events_so_far("loop_stopped").await;
        assert_eq!(events.len(), 1);
        assert!(events[0]["eventData"]["until"].is_string());
    }
    let lift = json!({"type": "loop_unblock", "peer": sessions[1].pubkey()});
    assert_eq!(sockets[0].ask(lift).await["type"], "ack");
    assert_eq!(sockets[0].message(message(0)).await["queued"], true);
    // Human input starts anew.
    for number in 1..LOOP_PAIR_MAX {
        let from = number % 2;
        assert_eq!(sockets[from].message(message(from)).await["queued"], true, "{number}");
    }
    let mut human = message(0);
    human["hops"] = json!(0);
    assert_eq!(sockets[0].message(human).await["queued"], true);
    assert_eq!(sockets[1].message(message(1)).await["queued"], true);
}

//! The loop guard at the wire: who is told, and who may lift a stop (broker spec §3.10).

use claudemesh_protocol::limits::LOOP_PAIR_MAX;
use serde_json::{Value, json};

use crate::peers::{Session, Socket};
use crate::world::World;

/// LOOP-1.
#[tokio::test]
async fn the_hop_limit_is_told_to_both_sides_and_stores_nothing() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut carol = world.daemon(&people[2]).await;
    let message = |hops: u32| json!({"targetSpec": people[1].key.public(), "hops": hops, "client_message_id": "c"});
    let refused = alice.message(message(13)).await;
    assert!(refused["error"].as_str().unwrap().starts_with("loop_stopped: forbidden"), "{refused}");
    for socket in [&mut alice, &mut bob] {
        let event = socket.event("loop_stopped").await;
        assert_eq!((&event["hops"], &event["until"]), (&json!(13), &Value::Null));
        assert_eq!(event["pair"], json!([people[0].key.public(), people[1].key.public()]));
    }
    assert!(carol.events_so_far("loop_stopped").await.is_empty());
    // Nothing was stored, not even the id.
    assert_eq!(alice.message(message(12)).await["status"], 201);
    assert_eq!(bob.pushes_so_far().await.len(), 1);
}

async fn chat(sockets: &mut [Socket; 2], sessions: &[Session; 2]) {
    for number in 0..LOOP_PAIR_MAX {
        let from = number % 2;
        let message = json!({"targetSpec": sessions[1 - from].pubkey()});
        assert_eq!(sockets[from].message(message).await["queued"], true, "{number}");
    }
}

/// LOOP-2.
#[tokio::test]
async fn a_stop_is_lifted_by_either_side_and_by_nobody_else() {
    let world = World::start_with(|settings| settings.limits.send_burst = 1_000).await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let sessions = [Session::new(), Session::new()];
    let mut sockets = [
        world.session(&people[0], &sessions[0]).await,
        world.session(&people[1], &sessions[1]).await,
    ];
    let mut sibling = world.session(&people[0], &Session::new()).await;
    let mut home = world.daemon(&people[1]).await;
    let mut carol = world.daemon(&people[2]).await;
    let message = |from: usize| json!({"targetSpec": sessions[1 - from].pubkey()});
    let lift = |peer: &Session| json!({"type": "loop_unblock", "peer": peer.pubkey()});
    assert_eq!(sockets[0].ask(lift(&sessions[1])).await["lifted"], false, "there is none yet");
    chat(&mut sockets, &sessions).await;
    assert_eq!(sockets[0].message(message(0)).await["queued"], false);
    for peer in &sessions {
        assert_eq!(carol.ask(lift(peer)).await["lifted"], false);
    }
    for from in [0, 1] {
        assert_eq!(sockets[from].message(message(from)).await["queued"], false, "still stopped");
    }
    // Another session of one side's member.
    let reply = sibling.ask(lift(&sessions[1])).await;
    assert_eq!((&reply["type"], &reply["lifted"]), (&json!("ack"), &json!(true)));
    assert_eq!(sibling.ask(lift(&sessions[1])).await["lifted"], false);
    // The other side's daemon, after the next stop.
    chat(&mut sockets, &sessions).await;
    assert_eq!(sockets[1].message(message(1)).await["queued"], false);
    assert_eq!(home.ask(lift(&sessions[0])).await["lifted"], true);
    assert_eq!(sockets[1].message(message(1)).await["queued"], true);
    for socket in &mut sockets {
        assert_eq!(socket.events_so_far("loop_stopped").await.len(), 2, "once per stop");
    }
}

/// LOOP-2 under the limits of an operator.
#[tokio::test]
async fn an_operator_sets_when_two_sessions_are_stopped_and_for_how_long() {
    let world = World::start_with(|settings| {
        settings.limits.loop_pair_messages = 4;
        settings.limits.loop_stop_seconds = 5;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut sockets = [world.daemon(&people[0]).await, world.daemon(&people[1]).await];
    let message = |from: usize| json!({"targetSpec": people[1 - from].key.public()});
    for number in 0..4 {
        let from = number % 2;
        assert_eq!(sockets[from].message(message(from)).await["queued"], true, "{number}");
    }
    assert_eq!(sockets[0].message(message(0)).await["queued"], false);
    world.pass(6);
    assert_eq!(sockets[0].message(message(0)).await["queued"], true);
}

//! Daemons that are killed and started again on the same machine (broker spec §2.2): the new process continues what the
//! old one left, however often that happens.

use claudemesh_protocol::status::GroupEncryption;
use claudemesh_store::{ClonePolicy, MeshSettings};
use serde_json::{Value, json};

use crate::leases::until_leased;
use crate::peers::{Person, Wanted, settings};
use crate::world::World;

const PRESENCE_EVENTS: [&str; 4] = ["peer_joined", "peer_left", "peer_returned", "peer_visible"];

/// The hello of a daemon's process on a machine.
pub fn process(world: &World, person: &Person, pid: u32, host: &str) -> Value {
    let mut hello = world.daemon_hello(person);
    hello["hostFingerprint"] = json!(host.repeat(64));
    hello["sessionId"] = json!(format!("daemon-{pid}"));
    hello["pid"] = json!(pid);
    hello
}

#[tokio::test]
async fn a_killed_daemon_is_continued_by_its_next_process() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.connect(process(&world, &people[1], 1, "a")).await;
    alice.event("peer_joined").await;
    bob.ask(json!({"type": "join_group", "name": "ops"})).await;
    bob.ask(json!({"type": "set_summary", "summary": "fixing the roof"})).await;
    bob.ask(json!({"type": "set_stats", "stats": {"messagesIn": 5}})).await;
    let before = bob.presence_id();
    let first = alice.message(json!({"targetSpec": people[1].key.public()})).await;
    assert_eq!(bob.push().await["messageId"], first["messageId"]);
    bob.cut();
    until_leased(&mut alice, 1).await;
    let second = alice.message(json!({"targetSpec": people[1].key.public()})).await;

    let mut bob = world.connect(process(&world, &people[1], 2, "a")).await;
    assert_eq!(bob.presence_id(), before);
    let ack = &bob.hello_ack;
    assert_eq!(
        (&ack["restored"], &ack["restoredGroups"], &ack["lastSummary"]),
        (&json!(true), &json!([{"name": "ops"}]), &json!("fixing the roof")),
        "the new process knows nothing by itself"
    );
    assert_eq!(ack["restoredStats"]["messagesIn"], 5);
    for (sent, attempt) in [(first, 2), (second, 1)] {
        let push = bob.push().await;
        assert_eq!((&push["messageId"], &push["attempt"]), (&sent["messageId"], &json!(attempt)));
        bob.confirm(&push).await;
    }
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    world.pass(100);
    let peers = alice.peers().await;
    assert_eq!(peers.len(), 2, "the lease is void");
    assert!(peers.iter().any(|peer| {
        peer["groups"] == json!([{"name": "ops"}]) && peer["summary"] == "fixing the roof"
    }));
    for event in PRESENCE_EVENTS {
        assert_eq!(alice.events_so_far(event).await.len(), 0, "{event}");
    }
    // What both processes counted is added up.
    bob.ask(json!({"type": "set_stats", "stats": {"messagesIn": 3}})).await;
    bob.leave().await;
    alice.event("peer_left").await;
    let bob = world.connect(process(&world, &people[1], 3, "a")).await;
    assert_eq!(bob.hello_ack["restoredStats"]["messagesIn"], 8);
}

#[tokio::test]
async fn what_a_killed_daemon_counted_outlives_the_broker_too() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.connect(process(&world, &people[1], 1, "a")).await;
    bob.ask(json!({"type": "set_stats", "stats": {"messagesIn": 5}})).await;
    let before = bob.presence_id();
    bob.cut();
    until_leased(&mut alice, 1).await;
    let mut bob = world.connect(process(&world, &people[1], 2, "a")).await;
    // An answer follows everything that the hello has caused.
    bob.peers().await;
    world.kill().await;
    world.resume().await;
    let bob = world.connect(process(&world, &people[1], 3, "a")).await;
    assert_eq!(bob.presence_id(), before);
    assert_eq!(bob.hello_ack["restoredStats"]["messagesIn"], 5);
}

/// PRES-4: a daemon that dies over and over keeps its one place, and takes nobody else's.
#[tokio::test]
async fn a_daemon_that_is_killed_again_and_again_does_not_fill_its_mesh() {
    let world = World::start_with(|settings| settings.limits.max_connections_per_mesh = 2).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let first = world.connect(process(&world, &people[1], 1, "a")).await;
    let (before, mut bob) = (first.presence_id(), first);
    for pid in 2..8 {
        bob.cut();
        until_leased(&mut alice, 1).await;
        bob = world.connect(process(&world, &people[1], pid, "a")).await;
        assert_eq!(bob.presence_id(), before);
    }
    assert_eq!(alice.peers().await.len(), 2);
    // Another machine is another daemon, and there is no room for it.
    let (error, ..) = world.refused(process(&world, &people[1], 9, "b")).await;
    assert_eq!(error["code"], "capacity");
}

#[tokio::test]
async fn a_restart_touches_no_other_connection_of_its_member() {
    let world = World::start().await;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    let concurrent = MeshSettings {
        clone_policy: ClonePolicy::AllowConcurrent,
        ..settings(GroupEncryption::Preferred)
    };
    let people = world.mesh_with(concurrent, &wanted).await;
    let mut alice = world.daemon(&people[0]).await;
    let bob = &people[1];
    let mut far = world.connect(process(&world, bob, 1, "b")).await;
    let near = world.connect(process(&world, bob, 1, "a")).await;
    let mut beside = world.connect(process(&world, bob, 2, "a")).await;
    let mut connector = process(&world, bob, 3, "a");
    connector["peerType"] = json!("connector");
    let mut connector = world.connect(connector).await;
    assert_eq!(alice.peers().await.len(), 5);
    let left = near.presence_id();
    near.cut();
    until_leased(&mut alice, 1).await;
    // Neither a one-shot call, nor another program, nor another machine returns in its place.
    let mut call = process(&world, bob, 4, "a");
    call["capabilities"] = json!(["transient"]);
    let mut program = process(&world, bob, 5, "a");
    program["channel"] = json!("something-else");
    for hello in [call, program, process(&world, bob, 6, "c")] {
        let socket = world.connect(hello).await;
        assert_ne!(socket.presence_id(), left);
        socket.leave().await;
    }
    let mut next = world.connect(process(&world, bob, 7, "a")).await;
    assert_eq!(next.presence_id(), left);
    // A second process beside it, with nothing left to continue, is one of its own.
    let mut third = world.connect(process(&world, bob, 8, "a")).await;
    assert_eq!(alice.until_peers(6).await.len(), 6);
    for socket in [&mut far, &mut beside, &mut connector, &mut next, &mut third] {
        assert_eq!(socket.peers().await.len(), 6, "its socket is open");
    }
}

#[tokio::test]
async fn of_two_processes_that_continue_one_presence_both_find_a_place() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for round in 0..10 {
        let bob = world.connect(process(&world, &people[1], round * 10, "a")).await;
        bob.cut();
        until_leased(&mut alice, 1).await;
        let hellos = [1, 2].map(|pid| process(&world, &people[1], round * 10 + pid, "a"));
        let [mut one, mut two] = [world.socket().await, world.socket().await];
        tokio::join!(one.send(&hellos[0]), two.send(&hellos[1]));
        for (socket, pid) in [(one, 3), (two, 4)] {
            let mut socket = socket;
            let answer = socket.next().await;
            if answer["type"] == "error" {
                // It came second by a moment; what it tries next succeeds.
                assert_eq!(answer["code"], "unavailable", "{answer}");
                socket = world.connect(process(&world, &people[1], round * 10 + pid, "a")).await;
            }
            assert!(alice.peers().await.len() >= 2);
            socket.leave().await;
        }
        alice.until_peers(1).await;
    }
}

//! Pushes that are ahead of the commit of their rows (broker spec §3.4, wire spec §4.2).

use std::time::{Duration, Instant};

use claudemesh_store::{DeliveryState, MessageLookup};
use serde_json::{Value, json};

use crate::leases::until_leased;
use crate::peers::{Person, Session, Socket, ids};
use crate::process::Server;
use crate::receipts::until_state;
use crate::world::{PATIENCE, World};

/// A transaction that stands still for [`STANDSTILL`], so that what is ahead of it can be seen to be ahead.
const SLOW_COMMIT: &str = "store.after_announce_before_message=1*sleep(3000)->off";
/// Nothing that waits for the slow commit comes earlier than this after it was asked for.
const STANDSTILL: Duration = Duration::from_secs(3);

fn to(person: &Person, id: &str) -> Value {
    json!({ "targetSpec": person.key.public(), "client_message_id": id })
}

/// Expects the one row of a message to be delivered.
async fn delivered(world: &World, person: &Person, id: &Value) {
    let store = world.broker().broker().store();
    let lookup = store.message_status(&person.mesh, id.as_str().unwrap(), None).await.unwrap();
    let MessageLookup::Found(found) = lookup else { panic!("{lookup:?}") };
    let states: Vec<_> = found.deliveries.iter().map(|row| row.state).collect();
    assert_eq!(states, [DeliveryState::Delivered]);
}

async fn nothing_is_open(world: &World) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let open = world.broker().broker().store().backlog_total().await.unwrap();
        if open.held + open.claimed == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{open:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// DLV-9: an early `client_ack`, then the commit: delivered, no second push. The sender's ack waits for the commit.
#[tokio::test]
async fn an_acknowledgement_that_is_ahead_of_the_commit_counts() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let server = world.move_apart(SLOW_COMMIT).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut alice = world.daemon(&people[0]).await;
    let posted = Instant::now();
    alice.post("1", to(&people[1], "c")).await;
    let push = bob.push().await;
    bob.confirm(&push).await;
    let ack = alice.ack("1").await;
    assert!(posted.elapsed() >= STANDSTILL, "the ack never goes out before the commit");
    assert_eq!((&ack["status"], &ack["messageId"]), (&json!(201), &push["messageId"]));
    // Behind the acknowledgement in the same queue, so that it is written by then.
    assert_eq!(alice.message(to(&people[1], "d")).await["status"], 201);
    let second = bob.push().await;
    assert_eq!(ids(std::slice::from_ref(&second)), ["d"]);
    bob.confirm(&second).await;
    assert_eq!(bob.pushes_so_far().await.len(), 0, "and his acknowledgement is queued");
    assert_eq!(alice.message(to(&people[1], "e")).await["status"], 201);
    let third = bob.push().await;
    assert_eq!(ids(std::slice::from_ref(&third)), ["e"]);
    server.kill().await;
    world.resume().await;
    delivered(&world, &people[0], &push["messageId"]).await;
    let mut bob = world.daemon(&people[1]).await;
    let again = bob.push().await;
    assert_eq!((ids(std::slice::from_ref(&again)), &again["attempt"]), (vec!["e"], &json!(2)));
    bob.confirm(&again).await;
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    nothing_is_open(&world).await;
}

/// DLV-9: the commit fails after the push: `unavailable`, the retry under the same id is accepted once, and the receiver
/// can tell that it is one message. Whether the first push was acknowledged makes no difference.
#[tokio::test]
async fn a_commit_that_fails_after_the_push_leaves_the_id_free() {
    for confirms_early in [false, true] {
        let mut world = World::start().await;
        let people = world.mesh_of(&["alice", "bob"]).await;
        let points = format!("{SLOW_COMMIT};store.accept.refuse=1*return->off");
        let variables = [("FAILPOINTS", points.as_str()), ("BACKLOG_PER_MEMBER", "2")];
        let server = world.move_apart_with(&variables).await;
        let mut bob = world.daemon(&people[1]).await;
        let mut alice = world.daemon(&people[0]).await;
        alice.post("1", to(&people[1], "c")).await;
        let lost = bob.push().await;
        if confirms_early {
            bob.confirm(&lost).await;
        }
        let refused = alice.ack("1").await;
        assert_eq!((&refused["queued"], &refused["messageId"]), (&json!(false), &json!("")));
        let error = refused["error"].as_str().unwrap();
        assert!(error.starts_with("unavailable: ") && !error.contains("invalid"), "{error}");
        let accepted = alice.message(to(&people[1], "c")).await;
        assert_eq!((&accepted["status"], &accepted["duplicate"]), (&json!(201), &json!(false)));
        let kept = bob.push().await;
        assert_eq!(kept["client_message_id"], lost["client_message_id"]);
        assert_ne!(kept["messageId"], lost["messageId"]);
        // An ack of what was never stored does nothing, to other rows least of all.
        bob.confirm(&lost).await;
        bob.pushes_so_far().await;
        // The backlog has room for exactly one more: nothing of the lost one is counted.
        assert_eq!(alice.message(to(&people[1], "d")).await["status"], 201);
        let full = alice.message(to(&people[1], "e")).await;
        assert!(full["error"].as_str().unwrap().starts_with("queue_full"), "{full}");
        bob.confirm(&kept).await;
        let other = bob.push().await;
        bob.confirm(&other).await;
        assert_eq!(alice.message(to(&people[1], "c")).await["duplicate"], true);
        assert_eq!(bob.pushes_so_far().await.len(), 0);
        server.kill().await;
        world.resume().await;
        delivered(&world, &people[0], &accepted["messageId"]).await;
    }
}

/// The push went to a socket that was cut before the commit: the row is handed out again, and the first time counts.
#[tokio::test]
async fn a_socket_cut_between_push_and_commit_gets_the_row_on_its_next_one() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let server = world.move_apart(SLOW_COMMIT).await;
    let session = Session::new();
    let mut bob = world.session(&people[1], &session).await;
    let mut alice = world.daemon(&people[0]).await;
    let message = json!({ "targetSpec": session.pubkey(), "client_message_id": "c" });
    alice.post("1", message).await;
    let first = bob.push().await;
    bob.cut();
    let mut bob = world.session(&people[1], &session).await;
    let second = bob.push().await;
    assert_eq!(first["messageId"], second["messageId"]);
    assert_eq!((&first["attempt"], &second["attempt"]), (&json!(1), &json!(2)));
    bob.confirm(&second).await;
    assert_eq!(alice.ack("1").await["status"], 201);
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    server.kill().await;
}

/// IDM-2 while the first send's commit is under way: nothing of the second is pushed, and a repeat is told so.
#[tokio::test]
async fn the_same_id_during_the_commit_is_answered_after_it_and_pushed_once() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let server = world.move_apart(SLOW_COMMIT).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut sibling = world.session(&people[0], &Session::new()).await;
    let with = |fingerprint: &str| {
        let mut message = to(&people[1], "c");
        message["request_fingerprint"] = json!(fingerprint.repeat(32));
        message
    };
    alice.post("1", with("aa")).await;
    let push = bob.push().await;
    alice.post("2", with("bb")).await;
    sibling.post("3", with("aa")).await;
    let (accepted, conflict, duplicate) =
        (alice.ack("1").await, alice.ack("2").await, sibling.ack("3").await);
    assert_eq!((&accepted["status"], &accepted["messageId"]), (&json!(201), &push["messageId"]));
    assert_eq!((&conflict["status"], &conflict["queued"]), (&json!(409), &json!(false)));
    assert_eq!((&duplicate["status"], &duplicate["messageId"]), (&json!(200), &push["messageId"]));
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    server.kill().await;
}

/// A broadcast overtakes its commit for those who are there and open, and for nobody else.
#[tokio::test]
async fn an_older_waiting_row_is_never_overtaken() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    // Bob has something waiting that his status holds back.
    let held = {
        let mut alice = world.daemon(&people[0]).await;
        alice.message(to(&people[1], "held")).await
    };
    assert_eq!(held["held"], 1);
    let server = world.move_apart(SLOW_COMMIT).await;
    let mut carol = world.daemon(&people[2]).await;
    let mut hello = world.daemon_hello(&people[1]);
    hello["capabilities"] = json!(["client_ack"]);
    let mut bob = world.connect(hello).await;
    let first = bob.push().await;
    assert_eq!(ids(std::slice::from_ref(&first)), ["held"]);
    let dnd = json!({ "type": "set_status", "status": "dnd", "source": "manual" });
    assert_eq!(bob.ask(dnd).await["type"], "ack");
    let mut alice = world.daemon(&people[0]).await;
    let posted = Instant::now();
    alice.post("1", json!({ "targetSpec": "*", "client_message_id": "all" })).await;
    let push = carol.push().await;
    assert_eq!(bob.pushes_so_far().await.len(), 0, "his status is closed");
    carol.confirm(&push).await;
    assert_eq!(alice.ack("1").await["recipients"], 2);
    assert!(posted.elapsed() >= STANDSTILL, "the ack never goes out before the commit");
    let idle = json!({ "type": "set_status", "status": "idle", "source": "manual" });
    assert_eq!(bob.ask(idle).await["type"], "ack");
    assert_eq!(ids(&[bob.push().await]), ["all"]);
    server.kill().await;
}

/// The session ends between push and commit: its row moves to its member once, and nobody is pushed it twice.
#[tokio::test]
async fn a_row_whose_session_ends_during_the_commit_moves_once() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let server = world.move_apart(SLOW_COMMIT).await;
    let session = Session::new();
    let mut daemon = world.daemon(&people[1]).await;
    let mut bob = world.session(&people[1], &session).await;
    let mut alice = world.daemon(&people[0]).await;
    alice.post("1", json!({ "targetSpec": session.pubkey(), "client_message_id": "c" })).await;
    let first = bob.push().await;
    bob.leave().await;
    // The same session is back before the commit has ended; the row is its member's by then.
    let mut again = world.session(&people[1], &session).await;
    assert_eq!(alice.ack("1").await["status"], 201);
    let moved = daemon.push().await;
    assert_eq!((&moved["messageId"], &moved["attempt"]), (&first["messageId"], &json!(1)));
    assert_eq!(moved["targetSpec"], session.pubkey());
    daemon.confirm(&moved).await;
    assert_eq!(daemon.pushes_so_far().await.len(), 0);
    assert_eq!(again.pushes_so_far().await.len(), 0);
    // Behind the acknowledgement in the same queue, so that it is written by then.
    let to_nobody = json!({ "targetSpec": "@nobody", "client_message_id": "behind" });
    assert_eq!(alice.message(to_nobody).await["status"], 201);
    server.kill().await;
    world.resume().await;
    delivered(&world, &people[0], &first["messageId"]).await;
    nothing_is_open(&world).await;
}

/// A session whose end could not be written, and how far its broker is from moving what waits for it.
struct Unwritten {
    world: World,
    people: Vec<Person>,
    server: Server,
    session: Session,
    alice: Socket,
}

impl Unwritten {
    /// The session is cut; its lease ends after a second, and the first attempt to write that fails.
    async fn after(points: &str) -> Self {
        let mut world = World::start().await;
        let people = world.mesh_of(&["alice", "bob"]).await;
        let points = format!("store.end_presence.refuse=1*return->off;{points}");
        let variables = [("FAILPOINTS", points.as_str()), ("LEASE_TTL_MS", "1000")];
        let server = world.move_apart_with(&variables).await;
        let mut alice = world.daemon(&people[0]).await;
        let session = Session::new();
        let bob = world.session(&people[1], &session).await;
        alice.event("peer_joined").await;
        bob.cut();
        until_leased(&mut alice, 1).await;
        Self { world, people, server, session, alice }
    }

    fn to_bob(&self) -> Value {
        json!({"targetSpec": self.session.pubkey()})
    }
}

/// The end of a session could not be written, and the session is back before its rows have moved: they stay with it, and
/// what waited for it comes first.
#[tokio::test]
async fn nothing_passes_what_waits_for_a_session_whose_end_was_not_written() {
    // The writer is busy with the older message until the session is back; the move waits behind it.
    let slow_writer = "broker.accept.before_commit=1*sleep(3000)->off";
    let mut given = Box::pin(Unwritten::after(slow_writer)).await;
    given.alice.post("older", given.to_bob()).await;
    given.alice.event("peer_left").await;
    let mut bob = given.world.session(&given.people[1], &given.session).await;
    let older = given.alice.ack("older").await;
    let newer = given.alice.message(given.to_bob()).await;
    for wanted in [&older, &newer] {
        let push = bob.push().await;
        assert_eq!(push["messageId"], wanted["messageId"]);
        bob.confirm(&push).await;
    }
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    given.server.kill().await;
}

/// As above, but the rows have moved when the session comes back: its member gets them, once.
#[tokio::test]
async fn what_waits_for_a_session_whose_end_was_not_written_moves_once() {
    let mut given = Box::pin(Unwritten::after("")).await;
    let older = given.alice.message(given.to_bob()).await;
    assert_eq!(older["queued"], true);
    until_state(&mut given.alice, &older["messageId"], "rerouted").await;
    let mut daemon = given.world.daemon(&given.people[1]).await;
    let mut bob = given.world.session(&given.people[1], &given.session).await;
    let newer = given.alice.message(given.to_bob()).await;
    for (receiver, wanted) in [(&mut daemon, &older), (&mut bob, &newer)] {
        let push = receiver.push().await;
        assert_eq!(push["messageId"], wanted["messageId"]);
        receiver.confirm(&push).await;
        assert_eq!(receiver.pushes_so_far().await.len(), 0);
    }
    given.server.kill().await;
}

/// A session that stands in for its daemon is handed its member's copies of broadcasts too: they do not pass its own.
#[tokio::test]
async fn a_stand_in_hears_broadcasts_in_their_order() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    for _ in 0..5 {
        let mut daemon = world.daemon(&people[1]).await;
        world.session(&people[1], &session).await.cut();
        until_leased(&mut alice, 1).await;
        let first = alice.message(json!({"targetSpec": "*"})).await;
        let push = daemon.push().await;
        daemon.confirm(&push).await;
        daemon.cut();
        until_leased(&mut alice, 2).await;
        let mut sent = vec![first["messageId"].clone()];
        for _ in 0..3 {
            sent.push(alice.message(json!({"targetSpec": "*"})).await["messageId"].clone());
        }
        let mut back = world.session(&people[1], &session).await;
        let mut heard: Vec<Value> = Vec::new();
        while heard.len() < sent.len() {
            let push = back.push().await;
            back.confirm(&push).await;
            if !heard.contains(&push["messageId"]) {
                heard.push(push["messageId"].clone());
            }
        }
        assert_eq!(heard, sent);
        for push in back.pushes_so_far().await {
            back.confirm(&push).await;
        }
        back.leave().await;
    }
}

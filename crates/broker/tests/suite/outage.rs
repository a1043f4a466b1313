//! The database goes away under a serving broker and comes back; the broker itself is never restarted.

use std::time::{Duration, Instant};

use claudemesh_crypto::KeyPair;
use claudemesh_protocol::Priority;
use claudemesh_store::{Claim, ClaimId};
use claudemesh_testkit::postgres::{self, Durability, Server};
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::world::{Answer, PATIENCE, World};

/// An answer to a request comes within this time, whatever the database does (G-2).
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

fn to(person: &Person, id: &str) -> Value {
    json!({ "targetSpec": person.key.public(), "client_message_id": id })
}

/// Sends under this request id; the ack must refuse it as `unavailable`, in time, under both ids.
async fn refused_send(socket: &mut Socket, id: &str, mut message: Value) {
    message["_reqId"] = json!(format!("request-{id}"));
    let asked = Instant::now();
    socket.post(id, message).await;
    let ack = socket.ack(id).await;
    let took = asked.elapsed();
    assert_eq!(ack["_reqId"], format!("request-{id}"), "{ack}");
    assert!(ack["error"].as_str().unwrap().starts_with("unavailable: "), "{ack}");
    assert_eq!(ack["queued"], false, "{ack}");
    assert!(took < ANSWER_LIMIT, "{took:?}");
}

/// Asks until the broker says it is ready.
async fn until_ready(world: &World) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = world.get("/health/ready").await;
        if answer.status.is_success() {
            return;
        }
        assert!(Instant::now() < deadline, "never ready: {}", answer.body);
    }
}

async fn status_of(socket: &mut Socket, id: &str) -> Value {
    socket.ask(json!({ "type": "message_status", "messageId": id })).await
}

/// OPS-4; G-2.
#[tokio::test]
async fn a_stopped_database_is_survived_without_a_restart() {
    if postgres::is_skipped() {
        return;
    }
    let mut server = Server::start(Durability::None).await.unwrap();
    let world = World::on_database(server.database().await.unwrap()).await;
    let token = world.sign_up().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let [alice_person, bob_person, carol_person] = &people[..] else { panic!("three people") };
    let mut alice = world.daemon(alice_person).await;
    let mut session = world.session(alice_person, &Session::new()).await;
    let mut asking = world.session(alice_person, &Session::new()).await;
    let mut bob = world.daemon(bob_person).await;
    let kept = alice.message(to(carol_person, "kept")).await;
    let seen = alice.message(to(bob_person, "seen")).await;
    let seen_push = bob.push().await;

    server.stop().await.unwrap();
    let stranger = json!({ "targetSpec": KeyPair::generate().public() });
    let seen_id = seen["messageId"].as_str().unwrap();
    let confirm_in_vain = async {
        bob.confirm(&seen_push).await;
        // The send stands behind the confirmation, so its answer shows that both were tried.
        refused_send(&mut bob, "behind", to(alice_person, "behind")).await;
    };
    let asked = Instant::now();
    let (health, ready, http, status, (hello, code, _), (), (), ()) = tokio::join!(
        world.get("/health"),
        world.get("/health/ready"),
        world.get_as(&token, "/cli/meshes"),
        status_of(&mut asking, seen_id),
        world.refused(world.daemon_hello(carol_person)),
        refused_send(&mut alice, "direct", to(bob_person, "again")),
        refused_send(&mut session, "stranger", stranger),
        confirm_in_vain,
    );
    assert!(asked.elapsed() < ANSWER_LIMIT, "{:?}", asked.elapsed());
    let health = health.ok();
    assert_eq!((&health["status"], &health["db"]), (&"ok".into(), &"down".into()));
    assert_eq!((ready.status.as_u16(), &ready.body["reason"]), (503, &"db_down".into()));
    http.refused(503, "unavailable");
    assert_eq!((&status["type"], &status["code"]), (&"error".into(), &"unavailable".into()));
    assert_eq!((hello["code"].as_str(), code), (Some("unavailable"), 1011), "{hello}");

    server.start_again().await.unwrap();
    until_ready(&world).await;
    assert_eq!(world.get("/health").await.ok()["db"], "up");
    Answer::ok(world.get_as(&token, "/cli/meshes").await);
    let again = alice.message(to(bob_person, "again")).await;
    assert_eq!(
        (again["queued"].as_bool(), again["duplicate"].as_bool()),
        (Some(true), Some(false)),
        "{again}"
    );
    let push = bob.push().await;
    assert_eq!(push["client_message_id"], "again");
    bob.confirm(&push).await;
    assert_eq!(bob.pushes_so_far().await.len(), 0, "the refused sends left something behind");
    let mut carol = world.daemon(carol_person).await;
    let push = carol.push().await;
    assert_eq!(
        (&push["client_message_id"], &push["messageId"]),
        (&"kept".into(), &kept["messageId"])
    );
    carol.confirm(&push).await;
    session.message(to(carol_person, "on")).await;
    let push = carol.push().await;
    assert_eq!(push["client_message_id"], "on");
    carol.confirm(&push).await;
    carol.pushes_so_far().await;

    // What was confirmed while the database was away is written now, and not pushed again.
    let deadline = Instant::now() + PATIENCE;
    while status_of(&mut asking, seen_id).await["delivered"] != true {
        assert!(Instant::now() < deadline, "never confirmed");
    }
    world.pass(400);
    assert_eq!(bob.pushes_so_far().await.len(), 0);
}

/// A claim whose answer was lost with the connection to the database: nobody in memory has its rows.
#[tokio::test]
async fn rows_of_a_lost_claim_are_delivered_when_the_database_is_back() {
    if postgres::is_skipped() {
        return;
    }
    let mut server = Server::start(Durability::None).await.unwrap();
    let world = World::on_database(server.database().await.unwrap()).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let [alice_person, bob_person] = &people[..] else { panic!("two people") };
    let mut alice = world.daemon(alice_person).await;
    for id in ["first", "second"] {
        alice.message(to(bob_person, id)).await;
    }
    let lost = Claim {
        mesh_id: alice_person.mesh.clone(),
        recipient_keys: vec![bob_person.key.public()],
        by: ClaimId::new("lost"),
        least_priority: Priority::Low,
        limit: 100,
        now: world.clock_now(),
        lease: Duration::from_mins(10),
        lease_max: Duration::from_mins(10),
    };
    assert_eq!(world.broker().broker().store().claim(lost).await.unwrap().len(), 2);

    server.stop().await.unwrap();
    refused_send(&mut alice, "third", to(bob_person, "third")).await;
    server.start_again().await.unwrap();
    until_ready(&world).await;
    let mut bob = world.daemon(bob_person).await;
    alice.message(to(bob_person, "third")).await;
    for id in ["first", "second", "third"] {
        let push = bob.push().await;
        assert_eq!((push["client_message_id"].as_str(), &push["attempt"]), (Some(id), &1.into()));
        bob.confirm(&push).await;
    }
}

/// G-2: the network to the database swallows everything, on connections that were just used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_behind_a_silent_network_is_answered_for_in_time() {
    let Some((world, way)) = World::behind_a_way().await else { return };
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut asking = world.session(&people[0], &Session::new()).await;
    let mut bob = world.daemon(&people[1]).await;
    for round in 0..2 {
        let seen = alice.message(to(&people[1], &format!("seen-{round}"))).await;
        let push = bob.push().await;
        bob.confirm(&push).await;
        way.go_silent();
        let seen_id = seen["messageId"].as_str().unwrap();
        let lost = format!("lost-{round}");
        let asked = Instant::now();
        let (status, health, ready, ()) = tokio::join!(
            status_of(&mut asking, seen_id),
            world.get("/health"),
            world.get("/health/ready"),
            refused_send(&mut alice, &lost, to(&people[1], &lost)),
        );
        assert!(asked.elapsed() < ANSWER_LIMIT + Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!((&status["type"], &status["code"]), (&"error".into(), &"unavailable".into()));
        assert_eq!(health.ok()["db"], "down");
        assert_eq!((ready.status.as_u16(), &ready.body["reason"]), (503, &"db_down".into()));
        way.recover();
        until_ready(&world).await;
        // Whether the swallowed one was stored nobody knows; its repeat is one message either way.
        let again = alice.message(to(&people[1], &lost)).await;
        assert_eq!(again["queued"], true, "{again}");
        let push = bob.push().await;
        assert_eq!(push["client_message_id"], lost);
        bob.confirm(&push).await;
        assert_eq!(bob.pushes_so_far().await.len(), 0);
    }
}

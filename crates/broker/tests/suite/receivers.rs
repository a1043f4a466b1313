//! Receivers that are slow, stalled, or one of several devices (broker spec §3.3, §3.4).

use std::time::Duration;

use claudemesh_protocol::limits::UNACKED_MAX;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_store::ClonePolicy;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket, Wanted, ids, settings};
use crate::world::{PATIENCE, World};

/// Large messages that are more than a socket that is not read and the broker's buffer before it can hold.
const FILL: usize = 180;

/// A body that fills buffers quickly.
fn large(target: impl Into<Value>, id: &str) -> Value {
    json!({"targetSpec": target.into(), "client_message_id": id, "ciphertext": "x".repeat(60_000)})
}

fn to(person: &Person, id: &str) -> Value {
    json!({"targetSpec": person.key.public(), "client_message_id": id})
}

/// Waits until this holds of what the broker lists about its peers.
async fn until_listed(socket: &mut Socket, fits: impl Fn(&Value) -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = socket.ask(json!({"type": "list_peers", "debug": true})).await;
        if answer["peers"].as_array().unwrap().iter().any(&fits) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn metric(world: &World, name: &str) -> u64 {
    let text = world.get("/metrics").await.body;
    let line = text.as_str().unwrap().lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A buffer that stays full closes the socket as a slow consumer; the presence is leased, nothing is lost.
#[tokio::test]
async fn a_socket_that_does_not_drain_its_buffer_is_closed_and_keeps_its_messages() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 1_000;
        settings.limits.slow_consumer_ms = 400;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut alice = world.daemon(&people[0]).await;
    let bob = world.connect_narrow(world.session_hello(&people[1], &session)).await;
    for number in 0..FILL {
        let ack = alice.message(large(session.pubkey(), &number.to_string())).await;
        assert_eq!(ack["queued"], true, "{ack}");
    }
    until_listed(&mut alice, |peer| {
        peer["pubkey"] == session.pubkey() && peer["lease"] == "offline"
    })
    .await;
    assert_eq!(metric(&world, "cm_broker_ws_close_total{code=\"1011\"}").await, 1);
    drop(bob);
    let mut bob = world.session(&people[1], &session).await;
    for number in 0..FILL {
        let push = bob.push().await;
        assert_eq!(ids(std::slice::from_ref(&push)), [number.to_string()]);
        bob.confirm(&push).await;
    }
    assert_eq!(bob.pushes_so_far().await.len(), 0);
}

/// One that has merely nothing to write to it is left alone, however long.
#[tokio::test]
async fn a_receiver_that_acknowledges_nothing_is_not_closed_for_it() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 1_000;
        settings.limits.slow_consumer_ms = 50;
        settings.limits.ping_interval_ms = 20;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    for number in 0..UNACKED_MAX + 10 {
        alice.message(to(&people[1], &number.to_string())).await;
    }
    assert_eq!(bob.pushes_so_far().await.len(), UNACKED_MAX, "the window is exact");
    for _ in 0..20 {
        bob.ask(json!({"type": "list_members"})).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(metric(&world, "cm_broker_ws_close_total{code=\"1011\"}").await, 0);
}

/// Of many receivers of broadcasts one takes nothing. The others have everything, in order, while it is stalled; what it
/// missed waits in the store and not in memory.
#[tokio::test]
async fn one_stalled_socket_among_many_costs_the_others_nothing() {
    const OTHERS: usize = 150;
    const MESSAGES: usize = 40;
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 10_000;
        settings.limits.max_connections_per_mesh = 1_000;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob", "mute"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mute = Session::new();
    let stalled = world.connect_narrow(world.session_hello(&people[2], &mute)).await;
    let sessions: Vec<Session> = (0..OTHERS).map(|_| Session::new()).collect();
    let mut others =
        join_all(sessions.iter().map(|session| world.session(&people[1], session))).await;
    // First fill the stalled one until nothing more goes to it.
    for number in 0..FILL {
        alice.post("fill", large(mute.pubkey(), &format!("fill{number}"))).await;
    }
    for _ in 0..FILL {
        assert_eq!(alice.ack("fill").await["queued"], true);
    }
    for number in 0..MESSAGES {
        let message = json!({"targetSpec": "*", "client_message_id": format!("all{number}")});
        alice.post("all", message).await;
    }
    join_all(others.iter_mut().map(|socket| async move {
        for number in 0..MESSAGES {
            let push = socket.push().await;
            assert_eq!(ids(std::slice::from_ref(&push)), [format!("all{number}")]);
            socket.confirm(&push).await;
        }
    }))
    .await;
    for _ in 0..MESSAGES {
        assert_eq!(alice.ack("all").await["recipients"], OTHERS + 1);
    }
    let backlog = world.broker().broker().store().backlog(&people[0].mesh).await.unwrap();
    let row = backlog.iter().find(|row| row.recipient_key.to_hex() == mute.pubkey()).unwrap();
    assert_eq!(row.held + row.claimed, (FILL + MESSAGES) as u64);
    assert!(row.claimed <= UNACKED_MAX as u64, "{row:?}");
    assert_eq!(metric(&world, "cm_broker_delivery_redeliveries_total").await, 0);
    drop(stalled);
}

async fn two_devices(world: &World) -> Vec<Person> {
    let mut mesh = settings(GroupEncryption::Off);
    mesh.clone_policy = ClonePolicy::AllowConcurrent;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    world.mesh_with(mesh, &wanted).await
}

fn device(world: &World, person: &Person, name: &str) -> Value {
    let mut hello = world.daemon_hello(person);
    hello["sessionId"] = json!(name);
    hello
}

/// RCV-2, the part of a device that is busy: a full buffer is no reason to miss what the other device acknowledges.
#[tokio::test]
async fn a_device_with_a_full_buffer_gets_its_copies_later_and_in_order() {
    let world = World::start_with(|settings| settings.limits.send_burst = 2_000).await;
    let people = two_devices(&world).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut quick = world.connect(device(&world, &people[1], "quick")).await;
    let mut full = world.connect_narrow(device(&world, &people[1], "full")).await;
    for number in 0..FILL {
        let key = json!(people[1].key.public());
        let ack = alice.message(large(key, &number.to_string())).await;
        assert_eq!((&ack["queued"], &ack["recipients"]), (&json!(true), &json!(1)));
        let push = quick.push().await;
        assert_eq!(ids(std::slice::from_ref(&push)), [number.to_string()]);
        quick.confirm(&push).await;
    }
    quick.pushes_so_far().await;
    until_nothing_is_open(&world).await;
    // It reads at last, and its acknowledgements make room: the rest comes, although all of it is delivered already.
    for number in 0..FILL {
        let push = full.push().await;
        assert_eq!(ids(std::slice::from_ref(&push)), [number.to_string()]);
        full.confirm(&push).await;
    }
    assert_eq!(full.pushes_so_far().await.len(), 0);
    // What comes now comes straight again, to both.
    let ack = alice.message(to(&people[1], "last")).await;
    for socket in [&mut quick, &mut full] {
        let push = socket.push().await;
        assert_eq!((&push["messageId"], &push["attempt"]), (&ack["messageId"], &json!(1)));
        socket.confirm(&push).await;
    }
    until_nothing_is_open(&world).await;
}

async fn until_nothing_is_open(world: &World) {
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

/// A device whose status holds a class back gets it when the gate opens, though the other one has had it.
#[tokio::test]
async fn a_device_that_must_not_be_disturbed_gets_its_copy_afterwards() {
    let world = World::start().await;
    let people = two_devices(&world).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut open = world.connect(device(&world, &people[1], "open")).await;
    let mut shut = world.connect(device(&world, &people[1], "shut")).await;
    let status = |word: &str| json!({"type": "set_status", "status": word, "source": "manual"});
    assert_eq!(shut.ask(status("dnd")).await["type"], "ack");
    alice.message(to(&people[1], "next")).await;
    let mut urgent = to(&people[1], "now");
    urgent["priority"] = json!("now");
    alice.message(urgent).await;
    for expected in ["next", "now"] {
        let push = open.push().await;
        assert_eq!(ids(std::slice::from_ref(&push)), [expected]);
        open.confirm(&push).await;
    }
    open.pushes_so_far().await;
    assert_eq!(
        ids(&shut.pushes_so_far().await),
        ["now"],
        "what is owed of one class stops no other"
    );
    assert_eq!(shut.ask(status("idle")).await["type"], "ack");
    assert_eq!(ids(&[shut.push().await]), ["next"]);
    assert_eq!(open.pushes_so_far().await.len(), 0);
}

/// Attempts count what was written to a socket, and only that.
#[tokio::test]
async fn attempts_grow_with_every_socket_that_was_written_to() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let mut bob = world.session(&people[1], &session).await;
    alice.message(json!({"targetSpec": session.pubkey(), "client_message_id": "c"})).await;
    for attempt in 1..4 {
        assert_eq!(bob.push().await["attempt"], attempt);
        bob.cut();
        bob = world.session(&people[1], &session).await;
    }
    // The session ends: its member's queue has not been tried yet.
    bob.push().await;
    bob.leave().await;
    let mut daemon = world.daemon(&people[1]).await;
    let push = daemon.push().await;
    assert_eq!((&push["attempt"], &push["targetSpec"]), (&json!(1), &json!(session.pubkey())));
    daemon.confirm(&push).await;
    until_nothing_is_open(&world).await;
}

/// A row that waits in the buffer of a socket that ends was not written, so that the next time is still the first.
#[tokio::test]
async fn what_was_never_written_is_no_attempt() {
    let world = World::start_with(|settings| settings.limits.send_burst = 1_000).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let stalled = world.connect_narrow(world.session_hello(&people[1], &session)).await;
    for number in 0..FILL {
        alice.message(large(session.pubkey(), &number.to_string())).await;
    }
    drop(stalled);
    let mut bob = world.session(&people[1], &session).await;
    let mut attempts = Vec::new();
    for number in 0..FILL {
        let push = bob.push().await;
        assert_eq!(ids(std::slice::from_ref(&push)), [number.to_string()]);
        attempts.push(push["attempt"].as_u64().unwrap());
        bob.confirm(&push).await;
    }
    // First what was handed to the socket, then what was in the buffer or still in the store.
    assert!(attempts.is_sorted_by(|left, right| left >= right), "{attempts:?}");
    assert_eq!((attempts.first(), attempts.last()), (Some(&2), Some(&1)));
}

//! The daemon process dies between any two steps of sending and of receiving (daemon spec §11, §13, §26); the broker is
//! real and lives on.

use claudemesh_daemon::mesh::Listing;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::{
    InboxQuery, MeshStatus, OutboxQuery, RegisterRequest, RowStatus, SendRequest,
};

use super::node::{Node, SLUG, World, until};
use crate::local::process::DaemonProcess;
use crate::local::world::{Home, letter, token};

const ROUNDS: u64 = 5;
/// Rounds of a long run.
const LONG_ROUNDS: u64 = 100;

/// Two members. Each daemon that dies leaves a presence behind for the time of a lease, and a hundred fill a mesh.
async fn world() -> World {
    World::limited(2, |limits| {
        limits.send_burst = 100_000;
        limits.send_per_min = 100_000;
        limits.max_connections_per_mesh = 10_000;
    })
    .await
}

/// A sender that dies at `point` in each round, and is started again.
async fn sender_dies_at(point: &str, rounds: u64) {
    let world = world().await;
    let bob = Node::open(world.entry(1)).await;
    let home = Home::new();
    home.join_as(world.entry(0));
    for round in 1..=rounds {
        let mut daemon = DaemonProcess::start(&home, &format!("{point}=kill")).await;
        let id = format!("round-{round}");
        let request = SendRequest {
            client_message_id: Some(id.clone()),
            ..letter(&world.key(1).to_hex(), &id)
        };
        // The row is on disk before it can be sent; the answer may be overtaken by the death.
        let _answer = daemon.client().send(&request).await;
        assert!(!daemon.ended().await.success(), "{point}");
        let daemon = DaemonProcess::start(&home, "").await;
        until(&format!("{id} is done after {point}"), async || {
            let rows = daemon.client().outbox(&OutboxQuery::default()).await.unwrap().items;
            let row = rows.iter().find(|row| row.client_message_id == id);
            row.expect("what was accepted is kept").status == RowStatus::Done
        })
        .await;
        let count = usize::try_from(round).unwrap();
        let items = bob.receives(count).await;
        assert_eq!(items[count - 1].body.as_deref(), Some(id.as_str()));
    }
    assert_eq!(world.count("message").await, rounds, "{point}: one message for each row");
}

/// Daemon spec §11 Accept 1: kill -9 at `drain.after_inflight_before_write`: after restart exactly one broker message per row,
/// all rows `done`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_before_the_frame_is_written_sends_it_once() {
    sender_dies_at("drain.after_inflight_before_write", ROUNDS).await;
}

/// Daemon spec §11 Accept 1: kill -9 at `drain.after_write_before_ack`: after restart exactly one broker message per row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_before_the_ack_sends_it_once() {
    sender_dies_at("drain.after_write_before_ack", ROUNDS).await;
}

/// Daemon spec §11 Accept 1: kill -9 at `drain.after_ack_before_done`: after restart exactly one broker message per row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_after_the_ack_sends_it_once() {
    sender_dies_at("drain.after_ack_before_done", ROUNDS).await;
}

/// Daemon spec §11 Accept 1: kill -9 at each of the three points of the drain, 100× each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn three_hundred_crashes_of_the_drain_send_everything_once() {
    for point in [
        "drain.after_inflight_before_write",
        "drain.after_write_before_ack",
        "drain.after_ack_before_done",
    ] {
        sender_dies_at(point, LONG_ROUNDS).await;
    }
}

/// Daemon spec §13 Accept 4: kill -9 at `inbox.after_insert_before_ack`: one row, and the broker's row is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_after_the_insert_shows_it_once() {
    receiver_dies_after_the_insert(ROUNDS).await;
}

/// Daemon spec §13 Accept 4: kill -9 at `inbox.after_insert_before_ack` 100×.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn a_hundred_deaths_after_the_insert_show_each_message_once() {
    receiver_dies_after_the_insert(LONG_ROUNDS).await;
}

async fn receiver_dies_after_the_insert(rounds: u64) {
    const POINT: &str = "inbox.after_insert_before_ack";
    let world = world().await;
    let ana = Node::open(world.entry(0)).await;
    let home = Home::new();
    home.join_as(world.entry(1));
    for round in 1..=rounds {
        let mut daemon = DaemonProcess::start(&home, &format!("{POINT}=return")).await;
        ana.send("bot-1", &round.to_string()).await;
        assert!(!daemon.ended().await.success());
        let daemon = DaemonProcess::start(&home, "").await;
        until("the broker's row is delivered", async || {
            world.count("delivery WHERE state = 2").await == round
        })
        .await;
        let query =
            InboxQuery { mark_seen: Some(false), limit: Some(500), ..InboxQuery::default() };
        let items = daemon.client().inbox(&query).await.unwrap().items;
        let bodies: Vec<_> = items.into_iter().rev().filter_map(|item| item.body).collect();
        assert!(bodies.iter().eq((1..=round).map(|n| n.to_string()).collect::<Vec<_>>().iter()));
    }
    assert_eq!(world.count("message").await, rounds);
}

/// Daemon spec §8 Accept 1: daemon restart (`kill -9` + start) with 5 live sessions: all 5 have their mesh, pubkey and open
/// connections again ≤ 5 s; peers see no leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_back_after_a_kill_and_nobody_saw_them_go() {
    let world = World::new(2).await;
    let ana = Node::open(world.entry(0)).await;
    let home = Home::new();
    home.join_as(world.entry(1));
    let mut daemon = DaemonProcess::start(&home, "").await;
    let mut clients = Vec::new();
    for byte in 1..=5 {
        let client = daemon.client().clone().with_token(Some(token(byte)));
        let id = format!("6f1b2c3d-0000-4000-8000-0123456789{byte:02x}");
        let name = format!("session {byte}");
        let request =
            RegisterRequest::stored(token(byte), id, SLUG.to_owned(), name, std::process::id());
        let key = client.register_session(&request).await.unwrap().session_pubkey;
        clients.push((client, key));
    }
    let is_open = async |client: &Client, key| {
        let session = client.session().await;
        session.is_ok_and(|session| {
            session.session_pubkey == key
                && session.mesh == SLUG
                && session.broker_status == Some(MeshStatus::Open)
        })
    };
    let all_open = async || {
        for (client, key) in &clients {
            if !is_open(client, *key).await {
                return false;
            }
        }
        true
    };
    until("all five are open", all_open).await;
    until("ana sees all five", async || {
        ana.mesh().peers(Listing::Addressable).await.is_ok_and(|peers| peers.peers.len() == 5)
    })
    .await;
    // `sessions.json` is written a moment after the last change.
    until("all five are on disk", async || {
        let text = std::fs::read_to_string(home.paths.sessions_file()).unwrap_or_default();
        text.matches("token_sha256").count() == 5
    })
    .await;
    let mut events = ana.subscribe();
    daemon.kill();
    let daemon = DaemonProcess::start(&home, "").await;
    let started = std::time::Instant::now();
    until("all five are open again", all_open).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    drop(daemon);
    // The next thing ana hears of is said by somebody else.
    ana.send("*", "sentinel").await;
    let quiet = async {
        loop {
            let text = events.next().await;
            assert!(!text.contains("event: peer_leave"), "{text}");
            if text.contains("event: message_sent") {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), quiet).await.unwrap();
}

//! The daemon process dies between any two steps of sending and of receiving (daemon spec §11, §13, §26); the broker is
//! real and lives on.

use claudemesh_ipc::api::{InboxQuery, OutboxQuery, RowStatus, SendRequest};

use super::node::{Node, World, until};
use crate::local::process::DaemonProcess;
use crate::local::world::{Home, letter};

const ROUNDS: u64 = 5;

/// A sender that dies at `point` in each round, and is started again.
async fn sender_dies_at(point: &str) {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = Home::new();
    home.join_as(world.entry(0));
    for round in 1..=ROUNDS {
        let mut daemon = DaemonProcess::start(&home, &format!("{point}=return")).await;
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
    assert_eq!(world.count("message").await, ROUNDS, "{point}: one message for each row");
}

/// Daemon §11: claimed, never written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_before_the_frame_is_written_sends_it_once() {
    sender_dies_at("drain.after_inflight_before_write").await;
}

/// Daemon §11: kill -9 at `drain.after_write_before_ack`: the broker has at most one message, the row ends done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_before_the_ack_sends_it_once() {
    sender_dies_at("drain.after_write_before_ack").await;
}

/// Daemon §11: acknowledged, not written down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_after_the_ack_sends_it_once() {
    sender_dies_at("drain.after_ack_before_done").await;
}

/// Daemon §13: kill -9 at `inbox.after_insert_before_ack`: one row, and the broker's row is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_after_the_insert_shows_it_once() {
    const POINT: &str = "inbox.after_insert_before_ack";
    let world = World::new(2).await;
    let ana = Node::open(world.entry(0)).await;
    let home = Home::new();
    home.join_as(world.entry(1));
    for round in 1..=ROUNDS {
        let mut daemon = DaemonProcess::start(&home, &format!("{POINT}=return")).await;
        ana.send("bot-1", &round.to_string()).await;
        assert!(!daemon.ended().await.success());
        let daemon = DaemonProcess::start(&home, "").await;
        until("the broker's row is delivered", async || {
            world.count("delivery WHERE state = 2").await == round
        })
        .await;
        let query = InboxQuery { mark_seen: Some(false), ..InboxQuery::default() };
        let items = daemon.client().inbox(&query).await.unwrap().items;
        let bodies: Vec<_> = items.into_iter().rev().filter_map(|item| item.body).collect();
        assert!(bodies.iter().eq((1..=round).map(|n| n.to_string()).collect::<Vec<_>>().iter()));
    }
    assert_eq!(world.count("message").await, ROUNDS);
}

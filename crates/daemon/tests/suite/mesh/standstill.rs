//! A daemon that stands still for a while, as by SIGSTOP or a closed lid.

use std::time::Duration;

use claudemesh_ipc::api::MeshStatus;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::node::{Node, World, event, until};
use crate::local::process::DaemonProcess;
use crate::local::world::{Home, letter};

/// Daemon spec §6 Accept 4: SIGSTOP 60 s / SIGCONT: reconnect ≤ 3 s after CONT; a watcher peer sees zero `peer_left`. (With a
/// clock that jumps: `claudemesh-client`, `a_stop_of_a_minute_is_made_up_for_in_three_seconds`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn a_daemon_that_was_stopped_for_a_minute_never_left() {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = Home::new();
    home.join_as(world.entry(0));
    let daemon = DaemonProcess::start(&home, "").await;
    let is_open = async || {
        let health = daemon.client().health().await;
        health.is_ok_and(|health| health.meshes[0].status == MeshStatus::Open)
    };
    until("the mesh is open", is_open).await;
    let mut events = bob.subscribe();
    daemon.signal(Signal::STOP);
    sleep(Duration::from_mins(1)).await;
    daemon.signal(Signal::CONT);
    let woke_at = Instant::now();
    // Whatever the socket was worth: within three seconds something sent on it has arrived.
    let to = world.key(1).to_hex();
    daemon.client().send(&letter(&to, "still here")).await.unwrap();
    assert_eq!(bob.receives(1).await[0].body.as_deref(), Some("still here"));
    until("the mesh is open", is_open).await;
    assert!(woke_at.elapsed() <= Duration::from_secs(3), "{:?}", woke_at.elapsed());
    let told = async {
        loop {
            let text = events.next().await;
            assert!(!text.contains("event: peer_leave"), "{text}");
        }
    };
    // A departure that the broker had noticed would be told by now.
    assert!(tokio::time::timeout(Duration::from_secs(40), told).await.is_err());
}

/// Daemon spec §6 Accept 4: SIGSTOP 120 s: exactly one leave and one join. Here the broker gives up in two seconds and keeps the
/// presence for two more: with its own times (75 s and 90 s) a stop has to be longer than two minutes to be told at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_was_stopped_for_longer_left_once_and_came_back_once() {
    let world = World::limited(2, |limits| {
        limits.ping_interval_ms = 500;
        limits.silence_limit_ms = 2_000;
        limits.lease_ttl_ms = 2_000;
    })
    .await;
    let bob = Node::open(world.entry(1)).await;
    let home = Home::new();
    home.join_as(world.entry(0));
    let daemon = DaemonProcess::start(&home, "").await;
    until("the mesh is open", async || {
        let health = daemon.client().health().await;
        health.is_ok_and(|health| health.meshes[0].status == MeshStatus::Open)
    })
    .await;
    let ana = json!(world.key(0));
    let mut events = bob.subscribe();
    daemon.signal(Signal::STOP);
    assert_eq!(event(&mut events, "peer_leave").await["pubkey"], ana);
    daemon.signal(Signal::CONT);
    let back = loop {
        let text = events.next().await;
        assert!(!text.contains("event: peer_leave"), "{text}");
        if text.contains("event: peer_join") {
            break text;
        }
    };
    assert!(back.contains(&world.key(0).to_hex()), "{back}");
    let told = async {
        loop {
            let text = events.next().await;
            assert!(!text.contains("event: peer_"), "{text}");
        }
    };
    // What was told twice would come within a lease.
    assert!(tokio::time::timeout(Duration::from_secs(5), told).await.is_err());
}

//! Meshes do not disturb each other.

use std::time::Duration;

use claudemesh_ipc::api::{EventsQuery, InboxQuery, MeshStatus};
use tokio::time::Instant;

use super::node::{Node, World, until};
use crate::local::process::DaemonProcess;
use crate::local::world::{Home, letter, some_key};

/// Daemon spec §11 Accept 3: mesh B unreachable with 1000 rows: mesh A's p99 accept→done < 200 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_for_an_unreachable_mesh_slows_no_other() {
    const ROWS: usize = 1_000;
    const TIMED: usize = 100;
    let world = World::new(2).await;
    let _bob = Node::open(world.entry(1)).await;
    let home = Home::new();
    home.join_as(world.entry(0));
    home.join("away");
    let running = home.start().await;
    let client = running.client();
    let lost = format!("away:{}", some_key());
    for chunk in vec![letter(&lost, "waits"); ROWS].chunks(50) {
        let sends = chunk.iter().map(|letter| client.send(letter));
        futures_util::future::try_join_all(sends).await.unwrap();
    }
    until("the mesh is open", async || {
        let health = client.health().await.unwrap();
        health.brokers["home"] == MeshStatus::Open
    })
    .await;
    let query = EventsQuery { kinds: Some("message_sent".to_owned()), ..EventsQuery::default() };
    let mut events = client.events(&query, None).await.unwrap();
    let to = format!("home:{}", world.key(1).to_hex());
    let mut times = Vec::with_capacity(TIMED);
    for n in 0..TIMED {
        let began = Instant::now();
        let id = client.send(&letter(&to, &n.to_string())).await.unwrap().client_message_id;
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.data["client_message_id"] == id.as_str() {
                break;
            }
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let p99 = times[TIMED - 2];
    assert!(p99 < Duration::from_millis(200), "{p99:?}");
    let waiting = client.health().await.unwrap();
    let away = waiting.meshes.iter().find(|mesh| mesh.slug == "away").unwrap();
    assert_eq!(away.queue_depth, ROWS as u64);
    running.shutdown().await;
}

/// Daemon spec §1 Accept 5: panic injected in mesh A's connection task: mesh B keeps sending; A reconnects; process pid
/// unchanged. The message that A's task panicked over is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_one_mesh_leaves_the_others_alone() {
    let (one, two) = (World::new(2).await, World::new(2).await);
    let (bob, eve) = (Node::open(one.entry(1)).await, Node::open(two.entry(1)).await);
    let home = Home::new();
    home.join_as(one.entry(0));
    let mut entry = two.entry(0);
    "other".clone_into(&mut entry.slug);
    home.join_as(entry);
    let daemon = DaemonProcess::start(&home, "inbox.after_insert_before_ack=1*panic").await;
    let client = daemon.client();
    let are_open = async || {
        let brokers = client.health().await.unwrap().brokers;
        brokers.len() == 2 && brokers.values().all(|status| *status == MeshStatus::Open)
    };
    until("both meshes are open", are_open).await;
    let pid = client.version().await.unwrap().pid;
    bob.send(&one.key(0).to_hex(), "over this it panics").await;
    until("the task has panicked", async || {
        std::fs::read_to_string(home.paths.log_file()).unwrap().contains("task_panicked")
    })
    .await;
    client.send(&letter(&format!("other:{}", two.key(1).to_hex()), "undisturbed")).await.unwrap();
    assert_eq!(eve.receives(1).await[0].body.as_deref(), Some("undisturbed"));
    until("both meshes are open again", are_open).await;
    bob.send(&one.key(0).to_hex(), "after it").await;
    let items = async || {
        let query = InboxQuery { mark_seen: Some(false), ..InboxQuery::default() };
        client.inbox(&query).await.unwrap().items
    };
    until("both messages are there", async || items().await.len() >= 2).await;
    bob.sent_everything().await;
    let mut bodies: Vec<_> = items().await.into_iter().filter_map(|item| item.body).collect();
    bodies.sort();
    assert_eq!(bodies, ["after it", "over this it panics"]);
    assert_eq!(client.version().await.unwrap().pid, pid);
}

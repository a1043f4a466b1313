//! Meshes do not disturb each other.

use std::time::Duration;

use claudemesh_ipc::api::EventsQuery;
use tokio::time::Instant;

use super::node::{Node, World, until};
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
        health.brokers["home"] == claudemesh_ipc::api::MeshStatus::Open
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

//! Two machines with one member's key, connected at once (daemon spec §4.4).

use claudemesh_daemon::Running;
use claudemesh_ipc::api::{MeshHealth, MeshStatus};

use crate::local::world::Home;
use crate::mesh::node::{World, until};

async fn mesh_of(running: &Running) -> MeshHealth {
    running.client().health().await.unwrap().meshes.remove(0)
}

async fn opened(running: &Running) {
    until("the mesh is open", async || mesh_of(running).await.status == MeshStatus::Open).await;
}

fn machine(world: &World, id: &str) -> Home {
    let home = Home::new();
    home.join_as(world.entry(0));
    home.settings(&format!("[clone]\nid_override = \"{id}\"\n"));
    home
}

/// Daemon spec §4.4: the older connection is closed with 4003: `disabled: replaced`, no retry; a reload tries again, and then
/// the other one gives way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_machines_with_one_key_the_older_connection_gives_way_until_a_reload() {
    let world = World::new(1).await;
    let (first, second) = (machine(&world, "first"), machine(&world, "second"));
    let first = first.start().await;
    opened(&first).await;
    let second = second.start().await;
    opened(&second).await;
    let is_replaced = async |running: &Running| {
        let mesh = mesh_of(running).await;
        mesh.status == MeshStatus::Disabled && mesh.disabled_reason.as_deref() == Some("replaced")
    };
    until("the first is disabled", async || is_replaced(&first).await).await;
    let close = mesh_of(&first).await.last_close.unwrap();
    assert_eq!(close["code"], 4003);
    first.client().reload().await.unwrap();
    opened(&first).await;
    until("the second is disabled", async || is_replaced(&second).await).await;
    first.shutdown().await;
    assert!(is_replaced(&second).await, "nobody retries by itself");
    second.client().reload().await.unwrap();
    opened(&second).await;
    second.shutdown().await;
}

/// The same machine again, after a kill, is no second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_machine_started_again_is_not_a_clone() {
    let world = World::new(1).await;
    let home = machine(&world, "only");
    for _ in 0..2 {
        let running = home.start().await;
        opened(&running).await;
        running.shutdown().await;
    }
}

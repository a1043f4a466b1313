//! The overview of a mesh (broker spec §4.8, wire spec §3.22).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::peers::{Session, Socket};
use crate::world::World;

/// Families that later versions bring.
const MISSING: [(&str, &str); 6] = [
    ("memoryCount", "memory"),
    ("fileCount", "files"),
    ("tasks", "tasks"),
    ("streams", "streams"),
    ("tables", "tables"),
    ("collections", "collections"),
];

async fn mesh_info(socket: &mut Socket) -> Value {
    let info = socket.ask(json!({"type": "mesh_info"})).await;
    assert_eq!(info["type"], "mesh_info_result", "{info}");
    for (field, family) in MISSING {
        assert_eq!(info.get(field), Some(&Value::Null), "{info}");
        let warning = json!(format!("{family}: not available in this version"));
        assert!(info["warnings"].as_array().unwrap().contains(&warning), "{info}");
    }
    info
}

#[tokio::test]
async fn the_overview_counts_what_the_caller_can_see() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    let mut carol = world.daemon(&people[2]).await;
    alice.ask(json!({"type": "join_group", "name": "ops"})).await;
    bob.ask(json!({"type": "join_group", "name": "dev/web"})).await;
    carol.ask(json!({"type": "join_group", "name": "dev/web"})).await;
    for key in ["b", "a"] {
        alice.ask(json!({"type": "set_state", "key": key, "value": 1})).await;
    }
    let info = mesh_info(&mut bob).await;
    assert_eq!(
        (&info["mesh"], &info["peers"], &info["groups"]),
        (&json!(people[0].mesh), &json!(3), &json!(["@dev/web", "@ops"]))
    );
    assert_eq!(
        (&info["stateKeys"], &info["yourName"], &info["yourGroups"]),
        (&json!(["a", "b"]), &json!("bob session"), &json!(["@dev/web"]))
    );
    assert_eq!(info["warnings"].as_array().unwrap().len(), MISSING.len(), "{info}");

    alice.ask(json!({"type": "set_visible", "visible": false})).await;
    let info = mesh_info(&mut bob).await;
    assert_eq!((&info["peers"], &info["groups"]), (&json!(2), &json!(["@dev/web"])));
    let info = mesh_info(&mut alice).await;
    assert_eq!((&info["peers"], &info["yourGroups"]), (&json!(3), &json!(["@ops"])));
}

#[tokio::test]
async fn a_session_that_may_not_read_the_state_is_not_told_its_keys() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    alice.ask(json!({"type": "set_state", "key": "hidden", "value": 1})).await;
    let hello = world.limited_hello(&people[0], &Session::new(), &["read"]);
    let info = mesh_info(&mut world.connect(hello).await).await;
    assert_eq!(info["stateKeys"], Value::Null);
    let warning = json!(r#"state: missing session capability "state-read""#);
    assert!(info["warnings"].as_array().unwrap().contains(&warning), "{info}");
    assert!(!info.to_string().contains("hidden"));
    let hello = world.limited_hello(&people[0], &Session::new(), &["dm", "state-read"]);
    let refused = world.connect(hello).await.ask(json!({"type": "mesh_info"})).await;
    assert_eq!(refused["code"], "forbidden");
}

/// INF-1 for the families there are: the shared state does not answer.
#[tokio::test]
async fn a_family_that_does_not_answer_is_null_with_a_warning() {
    let Some((world, way)) = World::behind_a_way().await else { return };
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    alice.ask(json!({"type": "set_state", "key": "k", "value": 1})).await;
    assert_eq!(mesh_info(&mut alice).await["stateKeys"], json!(["k"]));
    way.go_silent();
    let asked = Instant::now();
    let info = mesh_info(&mut alice).await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!((&info["stateKeys"], &info["peers"]), (&Value::Null, &json!(1)));
    let warnings = info["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|one| one.as_str().unwrap().starts_with("state: ")), "{info}");
    way.recover();
}

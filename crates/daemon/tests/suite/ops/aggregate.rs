//! Reads over several meshes, one of which is down.

use claudemesh_protocol::ops::OperationKind as Op;
use serde_json::{Map, Value, json};

use super::world::{HOME, Stage, done};
use crate::local::world as local;

/// Daemon spec §5 Accept 1, MCP spec §2: aggregating reads use all meshes instead of failing; a mesh that cannot be asked is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_a_mesh_is_of_all_and_names_those_that_are_down() {
    let stage = Stage::with(|home| {
        home.join("away");
    })
    .await;
    let client = stage.client();
    done(&client, Op::StateSet, json!({ "key": "k", "value": 1 })).await;
    done(&client, Op::GroupJoin, json!({ "name": "eng" })).await;
    done(&client, Op::GrantBlock, json!({ "peer": "bob" })).await;
    for (kind, list) in [
        (Op::PeerList, "peers"),
        (Op::MemberList, "members"),
        (Op::StateList, "entries"),
        (Op::MeshStats, "peers"),
        (Op::MemberPermissions, "members"),
        (Op::PeerVerify, "peers"),
        (Op::GrantList, "grants"),
        (Op::AuditQuery, "entries"),
    ] {
        let reply = client.op(kind, None, Map::new()).await.unwrap();
        assert_eq!(reply.mesh, None, "{kind:?}");
        let down = json!([{ "mesh": "away", "error": "broker_unavailable" }]);
        assert_eq!(reply.result["errors"], down, "{kind:?}");
        let rows = reply.result[list].as_array().unwrap();
        assert!(!rows.is_empty(), "{kind:?}");
        assert!(rows.iter().all(|row| row["mesh"] == HOME), "{kind:?}");
    }
    let all_down = client.op(Op::StateList, Some("away"), Map::new()).await.unwrap_err();
    let error = all_down.api().unwrap();
    assert_eq!((error.status, error.body.error.as_str()), (503, "broker_unavailable"));
    // A session reads its own mesh only, and a write never goes everywhere.
    let session = stage.session(3).await;
    let reply = session.op(Op::StateList, None, Map::new()).await.unwrap();
    assert_eq!(reply.mesh.as_deref(), Some(HOME));
    assert_eq!(reply.result.get("errors"), None::<&Value>);
    stage.stop().await;
}

/// Daemon spec §5 Accept 2: `POST /v1/state` without mesh on a two-mesh daemon and no session token → 400 with both slugs
/// listed; with a session token of A → writes A.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_a_mesh_goes_to_the_sessions_or_nowhere() {
    let stage = Stage::with(|home| {
        home.join("away");
    })
    .await;
    let ask = async |token: Option<u8>| {
        let body = r#"{"key":"k","value":1}"#;
        let token = token.map(|byte| {
            format!("\r\nauthorization: ClaudeMesh-Session {}", local::token(byte).reveal())
        });
        let head = format!(
            "POST /v1/state HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}{}",
            body.len(),
            token.unwrap_or_default()
        );
        local::raw(stage.running.socket(), &head, body).await
    };
    let (status, answer) = ask(None).await;
    assert!(status == 400 && answer.contains(r#""error":"mesh_required""#), "{answer}");
    assert!(answer.contains(r#""attached":["away","home"]"#), "{answer}");
    let _session = stage.session(3).await;
    let (status, answer) = ask(Some(3)).await;
    assert!(status == 200 && answer.contains(r#""mesh":"home""#), "{answer}");
    let entry = done(&stage.client(), Op::StateGet, json!({ "key": "k" })).await;
    assert_eq!(entry["value"], 1);
    stage.stop().await;
}

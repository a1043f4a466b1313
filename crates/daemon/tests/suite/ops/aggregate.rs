//! Reads over several meshes, one of which is down.

use claudemesh_protocol::ops::OperationKind as Op;
use serde_json::{Map, Value, json};

use super::world::{HOME, Stage, done, object};

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
    let write = client.op(Op::StateSet, None, object(json!({ "key": "k", "value": 1 }))).await;
    assert_eq!(write.unwrap_err().api().unwrap().body.error, "mesh_required");
    stage.stop().await;
}

//! One round trip of every operation: what comes back is what the broker said.

use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::ops::{OperationKind as Op, Run, Shape};
use serde_json::{Value, json};

use super::world::{HOME, Stage, done, keys};

/// Valid arguments of every operation, in an order in which each can succeed. A match, so that a new operation does not
/// compile without its contract.
pub fn arguments(kind: Op) -> (u8, Value) {
    match kind {
        Op::StateSet => (0, json!({ "key": "sprint", "value": { "n": 14 } })),
        Op::StateGet => (1, json!({ "key": "sprint" })),
        Op::StateList => (1, json!({ "prefix": "spr" })),
        Op::GroupJoin => (0, json!({ "name": "@eng", "role": "lead" })),
        Op::GroupLeave => (2, json!({ "name": "eng" })),
        Op::MeshInfo | Op::MeshStats | Op::MemberList | Op::MemberPermissions | Op::GroupList => {
            (1, json!({}))
        }
        Op::MeshPing => (1, json!({ "priorities": ["now", "next", "low"] })),
        Op::MessageSend => {
            (0, json!({ "to": "bob", "message": "hi", "client_message_id": "contract-1" }))
        }
        Op::MessageStatus => (1, json!({ "messageId": "contract-1" })),
        Op::MessageInbox => (1, json!({ "limit": 1, "mark_seen": false })),
        Op::PeerList => (1, json!({ "all": true })),
        Op::ProfileSummary => (0, json!({ "summary": "at work" })),
        Op::ProfileStatus => (0, json!({ "status": "working" })),
        Op::ProfileVisible => (0, json!({ "visible": true })),
        Op::ProfileEdit => (0, json!({ "title": "Build master", "capabilities": ["rust"] })),
        Op::MemberAllow => (2, json!({ "peer": "bot-2", "permissions": ["canInvite"] })),
        Op::MemberDeny => (3, json!({ "peer": "bot-2", "permissions": ["canSend"] })),
        Op::MemberRole => (4, json!({ "peer": "bot-2", "role": "admin" })),
        Op::PeerVerify | Op::PeerUnblockLoop => (1, json!({ "peer": "bob" })),
        Op::GrantAdd => (2, json!({ "peer": "bob", "capabilities": ["file-read"] })),
        Op::GrantRemove => (4, json!({ "peer": "bob", "capabilities": ["dm"] })),
        Op::GrantBlock => (5, json!({ "peer": "bob" })),
        Op::AuditQuery => (3, json!({ "limit": 5 })),
        Op::AuditVerify | Op::GrantList => (3, json!({})),
        Op::PeerDisconnect => (7, json!({ "all": true })),
        Op::PeerKick => (6, json!({ "target": "bob" })),
        Op::PeerBan => (8, json!({ "target": "bot-2" })),
        Op::PeerBans => (9, json!({})),
        Op::PeerUnban => (10, json!({ "target": "bot-2" })),
    }
}

/// Daemon spec §7 Accept 5: one round trip of every operation through daemon and real broker returns its documented result;
/// §9 Accept 8: for every op with a wire reply, the JSON keys of `result` equal those of the captured broker frame (plus
/// `mesh`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_answers_what_the_broker_said() {
    let stage = Stage::new().await;
    let session = stage.session(1).await;
    let mut kinds = Op::ALL.to_vec();
    kinds.sort_by_key(|kind| arguments(*kind).0);
    for kind in kinds {
        let spec = kind.spec();
        let (_, args) = arguments(kind);
        let result = done(&session, kind, args.clone()).await;
        check_schema(kind, &result);
        let Run::Forward(frame) = spec.run else {
            check_mesh(spec.shape, &result, spec.name);
            continue;
        };
        let reply = frame.spec().reply.unwrap();
        let mut said = stage.tap.from_broker.last(reply).unwrap();
        let fields = said.as_object_mut().unwrap();
        fields.remove("type");
        fields.remove("_reqId");
        match spec.shape {
            Shape::Done(echoed) => {
                assert_eq!(result["ok"], true);
                for name in echoed {
                    let expected = match (kind, *name) {
                        (Op::GroupJoin, "name") => json!("eng"),
                        _ => args[*name].clone(),
                    };
                    assert_eq!(result[*name], expected, "{} {name}", spec.name);
                }
                assert_eq!(result["mesh"], HOME);
            }
            Shape::List(list) => {
                assert_eq!(keys(&result), keys(&said), "{}", spec.name);
                let rows = said[list].as_array().unwrap();
                assert!(!rows.is_empty(), "{} proves nothing without rows", spec.name);
                for (row, said) in result[list].as_array().unwrap().iter().zip(rows) {
                    assert_eq!(row["mesh"], HOME);
                    same_fields_and_mesh(spec.name, row, said);
                }
            }
            Shape::Record | Shape::RecordUnlessEmpty(_) => {
                same_fields_and_mesh(spec.name, &result, &said);
            }
        }
    }
    stage.stop().await;
}

fn same_fields_and_mesh(name: &str, result: &Value, said: &Value) {
    let mut expected = keys(said);
    if !expected.iter().any(|key| key == "mesh") {
        expected.push("mesh".to_owned());
        expected.sort();
    }
    assert_eq!(keys(result), expected, "{name}");
    for (key, value) in said.as_object().unwrap() {
        assert_eq!(&result[key], value, "{name} {key}");
    }
}

/// Results of the daemon's own say on which mesh they are, unless they may be about several.
fn check_mesh(shape: Shape, result: &Value, name: &str) {
    match shape {
        Shape::List(list) => {
            for row in result[list].as_array().unwrap() {
                assert_eq!(row["mesh"], HOME, "{name} {row}");
            }
        }
        _ if result.get("meshes").is_some() => assert_eq!(result["meshes"], json!([HOME])),
        _ if name == "message.inbox" => {}
        _ => assert_eq!(result["mesh"], HOME, "{name} {result}"),
    }
}

/// Every field of a result, and of the rows of a list, is declared, and every declared one that must be there is.
fn check_schema(kind: Op, result: &Value) {
    let schema = kind.output_schema();
    let name = kind.spec().name;
    check_fields(name, &schema, result);
    if let Shape::List(list) = kind.spec().shape {
        let row_schema = &schema["properties"][list]["items"];
        for row in result[list].as_array().unwrap() {
            check_fields(name, row_schema, row);
        }
    }
}

fn check_fields(name: &str, schema: &Value, value: &Value) {
    for key in keys(value) {
        // What the daemon adds to the broker's word on a message is its own (daemon spec §10.7).
        let is_added =
            name == "message.status" && matches!(key.as_str(), "outbox" | "targetName" | "live");
        assert!(
            is_added || schema["properties"].get(&key).is_some(),
            "{name}: {key} is not declared in {schema}"
        );
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{name}: {required} is missing");
    }
}

/// `GET /v1/ops` tells the table, whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_told() {
    let home = crate::local::world::Home::new();
    let running = home.start().await;
    let ops = running.client().operations().await.unwrap().ops;
    assert_eq!(ops.len(), Op::ALL.len());
    for (told, kind) in ops.iter().zip(Op::ALL) {
        let spec = kind.spec();
        assert_eq!(told.name, spec.name);
        assert_eq!(told.family, spec.family.as_str());
        assert_eq!(
            (told.class.as_str(), told.scope.as_str()),
            (spec.class.as_str(), spec.scope.as_str())
        );
        assert_eq!(told.capability.as_deref(), spec.capability().map(Capability::as_str));
        assert_eq!(u128::from(told.timeout_ms), spec.timeout.as_millis());
        assert_eq!(told.tool.as_deref(), spec.tool);
        assert_eq!(told.cli.as_deref(), spec.verb.map(|verb| verb.words));
        assert_eq!((&told.input, &told.output), (&kind.input_schema(), &kind.output_schema()));
    }
    running.shutdown().await;
}

//! What an operation refuses, and that the broker hears nothing of it.

use claudemesh_ipc::Client;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::ops::OperationKind as Op;
use claudemesh_protocol::wire::Access;
use serde_json::{Value, json};

use super::contract::arguments;
use super::world::{HOME, Stage, done, op, refused};
use crate::local::world::{Home, raw, register, status_of, token};
use crate::mesh::cuts::Proxy;
use crate::mesh::node::{World, until};

/// Daemon spec §9 Accept 7: a session with caps `["dm"]` calling `POST /v1/state` with its token → 403 `forbidden` with
/// `cap:"state-write"`; broker received nothing. And the same of every operation, for a session that may do nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_capabilities_reaches_no_broker() {
    let stage = Stage::new().await;
    let caps = |words: &[&str]| CapabilitySet::parse(words.iter().copied()).ok();
    let (mute, _) = register(&stage.running, HOME, 1, |request| request.caps = caps(&[])).await;
    let (dm, _) = register(&stage.running, HOME, 2, |request| request.caps = caps(&["dm"])).await;
    stage.tap.from_daemon.take();
    for kind in Op::ALL {
        let (spec, (_, args)) = (kind.spec(), arguments(*kind));
        let expected = match spec.access {
            Access::Needs(capability) => capability.as_str(),
            Access::ByTarget => "dm",
            Access::Upkeep | Access::Handshake => {
                done(&mute, *kind, args).await;
                continue;
            }
        };
        let (status, code, extra) = refused(&mute, *kind, args).await;
        assert_eq!((status, code.as_str()), (403, "forbidden"), "{}", spec.name);
        assert_eq!(extra["cap"], expected, "{}", spec.name);
    }
    let everybody = json!({ "to": ["bob", "@all"], "message": "hi" });
    let results = done(&dm, Op::MessageSend, everybody).await["results"].clone();
    assert_eq!(results[0]["ok"], true);
    assert!(results[1]["error"].as_str().unwrap().starts_with("forbidden: "), "{results}");
    let (status, answer) = post(&stage, 2, "/v1/state", r#"{"key":"k","value":1}"#).await;
    assert!(status == 403 && answer.contains(r#""cap":"state-write""#), "{answer}");
    stage.bob.receives(1).await;
    let heard = stage.tap.from_daemon.take();
    let upkeep = ["session_hello", "set_status", "list_peers", "list_members", "pull_messages"];
    let asked: Vec<_> = heard.iter().filter(|word| !upkeep.contains(&word.as_str())).collect();
    assert_eq!(asked, ["send"], "one message to bob, and nothing else");
    stage.stop().await;
}

async fn post(stage: &Stage, session: u8, path: &str, body: &str) -> (u16, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nauthorization: ClaudeMesh-Session {}",
        body.len(),
        token(session).reveal()
    );
    raw(stage.running.socket(), &head, body).await
}

/// MCP §2: an input with a tool name is accepted under either name by the local API, under both at once → 400
/// `invalid_field`. Unknown fields, missing ones, wrong types and values past their limits are refused and named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_are_checked_before_anything_is_sent() {
    let stage = Stage::new().await;
    let client = stage.client();
    let id = "0123456789abcdef";
    for kind in [Op::MemberAllow, Op::MemberDeny] {
        let both = json!({ "peer": "bob", "permissions": ["canSend"], "reset": true });
        let (status, code, extra) = refused(&client, kind, both).await;
        assert_eq!((status, code.as_str()), (400, "invalid_field"));
        assert_eq!(extra["field"], "reset");
    }
    for name in ["id", "messageId"] {
        let (status, code, _) = refused(&client, Op::MessageStatus, json!({ name: id })).await;
        assert_eq!((status, code.as_str()), (404, "not_found"), "{name}");
    }
    stage.tap.from_daemon.take();
    let long = |chars: usize| "k".repeat(chars);
    for (kind, args, code, field) in [
        (Op::MessageStatus, json!({ "id": id, "messageId": id }), "invalid_field", "messageId"),
        (Op::MessageStatus, json!({}), "missing_field", "messageId"),
        (Op::StateSet, json!({ "key": "k", "value": 1, "keyy": 2 }), "invalid_field", "keyy"),
        (Op::StateSet, json!({ "key": "k" }), "missing_field", "value"),
        (Op::StateSet, json!({ "value": 1 }), "missing_field", "key"),
        (Op::StateSet, json!({ "key": 7, "value": 1 }), "invalid_field", "key"),
        (Op::StateSet, json!({ "key": long(257), "value": 1 }), "invalid_field", "key"),
        (Op::StateSet, json!({ "key": "", "value": 1 }), "invalid_field", "key"),
        (
            Op::StateSet,
            json!({ "key": "k", "value": 1, "ifVersion": -1 }),
            "invalid_field",
            "ifVersion",
        ),
        (Op::StateList, json!({ "prefix": long(257) }), "invalid_field", "prefix"),
        (Op::AuditQuery, json!({ "limit": 501 }), "invalid_field", "limit"),
        (Op::AuditQuery, json!({ "limit": 0 }), "invalid_field", "limit"),
        (Op::ProfileSummary, json!({ "summary": long(501) }), "invalid_field", "summary"),
        (Op::ProfileStatus, json!({ "status": "busy" }), "invalid_field", "status"),
        (Op::ProfileEdit, json!({ "title": long(81) }), "invalid_field", "title"),
        (Op::MessageInbox, json!({ "limit": 201 }), "invalid_field", "limit"),
        (Op::MessageInbox, json!({ "since": "yesterday" }), "invalid_field", "since"),
        (Op::GroupJoin, json!({ "name": "a b" }), "invalid_field", "name"),
        (Op::MessageSend, json!({ "to": [], "message": "hi" }), "invalid_field", "to"),
        (Op::MessageSend, json!({ "to": vec!["bob"; 33], "message": "hi" }), "invalid_field", "to"),
        (Op::MessageSend, json!({ "to": "bob", "message": "" }), "invalid_field", "message"),
        (
            Op::GrantAdd,
            json!({ "peer": "bob", "capabilities": ["flymode"] }),
            "invalid_field",
            "capabilities",
        ),
        (
            Op::GrantAdd,
            json!({ "peer": "bob", "capabilities": ["dm"], "reset": true }),
            "invalid_field",
            "reset",
        ),
    ] {
        let (status, found, extra) = refused(&client, kind, args.clone()).await;
        assert_eq!((status, found.as_str()), (400, code), "{kind:?} {args}");
        assert_eq!(extra["field"], field, "{kind:?} {args}");
    }
    let heard = stage.tap.from_daemon.take();
    assert!(heard.iter().all(|word| word.starts_with("list_")), "{heard:?}");
    // At the edge they pass.
    done(&client, Op::StateSet, json!({ "key": long(256), "value": 1 })).await;
    done(&client, Op::StateList, json!({ "prefix": long(256) })).await;
    done(&client, Op::AuditQuery, json!({ "limit": 500 })).await;
    done(&client, Op::ProfileSummary, json!({ "summary": long(500) })).await;
    done(&client, Op::MessageInbox, json!({ "limit": 200 })).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_does_not_exist_and_a_mesh_that_is_not_joined_are_told() {
    let home = Home::new();
    home.join("dev");
    home.join("ops");
    let running = home.start().await;
    let head = "POST /v1/ops/state.burn HTTP/1.1\r\nhost: localhost\r\n\
                content-type: application/json\r\ncontent-length: 2";
    let (status, answer) = raw(running.socket(), head, "{}").await;
    assert!(status == 404 && answer.contains("unknown_op"), "{answer}");
    assert_eq!(status_of(&answer), 404);
    let client = running.client();
    let args = || super::world::object(json!({ "key": "k", "value": 1 }));
    let error = client.op(Op::StateSet, None, args()).await.unwrap_err();
    let error = error.api().unwrap();
    assert_eq!(error.body.error, "mesh_required");
    assert_eq!(error.extra("attached").unwrap(), &json!(["dev", "ops"]));
    let (status, code, _) = refused(&client, Op::StateSet, json!({ "key": "k", "value": 1 })).await;
    assert_eq!((status, code.as_str()), (404, "mesh_not_attached"));
    let two = json!({ "key": "k", "value": 1, "mesh": "dev" });
    let (_, code, extra) = refused(&client, Op::StateSet, two).await;
    assert_eq!((code.as_str(), &extra["field"]), ("invalid_field", &json!("mesh")));
    let among = super::world::object(json!({ "key": "k", "mesh_slug": "dev" }));
    let error = client.op(Op::StateGet, None, among).await.unwrap_err();
    assert_eq!(error.api().unwrap().body.error, "broker_unavailable");
    running.shutdown().await;
}

/// A broker's refusal is passed on under its own code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_own_words_arrive() {
    let stage = Stage::new().await;
    let client: Client = stage.client();
    done(&client, Op::StateSet, json!({ "key": "k", "value": 1 })).await;
    let outdated = json!({ "key": "k", "value": 2, "ifVersion": 7 });
    let error = op(&client, Op::StateSet, outdated).await.unwrap_err();
    assert_eq!(error.api().unwrap().body.error, "version_conflict");
    let value: Value = "x".repeat(40_000).into();
    let error = op(&client, Op::StateSet, json!({ "key": "k", "value": value })).await.unwrap_err();
    assert_eq!(error.api().unwrap().body.error, "too_large");
    let (status, code, _) = refused(&client, Op::StateGet, json!({ "key": "nowhere" })).await;
    assert_eq!((status, code.as_str()), (404, "not_found"));
    stage.stop().await;
}

/// Daemon §7.3: an answer that is lost is a timeout for what may be repeated, and `outcome_unknown` for what may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_told_for_what_it_is() {
    let world = World::new(1).await;
    let proxy = Proxy::open(world.broker.address()).await;
    let home = Home::new();
    home.join_as(world.entry_at(0, &proxy.url()));
    let running = home.start().await;
    let client = running.client();
    until("the mesh is open", async || op(&client, Op::StateList, json!({})).await.is_ok()).await;
    proxy.mute(true);
    let (read, set, kick) = tokio::join!(
        op(&client, Op::StateGet, json!({ "key": "k" })),
        op(&client, Op::StateSet, json!({ "key": "k", "value": 1 })),
        op(&client, Op::PeerKick, json!({ "target": "nobody" })),
    );
    let code = |result: Result<_, claudemesh_ipc::IpcError>| {
        let error = result.map(|_: claudemesh_ipc::api::OpReply| ()).unwrap_err();
        let error = error.api().unwrap();
        (error.status, error.body.error.clone())
    };
    for lost in [read, set] {
        let (status, code) = code(lost);
        assert!(status == 504 && matches!(code.as_str(), "broker_timeout" | "timeout"), "{code}");
    }
    assert_eq!(code(kick), (504, "outcome_unknown".to_owned()));
    proxy.mute(false);
    running.shutdown().await;
}

/// Daemon spec §3: `capabilities.<family>` is a switch at the local API, live, for the operations and the routes that are
/// their other names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_that_is_switched_off_is_refused_under_every_name() {
    let home = Home::new();
    home.join(HOME);
    home.settings("[capabilities]\nstate = false\nmessaging = false\nprofile = false");
    let running = home.start().await;
    let ask = async |method: &str, path: &str, body: &str| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}",
            body.len(),
        );
        raw(running.socket(), &head, body).await
    };
    for (method, path, body) in [
        ("GET", "/v1/state?key=k", ""),
        ("POST", "/v1/state", r#"{"key":"k","value":1}"#),
        ("POST", "/v1/ops/state.get", r#"{"args":{"key":"k"}}"#),
        ("POST", "/v1/send", r#"{"to":"bob","message":"hi"}"#),
        ("POST", "/v1/broadcast", r#"{"message":"hi"}"#),
        ("GET", "/v1/inbox", ""),
        ("GET", "/v1/peers", ""),
        ("POST", "/v1/profile", r#"{"summary":"s"}"#),
    ] {
        let (status, answer) = ask(method, path, body).await;
        assert!(status == 403 && answer.contains("capability_disabled"), "{path}: {answer}");
    }
    home.settings("");
    let (status, answer) = ask("POST", "/v1/admin/reload", "").await;
    assert!(status == 200 && answer.contains("capabilities.state"), "{answer}");
    assert_eq!(ask("GET", "/v1/inbox", "").await.0, 200);
    running.shutdown().await;
}

//! Shared state: the routes of older clients, and who is told of a change.

use claudemesh_ipc::api::{EventKind, EventsQuery};
use claudemesh_protocol::ops::OperationKind as Op;
use serde_json::{Value, json};

use super::world::{HOME, Stage, done};
use crate::local::world::{raw, register};
use crate::mesh::node::event;

async fn get(stage: &Stage, path: &str) -> (u16, Value) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost");
    let (status, answer) = raw(stage.running.socket(), &head, "").await;
    (status, body(&answer))
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// STA-4. Daemon §9.7: `/v1/state` is `state.get`, `state.list` and `state.set`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_named_routes_are_the_operations() {
    let stage = Stage::new().await;
    let text = r#"{"key":"sprint","value":{"n":14},"mesh":"home"}"#;
    let head = format!(
        "POST /v1/state HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}",
        text.len()
    );
    let (status, answer) = raw(stage.running.socket(), &head, text).await;
    assert_eq!(status, 200, "{answer}");
    let written = json!({ "ok": true, "mesh": HOME, "key": "sprint", "value": { "n": 14 } });
    assert_eq!(body(&answer), written);
    let (status, one) = get(&stage, "/v1/state?key=sprint").await;
    let client = stage.client();
    assert_eq!(status, 200);
    assert_eq!(one, done(&client, Op::StateGet, json!({ "key": "sprint" })).await);
    assert_eq!((&one["value"], &one["version"]), (&json!({ "n": 14 }), &json!(1)));
    let (_, list) = get(&stage, "/v1/state?prefix=spr&mesh=home").await;
    assert_eq!(list["entries"], json!([one]));
    assert_eq!(get(&stage, "/v1/state?prefix=other").await.1["entries"], json!([]));
    assert_eq!(get(&stage, "/v1/state?key=none").await.0, 404);
    assert_eq!(get(&stage, "/v1/state?key=a&prefix=b").await.0, 400);
    stage.stop().await;
}

/// Daemon §14.1: one `state_changed` for each write, however many connections hear of it; the session that wrote is not
/// told what it did, and one that may not read state is not told at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_else_is_told_once_of_each_write() {
    let stage = Stage::new().await;
    let (writer, reader) = (stage.session(1).await, stage.session(2).await);
    let (blind, _) = register(&stage.running, HOME, 3, |request| {
        request.caps = claudemesh_protocol::capability::CapabilitySet::parse(["dm"]).ok();
    })
    .await;
    let query = EventsQuery { kinds: Some("state_changed".to_owned()), ..EventsQuery::default() };
    let mut of_writer = writer.events(&query, None).await.unwrap();
    let mut of_reader = reader.events(&query, None).await.unwrap();
    let mut of_blind = blind.events(&query, None).await.unwrap();
    let mut at_bob = stage.bob.subscribe();
    done(&writer, Op::StateSet, json!({ "key": "a", "value": 1 })).await;
    done(&reader, Op::StateSet, json!({ "key": "b", "value": null })).await;
    done(&stage.client(), Op::StateSet, json!({ "key": "c", "value": 3 })).await;
    let told = async |stream: &mut claudemesh_ipc::EventStream| {
        let event = stream.next().await.unwrap().unwrap();
        assert_eq!(event.kind, EventKind::StateChanged);
        assert_eq!(event.data["mesh"], HOME);
        (event.data["key"].clone(), event.data["value"].clone())
    };
    assert_eq!(told(&mut of_writer).await, (json!("b"), Value::Null));
    assert_eq!(told(&mut of_writer).await, (json!("c"), json!(3)));
    assert_eq!(told(&mut of_reader).await, (json!("a"), json!(1)));
    assert_eq!(told(&mut of_reader).await, (json!("c"), json!(3)));
    // Bob's daemon has two connections, and hears of each write on both.
    for key in ["a", "c"] {
        let data = event(&mut at_bob, "state_changed").await;
        assert_eq!(data["key"], key);
        assert!(!data["updated_by"].as_str().unwrap().is_empty());
    }
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(300), async {
        tokio::select! {
            _ = of_blind.next() => "the blind session",
            _ = of_reader.next() => "the reader, again",
            _ = event(&mut at_bob, "state_changed") => "bob, again",
        }
    });
    assert_eq!(nothing.await.ok(), None, "nobody else is told");
    stage.stop().await;
}

//! The shared state of a mesh over the wire (broker spec §4.1, wire spec §3.5).

use std::time::{Duration, Instant};

use claudemesh_protocol::limits::{MAX_FRAME_BYTES, STATE_KEYS_MAX, STATE_VALUE_MAX_BYTES};
use claudemesh_protocol::permission::Permission;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::world::World;

async fn set(socket: &mut Socket, key: &str, value: Value) -> Value {
    socket.ask(json!({"type": "set_state", "key": key, "value": value})).await
}

async fn get(socket: &mut Socket, key: &str) -> Value {
    socket.ask(json!({"type": "get_state", "key": key})).await
}

async fn change(socket: &mut Socket) -> Value {
    socket.next_where(|frame| frame["type"] == "state_change").await
}

/// A value whose compact JSON has so many bytes.
fn value_of(bytes: usize) -> Value {
    Value::String("v".repeat(bytes - 2))
}

/// STA-1.
#[tokio::test]
async fn a_write_is_told_at_once_and_read_by_latecomers() {
    Box::pin(a_write_is_told_at_once_and_read_by_latecomers_on(&World::start().await)).await;
}

/// STA-1 on PostgreSQL.
#[tokio::test]
async fn a_write_is_told_at_once_and_read_by_latecomers_on_postgres() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(a_write_is_told_at_once_and_read_by_latecomers_on(&world)).await;
}

async fn a_write_is_told_at_once_and_read_by_latecomers_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut sibling = world.session(&people[0], &Session::new()).await;
    let mut bob = world.daemon(&people[1]).await;
    let value = json!({"b": [1, 2.5, null, "é"], "a": {"deep": true}});
    let asked = Instant::now();
    let ack = set(&mut alice, "plan", value.clone()).await;
    assert_eq!((&ack["type"], &ack["queued"]), (&json!("ack"), &json!(false)), "{ack}");
    for socket in [&mut sibling, &mut bob] {
        let told = change(socket).await;
        assert_eq!(
            told,
            json!({"type": "state_change", "key": "plan", "value": value, "updatedBy": "alice", "version": 1})
        );
    }
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert!(alice.frames_so_far("state_change").await.is_empty(), "its writer knows");
    let mut carol = world.daemon(&people[2]).await;
    let read = get(&mut carol, "plan").await;
    assert_eq!(
        (&read["type"], &read["key"], &read["value"]),
        (&json!("state_result"), &json!("plan"), &value)
    );
    assert_eq!((&read["updatedBy"], &read["version"]), (&json!("alice"), &json!(1)));
    assert!(read["updatedAt"].as_str().unwrap().ends_with('Z'));
    assert!(carol.frames_so_far("state_change").await.is_empty(), "changes are not queued");

    set(&mut bob, "plan", json!(2)).await;
    assert_eq!(change(&mut alice).await["version"], 2);
    set(&mut bob, "plan", Value::Null).await;
    let gone = change(&mut alice).await;
    assert_eq!((&gone["value"], &gone["version"]), (&Value::Null, &json!(0)));
    let missing = get(&mut carol, "plan").await;
    let expected = json!({"type": "state_result", "key": "plan", "value": null, "updatedBy": "", "updatedAt": "", "version": 0, "_reqId": missing["_reqId"]});
    assert_eq!(missing, expected);
    set(&mut bob, "plan", Value::Null).await;
    assert!(alice.frames_so_far("state_change").await.is_empty(), "nothing was removed");
    set(&mut bob, "plan", json!(3)).await;
    assert_eq!(change(&mut alice).await["version"], 1, "a removed key begins again");
}

/// Older clients send no request id and take any `state_result` for the answer to a read.
#[tokio::test]
async fn a_write_without_a_request_id_is_done_in_silence() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    alice.send(&json!({"type": "set_state", "key": "k", "value": 1, "unknown": {"x": 1}})).await;
    assert_eq!(change(&mut bob).await["value"], 1);
    for kind in ["ack", "state_result", "error"] {
        assert!(alice.frames_so_far(kind).await.is_empty(), "{kind}");
    }
    alice.send(&json!({"type": "get_state", "key": "k"})).await;
    let read = alice.next_where(|frame| frame["type"] == "state_result").await;
    assert_eq!((&read["value"], read.get("_reqId")), (&json!(1), None));
}

/// STA-2.
#[tokio::test]
async fn of_two_writers_with_the_same_version_one_is_refused() {
    of_two_writers_with_the_same_version_one_is_refused_on(&World::start().await).await;
}

/// STA-2 on PostgreSQL.
#[tokio::test]
async fn of_two_writers_with_the_same_version_one_is_refused_on_postgres() {
    let Some(world) = World::on_postgres().await else { return };
    of_two_writers_with_the_same_version_one_is_refused_on(&world).await;
}

async fn of_two_writers_with_the_same_version_one_is_refused_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    for version in 0..10 {
        let write = |who: &str| json!({"type": "set_state", "key": "k", "value": who, "ifVersion": version});
        let (one, two) = tokio::join!(alice.ask(write("alice")), bob.ask(write("bob")));
        let (won, lost) = if one["type"] == "ack" { (one, two) } else { (two, one) };
        assert_eq!((&won["type"], &lost["code"]), (&json!("ack"), &json!("version_conflict")));
        let text = lost["message"].as_str().unwrap();
        assert!(text.contains(&format!("version {}", version + 1)), "{text}");
        let read = get(&mut alice, "k").await;
        assert_eq!(read["version"], json!(version + 1));
        let winner =
            if lost["_reqId"].is_null() { "" } else { read["updatedBy"].as_str().unwrap() };
        assert_eq!(read["value"], winner);
    }
    let absent = json!({"type": "set_state", "key": "other", "value": 1, "ifVersion": 3});
    assert_eq!(alice.ask(absent).await["message"], "this key is not set");
}

/// STA-3.
#[tokio::test]
async fn a_session_without_the_capability_changes_and_hears_nothing() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    set(&mut alice, "k", json!("old")).await;
    let hello = world.limited_hello(&people[1], &Session::new(), &["state-read", "read"]);
    let mut reader = world.connect(hello).await;
    let refused = set(&mut reader, "k", json!("new")).await;
    assert_eq!(
        (&refused["code"], &refused["message"]),
        (&json!("forbidden"), &json!(r#"missing session capability "state-write""#))
    );
    assert_eq!(get(&mut reader, "k").await["value"], "old");
    assert!(alice.frames_so_far("state_change").await.is_empty());
    let hello = world.limited_hello(&people[1], &Session::new(), &["state-write", "read"]);
    let mut writer = world.connect(hello).await;
    for frame in [json!({"type": "get_state", "key": "k"}), json!({"type": "list_state"})] {
        let refused = writer.ask(frame).await;
        assert_eq!(refused["message"], r#"missing session capability "state-read""#);
    }
    assert_eq!(set(&mut writer, "k", json!("new")).await["type"], "ack");
    assert_eq!(change(&mut reader).await["value"], "new");
    assert_eq!(change(&mut alice).await["value"], "new");
    set(&mut alice, "k", json!("newer")).await;
    assert_eq!(change(&mut reader).await["value"], "newer");
    assert!(writer.frames_so_far("state_change").await.is_empty(), "it may not read the state");
}

#[tokio::test]
async fn a_member_without_the_permission_is_refused() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    forbid(&world, &people[1], &people[0], Permission::WriteState).await;
    let mut bob = world.daemon(&people[1]).await;
    let refused = set(&mut bob, "k", json!(1)).await;
    assert_eq!(
        (&refused["code"], &refused["message"]),
        (&json!("forbidden"), &json!(r#"missing permission "canWriteState""#))
    );
    assert_eq!(get(&mut bob, "k").await["version"], 0);
}

async fn forbid(world: &World, who: &Person, by: &Person, permission: Permission) {
    let broker = world.broker().broker();
    let taken = [(permission, Some(false))].into();
    let set = broker.store().merge_permissions(&who.mesh, &who.id, taken, &by.id, broker.now());
    set.await.unwrap().unwrap();
    broker.roster_changed(&who.mesh);
}

/// STA-4.
#[tokio::test]
async fn limits_are_kept_at_the_edge_and_refused_one_past_it() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let key = |chars: usize| "\u{1f600}".repeat(chars);
    assert_eq!(set(&mut alice, &key(256), value_of(STATE_VALUE_MAX_BYTES)).await["type"], "ack");
    let refused = set(&mut alice, &key(256), value_of(STATE_VALUE_MAX_BYTES + 1)).await;
    assert_eq!(refused["code"], "too_large");
    for key in
        [key(257), String::new(), "a\nb".to_owned(), "a\u{7f}".to_owned(), "a\u{0}".to_owned()]
    {
        assert_eq!(set(&mut alice, &key, json!(1)).await["code"], "invalid_args", "{key:?}");
        assert_eq!(get(&mut alice, &key).await["code"], "invalid_args", "{key:?}");
    }
    for prefix in [key(257), "a\u{0}".to_owned()] {
        let list = json!({"type": "list_state", "prefix": prefix});
        assert_eq!(alice.ask(list).await["code"], "invalid_args");
    }
    for bad in [
        json!({"type": "set_state", "value": 1}),
        json!({"type": "set_state", "key": 7, "value": 1}),
        json!({"type": "set_state", "key": "k", "value": 1, "ifVersion": -1}),
        json!({"type": "set_state", "key": "k", "value": 1, "ifVersion": 1.5}),
        json!({"type": "set_state", "key": "k", "value": 1, "ifVersion": "1"}),
        json!({"type": "get_state"}),
        json!({"type": "list_state", "prefix": 1}),
    ] {
        let refused = alice.ask(bad.clone()).await;
        assert_eq!(
            (&refused["type"], &refused["code"]),
            (&json!("error"), &json!("invalid_args")),
            "{bad}"
        );
    }
    let read = get(&mut alice, &key(256)).await;
    assert_eq!((&read["value"], &read["version"]), (&value_of(STATE_VALUE_MAX_BYTES), &json!(1)));
    assert_eq!(
        alice.ask(json!({"type": "list_state"})).await["entries"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn a_mesh_has_so_many_keys() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let write = |number: usize| claudemesh_store::WriteState {
        mesh_id: people[0].mesh.clone(),
        key: format!("k{number}"),
        value: Some("1".to_owned()),
        if_version: None,
        by: people[0].id.clone(),
        by_name: "alice".to_owned(),
        at: world.broker().broker().now(),
    };
    let store = world.broker().broker().store();
    futures_util::stream::iter(1..STATE_KEYS_MAX)
        .for_each_concurrent(16, async |number| {
            store.write_state(write(number)).await.unwrap();
        })
        .await;
    assert_eq!(set(&mut alice, "last", json!(1)).await["type"], "ack");
    let refused = set(&mut alice, "one more", json!(1)).await;
    assert_eq!((&refused["code"], &refused["type"]), (&json!("limit"), &json!("error")));
    assert_eq!(set(&mut alice, "last", json!(2)).await["type"], "ack");
    set(&mut alice, "last", Value::Null).await;
    assert_eq!(set(&mut alice, "one more", json!(1)).await["type"], "ack");
}

#[tokio::test]
async fn a_list_is_in_order_and_whole_or_refused() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for key in ["b_1", "a", "b%2", "bX1", "c"] {
        set(&mut alice, key, json!({"of": key})).await;
    }
    let list = async |socket: &mut Socket, frame: Value| {
        let list = socket.ask(frame).await;
        let entries = list["entries"].as_array().unwrap_or_else(|| panic!("{list}")).clone();
        entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["a", "b%2", "bX1", "b_1", "c"];
    assert_eq!(list(&mut alice, json!({"type": "list_state"})).await, all);
    assert_eq!(list(&mut alice, json!({"type": "list_state", "prefix": null})).await, all);
    assert_eq!(list(&mut alice, json!({"type": "list_state", "prefix": "b_"})).await, ["b_1"]);
    assert_eq!(list(&mut alice, json!({"type": "list_state", "prefix": "%"})).await, [""; 0]);
    let one = alice.ask(json!({"type": "list_state", "prefix": "c"})).await;
    let entry = &one["entries"][0];
    assert_eq!(
        (&entry["value"], &entry["updatedBy"], &entry["version"]),
        (&json!({"of": "c"}), &json!("alice"), &json!(1))
    );
    let fits = MAX_FRAME_BYTES / STATE_VALUE_MAX_BYTES;
    for number in 0..=fits {
        set(&mut alice, &format!("z{number:03}"), value_of(STATE_VALUE_MAX_BYTES)).await;
    }
    let refused = alice.ask(json!({"type": "list_state"})).await;
    assert_eq!(refused["code"], "too_large", "{refused}");
    let some = json!({"type": "list_state", "prefix": "z00"});
    assert_eq!(list(&mut alice, some).await.len(), 10);
}

/// G-3 for keys of the shared state.
#[tokio::test]
async fn another_mesh_has_other_keys() {
    let world = World::start().await;
    let (ours, theirs) = (world.mesh_of(&["alice"]).await, world.mesh_of(&["mallory"]).await);
    let mut alice = world.daemon(&ours[0]).await;
    let mut mallory = world.daemon(&theirs[0]).await;
    set(&mut alice, "k", json!("ours")).await;
    assert_eq!(get(&mut mallory, "k").await["version"], 0);
    assert_eq!(mallory.ask(json!({"type": "list_state"})).await["entries"], json!([]));
    set(&mut mallory, "k", Value::Null).await;
    set(&mut mallory, "k", json!("theirs")).await;
    assert_eq!(get(&mut alice, "k").await["value"], "ours");
    assert!(alice.frames_so_far("state_change").await.is_empty());
    assert!(mallory.frames_so_far("state_change").await.is_empty());
}

/// Everybody hears the writes of one key in the order in which they happened.
#[tokio::test]
async fn changes_of_a_key_are_told_in_the_order_of_their_versions() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut bystander = world.daemon(&people[2]).await;
    let mut sockets = Vec::new();
    for person in &people[..2] {
        for _ in 0..4 {
            sockets.push(world.session(person, &Session::new()).await);
        }
    }
    let writes = sockets.iter_mut().map(async |socket| {
        for number in 0..25 {
            socket.send(&json!({"type": "set_state", "key": "k", "value": number})).await;
        }
        get(socket, "k").await;
    });
    futures_util::future::join_all(writes).await;
    for version in 1..=200 {
        assert_eq!(change(&mut bystander).await["version"], version);
    }
}

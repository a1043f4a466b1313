//! The lists are put together from rows that are ready: what changes must be in the very next one (wire spec §3.2).

use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_protocol::{MeshId, Timestamp};
use claudemesh_store::MeshSettings;
use serde_json::{Value, json};

use crate::peers::{Session, Socket, Wanted};
use crate::world::{PATIENCE, World};

/// The list with leases is written anew each time; the plain one must say the same. The asker's own proof of life is
/// the question itself.
async fn consistent(socket: &mut Socket) -> Vec<Value> {
    let plain = socket.peers().await;
    let fresh = socket.ask(json!({"type": "list_peers", "debug": true})).await;
    let mut expected = fresh["peers"].as_array().unwrap().clone();
    let own = socket.presence_id();
    let mut shown = plain.clone();
    for row in expected.iter_mut().chain(shown.iter_mut()) {
        let row = row.as_object_mut().unwrap();
        row.remove("lease");
        if row["presenceId"] == own {
            row.remove("lastSeenAt");
        }
    }
    assert_eq!(shown, expected);
    plain
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    rows.iter().find(|row| row["displayName"] == name).unwrap_or(&Value::Null)
}

async fn members(socket: &mut Socket) -> Vec<Value> {
    socket.ask(json!({"type": "list_members"})).await["members"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_change_of_a_presence_is_in_the_very_next_list() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob_daemon = world.daemon(&people[1]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    let name = "bob session";
    consistent(&mut alice).await;
    consistent(&mut bob_daemon).await;
    let (lead, nothing) = (json!([{"name": "ops", "role": "lead"}]), json!([]));
    for (change, field, expected) in [
        (json!({"type": "set_summary", "summary": "reading"}), "summary", json!("reading")),
        (
            json!({"type": "set_summary", "summary": "a \"b\" \u{1F600}"}),
            "summary",
            json!("a \"b\" \u{1F600}"),
        ),
        (json!({"type": "set_summary", "summary": ""}), "summary", Value::Null),
        (
            json!({"type": "set_status", "status": "working", "source": "hook"}),
            "status",
            json!("working"),
        ),
        (json!({"type": "set_status", "status": "dnd"}), "status", json!("dnd")),
        (
            json!({"type": "set_profile", "title": "Builder"}),
            "profile",
            json!({"title": "Builder"}),
        ),
        (json!({"type": "set_stats", "stats": {"errors": 3}}), "stats", json!({"errors": 3})),
        (json!({"type": "join_group", "name": "ops", "role": "lead"}), "groups", lead),
        (json!({"type": "leave_group", "name": "ops"}), "groups", nothing),
    ] {
        bob.ask(change.clone()).await;
        for asker in [&mut alice, &mut bob_daemon] {
            let rows = consistent(asker).await;
            assert_eq!(row(&rows, name)[field], expected, "{change}");
        }
    }
    bob.ask(json!({"type": "set_visible", "visible": false})).await;
    assert_eq!(row(&consistent(&mut alice).await, name), &Value::Null);
    assert_eq!(row(&consistent(&mut bob_daemon).await, name)["visible"], false);
    bob.ask(json!({"type": "set_visible", "visible": true})).await;
    assert_eq!(
        row(&consistent(&mut alice).await, name)["sessionId"],
        row(&consistent(&mut bob_daemon).await, name)["sessionId"]
    );
    // A frame that changes nothing is a proof of life.
    let before = Timestamp::parse_iso(
        row(&consistent(&mut alice).await, name)["lastSeenAt"].as_str().unwrap(),
    )
    .unwrap();
    world.clock.advance(Duration::from_secs(5));
    bob.peers().await;
    let after = Timestamp::parse_iso(
        row(&consistent(&mut alice).await, name)["lastSeenAt"].as_str().unwrap(),
    )
    .unwrap();
    assert!(after.since(before) >= Duration::from_secs(5), "{before} {after}");
    bob.leave().await;
    alice.event("peer_left").await;
    assert_eq!(row(&consistent(&mut alice).await, name), &Value::Null);
}

#[tokio::test]
async fn a_setting_of_the_mesh_is_in_the_next_list_of_the_others() {
    let world = World::start().await;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    let people = world.mesh_with(MeshSettings::default(), &wanted).await;
    let mesh = MeshId::new(people[0].mesh.as_str());
    let mut alice = world.daemon(&people[0]).await;
    let _bob = world.daemon(&people[1]).await;
    assert_eq!(row(&consistent(&mut alice).await, "bob")["cwd"], "work");
    for (show_paths, expected) in [(true, "/home/me/work"), (false, "work")] {
        let broker = world.broker().broker();
        let settings = broker.store().mesh(&mesh).await.unwrap().unwrap().settings;
        let settings = MeshSettings { show_paths, ..settings };
        let now = world.clock_now();
        broker.store().set_mesh_settings(&mesh, settings, vec![], None, now).await.unwrap();
        broker.roster_changed(&mesh);
        assert_eq!(row(&consistent(&mut alice).await, "bob")["cwd"], expected);
    }
}

#[tokio::test]
async fn a_member_that_comes_or_goes_is_so_in_the_very_next_list() {
    let world = World::start().await;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &["core"] }];
    let people = world.mesh_with(MeshSettings::default(), &wanted).await;
    let mut alice = world.daemon(&people[0]).await;
    let absent = row(&members(&mut alice).await, "bob").clone();
    assert_eq!((&absent["online"], &absent["lastSeenAt"]), (&json!(false), &Value::Null));
    let mut bob = world.daemon(&people[1]).await;
    let here = row(&members(&mut alice).await, "bob").clone();
    assert_eq!((&here["online"], &here["groups"]), (&json!(true), &absent["groups"]));
    let came = here["lastSeenAt"].as_str().and_then(Timestamp::parse_iso).unwrap();
    bob.ask(json!({"type": "join_group", "name": "night"})).await;
    world.clock.advance(Duration::from_secs(7));
    let left_at = world.clock.now();
    bob.leave().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let gone = loop {
        let gone = row(&members(&mut alice).await, "bob").clone();
        if gone["online"] == false {
            break gone;
        }
        assert!(tokio::time::Instant::now() < deadline);
    };
    let groups: Vec<_> =
        gone["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert_eq!(groups, ["core", "night"]);
    let seen = gone["lastSeenAt"].as_str().and_then(Timestamp::parse_iso).unwrap();
    assert!(seen > came && seen.as_millis() + 1 >= left_at.as_millis(), "{came} {seen}");
}

/// The answer to a question with an odd id is JSON all the same, and so is an empty request id's.
#[tokio::test]
async fn a_request_id_comes_back_as_it_was() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for (word, field) in [("list_peers", "peers"), ("list_members", "members")] {
        for id in ["r", "a \"quoted\" \\ id", "\u{1F600}"] {
            alice.send(&json!({"type": word, "_reqId": id})).await;
            let answer = alice.next_where(|frame| frame["_reqId"] == id).await;
            assert_eq!(answer[field].as_array().unwrap().len(), 1, "{answer}");
        }
        alice.send(&json!({"type": word})).await;
        let answer = alice.next_where(|frame| frame.get(field).is_some()).await;
        assert!(answer.get("_reqId").is_none());
    }
}

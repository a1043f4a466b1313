//! The audit log: what it holds, who reads it, what it finds out (broker spec §4.19, wire spec §5.17).

use std::time::Duration;

use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::wire::FrameKind;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::peers::{Person, Session, Socket};
use crate::world::{PATIENCE, World};

async fn query(socket: &mut Socket, event: &str) -> Value {
    socket.ask(json!({"type": "audit_query", "eventType": event, "limit": 500})).await
}

/// The payloads of these events, oldest first, as soon as there are so many.
async fn until(socket: &mut Socket, event: &str, count: usize) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let page = query(socket, event).await;
        let mut entries = page["entries"].as_array().unwrap_or_else(|| panic!("{page}")).clone();
        if entries.len() >= count {
            assert_eq!(entries.len(), count, "{page}");
            entries.reverse();
            return entries;
        }
        assert!(tokio::time::Instant::now() < deadline, "{event}: {page}");
    }
}

/// Changes the database behind the broker's back.
pub async fn by_hand(world: &World, sql: &str) {
    if let Some(url) = &world.settings.database_url {
        let mut conn = sqlx::PgConnection::connect(url.expose()).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        return;
    }
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(world.settings.database_path());
    let mut conn = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// AUD-1: one database, two brokers.
#[tokio::test]
async fn a_hundred_actions_on_two_nodes_make_one_chain() {
    let Some(first) = World::on_postgres().await else { return };
    let second = World::beside(&first).await;
    let people = first.mesh_of(&["alice", "bob"]).await;
    let mut sockets = Vec::new();
    for world in [&first, &second] {
        for person in &people {
            sockets.push(world.session(person, &Session::new()).await);
        }
    }
    let acting = sockets.iter_mut().enumerate().map(async |(place, socket)| {
        for number in 0..25 {
            let key = format!("k{place}-{number}");
            let ack = socket.ask(json!({"type": "set_state", "key": key, "value": 1})).await;
            assert_eq!(ack["type"], "ack", "{ack}");
        }
    });
    futures_util::future::join_all(acting).await;
    // The other node may still be writing what it recorded.
    let entries = until(&mut sockets[0], "state_set", 100).await;
    assert_eq!(entries.len(), 100);
    let verdict = sockets[0].ask(json!({"type": "audit_verify"})).await;
    assert_eq!((&verdict["valid"], verdict.get("brokenAt")), (&json!(true), None), "{verdict}");
    assert!(verdict["entries"].as_u64().unwrap() > 100);
}

/// AUD-2: a changed byte. What is removed is shown in `audit_heads`.
#[tokio::test]
async fn a_changed_byte_is_found_at_its_row() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for key in ["one", "two", "three"] {
        alice.ask(json!({"type": "set_state", "key": key, "value": 1})).await;
    }
    let entries = until(&mut alice, "state_set", 3).await;
    let victim = entries[1]["id"].as_i64().unwrap();
    assert_eq!(alice.ask(json!({"type": "audit_verify"})).await["valid"], true);
    by_hand(
        &world,
        &format!(
            "UPDATE audit_log SET payload = replace(payload, 'two', 'tw0') WHERE id = {victim}"
        ),
    )
    .await;
    world.pass(61);
    let verdict = alice.ask(json!({"type": "audit_verify"})).await;
    assert_eq!(
        (&verdict["valid"], &verdict["brokenAt"]),
        (&json!(false), &json!(victim)),
        "{verdict}"
    );
}

/// AUD-3 and STA-5: neither a value nor a message nor a secret stands in the table.
#[tokio::test]
async fn the_log_holds_no_value_no_message_and_no_secret() {
    let world = World::start().await;
    let host = world.with_invite(json!({"max_uses": 2})).await;
    let joiner = crate::world::Joiner::new();
    let answer = world.claim(&host.code, &joiner).await.ok();
    let root_key = joiner.open(&answer).unwrap().to_b64url();
    let person = |member: &Value, key: &claudemesh_crypto::KeyPair, name: &str| Person {
        mesh: claudemesh_protocol::MeshId::new(answer["mesh_id"].as_str().unwrap()),
        id: claudemesh_protocol::MemberId::new(member["member_id"].as_str().unwrap()),
        key: claudemesh_crypto::KeyPair::from_hex(&key.to_hex()).unwrap(),
        name: name.to_owned(),
    };
    let ana = person(&host.mesh, &host.owner, "ana");
    let bob = person(&answer, &joiner.member, "bob");
    let session = Session::new();
    let mut sender = world.session(&bob, &session).await;
    let mut admin = world.daemon(&ana).await;
    let value = json!({"password": "planted-state-value"});
    sender.ask(json!({"type": "set_state", "key": "plan", "value": value})).await;
    let message = json!({"targetSpec": "*", "ciphertext": "cGxhbnRlZC1tZXNzYWdl", "nonce": "cGxhbnRlZG5vbmNl"});
    sender.message(message).await;
    sender.ask(json!({"type": "set_summary", "summary": "planted-summary"})).await;
    sender.ask(json!({"type": "set_state", "key": "plan", "value": null})).await;
    until(&mut admin, "state_deleted", 1).await;
    let set = until(&mut admin, "state_set", 1).await.remove(0);
    let sha256 = claudemesh_crypto::hash::sha256_hex(value.to_string().as_bytes());
    assert_eq!(set["payload"], json!({"key": "plan", "value_sha256": sha256}));
    assert_eq!(set["actor"], json!(bob.id));
    let all = admin.ask(json!({"type": "audit_query", "limit": 500})).await.to_string();
    let (member, own) = (bob.key.to_hex(), session.key.to_hex());
    for (what, secret) in [
        ("value", "planted-state-value"),
        ("message", "cGxhbnRlZC1tZXNzYWdl"),
        ("nonce", "cGxhbnRlZG5vbmNl"),
        ("summary", "planted-summary"),
        ("invite code", &*host.code),
        ("account token", &*host.token),
        ("root key", &*root_key),
        ("member's secret key", &*member),
        ("session's secret key", &*own),
    ] {
        assert!(!all.contains(secret), "the {what} stands in {all}");
    }
    for event in
        ["mesh_created", "invite_created", "invite_claimed", "member_joined", "peer_joined"]
    {
        assert!(all.contains(event), "{event} is missing in {all}");
    }
}

#[tokio::test]
async fn presences_leave_entries_when_they_begin_and_end_but_not_when_they_return() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let bob = world.session(&people[1], &session).await;
    let joined = until(&mut alice, "peer_joined", 2).await.remove(1);
    assert_eq!(
        joined["payload"],
        json!({
            "pubkey": people[1].key.public(), "session_pubkey": session.pubkey(), "groups": [],
            "role": "session", "name": "bob session", "via": "session_hello",
        })
    );
    assert_eq!(joined["actor"], json!(people[1].id));
    bob.cut();
    let bob = world.session(&people[1], &session).await;
    until(&mut alice, "peer_joined", 2).await;
    until(&mut alice, "peer_left", 0).await;
    bob.cut();
    crate::recipients::wait_for_lease(&mut alice, &session).await;
    world.pass(91);
    let left = until(&mut alice, "peer_left", 1).await.remove(0);
    assert_eq!(left["payload"]["session_pubkey"], json!(session.pubkey()));
    world.session(&people[1], &session).await.leave().await;
    until(&mut alice, "peer_left", 2).await;
    let joined = until(&mut alice, "peer_joined", 3).await;
    assert_eq!(joined[2]["payload"]["session_pubkey"], json!(session.pubkey()));
}

#[tokio::test]
async fn a_polite_stop_writes_what_was_recorded() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    for number in 0..50 {
        alice.send(&json!({"type": "set_state", "key": format!("k{number}"), "value": 1})).await;
    }
    alice.ask(json!({"type": "get_state", "key": "k49"})).await;
    world.stop().await;
    world.resume().await;
    let mut alice = world.daemon(&people[0]).await;
    assert_eq!(query(&mut alice, "state_set").await["total"], 50);
}

#[tokio::test]
async fn only_admins_read_the_log_and_within_its_limits() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    for frame in [json!({"type": "audit_query"}), json!({"type": "audit_verify"})] {
        assert_eq!(bob.ask(frame.clone()).await["code"], "forbidden");
        let hello = world.limited_hello(&people[0], &Session::new(), &["dm"]);
        let refused = world.connect(hello).await.ask(frame).await;
        assert_eq!(refused["message"], r#"missing session capability "read""#);
    }
    for number in 0..60 {
        alice.ask(json!({"type": "set_state", "key": format!("k{number}"), "value": 1})).await;
    }
    let page = alice.ask(json!({"type": "audit_query", "unknown": 1})).await;
    assert_eq!(page["entries"].as_array().unwrap().len(), 50, "the default");
    let newest = &page["entries"][0];
    assert_eq!(
        (&newest["eventType"], &newest["payload"]["key"]),
        (&json!("state_set"), &json!("k59"))
    );
    assert_eq!(newest["hash"].as_str().unwrap().len(), 64);
    let total = page["total"].as_u64().unwrap();
    assert!(total > 60);
    let all = alice.ask(json!({"type": "audit_query", "limit": 500})).await;
    assert_eq!(all["entries"].as_array().unwrap().len() as u64, total);
    let last = alice.ask(json!({"type": "audit_query", "limit": 1, "offset": total - 1})).await;
    assert_eq!(last["entries"][0]["eventType"], "mesh_created");
    for past in [total, u64::from(u32::MAX), u64::MAX] {
        let none = alice.ask(json!({"type": "audit_query", "offset": past})).await;
        assert_eq!((&none["entries"], &none["total"]), (&json!([]), &json!(total)));
    }
    assert_eq!(query(&mut alice, "never_heard_of").await["total"], 0);
    for bad in [
        json!({"limit": 0}),
        json!({"limit": 501}),
        json!({"limit": -1}),
        json!({"limit": "5"}),
        json!({"offset": -1}),
        json!({"eventType": ""}),
        json!({"eventType": "State Set"}),
        json!({"eventType": "a\u{0}"}),
        json!({"eventType": "a".repeat(65)}),
        json!({"eventType": 7}),
    ] {
        let mut frame = bad.clone();
        frame["type"] = json!("audit_query");
        assert_eq!(alice.ask(frame).await["code"], "invalid_args", "{bad}");
    }
}

/// G-3 for the audit log.
#[tokio::test]
async fn another_mesh_has_another_log() {
    let world = World::start().await;
    let (ours, theirs) = (world.mesh_of(&["alice"]).await, world.mesh_of(&["mallory"]).await);
    let mut alice = world.daemon(&ours[0]).await;
    let mut mallory = world.daemon(&theirs[0]).await;
    alice.ask(json!({"type": "set_state", "key": "ours", "value": 1})).await;
    until(&mut alice, "state_set", 1).await;
    assert_eq!(query(&mut mallory, "state_set").await["total"], 0);
    let all = mallory.ask(json!({"type": "audit_query", "meshId": ours[0].mesh})).await;
    assert!(!all.to_string().contains("ours"));
}

#[tokio::test]
async fn a_mesh_is_verified_once_a_minute() {
    let world = World::start().await;
    let (ours, theirs) = (world.mesh_of(&["alice", "bob"]).await, world.mesh_of(&["zoe"]).await);
    let mut bob = world.daemon(&ours[1]).await;
    assert_eq!(bob.ask(json!({"type": "audit_verify"})).await["code"], "forbidden");
    let mut alice = world.daemon(&ours[0]).await;
    let mut sibling = world.session(&ours[0], &Session::new()).await;
    assert_eq!(alice.ask(json!({"type": "audit_verify"})).await["valid"], true);
    for socket in [&mut alice, &mut sibling] {
        let refused = socket.ask(json!({"type": "audit_verify"})).await;
        assert_eq!(refused["code"], "rate_limited");
        let wait = refused["retry_after_ms"].as_u64().unwrap();
        assert!((50_000..=60_000).contains(&wait), "{wait}");
    }
    let mut zoe = world.daemon(&theirs[0]).await;
    assert_eq!(zoe.ask(json!({"type": "audit_verify"})).await["valid"], true);
    world.pass(60);
    assert_eq!(sibling.ask(json!({"type": "audit_verify"})).await["valid"], true);
}

/// A member on two machines at once is always told of, whatever is done about it (broker spec §2.6).
#[tokio::test]
async fn two_machines_of_one_member_leave_an_entry() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let on = |host: &str| {
        let mut hello = world.daemon_hello(&people[1]);
        hello["hostFingerprint"] = json!(host.repeat(64));
        hello["sessionId"] = json!(host);
        hello
    };
    let _first = world.connect(on("a")).await;
    let _second = world.connect(on("b")).await;
    let told = until(&mut alice, "member_concurrent_connection", 1).await.remove(0);
    assert_eq!(told["payload"], json!({"pubkey": people[1].key.public(), "outcome": "replaced"}));
}

/// A frame of the owner that succeeds, on something of `other`.
fn success_of(kind: FrameKind, other: &Person) -> Value {
    let mut frame = match kind {
        FrameKind::SetState => json!({"key": "k", "value": 1}),
        FrameKind::Kick | FrameKind::Disconnect | FrameKind::Unban => {
            json!({"target": other.name})
        }
        FrameKind::Ban => json!({"target": other.name, "reason": "noise"}),
        FrameKind::SetGrants => json!({"grants": {other.key.public().to_hex(): ["read"]}}),
        other => panic!("{other:?} declares an audit event; say here how it succeeds"),
    };
    frame["type"] = json!(kind.spec().word);
    frame
}

/// Each frame that declares an event leaves exactly one such entry, in the name of its caller; the others leave none.
#[tokio::test]
async fn every_frame_leaves_the_entry_it_declares() {
    let world = World::start().await;
    let declared: Vec<(FrameKind, AuditEvent)> = FrameKind::ALL
        .iter()
        .filter_map(|kind| Some((*kind, kind.spec().audit?)))
        // Needs two signatures; what it leaves is shown where it is tested.
        .filter(|(kind, _)| *kind != FrameKind::RotateMemberKey)
        .collect();
    assert!(!declared.is_empty());
    for (kind, event) in declared {
        let people = world.mesh_of(&["alice", "bob"]).await;
        let mut alice = world.daemon(&people[0]).await;
        let _bob = world.session(&people[1], &Session::new()).await;
        let _daemon = world.daemon(&people[1]).await;
        if kind == FrameKind::Unban {
            let ban = success_of(FrameKind::Ban, &people[1]);
            assert_ne!(alice.ask(ban).await["type"], "error");
        }
        let before = query(&mut alice, event.as_str()).await["total"].as_u64().unwrap();
        let answer = alice.ask(success_of(kind, &people[1])).await;
        assert_eq!(answer["type"], kind.spec().reply.unwrap(), "{kind:?}: {answer}");
        let page = query(&mut alice, event.as_str()).await;
        assert_eq!(page["total"].as_u64().unwrap(), before + 1, "{kind:?}: {page}");
        assert_eq!(page["entries"][0]["actor"], json!(people[0].id), "{kind:?}: {page}");
    }
}

/// What cannot be written is counted and written later, and nobody who caused it waits for that.
#[tokio::test]
async fn entries_survive_a_database_that_does_not_answer() {
    let Some((world, way)) = World::behind_a_way().await else { return };
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let bob = world.daemon(&people[1]).await;
    until(&mut alice, "peer_joined", 2).await;
    way.go_silent();
    bob.leave().await;
    alice.event("peer_left").await;
    let deadline = tokio::time::Instant::now() + 2 * PATIENCE;
    loop {
        let text = world.get("/metrics").await.body.as_str().unwrap().to_owned();
        if !text.contains("cm_broker_audit_failures_total 0") {
            assert!(text.contains("cm_broker_audit_queue 1"), "{text}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    way.recover();
    until(&mut alice, "peer_left", 1).await;
    assert_eq!(alice.ask(json!({"type": "audit_verify"})).await["valid"], true);
}

/// MET-1 for the log: what waits and what failed is counted.
#[tokio::test]
async fn the_queue_is_empty_once_everything_is_written() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    alice.ask(json!({"type": "set_state", "key": "k", "value": 1})).await;
    until(&mut alice, "state_set", 1).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let metrics = world.get("/metrics").await;
        let text = metrics.body.as_str().unwrap();
        assert!(text.contains("cm_broker_audit_failures_total 0"), "{text}");
        if text.contains("cm_broker_audit_queue 0") {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

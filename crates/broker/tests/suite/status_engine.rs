//! The status engine over the wire: sources, freshness, decay, and the hook endpoint (broker spec §2.3).

use std::time::Duration;

use claudemesh_protocol::limits::HTTP_BODY_MAX_BYTES;
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket};
use crate::world::World;

async fn set(socket: &mut Socket, status: &str, source: &str) {
    let reply = socket.ask(json!({"type": "set_status", "status": status, "source": source})).await;
    assert_eq!(reply["type"], "ack", "{reply}");
}

/// Status and source of the session that this socket sees.
async fn seen(socket: &mut Socket) -> (String, String) {
    let peers = socket.peers().await;
    let row = peers.iter().find(|peer| peer["peerRole"] == "session").unwrap();
    let text = |field: &str| row[field].as_str().unwrap().to_owned();
    (text("status"), text("statusSource"))
}

fn is(status: &str, source: &str) -> (String, String) {
    (status.to_owned(), source.to_owned())
}

/// STAT-1.
#[tokio::test]
async fn a_person_is_believed_over_a_hook_and_an_inference_waits_until_both_are_stale() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &session).await;
    set(&mut bob, "working", "hook").await;
    assert_eq!(seen(&mut alice).await, is("working", "hook"));
    let held = alice.message(json!({"targetSpec": session.pubkey()})).await;
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    world.clock.advance(Duration::from_secs(10));
    set(&mut bob, "idle", "manual").await;
    assert_eq!(bob.push().await["messageId"], held["messageId"]);
    assert_eq!(seen(&mut alice).await, is("idle", "manual"));
    world.clock.advance(Duration::from_secs(2));
    set(&mut bob, "working", "jsonl").await;
    assert_eq!(seen(&mut alice).await, is("idle", "manual"), "an inference 2 s after the word");
    world.clock.advance(Duration::from_secs(33));
    set(&mut bob, "working", "jsonl").await;
    assert_eq!(seen(&mut alice).await, is("working", "jsonl"));
}

/// STAT-2.
#[tokio::test]
async fn do_not_disturb_ends_by_a_persons_word_alone() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    set(&mut bob, "dnd", "manual").await;
    for (status, source) in [("idle", "hook"), ("working", "hook"), ("idle", "jsonl")] {
        world.clock.advance(Duration::from_secs(40));
        set(&mut bob, status, source).await;
        assert_eq!(seen(&mut alice).await, is("dnd", "manual"));
    }
    world.pass(600);
    assert_eq!(seen(&mut alice).await, is("dnd", "manual"));
    set(&mut bob, "idle", "manual").await;
    assert_eq!(seen(&mut alice).await, is("idle", "manual"));
}

/// STAT-3.
#[tokio::test]
async fn working_that_nobody_refreshes_decays_within_a_minute_and_a_quarter() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &session).await;
    set(&mut bob, "working", "hook").await;
    world.pass(45);
    // A refresh counts from its own time.
    set(&mut bob, "working", "hook").await;
    let held = alice.message(json!({"targetSpec": session.pubkey()})).await;
    for _ in 0..3 {
        world.pass(15);
        assert_eq!(seen(&mut alice).await, is("working", "hook"));
    }
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    world.pass(30);
    assert_eq!(bob.push().await["messageId"], held["messageId"], "the sweep opens the gate");
    assert_eq!(seen(&mut alice).await, is("idle", "jsonl"));
    let metrics = world.get("/metrics").await.ok();
    assert!(metrics.as_str().unwrap().contains("broker_ttl_sweeps_total{flipped=\"true\"} 1"));
}

/// STAT-3 over a restart: the time of the last refresh is not lost with the process.
#[tokio::test]
async fn a_refreshed_status_survives_the_brokers_end() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut bob = world.session(&people[1], &session).await;
    set(&mut bob, "working", "hook").await;
    world.clock.advance(Duration::from_secs(50));
    set(&mut bob, "working", "hook").await;
    let refreshed = bob.peers().await[0]["statusUpdatedAt"].clone();
    world.stop().await;
    world.resume().await;
    let mut bob = world.session(&people[1], &session).await;
    let row = bob.peers().await.remove(0);
    assert_eq!((&row["status"], &row["statusUpdatedAt"]), (&json!("working"), &refreshed));
}

#[tokio::test]
async fn a_status_stays_in_its_mesh_and_an_inference_needs_a_daemon() {
    let world = World::start().await;
    let (here, there) = (world.mesh_of(&["bob"]).await, world.mesh_of(&["bob"]).await);
    let session = Session::new();
    let mut bob_here = world.session(&here[0], &session).await;
    let mut bob_elsewhere = world.session(&there[0], &session).await;
    set(&mut bob_here, "working", "hook").await;
    assert_eq!(seen(&mut bob_here).await, is("working", "hook"));
    assert_eq!(seen(&mut bob_elsewhere).await, is("idle", "jsonl"));
    let mut hello = world.daemon_hello(&here[0]);
    hello["channel"] = json!("sdk");
    hello["capabilities"] = json!([]);
    let mut old = world.connect(hello).await;
    let frame = json!({"type": "set_status", "status": "working", "source": "jsonl"});
    assert_eq!(old.ask(frame).await["code"], "invalid_args");
}

async fn hooked() -> (World, Vec<Person>) {
    let world = World::start_with(|settings| settings.hook_endpoint = true).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    (world, people)
}

fn report(session_id: &str, pid: Option<u32>, cwd: &str, status: &str) -> Value {
    json!({"session_id": session_id, "pid": pid, "cwd": cwd, "status": status})
}

const HOOK: &str = "/hook/set-status";

#[tokio::test]
async fn a_hook_reaches_exactly_the_session_in_that_directory() {
    let (world, people) = hooked().await;
    let (session, other) = (Session::new(), Session::new());
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &session).await;
    let _other = world.session(&people[0], &other).await;
    let body = report(&session.id, Some(1), "/home/me/work", "working");
    let answer = world.post(HOOK, &body).await.ok();
    assert_eq!(answer, json!({"ok": true, "presence_id": bob.presence_id()}));
    let mut peers = alice.peers().await;
    peers.retain(|peer| peer["status"] == "working");
    assert_eq!(peers.len(), 1);
    let (key, source) = (&peers[0]["pubkey"], &peers[0]["statusSource"]);
    assert_eq!((key, source), (&json!(session.pubkey()), &json!("hook")));
    // The same session elsewhere is somebody else, and a held message waits for the right one.
    let held = alice.message(json!({"targetSpec": session.pubkey()})).await;
    let elsewhere = report(&session.id, Some(1), "/home/me/other", "idle");
    assert_eq!(world.post(HOOK, &elsewhere).await.ok(), json!({"ok": true, "pending": true}));
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    world.post(HOOK, &report(&session.id, None, "/home/me/work", "idle")).await.ok();
    assert_eq!(bob.push().await["messageId"], held["messageId"]);
    // A hook never ends do-not-disturb.
    set(&mut bob, "dnd", "manual").await;
    world.post(HOOK, &report(&session.id, Some(1), "/home/me/work", "idle")).await.ok();
    let row = bob.peers().await.into_iter().find(|peer| peer["pubkey"] == session.pubkey());
    assert_eq!(row.unwrap()["status"], "dnd");
}

/// STAT-4.
#[tokio::test]
async fn a_status_reported_too_early_waits_ten_seconds_for_its_program() {
    let (world, people) = hooked().await;
    let mut alice = world.daemon(&people[0]).await;
    let at = |pid: u32| {
        let mut hello = world.session_hello(&people[1], &Session::new());
        hello["pid"] = json!(pid);
        hello
    };
    for (pid, wait, expected) in [(10, 9, is("working", "hook")), (11, 11, is("idle", "jsonl"))] {
        let body = report("not here yet", Some(pid), "/home/me/work", "idle");
        world.post(HOOK, &body).await.ok();
        world.clock.advance(Duration::from_millis(5));
        let body = report("not here yet", Some(pid), "/home/me/work", "working");
        assert_eq!(world.post(HOOK, &body).await.ok(), json!({"ok": true, "pending": true}));
        world.clock.advance(Duration::from_secs(wait));
        // Another process in that directory takes nothing.
        let neighbour = world.connect(at(99)).await;
        assert_eq!(seen(&mut alice).await, is("idle", "jsonl"));
        neighbour.leave().await;
        alice.until_peers(1).await;
        let bob = world.connect(at(pid)).await;
        assert_eq!(seen(&mut alice).await, expected, "{wait} s later");
        bob.leave().await;
        alice.until_peers(1).await;
        let again = world.connect(at(pid)).await;
        assert_eq!(seen(&mut alice).await, is("idle", "jsonl"), "it was applied once");
        again.leave().await;
        alice.until_peers(1).await;
    }
}

/// STAT-4: a report without a process id waits for the session it names.
#[tokio::test]
async fn a_waiting_status_without_a_process_is_for_its_session() {
    let (world, people) = hooked().await;
    let mut alice = world.daemon(&people[0]).await;
    let (session, other) = (Session::new(), Session::new());
    world.post(HOOK, &report(&session.id, None, "/home/me/work", "working")).await.ok();
    let wrong = world.session(&people[1], &other).await;
    assert_eq!(seen(&mut alice).await, is("idle", "jsonl"));
    wrong.leave().await;
    alice.until_peers(1).await;
    let _right = world.session(&people[1], &session).await;
    assert_eq!(seen(&mut alice).await, is("working", "hook"));
}

/// STAT-5.
#[tokio::test]
async fn the_hook_endpoint_is_bounded_and_off_unless_switched_on() {
    let (world, _people) = hooked().await;
    for number in 0..31 {
        let answer = world.post(HOOK, &report("s", Some(7), "/w", "idle")).await;
        if number < 30 {
            answer.ok();
            continue;
        }
        let refused = answer.refused(429, "rate_limited");
        assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    }
    world.post(HOOK, &report("s", Some(8), "/w", "idle")).await.ok();
    world.post(HOOK, &report("s", Some(7), "/elsewhere", "idle")).await.ok();
    let padded = |bytes: usize| {
        let body = report("s", Some(9), "/w", "idle").to_string();
        let request = world.request(reqwest::Method::POST, HOOK);
        crate::world::Answer::of(request.body(format!("{body}{}", " ".repeat(bytes - body.len()))))
    };
    assert_eq!(HTTP_BODY_MAX_BYTES, 65_536);
    padded(65_536).await.ok();
    padded(65_537).await.refused(413, "payload_too_large");
    let mut nameless = report("s", Some(10), "/w", "idle");
    nameless.as_object_mut().unwrap().remove("session_id");
    assert_eq!(world.post(HOOK, &nameless).await.refused(400, "malformed")["field"], "session_id");
    for (field, value) in [
        ("session_id", json!("")),
        ("session_id", json!("x".repeat(4_097))),
        ("cwd", json!(null)),
        ("status", json!("asleep")),
        ("pid", json!("seven")),
    ] {
        let mut body = report("s", Some(10), "/w", "idle");
        body[field] = value;
        assert_eq!(world.post(HOOK, &body).await.refused(400, "malformed")["field"], field);
    }
    let metrics = world.get("/metrics").await.ok();
    let text = metrics.as_str().unwrap();
    assert!(text.contains("broker_hook_requests_rate_limited_total 1"), "{text}");
    let off = World::start().await;
    off.post(HOOK, &report("s", Some(7), "/w", "idle")).await.refused(404, "not_found");
}

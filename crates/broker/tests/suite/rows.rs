//! What a row of `list_peers` says, and the rows behind presences: last proof of life, stale rows, what survives
//! (broker spec §2.2, §2.4, wire spec §3.2).

use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_protocol::status::GroupEncryption;
use claudemesh_protocol::{MemberId, MeshId, PeerRole, PresenceId, Timestamp};
use claudemesh_store::{
    ClonePolicy, HelloSeen, MeshSettings, PresenceRow, PresenceState, PreviousRun,
};
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::peers::{Person, Session, Socket, Wanted, row_id};
use crate::world::{PATIENCE, World};

async fn debug_row(socket: &mut Socket, name: &str) -> Value {
    let reply = socket.ask(json!({"type": "list_peers", "debug": true})).await;
    let rows = reply["peers"].as_array().unwrap();
    rows.iter().find(|row| row["displayName"] == name).unwrap_or(&Value::Null).clone()
}

fn time(value: &Value) -> Timestamp {
    Timestamp::parse_iso(value.as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_row_says_everything_the_specification_names() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut alice = world.daemon(&people[0]).await;
    let mut hello = world.limited_hello(&people[1], &session, &["read", "profile-write"]);
    for (field, value) in [
        ("hostname", json!("desk")),
        ("peerType", json!("ai")),
        ("model", json!("big")),
        ("role", json!("reviewer")),
        ("groups", json!([{"name": "ops", "role": "lead"}])),
    ] {
        hello[field] = value;
    }
    let mut bob = world.connect(hello).await;
    bob.ask(json!({"type": "set_summary", "summary": "reading"})).await;
    bob.ask(json!({"type": "set_stats", "stats": {"messagesIn": 2, "uptime": 60}})).await;
    let row = debug_row(&mut alice, "bob session").await;
    for (field, expected) in [
        ("pubkey", json!(session.pubkey())),
        ("memberPubkey", json!(people[1].key.public())),
        ("memberId", json!(people[1].id)),
        ("presenceId", json!(bob.presence_id())),
        ("sessionId", json!(session.id)),
        ("status", json!("idle")),
        ("statusSource", json!("jsonl")),
        ("summary", json!("reading")),
        ("groups", json!([{"name": "ops", "role": "lead"}])),
        ("cwd", json!("work")),
        ("peerRole", json!("session")),
        ("hostname", json!("desk")),
        ("peerType", json!("ai")),
        ("channel", json!("claudemesh-session")),
        ("model", json!("big")),
        ("stats", json!({"messagesIn": 2, "uptime": 60})),
        ("profile", json!({"role": "reviewer"})),
        ("capabilities", json!(["client_ack", "group_e2e"])),
        ("allowed_caps", json!(["profile-write", "read"])),
        ("lease", json!("online")),
    ] {
        assert_eq!(row[field], expected, "{field}");
    }
    assert_eq!(row["attestation"]["sessionPubkey"], json!(session.pubkey()));
    for field in ["connectedAt", "statusUpdatedAt", "lastSeenAt"] {
        time(&row[field]);
    }
    assert!(row.get("role").is_none() && row.get("hostFingerprint").is_none());
    let own = debug_row(&mut alice, "alice").await;
    assert_eq!((&own["allowed_caps"], &own["visible"]), (&Value::Null, &json!(true)));
    assert_eq!(own["cwd"], "/home/me/work");
}

#[tokio::test]
async fn paths_are_shown_in_full_where_the_mesh_says_so() {
    let world = World::start().await;
    let settings = MeshSettings { show_paths: true, ..MeshSettings::default() };
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    let people = world.mesh_with(settings, &wanted).await;
    let mut alice = world.daemon(&people[0]).await;
    let _bob = world.daemon(&people[1]).await;
    assert_eq!(debug_row(&mut alice, "bob").await["cwd"], "/home/me/work");
}

/// Two presences of one member are joined by presence, not by key, and listed by connect time.
#[tokio::test]
async fn presences_that_share_a_key_keep_their_own_rows() {
    let world = World::start().await;
    let settings = MeshSettings {
        clone_policy: ClonePolicy::AllowConcurrent,
        group_encryption: GroupEncryption::Preferred,
        ..MeshSettings::default()
    };
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    let people = world.mesh_with(settings, &wanted).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut sockets = Vec::new();
    for (number, host) in ["desk", "laptop", "phone"].into_iter().enumerate() {
        let mut hello = world.daemon_hello(&people[1]);
        hello["hostname"] = json!(host);
        hello["sessionId"] = json!(format!("daemon-{number}"));
        sockets.push(world.connect(hello).await);
    }
    sockets[1].ask(json!({"type": "set_summary", "summary": "on the road"})).await;
    let rows = alice.peers().await;
    let seen: Vec<_> = rows.iter().skip(1).map(|row| (&row["hostname"], &row["summary"])).collect();
    let nothing = Value::Null;
    assert_eq!(
        seen,
        [
            (&json!("desk"), &nothing),
            (&json!("laptop"), &json!("on the road")),
            (&json!("phone"), &nothing)
        ]
    );
}

/// Last proof of life: a frame or a pong, never the moment at which somebody noticed.
#[tokio::test]
async fn the_last_sign_of_life_is_the_clients_own() {
    let world = World::start_with(|settings| settings.limits.ping_interval_ms = 3_600_000).await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let said_hello = time(&debug_row(&mut alice, "bob").await["lastSeenAt"]);
    world.clock.advance(Duration::from_secs(40));
    assert_eq!(time(&debug_row(&mut alice, "bob").await["lastSeenAt"]), said_hello);
    bob.ws().send(Message::Pong(Vec::new().into())).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let ponged = loop {
        let seen = time(&debug_row(&mut alice, "bob").await["lastSeenAt"]);
        if seen > said_hello {
            break seen;
        }
        assert!(tokio::time::Instant::now() < deadline);
    };
    assert!(ponged.since(said_hello) >= Duration::from_secs(40));
    world.clock.advance(Duration::from_secs(20));
    bob.cut();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let row = debug_row(&mut alice, "bob").await;
        // It stays what it was while the presence counts as online by its lease.
        assert_eq!(time(&row["lastSeenAt"]), ponged);
        if row["lease"] == "offline" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
    }
}

/// A row that counts as present, as a broker leaves it that cannot write an end.
async fn orphan(world: &World, person: &Person, session: Option<&Session>) -> PresenceId {
    let now = world.clock.now();
    let id = PresenceId::new(row_id());
    let row = PresenceRow {
        id: id.clone(),
        mesh_id: MeshId::new(person.mesh.as_str()),
        member_id: MemberId::new(person.id.as_str()),
        session_id: "gone".to_owned(),
        session_pubkey: session.map(|session| session.key.public()),
        display_name: "ghost".to_owned(),
        role: session.map_or(PeerRole::ControlPlane, |_| PeerRole::Session),
        pid: 1,
        cwd: None,
        hostname: None,
        host_fingerprint: None,
        peer_type: None,
        channel: None,
        model: None,
        capabilities: Vec::new(),
        attestation: None,
        state: PresenceState {
            status: claudemesh_protocol::PeerStatus::Idle,
            status_source: claudemesh_protocol::StatusSource::Jsonl,
            status_updated_at: now,
            summary: None,
            groups: Vec::new(),
            is_visible: true,
            profile: claudemesh_protocol::wire::SetProfile::default(),
            stats: None,
        },
        node_id: "node".to_owned(),
        connected_at: now,
        last_ping_at: now,
        lease_until: None,
    };
    let hello = HelloSeen {
        pubkey: claudemesh_crypto::KeyPair::generate().public(),
        timestamp: now,
        signature_hash: [0; 32],
        expires_at: now,
    };
    world.broker().broker().store().open_presence(row, hello, None, None).await.unwrap();
    id
}

/// Rows that count as present, whoever holds them.
async fn open_rows(world: &World) -> Vec<PresenceId> {
    let store = world.broker().broker().store();
    let far = world.clock.now().plus(Duration::from_hours(24 * 365));
    let rows = store.stale_presences(far, far, 100).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

async fn until_rows(world: &World, expected: &[PresenceId]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut rows = open_rows(world).await;
        rows.sort();
        if rows == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{rows:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The row sweep of broker spec §2.2: rows nobody stands for go after three minutes, without a word to anybody, and
/// sockets and leases are never touched.
#[tokio::test]
async fn a_row_nobody_stands_for_is_ended_and_live_ones_are_not() {
    // Leases of ten minutes: longer than the silence after which rows are looked at.
    let world = World::start_with(|settings| settings.limits.lease_ttl_ms = 600_000).await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let bob = world.daemon(&people[1]).await;
    let mut expected =
        vec![PresenceId::new(alice.presence_id()), PresenceId::new(bob.presence_id())];
    expected.sort();
    bob.cut();
    let ghost = Session::new();
    let (of_session, of_daemon) =
        (orphan(&world, &people[2], Some(&ghost)).await, orphan(&world, &people[2], None).await);
    world.pass(170);
    assert_eq!(alice.peers().await.len(), 2, "a ghost is in no list");
    let mut all = [expected.clone(), vec![of_session, of_daemon]].concat();
    all.sort();
    until_rows(&world, &all).await;
    world.pass(31);
    until_rows(&world, &expected).await;
    assert_eq!(alice.peers().await.len(), 2, "the socket and the lease stay");
    assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
    world.pass(600);
    assert_eq!(alice.event("peer_left").await["name"], "bob");
}

/// `cm_broker_presence`.
#[tokio::test]
async fn the_metric_counts_by_role_and_state() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let _session = world.session(&people[0], &Session::new()).await;
    world.daemon(&people[1]).await.cut();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while debug_row(&mut alice, "bob").await["lease"] != "offline" {
        assert!(tokio::time::Instant::now() < deadline);
    }
    let metrics = world.get("/metrics").await.ok();
    for line in [
        "cm_broker_presence{role=\"control-plane\",state=\"online\"} 1",
        "cm_broker_presence{role=\"control-plane\",state=\"leased\"} 1",
        "cm_broker_presence{role=\"session\",state=\"online\"} 1",
        "cm_broker_presence{role=\"service\",state=\"leased\"} 0",
    ] {
        assert!(metrics.as_str().unwrap().lines().any(|have| have == line), "{line}");
    }
}

/// R7: what was acknowledged survives; the profile was known to nobody but memory once.
#[tokio::test]
async fn what_a_presence_said_about_itself_survives_a_kill() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut hello = world.session_hello(&people[1], &session);
    hello["role"] = json!("reviewer");
    let mut bob = world.connect(hello).await;
    bob.ask(json!({"type": "set_profile", "title": "Builder", "capabilities": ["rust"]})).await;
    bob.ask(json!({"type": "set_summary", "summary": "roof"})).await;
    bob.ask(json!({"type": "join_group", "name": "ops"})).await;
    bob.ask(json!({"type": "set_visible", "visible": false})).await;
    let before = bob.peers().await.remove(0);
    world.kill().await;
    world.resume().await;
    let mut bob = world.session(&people[1], &session).await;
    let after = bob.peers().await.remove(0);
    for field in ["presenceId", "profile", "summary", "groups", "visible", "connectedAt"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["profile"]["role"], "reviewer");
}

/// A request whose write fails is refused and changes nothing (R7, G-2).
#[tokio::test]
async fn what_cannot_be_written_is_not_seen() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    world.broker().broker().store().close().await;
    for frame in [
        json!({"type": "set_visible", "visible": false}),
        json!({"type": "set_summary", "summary": "lost"}),
        json!({"type": "set_profile", "title": "lost"}),
        json!({"type": "join_group", "name": "lost"}),
    ] {
        // A store that was closed is no passing trouble.
        assert_eq!(bob.ask(frame).await["code"], "internal");
    }
    let row = debug_row(&mut alice, "bob").await;
    assert_eq!((&row["summary"], &row["groups"]), (&Value::Null, &json!([])));
    assert!(row.get("profile").is_none());
    assert_eq!(alice.events_so_far("peer_hidden").await.len(), 0);
}

/// VIS-2: counters of one connection are counted once, however often the broker ends beneath it, and those of two devices
/// add up.
#[tokio::test]
async fn counters_are_not_doubled_by_restarts_nor_lost_between_devices() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["bob"]).await;
    let stats = |count: u64| json!({"type": "set_stats", "stats": {"messagesIn": count}});
    let mut bob = world.daemon(&people[0]).await;
    bob.ask(stats(10)).await;
    bob.leave().await;
    let mut bob = world.daemon(&people[0]).await;
    assert_eq!(bob.hello_ack["restoredStats"]["messagesIn"], 10);
    bob.ask(stats(3)).await;
    for is_killed in [false, true] {
        if is_killed {
            world.kill().await;
        } else {
            world.stop().await;
        }
        world.resume().await;
        bob = world.daemon(&people[0]).await;
        bob.ask(stats(5)).await;
    }
    let mut hello = world.daemon_hello(&people[0]);
    hello["sessionId"] = json!("another device");
    let mut second = world.connect(hello).await;
    second.ask(stats(4)).await;
    bob.leave().await;
    second.leave().await;
    let bob = world.daemon(&people[0]).await;
    assert_eq!(bob.hello_ack["restoredStats"]["messagesIn"], 10 + 5 + 4);
}

/// A daemon that comes back before the broker has noticed that it was gone goes on where it was: nobody hears of it.
#[tokio::test]
async fn a_return_before_the_loss_was_noticed_keeps_what_was_said() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    alice.event("peer_joined").await;
    bob.ask(json!({"type": "join_group", "name": "ops"})).await;
    bob.ask(json!({"type": "set_summary", "summary": "roof"})).await;
    bob.ask(json!({"type": "set_stats", "stats": {"messagesIn": 7}})).await;
    let again = world.daemon(&people[1]).await;
    assert_eq!(bob.close_reason().await, (1000, "session_replaced".to_owned()));
    assert_eq!(again.hello_ack["restoredStats"]["messagesIn"], 7);
    let row = debug_row(&mut alice, "bob").await;
    assert_eq!((&row["groups"], &row["summary"]), (&json!([{"name": "ops"}]), &json!("roof")));
    for event in ["peer_joined", "peer_returned", "peer_left"] {
        assert_eq!(alice.events_so_far(event).await.len(), 0, "{event}");
    }
    again.leave().await;
    assert_eq!(alice.event("peer_left").await["name"], "bob");
    let bob = world.daemon(&people[1]).await;
    assert_eq!(bob.hello_ack["restoredStats"]["messagesIn"], 7, "counted once");
}

/// LEASE-5 in the store of a broker that took over: nothing is left of those who never came.
#[tokio::test]
async fn who_never_returns_after_a_kill_leaves_no_row() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let _bob = world.daemon(&people[1]).await;
    world.kill().await;
    world.resume().await;
    world.pass(91);
    until_rows(&world, &[]).await;
    let store = world.broker().broker().store();
    let lease = Duration::from_secs(90);
    let now = world.clock.now();
    let left = store.lease_previous_run(PreviousRun::EveryNode, now, lease, lease).await.unwrap();
    assert!(left.is_empty());
}

/// Which groups a presence begins with (broker spec §2.1), and that a hidden one comes back hidden, unannounced.
#[tokio::test]
async fn a_presence_begins_with_the_groups_it_named_or_left_or_was_given() {
    let world = World::start().await;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &["dev"] }];
    let people = world.mesh_with(MeshSettings::default(), &wanted).await;
    let (alice, bob) = (&people[0], &people[1]);
    let mut watcher = world.daemon(alice).await;
    let session = Session::new();
    let groups_in = |rows: Vec<Value>| -> Vec<String> {
        let row = rows.into_iter().find(|row| row["displayName"] != "alice").unwrap();
        let groups = row["groups"].as_array().unwrap().clone();
        groups.iter().map(|group| group["name"].as_str().unwrap().to_owned()).collect()
    };
    let named = |mut hello: Value, groups: Value| {
        hello["groups"] = groups;
        hello
    };
    // Of a session an empty list counts, and nothing named means what it left, else the member's defaults.
    let mut socket = world.session(bob, &session).await;
    assert_eq!(groups_in(watcher.peers().await), ["dev"]);
    socket.ask(json!({"type": "join_group", "name": "ops"})).await;
    socket.leave().await;
    watcher.until_peers(1).await;
    let socket = world.session(bob, &session).await;
    assert_eq!(socket.hello_ack["restoredGroups"], json!([{"name": "dev"}, {"name": "ops"}]));
    assert_eq!(groups_in(watcher.peers().await), ["dev", "ops"]);
    socket.leave().await;
    watcher.until_peers(1).await;
    let socket = world.connect(named(world.session_hello(bob, &session), json!([]))).await;
    assert!(socket.hello_ack.get("restoredGroups").is_none());
    assert!(groups_in(watcher.peers().await).is_empty());
    socket.leave().await;
    watcher.until_peers(1).await;
    // Of a daemon an empty list says nothing.
    for (groups, expected) in
        [(json!([]), ["dev"]), (json!([{"name": "x"}]), ["x"]), (json!([]), ["x"])]
    {
        let mut socket = world.connect(named(world.daemon_hello(bob), groups)).await;
        assert_eq!(groups_in(watcher.peers().await), expected);
        socket.ask(json!({"type": "set_visible", "visible": true})).await;
        socket.leave().await;
        watcher.until_peers(1).await;
    }
    let mut socket = world.daemon(bob).await;
    socket.ask(json!({"type": "set_visible", "visible": false})).await;
    socket.leave().await;
    for event in ["peer_joined", "peer_returned", "peer_left"] {
        watcher.events_so_far(event).await;
    }
    let mut socket = world.daemon(bob).await;
    assert_eq!(socket.hello_ack["restored"], true);
    assert_eq!(socket.peers().await.len(), 2);
    assert_eq!(watcher.peers().await.len(), 1);
    for event in ["peer_joined", "peer_returned"] {
        assert_eq!(watcher.events_so_far(event).await.len(), 0, "{event}");
    }
}

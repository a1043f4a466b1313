//! Handshake outcomes (broker spec §2.1).

use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_crypto::{KeyPair, attestation};
use claudemesh_protocol::limits::ATTESTATION_MAX_TTL;
use claudemesh_store::{NewIdentity, NewMember, Revocation, RevokeKind};
use serde_json::{Value, json};

use crate::peers::{Session, daemon_hello_at, row_id};
use crate::world::World;

fn code(error: &Value) -> &str {
    assert_eq!(error["type"], "error", "{error}");
    error["code"].as_str().unwrap()
}

#[tokio::test]
async fn a_daemon_and_a_session_are_greeted_with_everything_they_need() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let daemon = world.daemon(&people[0]).await;
    let ack = &daemon.hello_ack;
    assert_eq!(ack["memberDisplayName"], "alice");
    assert_eq!(ack["memberProfile"], json!({"roleTag": null, "groups": [], "messageMode": "push"}));
    assert_eq!(ack["meshPolicy"]["selfEditable"]["groups"], true);
    assert_eq!((&ack["services"], &ack["peerRole"]), (&json!([]), &json!("control-plane")));
    assert_eq!(ack["features"]["client_message_id_dedupe"]["params"]["dedupe_retention_days"], 365);
    assert_eq!(ack["limits"]["maxMessageBytes"], 65_536);
    assert_eq!((&ack["leaseTtlMs"], &ack["protocolVersion"]), (&json!(90_000), &json!(1)));
    assert_eq!(ack["features"]["receipts"]["params"]["version"], 1);
    assert!(ack["features"].get("envelope_v2").is_none());
    let session = Session::new();
    let socket = world.session(&people[0], &session).await;
    assert_eq!(socket.hello_ack["peerRole"], "session");
    assert_eq!(socket.hello_ack["memberDisplayName"], "alice session");
}

/// PRES-1.
#[tokio::test]
async fn a_clock_may_be_off_by_a_minute_and_no_more() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    for (seconds, is_late) in [(61, false), (61, true)] {
        let shift = Duration::from_secs(seconds);
        let now = world.clock.now();
        let at = if is_late { now.minus(shift) } else { now.plus(shift) };
        let (error, close, reason) = world.refused(daemon_hello_at(&people[0], at)).await;
        assert_eq!(
            (code(&error), close, reason.as_str()),
            ("timestamp_skew", 1008, "timestamp_skew")
        );
        let told = error["serverTime"].as_i64().unwrap();
        assert!((told - now.as_millis()).abs() < 10_000);
    }
    let at = world.clock.now().minus(Duration::from_secs(59));
    world.connect(daemon_hello_at(&people[0], at)).await;
}

/// PRES-2, RPL-1.
#[tokio::test]
async fn the_same_hello_is_accepted_once_even_across_a_restart() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let bytes = world.daemon_hello(&people[0]);
    let first = world.connect(bytes.clone()).await;
    let (error, close, _) = world.refused(bytes.clone()).await;
    assert_eq!((code(&error), close), ("bad_signature", 1008));
    // The replay has moved nobody aside.
    let mut first = first;
    assert_eq!(first.peers().await.len(), 1);
    world.stop().await;
    world.resume().await;
    let (error, close, _) = world.refused(bytes).await;
    assert_eq!((code(&error), close), ("bad_signature", 1008));
}

/// PRES-3.
#[tokio::test]
async fn attestations_are_checked_to_the_second_and_to_the_word() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let (alice, bob) = (&people[0], &people[1]);
    let session = Session::new();
    let key = session.key.public();
    let now = world.clock.now();
    let hello = |attested: Value| {
        let until = now.plus(Duration::from_mins(1));
        let fine = attestation::mint(&alice.key, key, until, None);
        let mut hello = world.session_hello_with(alice, &session, &fine);
        hello["parentAttestation"] = attested;
        hello
    };
    let minted = |by: &KeyPair, until| json!(attestation::mint(by, key, until, None));
    let too_long = minted(&alice.key, now.plus(ATTESTATION_MAX_TTL + Duration::from_secs(1)));
    let expired = minted(&alice.key, now.minus(Duration::from_secs(1)));
    let mut foreign = minted(&bob.key, now.plus(Duration::from_mins(1)));
    foreign["parentMemberPubkey"] = json!(alice.key.public());
    let mut stripped = minted(&alice.key, now.plus(Duration::from_mins(1)));
    stripped["version"] = json!(2);
    let mut unknown = stripped.clone();
    unknown["allowed_caps"] = json!(["dm", "fly"]);
    let other_session = json!(attestation::mint(
        &alice.key,
        Session::new().key.public(),
        now.plus(Duration::from_mins(1)),
        None
    ));
    for (attested, expected) in [
        (too_long, "ttl_too_long"),
        (expired, "expired"),
        (foreign, "bad_signature"),
        (stripped, "malformed"),
        (unknown, "malformed"),
        (other_session, "attestation_mismatch"),
    ] {
        let (error, close, reason) = world.refused(hello(attested)).await;
        assert_eq!((code(&error), close, reason.as_str()), (expected, 1008, expected));
    }
}

/// PRES-4.
#[tokio::test]
async fn a_full_mesh_refuses_newcomers_but_not_those_who_return() {
    let world = World::start_with(|settings| settings.limits.max_connections_per_mesh = 3).await;
    let people = world.mesh_of(&["alice"]).await;
    let mut sockets = Vec::new();
    let sessions: Vec<Session> = (0..3).map(|_| Session::new()).collect();
    // A flood of sockets that never authenticate occupies nothing.
    let mut flood = Vec::new();
    for _ in 0..20 {
        flood.push(world.socket().await);
    }
    for session in &sessions {
        sockets.push(world.session(&people[0], session).await);
    }
    let (error, close, _) = world.refused(world.daemon_hello(&people[0])).await;
    assert_eq!((code(&error), close), ("capacity", 1008));
    let before = sockets[0].presence_id();
    sockets.remove(0).cut();
    let back = world.session(&people[0], &sessions[0]).await;
    assert_eq!(back.presence_id(), before);
    back.leave().await;
    sockets[0].until_peers(2).await;
    world.daemon(&people[0]).await;
}

/// PRES-5.
#[tokio::test]
async fn a_banned_member_is_told_and_closed() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let store = world.broker().broker().store();
    let revocation = Revocation { at: world.clock.now(), kind: RevokeKind::Ban, by: None };
    store.revoke_member(&people[1].mesh, &people[1].id, revocation).await.unwrap();
    for hello in [world.daemon_hello(&people[1]), world.session_hello(&people[1], &Session::new())]
    {
        let (error, close, reason) = world.refused(hello).await;
        assert_eq!((code(&error), close, reason.as_str()), ("revoked", 4002, "banned"));
        let text = "You've been removed from \"Test mesh\". Contact the mesh owner to rejoin.";
        assert_eq!(error["message"], text);
    }
}

/// PRES-6.
#[tokio::test]
async fn silence_on_a_new_socket_ends_it() {
    let world = World::start_with(|settings| settings.limits.hello_timeout_ms = 50).await;
    let mut socket = world.socket().await;
    assert_eq!(code(&socket.next().await), "hello_timeout");
    assert_eq!(socket.close_reason().await, (1008, "hello_timeout".to_owned()));
}

/// PRES-7.
#[tokio::test]
async fn archived_and_unknown_meshes_answer_the_same_bytes() {
    let world = World::start().await;
    let mut people = world.mesh_of(&["alice"]).await;
    let person = people.remove(0);
    world.broker().broker().store().archive_mesh(&person.mesh, world.clock.now()).await.unwrap();
    let archived = world.refused(world.daemon_hello(&person)).await;
    let stranger = crate::peers::Person {
        mesh: claudemesh_protocol::MeshId::new(row_id()),
        id: person.id.clone(),
        key: KeyPair::generate(),
        name: String::new(),
    };
    let unknown = world.refused(world.daemon_hello(&stranger)).await;
    assert_eq!(archived, unknown);
    assert_eq!((code(&archived.0), archived.1), ("unauthorized", 1008));
}

#[tokio::test]
async fn misshapen_and_badly_signed_hellos_have_their_codes() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let changed = |mut hello: Value, field: &str, value: Value| {
        hello[field] = value;
        hello
    };
    let upper = people[0].key.public().to_hex().to_uppercase();
    let hello = || world.daemon_hello(&people[0]);
    let session_hello = || world.session_hello(&people[0], &session);
    for (hello, expected) in [
        (changed(hello(), "pubkey", json!(upper)), "malformed"),
        (changed(hello(), "signature", json!("00")), "malformed"),
        (changed(hello(), "timestamp", json!(1.5)), "malformed"),
        (changed(hello(), "groups", json!([{"name": "../x"}])), "malformed"),
        (changed(hello(), "sessionPubkey", json!("zz")), "bad_session_pubkey"),
        (changed(hello(), "memberId", json!(people[1].id)), "bad_signature"),
        (changed(session_hello(), "sessionPubkey", json!("zz")), "bad_session_pubkey"),
        (changed(session_hello(), "parentMemberPubkey", json!("zz")), "bad_parent_pubkey"),
        (
            changed(session_hello(), "parentMemberId", json!(people[1].id)),
            "parent_member_id_mismatch",
        ),
        (changed(session_hello(), "signature", json!("00".repeat(64))), "bad_signature"),
    ] {
        let (error, close, _) = world.refused(hello).await;
        assert_eq!((code(&error), close), (expected, 1008), "{error}");
    }
}

#[tokio::test]
async fn frames_before_the_hello_are_answered_and_forgiven() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut socket = world.socket().await;
    socket.send(&json!({"type": "list_peers", "_reqId": "r"})).await;
    let error = socket.next().await;
    assert_eq!((code(&error), &error["_reqId"]), ("no_hello", &json!("r")));
    socket.send(&json!({"type": "nope"})).await;
    assert_eq!(code(&socket.next().await), "no_hello");
    socket.send_text("{").await;
    assert_eq!(code(&socket.next().await), "invalid_json");
    socket.send(&world.daemon_hello(&people[0])).await;
    assert_eq!(socket.next().await["type"], "hello_ack");
    socket.send(&world.daemon_hello(&people[0])).await;
    assert_eq!(code(&socket.next().await), "already_authenticated");
    assert_eq!(socket.peers().await.len(), 1);
}

#[tokio::test]
async fn a_first_frame_of_more_than_64_kib_ends_the_socket() {
    let world = World::start().await;
    let mut socket = world.socket().await;
    socket.send_text(format!("{{\"type\":\"{}\"}}", "x".repeat(65_536))).await;
    assert_eq!(socket.close_reason().await.0, 1009);
}

#[tokio::test]
async fn a_session_key_in_a_member_hello_needs_proof_or_must_be_free() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let _alice = world.session(&people[0], &session).await;
    let mut stolen = world.daemon_hello(&people[1]);
    stolen["sessionPubkey"] = json!(session.pubkey());
    assert_eq!(code(&world.refused(stolen).await.0), "unauthorized");
    let mut own = world.daemon_hello(&people[1]);
    own["sessionPubkey"] = json!(Session::new().pubkey());
    let socket = world.connect(own).await;
    assert_eq!(socket.hello_ack["warnings"], json!(["session_pubkey_unproven"]));
}

#[tokio::test]
async fn an_unbound_member_is_bound_by_its_first_hello_to_one_key() {
    let world = World::start().await;
    let mut people = world.mesh_of(&["alice"]).await;
    let now = world.clock.now();
    let mut unbound = crate::peers::Person {
        mesh: people[0].mesh.clone(),
        id: claudemesh_protocol::MemberId::new(row_id()),
        key: KeyPair::generate(),
        name: "new".to_owned(),
    };
    let row = NewMember {
        id: unbound.id.clone(),
        mesh_id: unbound.mesh.clone(),
        user_id: None,
        identity: NewIdentity::Unbound { until: now.plus(Duration::from_mins(15)) },
        display_name: "new".to_owned(),
        role: claudemesh_protocol::status::MemberRole::Member,
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: claudemesh_protocol::status::MessageMode::Push,
        joined_at: now,
    };
    let alice = people.remove(0);
    let mut watcher = world.daemon(&alice).await;
    world.broker().broker().store().add_members(vec![row]).await.unwrap();
    let mut bound = world.daemon(&unbound).await;
    assert_eq!(watcher.event("peer_joined").await["name"], "new");
    let ack = watcher.message(json!({"targetSpec": unbound.key.public()})).await;
    assert_eq!(ack["recipient_online"], true);
    bound.push().await;
    bound.leave().await;
    unbound.key = KeyPair::generate();
    assert_eq!(code(&world.refused(world.daemon_hello(&unbound)).await.0), "unauthorized");
}

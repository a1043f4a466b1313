//! Hellos that are late, repeated, foreign, misshapen or out of time, each with its exact answer (broker spec §2.1, wire
//! spec §2.2–2.5).

use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_crypto::{KeyPair, attestation, hello};
use claudemesh_protocol::Timestamp;
use claudemesh_store::{Revocation, RevokeKind};
use serde_json::{Value, json};

use crate::peers::{Person, Session, Socket, daemon_hello_at};
use crate::world::{PATIENCE, World};

/// Code of the error, close code, close reason.
async fn refusal(world: &World, hello: Value) -> (String, u16, String) {
    let (error, close, reason) = world.refused(hello).await;
    (error["code"].as_str().unwrap_or_default().to_owned(), close, reason)
}

/// The usual form: the code, then 1008 with the code as its reason.
fn policy(code: &str) -> (String, u16, String) {
    (code.to_owned(), 1008, code.to_owned())
}

/// A session's hello that states this time.
fn session_hello_at(person: &Person, session: &Session, at: Timestamp) -> Value {
    let until = at.plus(Duration::from_hours(1));
    let attested = attestation::mint(&person.key, session.key.public(), until, None);
    let parent = person.key.public();
    let signature = hello::sign_session(&person.mesh, parent, &session.key, at).unwrap();
    json!({
        "type": "session_hello", "meshId": person.mesh, "parentMemberId": person.id,
        "parentMemberPubkey": parent, "sessionPubkey": session.key.public(),
        "parentAttestation": attested, "sessionId": session.id, "pid": 1, "cwd": "/w",
        "channel": "claudemesh-session", "capabilities": ["client_ack"],
        "timestamp": at.as_millis(), "signature": signature,
    })
}

/// PRES-1, both kinds of hello, both directions, at the edge.
#[tokio::test]
async fn clocks_may_be_off_by_a_minute_either_way() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let alice = &people[0];
    let off = |by: Duration, is_late: bool| {
        let now = world.clock.now();
        if is_late { now.minus(by) } else { now.plus(by) }
    };
    for is_late in [true, false] {
        let too_far = Duration::from_secs(61);
        assert_eq!(
            refusal(&world, daemon_hello_at(alice, off(too_far, is_late))).await,
            policy("timestamp_skew")
        );
        let hello = session_hello_at(alice, &Session::new(), off(too_far, is_late));
        let (error, close, _) = world.refused(hello).await;
        assert_eq!((&error["code"], close), (&json!("timestamp_skew"), 1008));
        let told = error["serverTime"].as_i64().unwrap();
        assert!((told - world.clock.now().as_millis()).abs() < 10_000);
        let near = Duration::from_secs(59);
        world.connect(daemon_hello_at(alice, off(near, is_late))).await.leave().await;
        let hello = session_hello_at(alice, &Session::new(), off(near, is_late));
        world.connect(hello).await.leave().await;
    }
}

/// PRES-2 for sessions, across a kill and across members: a hello is nobody else's either.
#[tokio::test]
async fn a_repeated_session_hello_is_refused_and_moves_nobody() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let bytes = world.session_hello(&people[0], &session);
    let mut first = world.connect(bytes.clone()).await;
    assert_eq!(refusal(&world, bytes.clone()).await, policy("bad_signature"));
    assert_eq!(first.peers().await.len(), 1, "the replay closed nothing");
    let mut claimed = bytes.clone();
    claimed["parentMemberPubkey"] = json!(people[1].key.public());
    claimed["parentMemberId"] = json!(people[1].id);
    assert_eq!(refusal(&world, claimed).await, policy("attestation_mismatch"));
    world.kill().await;
    world.resume().await;
    assert_eq!(refusal(&world, bytes.clone()).await, policy("bad_signature"));
    // After two minutes the memory may end: the clock refuses it then.
    world.pass(121);
    assert_eq!(refusal(&world, bytes).await, policy("timestamp_skew"));
}

/// PRES-3: attestations of others, replayed under another session, and a session that vouches for a session.
#[tokio::test]
async fn attestations_hold_for_one_member_and_one_session() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let (alice, bob) = (&people[0], &people[1]);
    let (session, other) = (Session::new(), Session::new());
    let until = world.clock.now().plus(Duration::from_hours(1));
    let mint =
        |by: &KeyPair, key: &Session| json!(attestation::mint(by, key.key.public(), until, None));
    let with = |attested: Value| {
        let mut hello = world.session_hello(alice, &session);
        hello["parentAttestation"] = attested;
        hello
    };
    assert_eq!(
        refusal(&world, with(mint(&alice.key, &other))).await,
        policy("attestation_mismatch")
    );
    assert_eq!(
        refusal(&world, with(mint(&bob.key, &session))).await,
        policy("attestation_mismatch")
    );
    let mut by_session = mint(&other.key, &session);
    by_session["parentMemberPubkey"] = json!(alice.key.public());
    assert_eq!(refusal(&world, with(by_session)).await, policy("bad_signature"));
    let mut later = mint(&alice.key, &session);
    later["expiresAt"] = json!(until.as_millis() + 1);
    assert_eq!(refusal(&world, with(later)).await, policy("bad_signature"));
    for broken in [json!(null), json!("x"), json!({}), json!([])] {
        assert_eq!(refusal(&world, with(broken)).await, policy("malformed"));
    }
    // The edge itself: what ends now has ended; a day from now is allowed.
    let now = world.clock.now();
    let day = attestation::mint(
        &alice.key,
        session.key.public(),
        now.plus(Duration::from_hours(24)),
        None,
    );
    world.connect(with(json!(day))).await;
}

#[tokio::test]
async fn every_key_is_lowercase_hex_and_every_field_has_its_type() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let alice = &people[0];
    let session = Session::new();
    let upper = |key: String| json!(key.to_uppercase());
    let alice_key = alice.key.public().to_hex();
    let daemon = |field: &str, value: Value| {
        let mut hello = world.daemon_hello(alice);
        hello[field] = value;
        hello
    };
    let of_session = |field: &str, value: Value| {
        let mut hello = world.session_hello(alice, &session);
        hello[field] = value;
        hello
    };
    for (hello, code) in [
        (daemon("pubkey", upper(alice_key.clone())), "malformed"),
        (daemon("pubkey", json!(alice_key.get(..62))), "malformed"),
        (daemon("pubkey", json!(7)), "malformed"),
        (daemon("sessionPubkey", upper(session.pubkey())), "bad_session_pubkey"),
        (daemon("timestamp", json!("now")), "malformed"),
        (daemon("timestamp", json!(1.5)), "malformed"),
        (daemon("timestamp", json!(null)), "malformed"),
        (daemon("signature", json!("zz".repeat(64))), "malformed"),
        (daemon("signature", json!("00".repeat(64))), "bad_signature"),
        (daemon("meshId", json!(7)), "malformed"),
        (daemon("sessionId", json!("s".repeat(4_097))), "malformed"),
        (daemon("cwd", json!("s".repeat(4_097))), "malformed"),
        (daemon("displayName", json!("n".repeat(129))), "malformed"),
        (daemon("peerType", json!("p".repeat(33))), "malformed"),
        (
            daemon("capabilities", json!((0..65).map(|n| n.to_string()).collect::<Vec<_>>())),
            "malformed",
        ),
        (daemon("capabilities", json!("client_ack")), "malformed"),
        (
            daemon(
                "groups",
                json!((0..33).map(|n| json!({"name": format!("g{n}")})).collect::<Vec<_>>()),
            ),
            "malformed",
        ),
        (of_session("sessionPubkey", upper(session.pubkey())), "bad_session_pubkey"),
        (of_session("parentMemberPubkey", upper(alice_key.clone())), "bad_parent_pubkey"),
        (of_session("role", json!("r".repeat(65))), "malformed"),
    ] {
        assert_eq!(refusal(&world, hello.clone()).await, policy(code), "{hello}");
    }
    // Signatures are read in either case; unknown fields and an empty session key change nothing.
    let mut fine = world.daemon_hello(alice);
    fine["signature"] = upper(fine["signature"].as_str().unwrap().to_owned());
    fine["sessionPubkey"] = json!("");
    fine["later"] = json!({"anything": 1});
    fine.as_object_mut().unwrap().remove("cwd");
    let mut socket = world.connect(fine).await;
    assert_eq!(socket.peers().await[0]["cwd"], "");
}

/// Somebody who signs for a member it is not, or names another's id.
#[tokio::test]
async fn strangers_and_borrowed_ids_are_refused() {
    let world = World::start().await;
    let mut people = world.mesh_of(&["alice", "bob"]).await;
    let stranger = Person {
        mesh: people[0].mesh.clone(),
        id: people[0].id.clone(),
        key: KeyPair::generate(),
        name: "mallory".to_owned(),
    };
    assert_eq!(refusal(&world, world.daemon_hello(&stranger)).await, policy("unauthorized"));
    let hello = world.session_hello(&stranger, &Session::new());
    assert_eq!(refusal(&world, hello).await, policy("unauthorized"));
    let mut borrowed = people.remove(0);
    borrowed.id = people[0].id.clone();
    assert_eq!(refusal(&world, world.daemon_hello(&borrowed)).await, policy("unauthorized"));
    let hello = world.session_hello(&borrowed, &Session::new());
    assert_eq!(refusal(&world, hello).await, policy("parent_member_id_mismatch"));
}

/// PRES-5: a member that left is told the same as one that was banned, on both kinds of hello.
#[tokio::test]
async fn members_that_are_out_stay_out() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let store = world.broker().broker().store();
    let revocation = Revocation { at: world.clock.now(), kind: RevokeKind::Leave, by: None };
    store.revoke_member(&people[1].mesh, &people[1].id, revocation).await.unwrap();
    let out = ("revoked".to_owned(), 4002, "banned".to_owned());
    assert_eq!(refusal(&world, world.daemon_hello(&people[1])).await, out);
    assert_eq!(refusal(&world, world.session_hello(&people[1], &Session::new())).await, out);
}

/// PRES-4 to the letter: a hundred connections and a flood of two hundred silent sockets.
#[tokio::test]
async fn the_hundred_and_first_is_refused_whatever_waits_at_the_door() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(world.socket().await);
    }
    let sessions: Vec<Session> = (0..99).map(|_| Session::new()).collect();
    let mut sockets = Vec::new();
    for session in &sessions {
        sockets.push(world.session(&people[0], session).await);
    }
    let mut hundredth = world.daemon(&people[1]).await;
    assert_eq!(hundredth.peers().await.len(), 100);
    assert_eq!(
        refusal(&world, world.session_hello(&people[0], &Session::new())).await,
        policy("capacity")
    );
    assert_eq!(refusal(&world, world.daemon_hello(&people[0])).await, policy("capacity"));
    // Who returns, to a lease or over its own open socket, takes no place that it has not.
    let before = sockets[0].presence_id();
    sockets.remove(0).cut();
    let mut back = world.session(&people[0], &sessions[0]).await;
    assert_eq!(back.presence_id(), before);
    let again = world.session(&people[0], &sessions[1]).await;
    assert_eq!(again.presence_id(), sockets[0].presence_id());
    assert_eq!(back.peers().await.len(), 100);
    // A place that is given back is there at once.
    again.leave().await;
    hundredth.until_peers(99).await;
    world.daemon(&people[0]).await;
    drop(flood);
}

/// PRES-4: many valid hellos at once do not slip past the limit together.
#[tokio::test]
async fn hellos_that_come_together_share_the_places_that_are_left() {
    let world = World::start_with(|settings| settings.limits.max_connections_per_mesh = 5).await;
    let people = world.mesh_of(&["alice"]).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = world.socket().await;
        socket.send(&world.session_hello(&people[0], &Session::new())).await;
        sockets.push(socket);
    }
    let mut accepted = Vec::new();
    for mut socket in sockets {
        let answer = socket.next().await;
        if answer["type"] == "hello_ack" {
            accepted.push(socket);
        } else {
            assert_eq!(answer["code"], "capacity");
            assert_eq!(socket.close_reason().await, (1008, "capacity".to_owned()));
        }
    }
    assert_eq!(accepted.len(), 5);
    assert_eq!(accepted[0].peers().await.len(), 5);
}

/// A hello on a socket that has had one changes nothing, and frames before it count for nothing.
#[tokio::test]
async fn one_hello_per_socket_and_nothing_before_it() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut watcher = world.daemon(&people[1]).await;
    let mut socket = world.socket().await;
    for frame in [
        json!({"type": "send", "id": "1", "_reqId": "1", "targetSpec": "*", "nonce": "", "ciphertext": ""}),
        json!({"type": "client_ack", "_reqId": "2", "brokerMessageId": "x"}),
        json!({"type": "goodbye", "_reqId": "3"}),
    ] {
        socket.send(&frame).await;
        let error = socket.next().await;
        assert_eq!((&error["code"], &error["_reqId"]), (&json!("no_hello"), &frame["_reqId"]));
    }
    socket.send(&world.daemon_hello(&people[0])).await;
    assert_eq!(socket.next().await["type"], "hello_ack");
    for hello in [
        world.daemon_hello(&people[0]),
        world.session_hello(&people[0], &Session::new()),
        world.daemon_hello(&people[1]),
    ] {
        assert_eq!(socket.ask(hello).await["code"], "already_authenticated");
    }
    assert_eq!(watcher.peers().await.len(), 2);
    assert_eq!(watcher.events_so_far("peer_joined").await.len(), 1);
}

/// The packets of a killed process may come after the hello of its successor.
#[tokio::test]
async fn a_late_hello_does_not_take_the_session_from_its_successor() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut alice = world.daemon(&people[0]).await;
    let now = world.clock.now();
    let late = session_hello_at(&people[1], &session, now.minus(Duration::from_secs(2)));
    let mut living = world.connect(session_hello_at(&people[1], &session, now)).await;
    let (error, close, reason) = world.refused(late).await;
    assert_eq!(
        (&error["code"], close, reason.as_str()),
        (&json!("unavailable"), 1000, "session_replaced")
    );
    assert_eq!(living.peers().await.len(), 2);
    alice.message(json!({"targetSpec": session.pubkey()})).await;
    living.push().await;
    // The same of a daemon with the same session id.
    let old = daemon_hello_at(&people[0], now.minus(Duration::from_secs(2)));
    let (_, close, reason) = world.refused(old).await;
    assert_eq!((close, reason.as_str()), (1000, "session_replaced"));
    assert_eq!(alice.peers().await.len(), 2);
    // A socket that is gone is no successor.
    living.cut();
    until_lease(&mut alice).await;
    world.connect(session_hello_at(&people[1], &session, now.minus(Duration::from_secs(1)))).await;
}

async fn until_lease(socket: &mut Socket) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let reply = socket.ask(json!({"type": "list_peers", "debug": true})).await;
        if reply["peers"].as_array().unwrap().iter().any(|peer| peer["lease"] == "offline") {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{reply}");
    }
}

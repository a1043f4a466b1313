//! Leases, reattachment, replacement and events (broker spec §2.2, §2.4, §2.5).

use std::time::Duration;

use claudemesh_protocol::status::GroupEncryption;
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::peers::{Session, Socket, Wanted, settings};
use crate::world::{PATIENCE, World};

pub async fn until_leased(socket: &mut Socket, count: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let peers = socket.ask(json!({"type": "list_peers", "debug": true})).await;
        let leased =
            peers["peers"].as_array().unwrap().iter().filter(|peer| peer["lease"] == "offline");
        if leased.count() == count {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{peers}");
    }
}

/// LEASE-1.
#[tokio::test]
async fn a_lost_socket_keeps_its_presence_for_ninety_seconds() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut carol = world.daemon(&people[2]).await;
    world.daemon(&people[1]).await.cut();
    until_leased(&mut alice, 1).await;
    world.pass(60);
    assert_eq!(alice.peers().await.len(), 3);
    assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
    world.pass(31);
    for socket in [&mut alice, &mut carol] {
        let left = socket.event("peer_left").await;
        assert_eq!(
            (&left["name"], &left["pubkey"]),
            (&json!("bob"), &json!(people[1].key.public()))
        );
        assert_eq!(socket.events_so_far("peer_left").await.len(), 0);
    }
    assert_eq!(alice.peers().await.len(), 2);
}

#[tokio::test]
async fn a_clock_that_is_set_back_prolongs_no_lease() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    world.daemon(&people[1]).await.cut();
    until_leased(&mut alice, 1).await;
    world.clock.set_back(std::time::Duration::from_mins(10));
    // One look of the timer shortens the lease, a later one ends it; ten minutes are never needed.
    for _ in 0..5 {
        world.pass(91);
        for _ in 0..50 {
            if alice.peers().await.len() == 1 {
                alice.event("peer_left").await;
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    panic!("the lease goes on");
}

/// LEASE-2, EV-2.
#[tokio::test]
async fn a_return_within_the_lease_is_silent_and_brings_what_waited() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let mut bob = world.session(&people[1], &session).await;
    bob.ask(json!({"type": "join_group", "name": "ops"})).await;
    alice.event("peer_joined").await;
    let before = bob.presence_id();
    bob.cut();
    until_leased(&mut alice, 1).await;
    let ack = alice.message(json!({"targetSpec": session.pubkey()})).await;
    assert_eq!(ack["recipient_online"], true);
    world.pass(80);
    let mut bob = world.session(&people[1], &session).await;
    assert_eq!(bob.presence_id(), before);
    let push = bob.push().await;
    assert_eq!(push["messageId"], ack["messageId"]);
    bob.confirm(&push).await;
    assert_eq!(bob.pushes_so_far().await.len(), 0);
    world.pass(20);
    let peers = alice.peers().await;
    assert_eq!(peers.len(), 2, "the old lease is void");
    assert!(peers.iter().any(|peer| peer["groups"] == json!([{"name": "ops"}])));
    for event in ["peer_joined", "peer_left", "peer_returned"] {
        assert_eq!(alice.events_so_far(event).await.len(), 0, "{event}");
    }
}

/// LEASE-3.
#[tokio::test]
async fn of_two_sockets_with_one_session_key_one_survives() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let session = Session::new();
    let mut watcher = world.daemon(&people[0]).await;
    let greeted = async |hello: Value| {
        let mut socket = world.socket().await;
        socket.send(&hello).await;
        let answer = socket.next().await;
        if answer["type"] == "hello_ack" {
            return Some(socket);
        }
        // The one that was signed first came last: it is told that it has been replaced already.
        assert_eq!(socket.close_reason().await, (1000, "session_replaced".to_owned()), "{answer}");
        None
    };
    let (first, second) = tokio::join!(
        greeted(world.session_hello(&people[0], &session)),
        greeted(world.session_hello(&people[0], &session)),
    );
    let mut sockets: Vec<_> = [first, second].into_iter().flatten().collect();
    let peers = watcher.until_peers(2).await;
    let survivor = peers.iter().find(|peer| peer["pubkey"] == session.pubkey()).unwrap();
    let mut replaced = 2 - sockets.len();
    for socket in &mut sockets {
        let ping = json!({"type": "list_peers", "_reqId": "x"});
        if socket.ws().send(Message::text(ping.to_string())).await.is_err() {
            replaced += 1;
            continue;
        }
        let is_alive = tokio::time::timeout(PATIENCE, socket.ws_answer()).await.unwrap();
        replaced += usize::from(!is_alive);
    }
    assert_eq!(replaced, 1);
    assert!(survivor["presenceId"].is_string());
    // Another member that quotes the session's id and key takes nothing over.
    let mut thief = world.daemon_hello(&people[1]);
    thief["sessionId"] = json!(session.id);
    let _thief = world.connect(thief).await;
    assert_eq!(watcher.peers().await.len(), 3);
}

#[tokio::test]
async fn a_late_close_of_a_replaced_socket_does_not_touch_its_successor() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let mut old = world.session(&people[1], &session).await;
    let new = world.session(&people[1], &session).await;
    assert_eq!(old.presence_id(), new.presence_id());
    assert_eq!(old.close_reason().await, (1000, "session_replaced".to_owned()));
    old.cut();
    world.pass(200);
    assert_eq!(alice.peers().await.len(), 2);
    assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
}

/// LEASE-5, OPS-1.
#[tokio::test]
async fn a_restarted_broker_knows_who_was_here() {
    for is_killed in [true, false] {
        let mut world = World::start().await;
        let people = world.mesh_of(&["alice", "bob", "carol"]).await;
        let session = Session::new();
        let bob = world.session(&people[1], &session).await;
        let (alice, carol) = (world.daemon(&people[0]).await, world.daemon(&people[2]).await);
        let (bob_before, alice_before) = (bob.presence_id(), alice.presence_id());
        if is_killed {
            world.kill().await;
        } else {
            let mut alice = alice;
            world.stop().await;
            assert_eq!(alice.close_reason().await, (1001, "shutting down".to_owned()));
        }
        drop(carol);
        world.resume().await;
        let mut alice = world.daemon(&people[0]).await;
        assert_eq!(alice.presence_id(), alice_before);
        let bob = world.session(&people[1], &session).await;
        assert_eq!(bob.presence_id(), bob_before);
        assert_eq!(alice.peers().await.len(), 3);
        assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
        // Who never returns goes once.
        world.pass(91);
        assert_eq!(alice.event("peer_left").await["name"], "carol");
        assert_eq!(alice.peers().await.len(), 2);
        assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
    }
}

/// LEASE-5 with a process of its own and a real kill.
#[tokio::test]
async fn a_killed_process_comes_back_to_everybody_it_knew() {
    let mut world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let session = Session::new();
    let server = world.move_apart("").await;
    let alice = world.daemon(&people[0]).await;
    let bob = world.session(&people[1], &session).await;
    let carol = world.daemon(&people[2]).await;
    let before = (alice.presence_id(), bob.presence_id());
    server.kill().await;
    drop((alice, bob, carol));
    world.resume().await;
    let mut alice = world.daemon(&people[0]).await;
    let bob = world.session(&people[1], &session).await;
    assert_eq!((alice.presence_id(), bob.presence_id()), before);
    assert_eq!(alice.peers().await.len(), 3, "carol has her lease");
    assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
    world.pass(91);
    assert_eq!(alice.event("peer_left").await["name"], "carol");
    assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
    assert_eq!(alice.peers().await.len(), 2);
}

/// The eviction part of LEASE-6 (kick itself comes with a later step): a member that is removed goes at once.
#[tokio::test]
async fn a_removed_member_goes_at_once() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let path = format!("/mesh/{}/member/{}", people[1].mesh, people[1].id);
    let answer = world.signed_delete(&people[1].key, &path).await;
    assert!(answer.status.is_success(), "{answer:?}");
    let (code, _) = bob.close_reason().await;
    assert!(code >= 1000, "{code}");
    assert_eq!(alice.event("peer_left").await["name"], "bob");
    assert_eq!(alice.peers().await.len(), 1);
}

/// LEASE-7.
#[tokio::test]
async fn a_polite_close_leaves_no_ghost() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    world.daemon(&people[1]).await.leave().await;
    alice.event("peer_left").await;
    assert_eq!(alice.peers().await.len(), 1);
    let mut bob = world.daemon(&people[1]).await;
    bob.send(&json!({"type": "goodbye"})).await;
    assert_eq!(bob.close_reason().await.0, 1000);
    alice.event("peer_left").await;
    assert_eq!(alice.peers().await.len(), 1);
}

/// Moves the timers of the runtime, which are those of pings and watchdogs, without waiting.
async fn leap(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// LEASE-4, to the second and with the limits as they are shipped.
#[tokio::test]
async fn a_silent_peer_is_terminated_75_s_after_its_last_pong_and_evicted_90_s_later() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let _mute = world.daemon(&people[1]).await;
    let mut alice = world.daemon(&people[0]).await;
    for seconds in [30, 30, 14] {
        leap(seconds).await;
        // Reading answers the pings that have come by then.
        for _ in 0..3 {
            alice.peers().await;
        }
        until_leased(&mut alice, 0).await;
    }
    leap(1).await;
    until_leased(&mut alice, 1).await;
    world.pass(89);
    assert_eq!(alice.peers().await.len(), 2);
    world.pass(2);
    assert_eq!(alice.event("peer_left").await["name"], "bob");
    assert_eq!(alice.peers().await.len(), 1);
}

/// LEASE-4, the socket's part, in real time.
#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_terminated() {
    let world = World::start_with(|settings| {
        settings.limits.ping_interval_ms = 20;
        settings.limits.silence_limit_ms = 400;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let _mute = world.daemon(&people[1]).await;
    let mut alice = world.daemon(&people[0]).await;
    // Alice reads all the time and so answers her pings; bob never reads.
    until_leased(&mut alice, 1).await;
    let peers = alice.ask(json!({"type": "list_peers", "debug": true})).await;
    let bob = peers["peers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|peer| peer["displayName"] == "bob")
        .cloned();
    assert_eq!(bob.unwrap()["lease"], "offline");
    world.pass(91);
    assert_eq!(alice.event("peer_left").await["name"], "bob");
}

/// EV-1.
#[tokio::test]
async fn siblings_hear_of_arrivals_of_sessions_and_not_of_departures() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut sibling = world.session(&people[1], &Session::new()).await;
    let session = Session::new();
    let going = world.session(&people[1], &session).await;
    let joined = sibling.event("peer_joined").await;
    assert_eq!(
        (&joined["pubkey"], &joined["peerRole"]),
        (&json!(session.pubkey()), &json!("session"))
    );
    assert_eq!(joined["displayName"], joined["name"]);
    let _daemon = world.daemon(&people[1]).await;
    going.leave().await;
    let left = alice.event("peer_left").await;
    assert_eq!(
        (&left["pubkey"], &left["memberPubkey"]),
        (&json!(session.pubkey()), &json!(people[1].key.public()))
    );
    assert_eq!(alice.events_so_far("peer_left").await.len(), 0);
    assert_eq!(sibling.events_so_far("peer_left").await.len(), 0);
    assert_eq!(
        sibling.events_so_far("peer_joined").await.len(),
        0,
        "a member's own daemon is no news"
    );
}

#[tokio::test]
async fn a_transient_call_is_announced_to_nobody() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut hello = world.daemon_hello(&people[1]);
    hello["capabilities"] = json!(["transient"]);
    let caller = world.connect(hello).await;
    let ack = alice.message(json!({"targetSpec": "*"})).await;
    assert_eq!(ack["held"], 1, "the member is still absent");
    caller.leave().await;
    alice.until_peers(1).await;
    for event in ["peer_joined", "peer_left"] {
        assert_eq!(alice.events_so_far(event).await.len(), 0, "{event}");
    }
}

/// Broker spec §2.2: what an ended session left is sent by a transient connection with its key. Its leased presence keeps its
/// lease, its rows wait, and peers learn of its end once.
#[tokio::test]
async fn a_transient_connection_of_a_leased_session_leaves_it_to_its_lease() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let session = Session::new();
    let lost = world.session(&people[1], &session).await;
    let lasting = lost.presence_id();
    lost.cut();
    until_leased(&mut alice, 1).await;
    let held = alice.message(json!({"targetSpec": session.pubkey()})).await;
    alice.events_so_far("peer_joined").await;
    let mut hello = world.session_hello(&people[1], &session);
    hello["capabilities"] = json!(["client_ack", "transient"]);
    let mut passing = world.connect(hello.clone()).await;
    assert_ne!(passing.presence_id(), lasting);
    passing.message(json!({"targetSpec": people[0].key.public()})).await;
    let last_words = alice.push().await;
    assert_eq!(last_words["senderPubkey"], json!(session.pubkey()));
    alice.confirm(&last_words).await;
    assert_eq!(passing.pushes_so_far().await.len(), 0, "it only sends");
    passing.leave().await;
    until_leased(&mut alice, 1).await;
    assert_eq!(alice.peers().await.len(), 3, "alice, bob and the leased session");
    for event in ["peer_joined", "peer_left"] {
        assert_eq!(alice.events_so_far(event).await.len(), 0, "{event}");
    }
    world.pass(91);
    assert_eq!(bob.push().await["messageId"], held["messageId"]);
    assert_eq!(alice.events_so_far("peer_left").await.len(), 1);
    // And the session that returns beside one is as present as ever.
    hello = world.session_hello(&people[1], &session);
    hello["capabilities"] = json!(["client_ack", "transient"]);
    let passing = world.connect(hello).await;
    let returned = world.session(&people[1], &session).await;
    alice.event("peer_returned").await;
    passing.leave().await;
    returned.leave().await;
    alice.event("peer_left").await;
}

/// VIS-1 as far as topics do not come into it.
#[tokio::test]
async fn a_hidden_peer_is_reached_directly_only() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    bob.ask(json!({"type": "join_group", "name": "ops"})).await;
    for _ in 0..2 {
        let reply = bob.ask(json!({"type": "set_visible", "visible": false})).await;
        assert_eq!((&reply["type"], &reply["queued"]), (&json!("ack"), &json!(false)));
    }
    assert_eq!(alice.events_so_far("peer_hidden").await.len(), 1);
    for target in ["*", "@ops"] {
        let ack = alice.message(json!({"targetSpec": target})).await;
        assert_eq!(
            (&ack["recipients"], &ack["held"]),
            (&json!(0), &json!(0)),
            "hidden is not absent"
        );
    }
    alice.message(json!({"targetSpec": people[1].key.public()})).await;
    bob.push().await;
    assert_eq!(alice.peers().await.len(), 1);
    let own = bob.peers().await;
    assert!(own.iter().any(|peer| peer["visible"] == false));
    bob.ask(json!({"type": "set_visible", "visible": true})).await;
    assert_eq!(alice.event("peer_visible").await["name"], "bob session");
    assert_eq!(alice.peers().await.len(), 2);
}

/// VIS-2.
#[tokio::test]
async fn who_returns_is_welcomed_back_with_what_it_left() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    assert!(bob.hello_ack.get("restored").is_none());
    alice.event("peer_joined").await;
    bob.ask(json!({"type": "join_group", "name": "ops", "role": "lead"})).await;
    bob.ask(json!({"type": "set_summary", "summary": " fixing the roof "})).await;
    bob.ask(json!({"type": "set_profile", "title": "Builder"})).await;
    bob.ask(json!({"type": "set_stats", "stats": {"messagesIn": 5, "toolCalls": 2}})).await;
    bob.leave().await;
    alice.event("peer_left").await;
    world.pass(600);
    let mut bob = world.daemon(&people[1]).await;
    let groups = json!([{"name": "ops", "role": "lead"}]);
    let ack = &bob.hello_ack;
    assert_eq!((&ack["restored"], &ack["lastSummary"]), (&json!(true), &json!("fixing the roof")));
    assert_eq!((&ack["restoredGroups"], &ack["restoredStats"]["messagesIn"]), (&groups, &json!(5)));
    assert!(ack["lastSeenAt"].is_string());
    let returned = alice.event("peer_returned").await;
    assert_eq!((&returned["summary"], &returned["groups"]), (&json!("fixing the roof"), &groups));
    assert_eq!(alice.events_so_far("peer_joined").await.len(), 0);
    let row = alice.peers().await.into_iter().find(|peer| peer["displayName"] == "bob").unwrap();
    assert_eq!((&row["groups"], &row["profile"]), (&groups, &json!({"title": "Builder"})));
    // An old client reports totals, ours what came since: both are counted once.
    for (reported, expected) in [(3, 8), (9, 9)] {
        bob.ask(
            json!({"type": "set_stats", "stats": {"messagesIn": reported, "toolCalls": reported}}),
        )
        .await;
        bob.leave().await;
        alice.event("peer_left").await;
        bob = world.daemon(&people[1]).await;
        assert_eq!(bob.hello_ack["restoredStats"]["messagesIn"], expected);
    }
}

/// VIS-3.
#[tokio::test]
async fn too_long_texts_are_refused_and_change_nothing() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    alice.ask(json!({"type": "set_summary", "summary": "s".repeat(500)})).await;
    let too_long = |frame: Value| frame;
    for frame in [
        json!({"type": "set_summary", "summary": "s".repeat(501)}),
        json!({"type": "set_profile", "title": "t".repeat(81)}),
        json!({"type": "set_profile", "bio": "b".repeat(1_001)}),
        json!({"type": "set_profile", "avatar": "a".repeat(65)}),
        json!({"type": "set_profile", "role": "r".repeat(65)}),
        json!({"type": "set_profile", "capabilities": vec!["c"; 33]}),
    ] {
        assert_eq!(alice.ask(too_long(frame)).await["code"], "too_large");
    }
    assert_eq!(alice.peers().await[0]["summary"], "s".repeat(500));
    assert!(alice.peers().await[0].get("profile").is_none());
}

#[tokio::test]
async fn others_see_the_last_part_of_a_path_and_the_member_all_of_it() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.session(&people[1], &Session::new()).await;
    let row =
        |peers: Vec<Value>| peers.into_iter().find(|peer| peer["peerRole"] == "session").unwrap();
    let seen = row(alice.peers().await);
    assert_eq!(
        (&seen["cwd"], &seen["memberPubkey"]),
        (&json!("work"), &json!(people[1].key.public()))
    );
    assert_eq!(seen["attestation"]["parentMemberPubkey"], json!(people[1].key.public()));
    assert_eq!((&seen["status"], &seen["statusSource"]), (&json!("idle"), &json!("jsonl")));
    assert!(seen.get("visible").is_none() && seen.get("lease").is_none());
    assert_eq!(row(bob.peers().await)["cwd"], "/home/me/work");
}

/// The members of a mesh, present or not.
#[tokio::test]
async fn the_roster_lists_everybody_by_join_time() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let reply = alice.ask(json!({"type": "list_members"})).await;
    let members = reply["members"].as_array().unwrap();
    assert_eq!(members.len(), 2);
    let bob = members.iter().find(|member| member["displayName"] == "bob").unwrap();
    assert_eq!((&bob["online"], &bob["pubkey"]), (&json!(false), &json!(people[1].key.public())));
    assert_eq!(bob["lastSeenAt"], Value::Null);
    let bob = world.daemon(&people[1]).await;
    bob.leave().await;
    alice.event("peer_left").await;
    let reply = alice.ask(json!({"type": "list_members"})).await;
    let members = reply["members"].as_array().unwrap();
    let bob = members.iter().find(|member| member["displayName"] == "bob").unwrap();
    assert!(bob["lastSeenAt"].is_string());
}

/// Whoever writes to a group wraps a key for each absent member that the broker would hold a copy for, by the groups it
/// was last in (broker spec §3.2) or by its default ones.
#[tokio::test]
async fn the_roster_names_every_group_an_absent_member_may_be_matched_by() {
    let world = World::start().await;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &["dev"] }];
    let people = world.mesh_with(settings(GroupEncryption::Required), &wanted).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    bob.ask(json!({"type": "join_group", "name": "ops", "role": "lead"})).await;
    bob.ask(json!({"type": "leave_group", "name": "dev"})).await;
    let groups = |reply: &Value| {
        let members = reply["members"].as_array().unwrap();
        members.iter().find(|member| member["displayName"] == "bob").unwrap()["groups"].clone()
    };
    let reply = alice.ask(json!({"type": "list_members"})).await;
    assert_eq!(groups(&reply), json!([{"name": "dev"}]), "present: its peer row says the rest");
    bob.leave().await;
    alice.event("peer_left").await;
    let reply = alice.ask(json!({"type": "list_members"})).await;
    assert_eq!(groups(&reply), json!([{"name": "dev"}, {"name": "ops", "role": "lead"}]));
    let ack = alice
        .message(json!({
            "targetSpec": "@ops", "bodyVersion": 2,
            "wrappedKeys": [{"to": people[1].key.public(), "nonce": "bm9uY2U=", "key": "a2V5"}],
        }))
        .await;
    assert_eq!((&ack["queued"], &ack["held"]), (&json!(true), &json!(1)), "{ack}");
}

/// G-1 and the rest of rule R3.
#[tokio::test]
async fn unreadable_and_unknown_frames_are_answered_and_forgiven() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut bystander = world.daemon(&people[1]).await;
    let mut alice = world.daemon(&people[0]).await;
    let reply = alice.ask(json!({"type": "nope"})).await;
    assert_eq!((&reply["type"], &reply["code"]), (&json!("error"), &json!("unknown_message_type")));
    assert_eq!(reply["id"], reply["_reqId"]);
    let reply = alice.ask(json!({"type": "set_status", "status": "asleep"})).await;
    assert_eq!(reply["code"], "invalid_args");
    alice.send_binary(&json!({"type": "list_peers", "_reqId": "b"})).await;
    assert_eq!(alice.next_where(|frame| frame["_reqId"] == "b").await["type"], "peers_list");
    for _ in 0..19 {
        alice.send_text("{").await;
        assert_eq!(
            alice.next_where(|frame| frame["type"] == "error").await["code"],
            "invalid_json"
        );
    }
    assert_eq!(alice.peers().await.len(), 2);
    alice.send_text("{").await;
    assert_eq!(alice.close_reason().await, (1008, "invalid_json".to_owned()));
    assert_eq!(bystander.peers().await.len(), 2, "the mesh goes on, and the presence is leased");
}

#[tokio::test]
async fn a_frame_above_the_limit_closes_with_1009() {
    let world = World::start_with(|settings| settings.limits.max_frame_bytes = 100_000).await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let _ = alice.ws().send(Message::text("x".repeat(100_001))).await;
    assert_eq!(alice.close_reason().await.0, 1009);
}

/// A receiver that stops reading holds nobody else up and is closed after a while; what it missed waits.
#[tokio::test]
async fn a_slow_reader_slows_nobody_else() {
    let world = World::start_with(|settings| {
        settings.limits.send_burst = 10_000;
        settings.limits.slow_consumer_ms = 300;
        settings.limits.ping_interval_ms = 100;
    })
    .await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut carol = world.daemon(&people[2]).await;
    let slow = world.daemon(&people[1]).await;
    let body = "x".repeat(60_000);
    for number in 0..250 {
        let message = json!({"targetSpec": people[1].key.public(), "ciphertext": body});
        alice.post(&number.to_string(), message).await;
    }
    for number in 0..250 {
        assert_eq!(alice.ack(&number.to_string()).await["queued"], true);
    }
    alice.message(json!({"targetSpec": people[2].key.public()})).await;
    carol.push().await;
    until_leased(&mut alice, 1).await;
    slow.cut();
    let mut bob = world.daemon(&people[1]).await;
    for _ in 0..250 {
        let push = bob.push().await;
        bob.confirm(&push).await;
    }
    tokio::time::timeout(Duration::from_secs(5), bob.pushes_so_far()).await.unwrap();
}

//! Who receives what, on which connection (broker spec §3.2, §3.3).

use std::time::Duration;

use claudemesh_core::clock::Clock as _;
use claudemesh_protocol::status::GroupEncryption;
use serde_json::{Value, json};

use crate::peers::{Session, Socket, Wanted, ids, settings};
use crate::world::World;

async fn reached(socket: &mut Socket) -> usize {
    let pushes = socket.pushes_so_far().await;
    for push in &pushes {
        socket.confirm(push).await;
    }
    pushes.len()
}

/// TGT-1.
#[tokio::test]
async fn a_broadcast_reaches_every_connection_of_others_and_none_of_the_senders() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut daemon = world.daemon(&people[1]).await;
    let mut one = world.session(&people[1], &Session::new()).await;
    let mut two = world.session(&people[1], &Session::new()).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut own = world.session(&people[0], &Session::new()).await;
    for target in ["*", "@all"] {
        let ack = alice.message(json!({"targetSpec": target})).await;
        assert_eq!((&ack["recipients"], &ack["held"]), (&json!(3), &json!(0)));
        for socket in [&mut daemon, &mut one, &mut two] {
            let push = socket.push().await;
            assert_eq!(push["messageId"], ack["messageId"]);
            assert_eq!(push["targetSpec"], "*");
            socket.confirm(&push).await;
        }
        for socket in [&mut alice, &mut own, &mut daemon, &mut one, &mut two] {
            assert_eq!(reached(socket).await, 0);
        }
    }
}

/// TGT-2.
#[tokio::test]
async fn a_message_to_an_ended_session_goes_to_its_member_for_seven_days() {
    Box::pin(a_message_to_an_ended_session_goes_to_its_member_for_seven_days_on(
        &World::start().await,
    ))
    .await;
}

pub async fn a_message_to_an_ended_session_goes_to_its_member_for_seven_days_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    world.session(&people[1], &session).await.leave().await;
    alice.event("peer_left").await;
    world.pass(3_600);
    let ack = alice.message(json!({"targetSpec": session.pubkey()})).await;
    assert_eq!((&ack["queued"], &ack["recipient_online"]), (&json!(true), &json!(false)));
    assert_eq!(ack["rerouted_to"], json!(people[1].key.public()));
    let mut bob = world.daemon(&people[1]).await;
    let push = bob.push().await;
    assert_eq!(
        (&push["messageId"], &push["targetSpec"]),
        (&ack["messageId"], &json!(session.pubkey()))
    );
    world.pass(7 * 24 * 3_600);
    let ack = alice.message(json!({"targetSpec": session.pubkey()})).await;
    assert!(ack["error"].as_str().unwrap().starts_with("target_not_found"), "{ack}");
    let ack = alice.message(json!({"targetSpec": Session::new().pubkey()})).await;
    assert!(ack["error"].as_str().unwrap().starts_with("target_not_found"), "{ack}");
}

/// TGT-2b.
#[tokio::test]
async fn a_message_held_for_a_leased_session_moves_to_the_member_when_the_lease_ends() {
    a_message_held_for_a_leased_session_moves_to_the_member_when_the_lease_ends_on(
        &World::start().await,
    )
    .await;
}

pub async fn a_message_held_for_a_leased_session_moves_to_the_member_when_the_lease_ends_on(
    world: &World,
) {
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let session = Session::new();
    world.session(&people[1], &session).await.cut();
    wait_for_lease(&mut alice, &session).await;
    let ack = alice.message(json!({"targetSpec": session.pubkey()})).await;
    assert_eq!((&ack["queued"], &ack["recipient_online"]), (&json!(true), &json!(true)));
    assert_eq!(reached(&mut bob).await, 0);
    world.pass(91);
    let push = bob.push().await;
    assert_eq!(
        (&push["messageId"], &push["targetSpec"]),
        (&ack["messageId"], &json!(session.pubkey()))
    );
    bob.confirm(&push).await;
    assert_eq!(reached(&mut bob).await, 0);
    let status = alice.ask(json!({"type": "message_status", "messageId": ack["messageId"]})).await;
    assert_eq!(status["recipients"][0]["pubkey"], json!(people[1].key.public()));
}

/// Waits until the broker has noticed that the socket is gone.
pub async fn wait_for_lease(socket: &mut Socket, session: &Session) {
    loop {
        let peers = socket.ask(json!({"type": "list_peers", "debug": true})).await;
        let is_leased = peers["peers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| peer["pubkey"] == session.pubkey() && peer["lease"] == "offline");
        if is_leased {
            return;
        }
    }
}

/// TGT-4.
#[tokio::test]
async fn a_broadcast_waits_for_the_leased_and_the_absent_and_for_nobody_else() {
    Box::pin(a_broadcast_waits_for_the_leased_and_the_absent_and_for_nobody_else_on(
        &World::start().await,
    ))
    .await;
}

pub async fn a_broadcast_waits_for_the_leased_and_the_absent_and_for_nobody_else_on(world: &World) {
    let people = world.mesh_of(&["alice", "bob", "carol", "dave"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    world.session(&people[1], &session).await.cut();
    wait_for_lease(&mut alice, &session).await;
    let ack = alice.message(json!({"targetSpec": "*", "client_message_id": "c"})).await;
    assert_eq!((&ack["recipients"], &ack["held"]), (&json!(3), &json!(2)));
    let mut bob = world.session(&people[1], &session).await;
    assert_eq!(ids(&[bob.push().await]), ["c"]);
    let mut carol = world.session(&people[2], &Session::new()).await;
    let push = carol.push().await;
    assert_eq!(ids(std::slice::from_ref(&push)), ["c"]);
    carol.confirm(&push).await;
    carol.pushes_so_far().await;
    let mut other = world.session(&people[2], &Session::new()).await;
    let mut daemon = world.daemon(&people[2]).await;
    assert_eq!((reached(&mut other).await, reached(&mut daemon).await), (0, 0));
    // Past its time the message is gone for good.
    world.pass(7 * 24 * 3_600 + 1);
    let mut dave = world.daemon(&people[3]).await;
    assert_eq!(reached(&mut dave).await, 0);
    let status = world
        .daemon(&people[0])
        .await
        .ask(json!({"type": "message_status", "messageId": ack["messageId"]}))
        .await;
    assert_eq!(status["delivered"], false);
}

/// The last part of TGT-4.
#[tokio::test]
async fn a_member_who_joins_later_gets_nothing_from_before() {
    let world = World::start().await;
    let mut people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    alice.message(json!({"targetSpec": "*"})).await;
    let mut late = people.remove(1);
    late.id = claudemesh_protocol::MemberId::new(crate::peers::row_id());
    late.key = claudemesh_crypto::KeyPair::generate();
    let row = claudemesh_store::NewMember {
        id: late.id.clone(),
        mesh_id: late.mesh.clone(),
        user_id: None,
        identity: claudemesh_store::NewIdentity::Key(late.key.public()),
        display_name: "late".to_owned(),
        role: claudemesh_protocol::status::MemberRole::Member,
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: claudemesh_protocol::status::MessageMode::Push,
        joined_at: world.clock.now(),
    };
    world.broker().broker().store().add_members(vec![row]).await.unwrap();
    // Added by somebody else than this broker: a direct message finds the key in the store.
    let ack =
        alice.message(json!({"targetSpec": late.key.public(), "client_message_id": "dm"})).await;
    assert_eq!(ack["queued"], true);
    let mut late = world.daemon(&late).await;
    assert_eq!(ids(&[late.push().await]), ["dm"]);
    assert_eq!(reached(&mut late).await, 0);
}

/// TGT-6.
#[tokio::test]
async fn a_group_message_waits_for_absent_members_by_their_last_groups() {
    let world = World::start().await;
    let wanted = [
        Wanted { name: "alice", groups: &[] },
        Wanted { name: "dave", groups: &["dev"] },
        Wanted { name: "eve", groups: &["dev"] },
        Wanted { name: "fay", groups: &["ops/core"] },
    ];
    let people = world.mesh_with(settings(GroupEncryption::Off), &wanted).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut dave = world.daemon(&people[1]).await;
    dave.ask(json!({"type": "join_group", "name": "@ops"})).await;
    dave.ask(json!({"type": "leave_group", "name": "dev"})).await;
    dave.leave().await;
    alice.event("peer_left").await;
    let ack = alice.message(json!({"targetSpec": "@ops", "client_message_id": "ops"})).await;
    assert_eq!((&ack["recipients"], &ack["held"]), (&json!(2), &json!(2)));
    let ack = alice.message(json!({"targetSpec": "@dev", "client_message_id": "dev"})).await;
    assert_eq!(ack["held"], 1);
    let mut dave = world.daemon(&people[1]).await;
    assert_eq!(ids(&[dave.push().await]), ["ops"]);
    assert_eq!(reached(&mut dave).await, 0);
    let mut eve = world.daemon(&people[2]).await;
    assert_eq!(ids(&[eve.push().await]), ["dev"]);
    let mut fay = world.daemon(&people[3]).await;
    assert_eq!(ids(&[fay.push().await]), ["ops"]);
}

/// RCV-1.
#[tokio::test]
async fn a_member_row_goes_to_the_daemon_and_without_one_to_the_sessions() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let session = Session::new();
    let mut one = world.session(&people[1], &session).await;
    let mut two = world.session(&people[1], &Session::new()).await;
    let member = json!({"targetSpec": people[1].key.public()});
    let ack = alice.message(member.clone()).await;
    for socket in [&mut one, &mut two] {
        let push = socket.push().await;
        assert_eq!(push["messageId"], ack["messageId"]);
        socket.confirm(&push).await;
    }
    let mut daemon = world.daemon(&people[1]).await;
    alice.message(member).await;
    let push = daemon.push().await;
    daemon.confirm(&push).await;
    assert_eq!((reached(&mut one).await, reached(&mut two).await), (0, 0));
    alice.message(json!({"targetSpec": session.pubkey()})).await;
    one.push().await;
    assert_eq!((reached(&mut daemon).await, reached(&mut two).await), (0, 0));
}

/// Two sessions that stand in are two sockets of one daemon: a younger row must not come by one of them while an older one
/// is on its way by the other alone (found by `make chaos`).
#[tokio::test]
async fn a_session_that_missed_a_row_gets_none_that_is_younger_before_it_arrived() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut one = world.session(&people[1], &Session::new()).await;
    let mut two = world.session(&people[1], &Session::new()).await;
    let member = json!({"targetSpec": people[1].key.public()});
    two.ask(json!({"type": "set_status", "status": "dnd"})).await;
    alice.message(member.clone()).await;
    let first = one.push().await;
    two.ask(json!({"type": "set_status", "status": "idle"})).await;
    alice.message(member.clone()).await;
    let second = one.push().await;
    assert_eq!(reached(&mut two).await, 0);
    one.confirm(&first).await;
    one.confirm(&second).await;
    assert_eq!(reached(&mut one).await, 0);
    alice.message(member).await;
    for socket in [&mut one, &mut two] {
        socket.push().await;
    }
}

/// RCV-2, the broker's part.
#[tokio::test]
async fn two_devices_both_get_a_member_row_and_the_first_ack_delivers_it() {
    Box::pin(two_devices_both_get_a_member_row_and_the_first_ack_delivers_it_on(
        &World::start().await,
    ))
    .await;
}

pub async fn two_devices_both_get_a_member_row_and_the_first_ack_delivers_it_on(world: &World) {
    let mut mesh = settings(GroupEncryption::Off);
    mesh.clone_policy = claudemesh_store::ClonePolicy::AllowConcurrent;
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    let people = world.mesh_with(mesh, &wanted).await;
    let mut alice = world.daemon(&people[0]).await;
    let device = |name: &str| {
        let mut hello = world.daemon_hello(&people[1]);
        hello["sessionId"] = json!(name);
        hello
    };
    let mut one = world.connect(device("one")).await;
    let mut two = world.connect(device("two")).await;
    let ack = alice.message(json!({"targetSpec": people[1].key.public()})).await;
    assert_eq!(ack["recipients"], 1);
    let (first, second) = (one.push().await, two.push().await);
    assert_eq!(first["messageId"], second["messageId"]);
    // A device that comes while the row is undelivered gets it too.
    let mut three = world.connect(device("three")).await;
    assert_eq!(three.push().await["messageId"], ack["messageId"]);
    one.confirm(&first).await;
    one.pushes_so_far().await;
    let question = json!({"type": "message_status", "messageId": ack["messageId"]});
    let status = until_delivered(&mut alice, &question).await;
    assert_eq!(status["recipients"].as_array().unwrap().len(), 1);
    world.pass(60);
    assert_eq!(reached(&mut two).await, 0, "an acknowledged row is not pushed again");
}

async fn until_delivered(socket: &mut Socket, question: &Value) -> Value {
    let deadline = tokio::time::Instant::now() + crate::world::PATIENCE;
    loop {
        let status = socket.ask(question.clone()).await;
        if status["delivered"] == true {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// DLV-8.
#[tokio::test]
async fn a_one_shot_connection_does_not_swallow_its_members_messages() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let one_shot = || {
        let mut hello = world.daemon_hello(&people[1]);
        hello["sessionPubkey"] = json!(Session::new().pubkey());
        hello["sessionId"] = json!(crate::peers::row_id());
        hello["channel"] = json!("claude-code");
        hello["capabilities"] = json!([]);
        hello
    };
    alice.message(json!({"targetSpec": people[1].key.public(), "client_message_id": "c"})).await;
    let mut socket = world.connect(one_shot()).await;
    assert_eq!(socket.pushes_so_far().await.len(), 0);
    socket.leave().await;
    let mut transient = one_shot();
    transient["capabilities"] = json!(["transient"]);
    transient.as_object_mut().unwrap().remove("sessionPubkey");
    let mut socket = world.connect(transient).await;
    assert_eq!(socket.pushes_so_far().await.len(), 0);
    let mut bob = world.daemon(&people[1]).await;
    assert_eq!(ids(&[bob.push().await]), ["c"]);
}

/// GRP-1.
#[tokio::test]
async fn a_group_message_reaches_descendants_once_and_no_ancestors() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut carol = world.daemon(&people[2]).await;
    bob.ask(json!({"type": "join_group", "name": "x/core", "role": "lead"})).await;
    bob.ask(json!({"type": "join_group", "name": "x"})).await;
    carol.ask(json!({"type": "join_group", "name": "@x/web"})).await;
    for (target, bob_gets, carol_gets) in [("@x", 1, 1), ("@x/core", 1, 0), ("@x/co", 0, 0)] {
        let ack = alice.message(json!({"targetSpec": target})).await;
        assert_eq!(
            (&ack["queued"], &ack["recipients"]),
            (&json!(true), &json!(bob_gets + carol_gets))
        );
        assert_eq!(
            (reached(&mut bob).await, reached(&mut carol).await),
            (bob_gets, carol_gets),
            "{target}"
        );
    }
}

/// GRP-2.
#[tokio::test]
async fn hostile_group_names_are_refused_and_the_limit_is_exact() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let long_role = "r".repeat(65);
    for frame in [
        json!({"type": "join_group", "name": "a'b"}),
        json!({"type": "join_group", "name": "../x"}),
        json!({"type": "join_group", "name": "all"}),
        json!({"type": "leave_group", "name": "a b"}),
        json!({"type": "join_group", "name": "x", "role": long_role}),
    ] {
        assert_eq!(alice.ask(frame).await["code"], "invalid_args");
    }
    assert_eq!(alice.peers().await[0]["groups"], json!([]));
    for number in 0..32 {
        let reply = alice.ask(json!({"type": "join_group", "name": format!("g{number}")})).await;
        assert_eq!(reply["type"], "ack");
    }
    let reply = alice.ask(json!({"type": "join_group", "name": "g32"})).await;
    assert_eq!(reply["code"], "invalid_args");
    let again = alice.ask(json!({"type": "join_group", "name": "g0", "role": "lead"})).await;
    assert_eq!(again["type"], "ack");
    alice.ask(json!({"type": "leave_group", "name": "nope"})).await;
    let groups = alice.peers().await[0]["groups"].clone();
    assert_eq!(groups.as_array().unwrap().len(), 32);
    assert_eq!(groups[0], json!({"name": "g0", "role": "lead"}));
}

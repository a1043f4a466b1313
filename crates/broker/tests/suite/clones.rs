//! One member connected from two machines (broker spec §2.6).

use claudemesh_store::{ClonePolicy, MeshSettings};
use serde_json::{Value, json};

use crate::peers::{Person, Session, Wanted};
use crate::world::World;

async fn mesh(world: &World, clone_policy: ClonePolicy) -> Vec<Person> {
    let group_encryption = claudemesh_protocol::status::GroupEncryption::Preferred;
    let settings = MeshSettings { clone_policy, group_encryption, ..MeshSettings::default() };
    let wanted = [Wanted { name: "alice", groups: &[] }, Wanted { name: "bob", groups: &[] }];
    world.mesh_with(settings, &wanted).await
}

/// A daemon's hello from this machine.
fn from_host(world: &World, person: &Person, host: &str) -> Value {
    let mut hello = world.daemon_hello(person);
    hello["hostFingerprint"] = json!(host.repeat(64));
    hello["sessionId"] = json!(format!("daemon-{host}"));
    hello
}

fn refusal((error, code, reason): (Value, u16, String)) -> (Value, u16, String) {
    (error["code"].clone(), code, reason)
}

fn already() -> (Value, u16, String) {
    let code = "member_already_connected";
    (json!(code), 4004, code.to_owned())
}

async fn counted(world: &World, outcome: &str) -> bool {
    let line = format!("cm_broker_concurrent_connections_total{{outcome=\"{outcome}\"}} 1");
    world.get("/metrics").await.ok().as_str().unwrap().contains(&line)
}

/// ROT-2.
#[tokio::test]
async fn the_oldest_machine_stays_where_that_is_the_policy() {
    let world = World::start().await;
    let people = mesh(&world, ClonePolicy::PreferOldest).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut first = world.connect(from_host(&world, &people[0], "a")).await;
    bob.event("peer_joined").await;
    let refused = world.refused(from_host(&world, &people[0], "b")).await;
    assert_eq!(refusal(refused), already());
    assert!(counted(&world, "refused").await);
    bob.message(json!({"targetSpec": people[0].key.public()})).await;
    let push = first.push().await;
    first.confirm(&push).await;
    assert_eq!(bob.events_so_far("peer_joined").await.len(), 0);
    assert_eq!(bob.peers().await.len(), 2);
    // Where the first one's socket is lost, its lease does not keep the other out.
    first.cut();
    let mut second = world.connect(from_host(&world, &people[0], "b")).await;
    assert_eq!(refusal(world.refused(from_host(&world, &people[0], "a")).await), already());
    assert!(second.peers().await.len() >= 2);
}

/// ROT-2.
#[tokio::test]
async fn the_newest_machine_stays_where_that_is_the_policy() {
    let world = World::start().await;
    let people = mesh(&world, ClonePolicy::PreferNewest).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut first = world.connect(from_host(&world, &people[0], "a")).await;
    let mut second = world.connect(from_host(&world, &people[0], "b")).await;
    let replaced = (4003, "replaced_by_newer_connection".to_owned());
    assert_eq!(first.close_reason().await, replaced);
    assert!(counted(&world, "replaced").await);
    // No lease is left behind.
    assert_eq!(bob.peers().await.len(), 2);
    bob.message(json!({"targetSpec": people[0].key.public()})).await;
    second.push().await;
}

/// ROT-2: of two machines that come in the same moment one stays, whatever the policy.
#[tokio::test]
async fn two_machines_at_once_are_told_apart() {
    for policy in [ClonePolicy::PreferOldest, ClonePolicy::PreferNewest] {
        let world = World::start().await;
        let people = mesh(&world, policy).await;
        let mut bob = world.daemon(&people[1]).await;
        for _ in 0..10 {
            let (mut one, mut two) = (world.socket().await, world.socket().await);
            let hellos = (from_host(&world, &people[0], "a"), from_host(&world, &people[0], "b"));
            tokio::join!(one.send(&hellos.0), two.send(&hellos.1));
            let answers = [one.next().await, two.next().await];
            let refused = answers.iter().filter(|answer| answer["type"] == "error").count();
            assert_eq!(refused, usize::from(policy == ClonePolicy::PreferOldest), "{answers:?}");
            bob.until_peers(2).await;
            one.leave().await;
            two.leave().await;
            bob.until_peers(1).await;
        }
    }
}

/// ROT-2.
#[tokio::test]
async fn both_machines_stay_where_that_is_allowed_and_the_first_ack_counts() {
    let world = World::start().await;
    let people = mesh(&world, ClonePolicy::AllowConcurrent).await;
    let mut bob = world.daemon(&people[1]).await;
    let mut first = world.connect(from_host(&world, &people[0], "a")).await;
    let mut second = world.connect(from_host(&world, &people[0], "b")).await;
    assert!(counted(&world, "allowed").await);
    assert_eq!(bob.peers().await.len(), 3);
    bob.message(json!({"targetSpec": people[0].key.public()})).await;
    let (at_first, at_second) = (first.push().await, second.push().await);
    assert_eq!(at_first["messageId"], at_second["messageId"]);
    second.confirm(&at_second).await;
    second.peers().await;
    world.pass(31);
    assert_eq!(first.pushes_so_far().await.len(), 0, "it is delivered, not pushed again");
}

/// ROT-2: one-shot calls, sessions, connectors and old clients are concurrent by design.
#[tokio::test]
async fn nothing_but_two_daemons_on_two_machines_triggers_the_policy() {
    let world = World::start().await;
    for policy in [ClonePolicy::PreferOldest, ClonePolicy::PreferNewest] {
        let people = mesh(&world, policy).await;
        let alice = &people[0];
        let mut first = world.connect(from_host(&world, alice, "a")).await;
        let mut call = from_host(&world, alice, "a");
        call["sessionId"] = json!("1-1");
        call["capabilities"] = json!(["transient"]);
        let mut far_call = from_host(&world, alice, "b");
        far_call["capabilities"] = json!(["transient"]);
        let mut connector = from_host(&world, alice, "c");
        connector["peerType"] = json!("connector");
        let mut old = world.daemon_hello(alice);
        old["sessionId"] = json!("old");
        let mut keyed = from_host(&world, alice, "d");
        keyed["sessionPubkey"] = json!(Session::new().pubkey());
        let mut sockets = Vec::new();
        for hello in [call, far_call, connector, old, keyed] {
            sockets.push(world.connect(hello).await);
        }
        sockets.push(world.session(alice, &Session::new()).await);
        assert_eq!(first.peers().await.len(), 7);
        for socket in &mut sockets {
            assert_eq!(socket.peers().await.len(), 7);
        }
    }
    for outcome in ["refused", "replaced", "allowed"] {
        assert!(!counted(&world, outcome).await, "{outcome}");
    }
}

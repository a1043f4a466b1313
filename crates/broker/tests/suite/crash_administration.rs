//! The broker's process dies around the commit of a ban, an unban, a rotation: afterwards all of it has happened, or
//! nothing, and the audit log says the same.

use claudemesh_broker::settings::StorageProfile;
use claudemesh_crypto::KeyPair;
use serde_json::{Value, json};

use crate::grants::rotation;
use crate::peers::{Person, Socket};
use crate::process::Server;
use crate::world::World;

/// Signal number of an abort.
const SIGABRT: i32 = 6;

/// Inside the transaction, with everything written.
const BEFORE: &str = "store.administration.before_commit";
/// It is durable, and nobody has been told.
const AFTER: &str = "broker.administration.after_commit";

/// Serves the same data in a process of its own that dies at `point`.
async fn apart(world: &mut World, point: &str) -> Server {
    let points = format!("{point}=return");
    let mut variables = vec![("FAILPOINTS".to_owned(), points)];
    if world.settings.profile == StorageProfile::Server {
        let url = world.settings.database_url.as_ref().unwrap();
        let key = world.settings.encryption_key.as_ref().unwrap();
        variables.extend([
            ("STORAGE_PROFILE".to_owned(), "server".to_owned()),
            ("DATABASE_URL".to_owned(), url.expose().to_owned()),
            ("BROKER_ENCRYPTION_KEY".to_owned(), key.to_hex().to_string()),
        ]);
    }
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    world.move_apart_with(&variables).await
}

/// Sends what kills the broker, and starts it again.
async fn killed_by(world: &mut World, server: Server, socket: &mut Socket, frame: &Value) {
    socket.send(frame).await;
    assert_eq!(server.end_signal().await, Some(SIGABRT), "the broker must die of {frame}");
    world.resume().await;
}

/// The number of such entries; the chain must be whole.
async fn audited(world: &World, owner: &Person, event: &str) -> u64 {
    world.pass(61);
    let mut socket = world.daemon(owner).await;
    let verdict = socket.ask(json!({"type": "audit_verify"})).await;
    assert_eq!(verdict["valid"], true, "{verdict}");
    let page = socket.ask(json!({"type": "audit_query", "eventType": event})).await;
    page["total"].as_u64().unwrap()
}

/// Messages that wait for somebody.
async fn waiting(world: &World) -> u64 {
    let total = world.broker().broker().store().backlog_total().await.unwrap();
    total.held + total.claimed
}

async fn ban_dies_at(mut world: World, point: &str) {
    let is_done = point == AFTER;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut bob = world.daemon(&people[1]).await;
    let ack = bob.message(json!({"targetSpec": people[2].key.public()})).await;
    assert_eq!(ack["queued"], true, "{ack}");
    let server = apart(&mut world, point).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut bob = world.daemon(&people[1]).await;
    let ban = json!({"type": "ban", "target": "bob", "_reqId": "b"});
    killed_by(&mut world, server, &mut alice, &ban).await;
    // Nobody was told of it by the broker that died.
    assert_ne!(bob.close_reason().await.0, 4002);
    assert_eq!(audited(&world, &people[0], "member_banned").await, u64::from(is_done));
    let mut alice = world.daemon(&people[0]).await;
    let bans = alice.ask(json!({"type": "list_bans"})).await;
    assert_eq!(bans["bans"].as_array().unwrap().len(), usize::from(is_done), "{bans}");
    if is_done {
        for hello in [
            world.daemon_hello(&people[1]),
            world.session_hello(&people[1], &crate::peers::Session::new()),
        ] {
            let (refusal, code, _) = world.refused(hello).await;
            assert_eq!((&refusal["code"], code), (&json!("revoked"), 4002));
        }
        assert_eq!(waiting(&world).await, 0);
        // Who was away learns of it.
        let mut hello = world.daemon_hello(&people[2]);
        hello["meshSeq"] = json!(0);
        let mut carol = world.connect(hello).await;
        let news = carol.next_where(|frame| frame["type"] == "mesh_state").await;
        assert_eq!(news["events"][0]["event"], "member_revoked", "{news}");
        return;
    }
    world.daemon(&people[1]).await;
    assert_eq!(waiting(&world).await, 1);
    let push = world.daemon(&people[2]).await.push().await;
    assert_eq!(push["messageId"], ack["messageId"]);
    assert_eq!(alice.ask(ban).await["banned"], "bob");
    assert_eq!(audited(&world, &people[0], "member_banned").await, 1);
}

async fn unban_dies_at(mut world: World, point: &str) {
    let is_done = point == AFTER;
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let ban = json!({"type": "ban", "target": "bob"});
    assert_eq!(alice.ask(ban).await["banned"], "bob");
    let server = apart(&mut world, point).await;
    let mut alice = world.daemon(&people[0]).await;
    let unban = json!({"type": "unban", "target": "bob", "_reqId": "u"});
    killed_by(&mut world, server, &mut alice, &unban).await;
    assert_eq!(audited(&world, &people[0], "member_unbanned").await, u64::from(is_done));
    if !is_done {
        assert_eq!(world.refused(world.daemon_hello(&people[1])).await.0["code"], "revoked");
        let mut alice = world.daemon(&people[0]).await;
        assert_eq!(alice.ask(unban).await["unbanned"], "bob");
    }
    world.daemon(&people[1]).await;
    assert_eq!(audited(&world, &people[0], "member_unbanned").await, 1);
}

async fn rotation_dies_at(mut world: World, point: &str) {
    let is_done = point == AFTER;
    let mut people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let ack = alice.message(json!({"targetSpec": people[1].key.public()})).await;
    assert_eq!(ack["queued"], true, "{ack}");
    let server = apart(&mut world, point).await;
    let mut bob = world.daemon(&people[1]).await;
    bob.ask(json!({"type": "set_status", "status": "dnd"})).await;
    let new = KeyPair::generate();
    let frame = rotation(&world, &people[1], &new);
    killed_by(&mut world, server, &mut bob, &frame).await;
    let event = "member_keypair_rotated";
    assert_eq!(audited(&world, &people[0], event).await, u64::from(is_done));
    let old = people[1].key.clone();
    if is_done {
        assert_eq!(world.refused(world.daemon_hello(&people[1])).await.0["code"], "unauthorized");
        people[1].key = new;
    } else {
        people[1].key = new;
        assert_eq!(world.refused(world.daemon_hello(&people[1])).await.0["code"], "unauthorized");
        people[1].key = old;
    }
    // What waited under the old key is there, whichever key counts.
    let mut bob = world.daemon(&people[1]).await;
    bob.ask(json!({"type": "set_status", "status": "idle", "source": "manual"})).await;
    let push = bob.push().await;
    assert_eq!(push["messageId"], ack["messageId"]);
}

macro_rules! around_the_commit {
    ($($name:ident = $run:ident at $point:ident;)+) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                Box::pin(super::$run(super::World::start().await, super::$point)).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let Some(world) = super::World::on_postgres().await else { return };
                Box::pin(super::$run(world, super::$point)).await;
            })+
        }
    };
}

around_the_commit! {
    a_ban_that_was_not_committed_has_not_happened = ban_dies_at at BEFORE;
    a_ban_that_was_committed_holds = ban_dies_at at AFTER;
    an_unban_that_was_not_committed_has_not_happened = unban_dies_at at BEFORE;
    an_unban_that_was_committed_holds = unban_dies_at at AFTER;
    a_rotation_that_was_not_committed_has_not_happened = rotation_dies_at at BEFORE;
    a_rotation_that_was_committed_holds = rotation_dies_at at AFTER;
}

//! Signed heads of the audit log: who is told, and what they find out (broker spec §4.19).

use claudemesh_crypto::audit::Head;
use claudemesh_protocol::limits::AUDIT_HEAD_PERIOD;
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};
use serde_json::{Value, json};

use crate::audit_log::by_hand;
use crate::peers::{Person, Session, Socket};
use crate::world::World;

/// A daemon that wants to hear of signed heads.
async fn witness(world: &World, person: &Person) -> Socket {
    let mut hello = world.daemon_hello(person);
    hello["capabilities"] = json!(["client_ack", "audit_heads"]);
    world.connect(hello).await
}

async fn set(socket: &mut Socket, key: &str) {
    let ack = socket.ask(json!({"type": "set_state", "key": key, "value": 1})).await;
    assert_eq!(ack["type"], "ack", "{ack}");
}

/// A round of the broker's hourly job.
async fn round(world: &World) {
    world.broker().broker().sign_audit_heads().await.unwrap();
}

/// Waits for the newest entry to be written; its number.
async fn newest(socket: &mut Socket) -> i64 {
    let page = socket.ask(json!({"type": "audit_query", "limit": 1})).await;
    page["entries"][0]["id"].as_i64().unwrap()
}

async fn verify(world: &World, socket: &mut Socket) -> Value {
    world.pass(61);
    socket.ask(json!({"type": "audit_verify"})).await
}

/// What anybody can do with a head: check it with the key the broker showed in its greeting.
fn is_signed(head: &Value, mesh: &MeshId, broker: &Value) -> bool {
    let at = Timestamp::parse_iso(head["signedAt"].as_str().unwrap()).unwrap();
    let signed = Head {
        mesh,
        entry: head["entry"].as_i64().unwrap(),
        entries: head["entries"].as_u64().unwrap(),
        hash: head["hash"].as_str().unwrap(),
        at,
    };
    let key: PublicKey = broker.as_str().unwrap().parse().unwrap();
    assert_eq!(&head["brokerPubkey"], broker);
    signed.verify(key, &head["signature"].as_str().unwrap().parse().unwrap()).is_ok()
}

/// AUD-2.
#[tokio::test]
async fn what_is_gone_from_the_end_is_found() {
    what_is_gone_from_the_end_is_found_on(&World::start().await).await;
}

/// AUD-2.
#[tokio::test]
async fn what_is_gone_from_the_end_is_found_on_postgres() {
    let Some(world) = World::on_postgres().await else { return };
    what_is_gone_from_the_end_is_found_on(&world).await;
}

async fn what_is_gone_from_the_end_is_found_on(world: &World) {
    for gone in [1, 2, 1_000] {
        let people = world.mesh_of(&["alice"]).await;
        let mesh = &people[0].mesh;
        let mut alice = witness(world, &people[0]).await;
        for number in 0..3 {
            set(&mut alice, &format!("k{number}")).await;
        }
        let last = newest(&mut alice).await;
        round(world).await;
        let told = alice.event("audit_head").await;
        assert!(is_signed(&told, mesh, &alice.hello_ack["brokerPubkey"]), "{told}");
        let verdict = verify(world, &mut alice).await;
        assert_eq!((&verdict["valid"], &verdict["signedHead"]), (&json!(true), &told), "{verdict}");
        assert_eq!((&told["entry"], &told["entries"]), (&json!(last), &verdict["entries"]));
        assert_eq!(verdict.get("explanation"), None);
        let sql = format!(
            "DELETE FROM audit_log WHERE mesh_id = '{mesh}' AND id IN
                (SELECT id FROM audit_log WHERE mesh_id = '{mesh}' ORDER BY id DESC LIMIT {gone})"
        );
        by_hand(world, &sql).await;
        let verdict = verify(world, &mut alice).await;
        assert_eq!((&verdict["valid"], &verdict["brokenAt"]), (&json!(false), &json!(last)));
        let explanation = verdict["explanation"].as_str().unwrap();
        assert!(explanation.contains("signed") && explanation.contains("missing"), "{verdict}");
        // The log goes on, and is not signed as if nothing had happened.
        set(&mut alice, "later").await;
        newest(&mut alice).await;
        world.clock.advance(AUDIT_HEAD_PERIOD);
        round(world).await;
        let verdict = verify(world, &mut alice).await;
        assert_eq!((&verdict["brokenAt"], &verdict["signedHead"]), (&json!(last), &told));
        assert!(alice.events_so_far("audit_head").await.is_empty());
    }
}

/// Once an hour and only of what is new, to one connection of each machine, and to nobody who did not ask.
#[tokio::test]
async fn a_head_is_told_once_and_to_those_who_ask() {
    let world = World::start().await;
    let people = world.mesh_of(&["alice", "bob", "carol"]).await;
    let mut alice = witness(&world, &people[0]).await;
    let mut old = world.daemon(&people[1]).await;
    let session = Session::new();
    let mut hello = world.session_hello(&people[2], &session);
    hello["capabilities"] = json!(["client_ack", "audit_heads"]);
    let mut session = world.connect(hello).await;
    let strangers = world.mesh_of(&["zoe"]).await;
    let mut zoe = witness(&world, &strangers[0]).await;
    newest(&mut alice).await;
    newest(&mut zoe).await;
    round(&world).await;
    let first = alice.event("audit_head").await;
    assert_ne!(zoe.event("audit_head").await["hash"], first["hash"]);
    round(&world).await;
    set(&mut alice, "soon").await;
    round(&world).await;
    world.clock.advance(AUDIT_HEAD_PERIOD);
    assert!(alice.events_so_far("audit_head").await.is_empty(), "not before the hour is over");
    newest(&mut alice).await;
    round(&world).await;
    let second = alice.event("audit_head").await;
    assert!(second["entry"].as_i64() > first["entry"].as_i64());
    // Who comes later hears of the next one.
    drop(alice);
    let mut alice = witness(&world, &people[0]).await;
    set(&mut alice, "later").await;
    newest(&mut alice).await;
    world.clock.advance(AUDIT_HEAD_PERIOD);
    round(&world).await;
    let third = alice.event("audit_head").await;
    assert!(third["entry"].as_i64() > second["entry"].as_i64());
    for other in [&mut old, &mut session] {
        assert!(other.events_so_far("audit_head").await.is_empty());
    }
    assert!(zoe.events_so_far("audit_head").await.is_empty(), "nothing happened there");
}

/// One database, two brokers: one head, and both tell it.
#[tokio::test]
async fn two_brokers_sign_one_head_and_both_tell_it() {
    let Some(first) = World::on_postgres().await else { return };
    let second = World::beside(&first).await;
    let people = first.mesh_of(&["alice", "bob"]).await;
    let mut alice = witness(&first, &people[0]).await;
    let mut bob = witness(&second, &people[1]).await;
    assert_eq!(alice.hello_ack["brokerPubkey"], bob.hello_ack["brokerPubkey"]);
    let mut before = 0;
    for number in 0..5 {
        set(&mut alice, &format!("a{number}")).await;
        set(&mut bob, &format!("b{number}")).await;
        newest(&mut alice).await;
        tokio::join!(round(&first), round(&second));
        // Whoever looked before the other one had signed tells it in its next round.
        tokio::join!(round(&first), round(&second));
        let (one, two) = (alice.event("audit_head").await, bob.event("audit_head").await);
        assert_eq!(one, two);
        assert!(one["entry"].as_i64().unwrap() > before);
        before = one["entry"].as_i64().unwrap();
        assert!(is_signed(&one, &people[0].mesh, &alice.hello_ack["brokerPubkey"]));
        first.clock.advance(AUDIT_HEAD_PERIOD);
        second.clock.advance(AUDIT_HEAD_PERIOD);
    }
    for socket in [&mut alice, &mut bob] {
        assert!(socket.events_so_far("audit_head").await.is_empty());
    }
    assert_eq!(verify(&first, &mut alice).await["valid"], true);
}

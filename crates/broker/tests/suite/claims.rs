//! Claiming invites of version 2.

use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::invite::InviteCapability;
use claudemesh_protocol::{MemberId, MeshId};
use claudemesh_store::{Revocation, RevokeKind};
use serde_json::{Value, json};

use crate::world::{Answer, Joiner, World, client_from};

/// INV-1.
#[tokio::test]
async fn one_use_goes_to_one_of_two_and_its_holder_may_ask_again() {
    one_use_goes_to_one(&World::start().await).await;
}

pub async fn one_use_goes_to_one(world: &World) {
    let host = world.with_invite(json!({})).await;
    let (one, two) = (Joiner::new(), Joiner::new());
    let (first, second) =
        tokio::join!(world.claim(&host.code, &one), world.claim(&host.code, &two));
    let (winner, won, lost) =
        if first.status.is_success() { (&one, first, second) } else { (&two, second, first) };
    let won = won.ok();
    lost.refused(410, "exhausted");
    assert!(won.get("already_member").is_none());
    let again = world.claim(&host.code, winner).await.ok();
    assert_eq!((&again["already_member"], &again["member_id"]), (&true.into(), &won["member_id"]));
    assert_eq!(world.use_count(&host.token, &host.code).await, 1);
}

/// D-3.
#[tokio::test]
async fn fifty_claims_of_ten_uses_make_ten_members() {
    fifty_claims(&World::start().await).await;
}

pub async fn fifty_claims(world: &World) {
    let host = world.with_invite(json!({ "max_uses": 10 })).await;
    let joiners: Vec<Joiner> = (0..50).map(|_| Joiner::new()).collect();
    let claims = joiners.iter().map(|joiner| world.claim(&host.code, joiner));
    let answers = futures_util::future::join_all(claims).await;
    let joined = answers.iter().filter(|answer| answer.status.is_success()).count();
    let exhausted = answers.iter().filter(|answer| answer.body["error"] == "exhausted").count();
    assert_eq!((joined, exhausted), (10, 40));
}

/// D-2.
#[tokio::test]
async fn the_same_key_twice_at_once_is_one_member() {
    same_key_twice(&World::start().await).await;
}

pub async fn same_key_twice(world: &World) {
    let host = world.with_invite(json!({ "max_uses": 5 })).await;
    let joiner = Joiner::new();
    let (first, second) =
        tokio::join!(world.claim(&host.code, &joiner), world.claim(&host.code, &joiner));
    assert_eq!(first.ok()["member_id"], second.ok()["member_id"]);
    assert_eq!(world.use_count(&host.token, &host.code).await, 1);
}

/// INV-3.
#[tokio::test]
async fn a_claimed_key_says_hello_and_only_the_joiner_opens_the_root_key() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let joiner = Joiner::new();
    let answer = world.claim(&host.code, &joiner).await.ok();
    assert!(joiner.open(&answer).is_some());
    assert!(Joiner::new().open(&answer).is_none());
    let capability: InviteCapability = serde_json::from_value(
        json!({ "canonical": answer["canonical_v2"], "signature": answer["signature"] }),
    )
    .unwrap();
    let owner = answer["owner_pubkey"].as_str().unwrap().parse().unwrap();
    let mesh_id = answer["mesh_id"].as_str().unwrap();
    capability.verify_answer(&MeshId::new(mesh_id), owner).unwrap();
    assert_eq!(answer["broker_url"], world.broker().ws_url());
    assert_eq!((&answer["mesh_slug"], &answer["role"]), (&"alpha".into(), &"member".into()));
    let member_id = answer["member_id"].as_str().unwrap();
    let hello = world.hello(mesh_id, member_id, &joiner.member).await;
    assert_eq!(hello["type"], "hello_ack", "{hello}");
}

/// INV-4.
#[tokio::test]
async fn a_proof_by_another_key_or_for_something_else_is_refused_unused() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let joiner = Joiner::new();
    let now = world.broker().broker().now();
    let good = joiner.claim_body(&host.code, now);
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let other_exchange = Joiner::new().exchange.public().to_b64url();
    for body in [
        with("peer_pubkey", json!(KeyPair::generate().public().to_hex())),
        with("recipient_x25519_pubkey", json!(other_exchange)),
        with("timestamp", json!(now.as_millis() + 1)),
        joiner.claim_body("ABCDEFGH", now),
    ] {
        world
            .post(&format!("/invites/{}/claim", host.code), &body)
            .await
            .refused(400, "bad_signature");
    }
    let old = joiner.claim_body(&host.code, now.minus(Duration::from_secs(61)));
    let refused = world
        .post(&format!("/invites/{}/claim", host.code), &old)
        .await
        .refused(400, "bad_signature");
    assert!(refused["serverTime"].is_i64());
    assert_eq!(world.use_count(&host.token, &host.code).await, 0);
}

#[tokio::test]
async fn malformed_claims_name_their_field_and_use_nothing_up() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let joiner = Joiner::new();
    let good = joiner.claim_body(&host.code, world.broker().broker().now());
    let zero_key = "A".repeat(43);
    for (field, value) in [
        ("recipient_x25519_pubkey", json!("short")),
        ("recipient_x25519_pubkey", json!(zero_key)),
        ("recipient_x25519_pubkey", Value::Null),
        ("peer_pubkey", json!("XY")),
        ("timestamp", json!("now")),
        ("timestamp", Value::Null),
        ("proof", json!("00")),
        ("proof", Value::Null),
        ("display_name", json!("x".repeat(65))),
        ("display_name", json!("")),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let refused = world
            .post(&format!("/invites/{}/claim", host.code), &body)
            .await
            .refused(400, "malformed");
        assert_eq!(refused["field"], field, "{value}");
    }
    assert_eq!(world.use_count(&host.token, &host.code).await, 0);
}

#[tokio::test]
async fn a_closed_invite_says_why_in_the_order_of_the_specification() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "expires_in": 3600 })).await;
    world.claim(&host.code, &Joiner::new()).await.ok();
    world.claim(&host.code, &Joiner::new()).await.refused(410, "exhausted");
    world.clock.advance(Duration::from_secs(3_601));
    world.claim(&host.code, &Joiner::new()).await.refused(410, "expired");
    let mesh = MeshId::new(host.mesh["id"].as_str().unwrap());
    let broker = world.broker().broker();
    let owner = MemberId::new(host.mesh["member_id"].as_str().unwrap());
    broker.store().revoke_invite(&mesh, &host.code, &owner, broker.now()).await.unwrap();
    world.claim(&host.code, &Joiner::new()).await.refused(410, "revoked");
    let open = world.invite(&host.token, "alpha", json!({})).await;
    broker.store().archive_mesh(&mesh, broker.now()).await.unwrap();
    world.claim(&open, &Joiner::new()).await.refused(410, "mesh_archived");
    world.claim("ZZZZZZZZ", &Joiner::new()).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_banned_key_stays_out_and_one_that_left_may_return() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 5 })).await;
    let (banned, left) = (Joiner::new(), Joiner::new());
    let mesh = MeshId::new(host.mesh["id"].as_str().unwrap());
    let broker = world.broker().broker();
    for (joiner, kind) in [(&banned, RevokeKind::Ban), (&left, RevokeKind::Leave)] {
        let answer = world.claim(&host.code, joiner).await.ok();
        let member = MemberId::new(answer["member_id"].as_str().unwrap());
        let revocation = Revocation { at: broker.now(), kind, by: None };
        assert!(broker.store().revoke_member(&mesh, &member, revocation).await.unwrap());
    }
    world.claim(&host.code, &banned).await.refused(403, "banned");
    let back = world.claim(&host.code, &left).await.ok();
    assert!(back.get("already_member").is_none());
    assert_eq!(world.use_count(&host.token, &host.code).await, 3);
}

/// INV-5.
#[tokio::test]
async fn guessing_codes_ends_in_429_for_the_guesser_only() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let guesser = Joiner::new();
    let guess = || world.claim("ZZZZZZZZ", &guesser);
    for _ in 0..10 {
        guess().await.refused(404, "not_found");
    }
    let limited = guess().await;
    assert!(limited.headers.contains_key("retry-after"));
    limited.refused(429, "rate_limited");
    let joiner = Joiner::new();
    let body = joiner.claim_body(&host.code, world.broker().broker().now());
    let other = client_from("127.0.0.2").post(world.url(&format!("/invites/{}/claim", host.code)));
    Answer::of(other.json(&body)).await.ok();
}

/// The preset part of INV-6.
#[tokio::test]
async fn a_preset_overrides_what_the_joiner_sends() {
    let world = World::start().await;
    let preset = json!({ "displayName": "Robert", "roleTag": "qa", "groups": [{ "name": "eng/qa" }], "messageMode": "inbox" });
    let host = world.with_invite(json!({ "preset": preset })).await;
    let answer = world.claim(&host.code, &Joiner::new()).await.ok();
    let mesh = MeshId::new(host.mesh["id"].as_str().unwrap());
    let member = MemberId::new(answer["member_id"].as_str().unwrap());
    let row = world.broker().broker().store().member(&mesh, &member).await.unwrap().unwrap();
    assert_eq!((row.display_name.as_str(), row.role_tag.as_deref()), ("Robert", Some("qa")));
    assert_eq!(row.default_groups[0].name.as_str(), "eng/qa");
    assert_eq!(row.message_mode.as_str(), "inbox");
}

/// INV-8.
#[tokio::test]
async fn an_old_client_binds_its_key_with_its_first_hello() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 2 })).await;
    let joiner = Joiner::new();
    let body = json!({ "recipient_x25519_pubkey": joiner.exchange.public().to_b64url(), "display_name": "old" });
    let path = format!("/api/public/invites/{}/claim", host.code);
    let bound = world.post(&path, &body).await.ok();
    assert!(joiner.open(&bound).is_some());
    let unused = world.post(&path, &body).await.ok();
    assert_eq!(world.use_count(&host.token, &host.code).await, 2);
    let mesh_id = bound["mesh_id"].as_str().unwrap();
    let member_id = bound["member_id"].as_str().unwrap();
    let hello = world.hello(mesh_id, member_id, &joiner.member).await;
    assert_eq!(hello["type"], "hello_ack", "{hello}");
    let stranger = world.hello(mesh_id, member_id, &KeyPair::generate()).await;
    assert_eq!(stranger["type"], "error", "{stranger}");

    world.clock.advance(Duration::from_secs(15 * 60 + 1));
    let broker = world.broker().broker();
    let late =
        world.hello(mesh_id, unused["member_id"].as_str().unwrap(), &KeyPair::generate()).await;
    assert_eq!(late["type"], "error", "{late}");
    assert_eq!(broker.store().purge_unbound_members(broker.now()).await.unwrap(), 1);
    assert_eq!(world.use_count(&host.token, &host.code).await, 1);
}

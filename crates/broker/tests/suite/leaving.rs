//! Leaving a mesh by signature or bearer.

use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::{KeyPair, statement};
use claudemesh_protocol::{Timestamp, canonical};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::world::{Answer, Host, Joiner, World};

fn signed(world: &World, target: &str, key: &KeyPair, at: Timestamp) -> RequestBuilder {
    let text = canonical::signed_http("DELETE", target, &sha256(b""), at);
    let signature = statement::sign(text, key).unwrap();
    world
        .request(Method::DELETE, target)
        .header("x-member-pubkey", key.public().to_hex())
        .header("x-timestamp", at.as_millis().to_string())
        .header("x-signature", signature.to_hex())
}

/// A mesh, and somebody who has joined it.
async fn joined(world: &World) -> (Host, Joiner, Value) {
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let joiner = Joiner::new();
    let membership = world.claim(&host.code, &joiner).await.ok();
    (host, joiner, membership)
}

fn ids(membership: &Value) -> (&str, &str) {
    (membership["mesh_id"].as_str().unwrap(), membership["member_id"].as_str().unwrap())
}

#[tokio::test]
async fn a_member_leaves_by_its_own_signature_and_may_come_back() {
    let world = World::start().await;
    let (host, joiner, membership) = joined(&world).await;
    let (mesh, member) = ids(&membership);
    let target = format!("/mesh/{mesh}/member/{member}");
    let now = world.broker().broker().now();
    assert_eq!(Answer::of(signed(&world, &target, &joiner.member, now)).await.ok()["left"], true);
    Answer::of(signed(&world, &target, &joiner.member, now)).await.refused(401, "bad_signature");
    let hello = world.hello(mesh, member, &joiner.member).await;
    assert_eq!(hello["code"], "revoked", "{hello}");
    let later = now.plus(std::time::Duration::from_millis(1));
    Answer::of(signed(&world, &target, &joiner.member, later)).await.refused(403, "revoked");
    world.claim(&host.code, &joiner).await.ok();
    assert_eq!(world.hello(mesh, member, &joiner.member).await["type"], "hello_ack");
}

/// RPL-1: a signed request counts once, also after a restart within its window; so does an invite for one key.
#[tokio::test]
async fn a_signed_request_is_taken_once_even_across_a_restart() {
    let mut world = World::start().await;
    let (host, joiner, membership) = joined(&world).await;
    let (mesh, member) = ids(&membership);
    let target = format!("/mesh/{mesh}/member/{member}");
    let now = world.broker().broker().now();
    Answer::of(signed(&world, &target, &joiner.member, now)).await.ok();
    world.claim(&host.code, &joiner).await.ok();
    world.stop().await;
    world.resume().await;
    Answer::of(signed(&world, &target, &joiner.member, now)).await.refused(401, "bad_signature");
    let hello = world.hello(mesh, member, &joiner.member).await;
    assert_eq!(hello["type"], "hello_ack", "the replay removed nobody: {hello}");
}

#[tokio::test]
async fn wrong_signatures_change_nothing() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let (joiner, other) = (Joiner::new(), Joiner::new());
    let membership = world.claim(&host.code, &joiner).await.ok();
    let member_of_other = world.claim(&host.code, &other).await.ok();
    let mesh = membership["mesh_id"].as_str().unwrap();
    let target = format!("/mesh/{mesh}/member/{}", membership["member_id"].as_str().unwrap());
    let now = world.broker().broker().now();
    Answer::of(signed(&world, &target, &other.member, now)).await.refused(403, "forbidden");
    Answer::of(signed(&world, &target, &KeyPair::generate(), now))
        .await
        .refused(401, "unauthorized");
    let old = now.minus(std::time::Duration::from_secs(61));
    let skewed = Answer::of(signed(&world, &target, &joiner.member, old))
        .await
        .refused(401, "timestamp_skew");
    assert!(skewed["serverTime"].is_i64());
    let elsewhere =
        format!("/mesh/{mesh}/member/{}", member_of_other["member_id"].as_str().unwrap());
    let mut moved = signed(&world, &target, &joiner.member, now).build().unwrap();
    *moved.url_mut() = world.url(&elsewhere).parse().unwrap();
    let response = world.http.execute(moved).await.unwrap();
    assert_eq!(response.status().as_u16(), 401);
    Answer::of(world.request(Method::DELETE, &target)).await.refused(401, "missing_bearer_token");
}

#[tokio::test]
async fn the_owner_stays() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let by_bearer =
        world.request(Method::DELETE, "/cli/mesh/alpha/member/me").bearer_auth(&host.token);
    Answer::of(by_bearer).await.refused(409, "owner_cannot_leave");
    let now = world.broker().broker().now();
    let by_key = signed(&world, "/cli/mesh/alpha/member/me", &host.owner, now);
    Answer::of(by_key).await.refused(409, "owner_cannot_leave");
}

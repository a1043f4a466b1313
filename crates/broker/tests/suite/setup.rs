//! The first account, sessions and bearers.

use std::os::unix::fs::PermissionsExt as _;

use claudemesh_crypto::{random, tokens};
use reqwest::Method;
use serde_json::json;

use crate::world::{Answer, World};

/// OPS-6.
#[tokio::test]
async fn the_setup_code_makes_one_account_and_is_gone() {
    let world = World::start().await;
    let path = world.settings.setup_code_path();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let body = json!({ "setup_code": world.setup_code(), "display_name": "Ana" });

    let forwarded =
        world.request(Method::POST, "/cli/setup").header("x-forwarded-for", "127.0.0.1");
    Answer::of(forwarded.json(&body)).await.refused(403, "forbidden");

    let answer = world.post("/cli/setup", &body).await.ok();
    assert_eq!(answer["user"]["display_name"], "Ana");
    assert!(answer["user"]["email"].is_null());
    assert!(!path.exists());
    world.post("/cli/setup", &body).await.refused(409, "setup_done");

    let token = answer["session_token"].as_str().unwrap();
    assert_eq!((token.len(), &token[..11]), (63, "cm_session_"));
    let me = world.get_as(token, "/cli/me").await.ok();
    assert_eq!(me["user"]["id"], answer["user"]["id"]);
    assert_eq!(me["credential"]["kind"], "session");
}

/// OPS-6.
#[tokio::test]
async fn a_restart_replaces_the_code_and_an_account_ends_it() {
    let mut world = World::start().await;
    let first = world.setup_code();
    world.stop().await;
    world.resume().await;
    let second = world.setup_code();
    assert_ne!(first, second);
    let body = json!({ "setup_code": first, "display_name": "Ana" });
    world.post("/cli/setup", &body).await.refused(403, "invalid_setup_code");
    world.sign_up().await;
    world.kill().await;
    world.resume().await;
    assert!(!world.settings.setup_code_path().exists());
    world.post("/cli/setup", &body).await.refused(409, "setup_done");
}

#[tokio::test]
async fn five_wrong_codes_a_minute_and_then_not_even_the_right_one() {
    let world = World::start().await;
    let wrong = json!({ "setup_code": "AAAA-AAAA-AAAA-AAAA", "display_name": "Eve" });
    for _ in 0..5 {
        world.post("/cli/setup", &wrong).await.refused(403, "invalid_setup_code");
    }
    let limited = world.post("/cli/setup", &wrong).await;
    assert!(limited.headers.contains_key("retry-after"));
    limited.refused(429, "rate_limited");
    let right = json!({ "setup_code": world.setup_code(), "display_name": "Ana" });
    world.post("/cli/setup", &right).await.refused(429, "rate_limited");
}

#[tokio::test]
async fn a_caller_that_lost_the_answer_finds_its_own_token_valid() {
    let world = World::start().await;
    let token = tokens::cli_session(&mut random::fill).expose().to_owned();
    let body =
        json!({ "setup_code": world.setup_code(), "display_name": "Ana", "session_token": token });
    world.post("/cli/setup", &body).await.ok();
    world.get_as(&token, "/cli/me").await.ok();
}

#[tokio::test]
async fn a_token_of_the_wrong_form_is_refused_before_anything_is_made() {
    let world = World::start().await;
    let body = json!({ "setup_code": world.setup_code(), "display_name": "Ana", "session_token": "guessme" });
    world.post("/cli/setup", &body).await.refused(400, "malformed");
    world.sign_up().await;
}

/// DEV-4: missing, empty, wrong, valid and revoked bearers.
#[tokio::test]
async fn bearers_are_told_apart_by_what_is_wrong_with_them() {
    let world = World::start().await;
    let token = world.sign_up().await;
    world.get("/cli/me").await.refused(401, "missing_bearer_token");
    let with = |value: &str| {
        Answer::of(world.request(Method::GET, "/cli/me").header("authorization", value))
    };
    with("Bearer ").await.refused(401, "empty_bearer_token");
    with("Basic dXNlcg==").await.refused(401, "missing_bearer_token");
    for wrong in [
        "Bearer nonsense",
        &format!("Bearer {token}x"),
        &format!("Bearer cm_session_{}", "a".repeat(52)),
    ] {
        with(wrong).await.refused(401, "invalid_or_revoked_token");
    }
    world.get_as(&token, "/cli/meshes").await.ok();
    let revoked = world.post_as(&token, "/cli/session/revoke", &json!({})).await.ok();
    assert_eq!((&revoked["ok"], &revoked["found"]), (&true.into(), &true.into()));
    world.get_as(&token, "/cli/me").await.refused(401, "invalid_or_revoked_token");
}

#[tokio::test]
async fn a_session_is_revoked_by_possession_and_unknown_ones_are_not_found() {
    let world = World::start().await;
    let token = world.sign_up().await;
    let unknown = json!({ "token": format!("cm_session_{}", "b".repeat(52)) });
    assert_eq!(world.post("/cli/session/revoke", &unknown).await.ok()["found"], false);
    world.post("/cli/session/revoke", &json!({})).await.refused(400, "malformed");
    assert_eq!(
        world.post("/cli/session/revoke", &json!({ "token": token })).await.ok()["found"],
        true
    );
    assert_eq!(
        world.post("/cli/session/revoke", &json!({ "token": token })).await.ok()["found"],
        false
    );
}

#[tokio::test]
async fn a_session_slides_and_ends_after_ninety_quiet_days() {
    let day = std::time::Duration::from_hours(24);
    let world = World::start().await;
    let token = world.sign_up().await;
    world.clock.advance(day * 80);
    world.get_as(&token, "/cli/me").await.ok();
    world.clock.advance(day * 80);
    world.get_as(&token, "/cli/me").await.ok();
    world.clock.advance(day * 91);
    world.get_as(&token, "/cli/me").await.refused(401, "invalid_or_revoked_token");
}

//! What surrounds every HTTP request: errors, ids, headers, limits, health and metrics.

use claudemesh_broker::settings::Cidr;
use claudemesh_crypto::tokens::SecretText;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{Answer, PATIENCE, World, client_from};

#[tokio::test]
async fn unknown_addresses_and_methods_answer_in_json() {
    let world = World::start().await;
    world.get("/nothing").await.refused(404, "not_found");
    world.get("/cli/setup").await.refused(405, "method_not_allowed");
    Answer::of(world.request(Method::DELETE, "/health")).await.refused(405, "method_not_allowed");
    let plain = world.get("/ws").await;
    assert!(plain.status.is_client_error());
    assert!(plain.body["error"].is_string(), "{}", plain.body);
}

/// HTTP-2.
#[tokio::test]
async fn bad_bodies_are_400_and_never_500() {
    let world = World::start().await;
    let token = world.sign_up().await;
    for path in ["/cli/mesh/create", "/invites/ABCDEFGH/claim", "/join", "/cli/session/revoke"] {
        for body in [
            "{",
            "[]",
            "null",
            "\"x\"",
            "{\"name\":{},\"token\":5,\"invite_token\":1,\"recipient_x25519_pubkey\":[]}",
            "\u{0}",
        ] {
            let request = world.request(Method::POST, path).bearer_auth(&token).body(body);
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {body} {}", answer.body);
        }
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    let request = world.request(Method::POST, "/cli/mesh/create").bearer_auth(&token).body(large);
    Answer::of(request).await.refused(413, "payload_too_large");
}

#[tokio::test]
async fn a_request_id_is_kept_when_harmless_and_made_otherwise() {
    let world = World::start().await;
    let kept =
        Answer::of(world.request(Method::GET, "/nothing").header("x-request-id", "trace-1")).await;
    assert_eq!(kept.refused(404, "not_found")["request_id"], "trace-1");
    let replaced =
        Answer::of(world.request(Method::GET, "/nothing").header("x-request-id", "a b\"c")).await;
    assert_eq!(replaced.refused(404, "not_found")["request_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn only_public_routes_are_readable_from_other_pages() {
    let world = World::start().await;
    let allowed = |answer: &Answer| answer.headers.contains_key("access-control-allow-origin");
    assert!(allowed(&world.get("/health").await));
    assert!(allowed(&world.get("/api/public/invites/ABCDEFGH").await));
    let plain = world.get("/cli/me").await;
    assert!(!allowed(&plain));
    assert_eq!(plain.headers["cache-control"], "no-store");
    assert_eq!(plain.headers["x-content-type-options"], "nosniff");
    let preflight =
        Answer::of(world.request(Method::OPTIONS, "/api/public/invites/ABCDEFGH/claim")).await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    assert!(!preflight.headers.contains_key("access-control-allow-credentials"));
}

/// HTTP-1, for the routes of this release.
#[tokio::test]
async fn nothing_that_needs_a_credential_works_without_one() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let id = host.mesh["id"].as_str().unwrap();
    let code = &host.code;
    for (method, path) in [
        (Method::GET, "/cli/me".to_owned()),
        (Method::GET, "/cli/meshes".to_owned()),
        (Method::POST, "/cli/mesh/create".to_owned()),
        (Method::POST, "/cli/mesh/alpha/invite".to_owned()),
        (Method::GET, "/cli/mesh/alpha/invites".to_owned()),
        (Method::DELETE, format!("/cli/mesh/alpha/invites/{code}")),
        (Method::DELETE, "/cli/mesh/alpha/member/me".to_owned()),
        (Method::DELETE, format!("/mesh/{id}/member/me")),
    ] {
        let body = json!({ "name": "Beta", "pubkey": "ab".repeat(32), "user_id": "u" });
        let answer = Answer::of(world.request(method, &path).json(&body)).await;
        answer.refused(401, "missing_bearer_token");
    }
    let meshes = world.get_as(&host.token, "/cli/meshes").await.ok();
    assert_eq!(meshes["meshes"].as_array().unwrap().len(), 1);
    assert_eq!(world.use_count(&host.token, code).await, 0);
}

/// HTTP-3.
#[tokio::test]
async fn a_forged_forwarding_header_does_not_open_a_new_bucket() {
    let world = World::start_with(|settings| settings.limits.http_burst_per_ip = 5).await;
    let mut limited = 0;
    for number in 0..20 {
        let request = world
            .request(Method::GET, "/nothing")
            .header("x-forwarded-for", format!("198.51.100.{number}"));
        limited += i32::from(Answer::of(request).await.status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(limited >= 10, "{limited} of 20 were limited");
}

/// HTTP-4.
#[tokio::test]
async fn loopback_is_exempt_and_an_address_behind_a_proxy_is_not() {
    let world = World::start_with(|settings| {
        settings.trusted_proxies = Cidr::parse_list("127.0.0.0/8").unwrap();
    })
    .await;
    let direct = World::start().await;
    for _ in 0..1_000 {
        assert_eq!(direct.get("/nothing").await.status, StatusCode::NOT_FOUND);
    }
    let ask = |address: &'static str| {
        let request = world.request(Method::GET, "/nothing").header("x-forwarded-for", address);
        async move { Answer::of(request).await.status }
    };
    let mut limited = 0;
    for _ in 0..150 {
        limited += i32::from(ask("198.51.100.1").await == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(limited > 0);
    assert_eq!(ask("198.51.100.2").await, StatusCode::NOT_FOUND);
}

/// HLT-1, first part.
#[tokio::test]
async fn health_tells_what_runs_here() {
    let world = World::start_with(|settings| settings.git_sha = "abc123".to_owned()).await;
    let health = world.get("/health").await.ok();
    assert_eq!(
        (&health["status"], &health["db"], &health["gitSha"]),
        (&"ok".into(), &"up".into(), &"abc123".into())
    );
    assert_eq!(health["brokerPubkey"].as_str().unwrap().len(), 64);
    assert_eq!(world.get("/health/ready").await.ok()["status"], "ready");
}

/// HLT-1, last part; MET-1.
#[tokio::test]
async fn metrics_are_for_this_machine_or_for_the_token() {
    let world = World::start_with(|settings| {
        settings.metrics_token =
            Some(std::sync::Arc::new(SecretText::new("a-long-metrics-token".to_owned())));
    })
    .await;
    let local = world.get("/metrics").await;
    assert_eq!(local.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = local.ok();
    for family in [
        "broker_connections_total 0",
        "broker_db_healthy",
        "cm_broker_delivery_acks_total 0",
        "claudemesh_build_info",
    ] {
        assert!(text.as_str().unwrap().contains(family), "{family}");
    }
    let from_afar =
        || world.request(Method::GET, "/metrics").header("x-forwarded-for", "198.51.100.1");
    Answer::of(from_afar()).await.refused(401, "unauthorized");
    Answer::of(from_afar().bearer_auth("a-wrong-metrics-token")).await.refused(401, "unauthorized");
    Answer::of(from_afar().bearer_auth("a-long-metrics-token")).await.ok();
}

#[tokio::test]
async fn another_loopback_address_counts_as_this_machine() {
    let world = World::start().await;
    let answer = Answer::of(client_from("127.0.0.3").get(world.url("/metrics"))).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn garbage_on_a_connection_hurts_nobody_else() {
    let world = World::start().await;
    let address = world.broker().address();
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        &vec![0xff; 40_000],
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    world.get("/health").await.ok();
    assert_eq!(
        world.post("/cli/session/revoke", &json!({ "token": "x" })).await.ok()["found"],
        false
    );
}

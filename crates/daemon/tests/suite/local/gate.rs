//! What every request passes: routes, headers, limits (daemon spec §9).

use std::time::Duration;

use claudemesh_ipc::api::{EventsQuery, InboxQuery, OutboxQuery};
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::ops::OperationKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::world::{Home, code, letter, raw, register, some_key, status_of, token, until};

/// The path of a session that nobody registered.
const SOME_SESSION: &str =
    "/v1/sessions/9999999999999999999999999999999999999999999999999999999999999999";

/// Every route; the stream, which has no end, comes last.
pub const ROUTES: &[(&str, &str)] = &[
    ("GET", "/v1/version"),
    ("GET", "/v1/compat"),
    ("GET", "/v1/health"),
    ("GET", "/v1/metrics"),
    ("GET", "/v1/sessions"),
    ("GET", "/v1/sessions/me"),
    ("DELETE", "/v1/sessions/me"),
    ("POST", "/v1/sessions/register"),
    ("POST", "/v1/sessions/status"),
    ("GET", "/v1/sessions/bell"),
    ("DELETE", SOME_SESSION),
    ("POST", "/v1/heartbeat"),
    ("POST", "/v1/send"),
    ("POST", "/v1/broadcast"),
    ("GET", "/v1/inbox"),
    ("GET", "/v1/inbox/search"),
    ("POST", "/v1/inbox/seen"),
    ("DELETE", "/v1/inbox"),
    ("DELETE", "/v1/inbox/01KDVDXYTBCDE72G8W4ZJ9B359"),
    ("GET", "/v1/outbox"),
    ("GET", "/v1/outbox/01KDVDXYTBCDE72G8W4ZJ9B359"),
    ("POST", "/v1/outbox/requeue"),
    ("POST", "/v1/outbox/drop"),
    ("POST", "/v1/outbox/prune"),
    ("GET", "/v1/peers"),
    ("POST", "/v1/profile"),
    ("GET", "/v1/state"),
    ("POST", "/v1/state"),
    ("GET", "/v1/ops"),
    ("POST", "/v1/ops/group.join"),
    ("POST", "/v1/admin/accept-host"),
    ("POST", "/v1/admin/archive-cleanup"),
    ("POST", "/v1/admin/rotate-keypair"),
    ("POST", "/v1/admin/trust-broker"),
    ("POST", "/v1/admin/hooks-test"),
    ("POST", "/v1/admin/reload"),
    ("POST", "/v1/admin/rotate-token"),
    ("POST", "/v1/admin/shutdown"),
    ("GET", "/v1/events"),
];

/// Whoever adds a route adds it here, too: the lines of the daemon's own table are looked through.
#[test]
fn no_route_is_missing() {
    let source = include_str!("../../../src/api/routes.rs");
    let quoted = source.lines().filter_map(|line| line.strip_prefix("    \"/v1/"));
    let templates: Vec<&str> = quoted.filter_map(|line| line.split('"').next()).collect();
    assert!(templates.len() > 25, "{templates:?}");
    for template in templates {
        let parts: Vec<&str> = template.split('/').collect();
        let is_of = |path: &str| {
            let path: Vec<&str> = path.split('/').skip(2).collect();
            path.len() == parts.len()
                && path
                    .iter()
                    .zip(&parts)
                    .all(|(found, part)| part.starts_with('{') || found == part)
        };
        let named = ROUTES.iter().any(|(_, path)| *path == format!("/v1/{template}"));
        let is_template = template.contains('{');
        assert!(
            named || is_template && ROUTES.iter().any(|(_, path)| is_of(path)),
            "/v1/{template}"
        );
    }
}

/// Daemon spec §9 Accept 1: matrix test: every route × {token in query, Host `evil.com`, Origin set, OPTIONS, …} gives the
/// documented status.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_what_no_client_of_ours_sends() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    for (method, path) in ROUTES {
        for (head, status, expected) in [
            (format!("{method} {path}?token=x HTTP/1.1\r\nhost: localhost"), 400, "token_in_query"),
            (format!("{method} {path} HTTP/1.1\r\nhost: evil.com"), 403, "forbidden_host"),
            (
                format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost"),
                403,
                "forbidden_origin",
            ),
            (format!("OPTIONS {path} HTTP/1.1\r\nhost: localhost"), 403, "forbidden_origin"),
            (
                format!(
                    "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 1"
                ),
                415,
                "unsupported_media_type",
            ),
            (
                format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x"),
                401,
                "unknown_session",
            ),
            (format!("HEAD {path} HTTP/1.1\r\nhost: localhost"), 405, ""),
            (format!("{method} {path}/ HTTP/1.1\r\nhost: localhost"), 404, "not_found"),
        ] {
            let (found, answer) = raw(running.socket(), &head, "").await;
            let is_id_route =
                path.ends_with("/inbox") || path.ends_with("/sessions") || path.contains("/ops");
            if head.contains("/ HTTP")
                && (is_id_route || *path == "/v1/sessions/me")
                && found == 405
            {
                continue;
            }
            assert!(found == status && answer.contains(expected), "{head}: {answer}");
            assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
        }
    }
    let good = "GET /v1/health HTTP/1.1\r\nhost: [::1]:47823";
    assert_eq!(raw(running.socket(), good, "").await.0, 200);
    let (found, answer) =
        raw(running.socket(), "PUT /v1/send HTTP/1.1\r\nhost: localhost", "").await;
    assert!(found == 405 && answer.to_lowercase().contains("allow: post"), "{answer}");
    assert!(answer.contains("method_not_allowed"), "{answer}");
    let nul = "DELETE /v1/inbox/a%00b HTTP/1.1\r\nhost: localhost";
    assert_eq!(raw(running.socket(), nul, "").await.0, 400);
    running.shutdown().await;
}

/// Daemon spec §9 Accept 3: 257 parallel slow requests: the 257th gets 429, `/v1/health` still answers; after release all succeed.
#[tokio::test(flavor = "multi_thread")]
async fn the_257th_request_in_flight_is_refused() {
    const BODY: &str = "{\"ids\":[\"x\"]}";
    const PLACES: usize = 256;
    let home = Home::new();
    let running = home.start().await;
    let head = format!(
        "POST /v1/inbox/seen HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        BODY.len()
    );
    let begin = async || {
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let mut slow = Vec::new();
    for _ in 0..PLACES {
        slow.push(begin().await);
    }
    let client = running.client();
    // The question itself takes a place, which one of the slow requests may have been refused for.
    while client.sessions().await.is_ok() {
        assert!(slow.len() < 2 * PLACES, "nothing is refused");
        slow.push(begin().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(code(client.sessions().await), "daemon_busy");
    assert!(client.health().await.unwrap().ok);
    let mut done = 0;
    for mut stream in slow {
        let mut answer = String::new();
        // One that was refused has been closed.
        let _ = stream.write_all(BODY.as_bytes()).await;
        let _ = stream.read_to_string(&mut answer).await;
        match status_of(&answer) {
            200 => done += 1,
            status => assert!(matches!(status, 0 | 429), "{answer}"),
        }
    }
    assert_eq!(done, PLACES);
    until("room again", || async { client.sessions().await.is_ok() }).await;
    running.shutdown().await;
}

/// Daemon spec §9 Accept 4: 33rd SSE stream → 429; closing one frees a slot within 1 s.
#[tokio::test(flavor = "multi_thread")]
async fn the_33rd_stream_is_refused() {
    let home = Home::new();
    let running = home.start().await;
    let (client, query) = (running.client(), EventsQuery::default());
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(client.events(&query, None).await.unwrap());
    }
    assert_eq!(code(client.events(&query, None).await), "too_many_streams");
    streams.pop();
    let freed = async {
        until("a slot", || async { client.events(&query, None).await.is_ok() }).await;
    };
    tokio::time::timeout(Duration::from_secs(1), freed).await.unwrap();
    running.shutdown().await;
}

/// Daemon spec §9 Accept 7: a session with caps calling beyond them → 403 `forbidden` with `cap`.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_do_what_its_list_says() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let caps = CapabilitySet::parse(["dm"]).ok();
    let (client, reply) = register(&running, "dev", 1, |request| request.caps = caps).await;
    assert!(reply.presence_accepted);
    client.send(&letter(&some_key(), "hi")).await.unwrap();
    for (refused, cap) in [
        (client.send(&letter("*", "hi")).await.map(|_| ()), "broadcast"),
        (client.send(&letter("dev:@ops", "hi")).await.map(|_| ()), "broadcast"),
        (client.group_join(None, "ops", None).await.map(|_| ()), "profile-write"),
        (
            client.peers(None, claudemesh_ipc::client::PeerFilter::Reachable).await.map(|_| ()),
            "read",
        ),
        (client.message_status(None, "12345678").await.map(|_| ()), "read"),
    ] {
        let error = refused.unwrap_err();
        let error = error.api().unwrap();
        assert_eq!((error.status, error.body.error.as_str()), (403, "forbidden"));
        assert_eq!(error.extra("cap").unwrap(), cap);
    }
    running.shutdown().await;
}

/// Daemon §9.2: what no capability names is not free for all. The outbox sends in the names of siblings and of the member,
/// and shows what they wrote.
#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_session_looks_after_neither_the_outbox_nor_the_daemon() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let every: Vec<&str> = ["dm", "read", "broadcast", "profile-write", "state-write"].into();
    for (byte, caps) in [(1, vec![]), (2, every)] {
        let caps = CapabilitySet::parse(caps).ok();
        register(&running, "dev", byte, |request| request.caps = caps).await;
        let mut routes = 0;
        for (method, path) in ROUTES {
            if !path.starts_with("/v1/outbox") && !path.starts_with("/v1/admin") {
                continue;
            }
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: ClaudeMesh-Session {}",
                token(byte).reveal()
            );
            let (status, answer) = raw(running.socket(), &head, "").await;
            assert_eq!(status, 403, "{method} {path}: {answer}");
            assert!(answer.contains("\"forbidden\"") && answer.contains("\"hint\":"), "{answer}");
            routes += 1;
        }
        assert!(routes >= 7, "only {routes} of these routes are in the table");
    }
    // The person, and a session that may do all its member may, do.
    running.client().outbox(&OutboxQuery::default()).await.unwrap();
    let (client, _) = register(&running, "dev", 3, |_| {}).await;
    client.outbox(&OutboxQuery::default()).await.unwrap();
    running.shutdown().await;
}

/// Daemon §8.2, stricter: an unknown token is refused wherever its session might do more without it than with it, and the
/// answer says why, and what to do. Daemon spec §14 Accept 4: of the events, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_token_is_no_key_to_anything() {
    const FOR_ANYBODY: [&str; 7] = [
        "/v1/version",
        "/v1/compat",
        "/v1/health",
        "/v1/metrics",
        "/v1/ops",
        "/v1/sessions/register",
        SOME_SESSION,
    ];
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    for (method, path) in ROUTES {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: ClaudeMesh-Session {}",
            token(9).reveal()
        );
        let (status, answer) = raw(running.socket(), &head, "").await;
        let is_refused = status == 401 && answer.contains("unknown_session");
        assert_eq!(is_refused, !FOR_ANYBODY.contains(path), "{method} {path}: {answer}");
        assert!(
            answer.contains("x-claudemesh-session-state: unknown"),
            "{method} {path}: {answer}"
        );
        assert!(!is_refused || answer.contains("\"hint\":"), "{answer}");
    }
    running.shutdown().await;
}

/// Daemon §9.2: a restricted session that the daemon has lost does not get the rights of its member, and has its own again
/// when it has registered.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_does_not_become_its_member() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let caps = CapabilitySet::parse(["dm", "read"]).ok();
    register(&running, "dev", 1, |request| request.caps = caps).await;
    running.shutdown().await;
    std::fs::remove_file(home.paths.sessions_file()).unwrap();
    let running = home.start().await;
    let client = running.client().with_token(Some(token(1)));
    let attempt = || {
        let args = serde_json::Map::from_iter([("name".to_owned(), "ops".into())]);
        client.op(OperationKind::of_name("group.join").unwrap(), None, args)
    };
    assert_eq!(code(attempt().await), "unknown_session");
    assert_eq!(code(client.send(&letter("*", "hi")).await), "unknown_session");
    assert_eq!(code(client.outbox_drop("12345678").await), "unknown_session");
    assert_eq!(code(client.inbox(&InboxQuery::default()).await), "unknown_session");
    assert_eq!(code(client.events(&EventsQuery::default(), None).await), "unknown_session");
    // Who has patience meets the session when it is back.
    let patient = client.clone().with_patience(Duration::from_secs(20));
    let (found, ()) = tokio::join!(patient.session(), async {
        register(&running, "dev", 1, |request| request.caps = caps).await;
    });
    assert_eq!(found.unwrap().caps, caps);
    assert_eq!(code(attempt().await), "forbidden");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_queries_are_refused() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let client = running.client();
    let query = |change: fn(&mut InboxQuery)| {
        let mut query = InboxQuery::default();
        change(&mut query);
        query
    };
    for (wrong, expected) in [
        (query(|query| query.since = Some("yesterday".to_owned())), "invalid_field"),
        (query(|query| query.limit = Some(1001)), "invalid_field"),
        (query(|query| query.limit = Some(0)), "invalid_field"),
        (query(|query| query.cursor = Some("?".to_owned())), "invalid_field"),
        (query(|query| query.mesh = Some("other".to_owned())), "mesh_not_attached"),
    ] {
        assert_eq!(code(client.inbox(&wrong).await), expected, "{wrong:?}");
    }
    assert_eq!(
        code(client.inbox_flush(&claudemesh_ipc::api::inbox::FlushQuery::default()).await),
        "missing_filter"
    );
    assert_eq!(code(client.message_status(None, "short").await), "invalid_argument");
    assert_eq!(code(client.group_join(None, "ops", None).await), "broker_unavailable");
    let peers = client.peers(None, claudemesh_ipc::client::PeerFilter::Reachable).await;
    assert_eq!(code(peers), "broker_unavailable");
    running.shutdown().await;
}

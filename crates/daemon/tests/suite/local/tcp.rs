//! The local API over loopback TCP (daemon spec §9.1, §9.2, §20.1).

use std::net::Ipv4Addr;

use claudemesh_ipc::api::EventsQuery;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::gate::ROUTES;
use super::inbox::{item, put};
use super::process::DaemonProcess;
use super::world::{Home, raw, register, status_of, token, until};

/// The surface of the SDKs (ecosystem spec §4.2), as far as it is built; everything else is for the socket.
const OVER_TCP: [&str; 12] = [
    "/v1/version",
    "/v1/health",
    "/v1/events",
    "/v1/send",
    "/v1/broadcast",
    "/v1/inbox",
    "/v1/inbox/search",
    "/v1/inbox/seen",
    "/v1/outbox/01KDVDXYTBCDE72G8W4ZJ9B359",
    "/v1/peers",
    "/v1/profile",
    "/v1/state",
];

fn is_over_tcp(path: &str) -> bool {
    OVER_TCP.contains(&path) || path.starts_with("/v1/ops/") || path.starts_with("/v1/inbox/")
}

impl Home {
    fn port(&self) -> Option<u16> {
        let text = std::fs::read_to_string(self.paths.http_port_file()).ok()?;
        Some(text.trim().parse().unwrap())
    }

    fn local_token(&self) -> String {
        std::fs::read_to_string(self.paths.local_token_file()).unwrap().trim().to_owned()
    }
}

/// Head of the answer: a stream has no end.
async fn over_tcp(port: u16, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let text = format!("{head}\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let bytes = stream.read(&mut chunk).await.unwrap();
        answer.extend_from_slice(&chunk[..bytes]);
        let text = String::from_utf8_lossy(&answer);
        if bytes == 0 || text.contains("text/event-stream") && text.contains(": connected") {
            return (status_of(&text), text.into_owned());
        }
    }
}

async fn ask(port: u16, method: &str, path: &str, more: &str) -> (u16, String) {
    over_tcp(port, &format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}{more}")).await
}

/// Daemon spec §9 Accept 1: matrix test: every route × {TCP without token, TCP wrong token, TCP right token, token in query,
/// Host `evil.com`, Host `[::1]:47823`, Origin set, OPTIONS} gives the documented status. The socket's columns are in `gate`.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_over_tcp_asks_for_the_local_token() {
    let home = Home::new();
    home.join("dev");
    home.settings("[ipc]\ntcp_enabled = true\nhttp_port = 0\n");
    let running = home.start().await;
    let (port, secret) = (home.port().unwrap(), home.local_token());
    let right = format!("\r\nauthorization: Bearer {secret}");
    for (method, path) in ROUTES {
        for (more, status, code) in [
            (String::new(), 401, "missing_token"),
            ("\r\nauthorization: Bearer wrong".to_owned(), 401, "invalid_token"),
            (format!("\r\nauthorization: Basic {secret}"), 401, "invalid_token"),
            (format!("{right}x"), 401, "invalid_token"),
            (
                format!("\r\nauthorization: ClaudeMesh-Session {}", token(1).reveal()),
                401,
                "invalid_token",
            ),
            (format!("{right}\r\norigin: http://localhost"), 403, "forbidden_origin"),
            (format!("{right}{right}"), 400, "bad_request"),
        ] {
            let (found, answer) = ask(port, method, path, &more).await;
            assert!(found == status && answer.contains(code), "{method} {path} {more}: {answer}");
            assert!(!answer.contains(&secret), "{answer}");
        }
        let query = format!("{path}?token={secret}");
        let (found, answer) = ask(port, method, &query, &right).await;
        assert!(found == 400 && answer.contains("token_in_query"), "{method} {path}: {answer}");
        let evil = format!("{method} {path} HTTP/1.1\r\nhost: evil.com{right}");
        assert_eq!(over_tcp(port, &evil).await.0, 403, "{method} {path}");
        assert_eq!(ask(port, "OPTIONS", path, &right).await.0, 403, "{method} {path}");
        // The right token opens the surface of the SDKs, and nothing else.
        let good = format!("{method} {path} HTTP/1.1\r\nhost: [::1]:47823{right}");
        let (found, answer) = over_tcp(port, &good).await;
        let is_refused = found == 403 && answer.contains("uds_only");
        assert_eq!(is_refused, !is_over_tcp(path), "{method} {path}: {answer}");
        assert!(![0, 401].contains(&found), "{method} {path}: {answer}");
    }
    let unknown = ask(port, "GET", "/v1/no/such", &right).await;
    assert!(unknown.0 == 404 && unknown.1.contains("not_found"), "{}", unknown.1);
    assert_eq!(ask(port, "GET", "/v1/no/such", "").await.0, 401);
    assert!(running.client().version().await.is_ok(), "nobody stopped it");
    running.shutdown().await;
    assert_eq!(home.port(), None, "the port file goes with the listener");
}

/// A session speaks over TCP in a header of its own, beside the local token; nobody without one sees everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_a_header_of_its_own() {
    let home = Home::new();
    let member = home.join("dev").public();
    home.settings("[ipc]\ntcp_enabled = true\nhttp_port = 0\n");
    let running = home.start().await;
    let (port, secret) = (home.port().unwrap(), home.local_token());
    let (_, mine) = register(&running, "dev", 1, |_| {}).await;
    let (_, other) = register(&running, "dev", 2, |_| {}).await;
    let kind = claudemesh_ipc::api::RecipientKind::Session;
    put(&running, item(mine.session_pubkey.unwrap(), kind, "to-mine")).await;
    put(&running, item(other.session_pubkey.unwrap(), kind, "to-other")).await;
    let right = format!("\r\nauthorization: Bearer {secret}");
    let session = format!("{right}\r\nx-claudemesh-session: {}", token(1).reveal());
    let (status, answer) = ask(port, "GET", "/v1/inbox?mark_seen=false", &session).await;
    assert!(
        status == 200 && answer.contains("to-mine") && !answer.contains("to-other"),
        "{answer}"
    );
    let (status, answer) = ask(port, "GET", "/v1/inbox?mark_seen=false", &right).await;
    assert!(status == 200 && answer.contains("to-mine") && answer.contains("to-other"), "{answer}");
    let unknown = format!("{right}\r\nx-claudemesh-session: {}", token(9).reveal());
    let (status, answer) = ask(port, "GET", "/v1/inbox", &unknown).await;
    assert!(status == 401 && answer.contains("unknown_session"), "{answer}");
    assert!(answer.contains("x-claudemesh-session-state: unknown"), "{answer}");
    // Without a session a stream over TCP is the member's, never everybody's.
    let head = format!(
        "GET /v1/events?scope=all&kinds=message HTTP/1.1\r\nhost: localhost{right}\r\n\r\n"
    );
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut everything = running.client().events(&EventsQuery::default(), None).await.unwrap();
    let mut seen = String::new();
    let mut chunk = [0; 4096];
    while !seen.contains(": connected") {
        let bytes = stream.read(&mut chunk).await.unwrap();
        seen.push_str(std::str::from_utf8(&chunk[..bytes]).unwrap());
    }
    put(&running, item(other.session_pubkey.unwrap(), kind, "secret-of-other")).await;
    let to_member = claudemesh_ipc::api::RecipientKind::Member;
    put(&running, item(member, to_member, "to-the-member")).await;
    while !seen.contains("to-the-member") {
        let bytes = stream.read(&mut chunk).await.unwrap();
        assert!(bytes > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&chunk[..bytes]).unwrap());
    }
    assert!(!seen.contains("secret-of-other"), "{seen}");
    assert!(everything.next().await.unwrap().is_some(), "over the socket everything is told");
    running.shutdown().await;
}

/// Daemon spec §20.1: after a rotation both tokens are taken; the next start takes the new one only.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_replaces_the_file() {
    let home = Home::new();
    home.settings("[ipc]\ntcp_enabled = true\nhttp_port = 0\n");
    let running = home.start().await;
    let before = home.local_token();
    let reply = running.client().rotate_token().await.unwrap();
    assert!(reply.rotated && reply.old_valid_until > reply.rotated_at && reply.token.is_none());
    let after = home.local_token();
    assert_ne!(before, after);
    let is_taken = async |secret: &str| {
        let port = home.port().unwrap();
        let right = format!("\r\nauthorization: Bearer {secret}");
        ask(port, "GET", "/v1/version", &right).await.0 == 200
    };
    assert!(is_taken(&before).await && is_taken(&after).await);
    let shown: serde_json::Value = running
        .client()
        .post("/v1/admin/rotate-token", &serde_json::json!({"show": true}))
        .await
        .unwrap();
    assert_eq!(shown["token"].as_str().unwrap(), home.local_token());
    running.shutdown().await;
    let running = home.start().await;
    assert!(!is_taken(&before).await && !is_taken(&after).await);
    assert!(is_taken(&home.local_token()).await);
    running.shutdown().await;
}

/// Daemon spec §9 Accept 5: two users on one host both run daemons with `--tcp`: the second gets another port, `http.port` is
/// correct for each. A port that anybody else has is no obstacle either.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_no_obstacle() {
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let wanted = squatter.local_addr().unwrap().port();
    let homes = [Home::new(), Home::new()];
    let mut running = Vec::new();
    for home in &homes {
        home.settings(&format!("[ipc]\ntcp_enabled = true\nhttp_port = {wanted}\n"));
        running.push(home.start().await);
    }
    let ports = [homes[0].port().unwrap(), homes[1].port().unwrap()];
    assert!(ports[0] != ports[1] && !ports.contains(&wanted), "{ports:?}");
    for (home, running) in homes.iter().zip(&running) {
        let right = format!("\r\nauthorization: Bearer {}", home.local_token());
        let (status, answer) = ask(home.port().unwrap(), "GET", "/v1/version", &right).await;
        assert_eq!(status, 200, "{answer}");
        let other = homes.iter().find(|other| other.path() != home.path()).unwrap();
        let wrong = format!("\r\nauthorization: Bearer {}", other.local_token());
        assert_eq!(ask(home.port().unwrap(), "GET", "/v1/version", &wrong).await.0, 401);
        assert!(running.client().health().await.unwrap().ok);
    }
    for running in running {
        running.shutdown().await;
    }
}

/// Off unless asked for: no listener, no port file, also when an earlier run left one.
#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_nobody_listens() {
    let home = Home::new();
    home.settings("");
    std::fs::write(home.paths.http_port_file(), "1\n").unwrap();
    let running = home.start().await;
    assert_eq!(home.port(), None);
    running.shutdown().await;
    home.settings("[ipc]\ntcp_enabled = true\nhttp_port = 0\n");
    let mut options = claudemesh_daemon::Options::from_env(home.paths.clone());
    options.tcp = Some(false);
    let running = claudemesh_daemon::start(options).await.unwrap();
    assert_eq!(home.port(), None, "whoever starts it decides");
    running.shutdown().await;
}

/// Daemon spec §9.2: wrong tokens are told to the log, and not as often as they come.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_logged_once_a_minute() {
    let home = Home::new();
    home.settings("[ipc]\ntcp_enabled = true\nhttp_port = 0\n");
    let daemon = DaemonProcess::start(&home, "").await;
    until("the port", || async { home.port().is_some() }).await;
    let port = home.port().unwrap();
    for _ in 0..50 {
        assert_eq!(ask(port, "GET", "/v1/health", "\r\nauthorization: Bearer no").await.0, 401);
    }
    assert!(daemon.client().health().await.unwrap().ok);
    let log = || std::fs::read_to_string(home.paths.log_file()).unwrap_or_default();
    until("the warning", || async { log().contains("ipc_bearer_mismatch") }).await;
    assert_eq!(log().matches("ipc_bearer_mismatch").count(), 1, "{}", log());
}

/// Daemon §9.2: over the socket a bearer of the local token means nothing: the system has said whose the connection is.
#[tokio::test(flavor = "multi_thread")]
async fn the_local_token_means_nothing_at_the_socket() {
    let home = Home::new();
    let running = home.start().await;
    let head = format!(
        "GET /v1/health HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}",
        home.local_token()
    );
    assert_eq!(raw(running.socket(), &head, "").await.0, 401);
    running.shutdown().await;
}

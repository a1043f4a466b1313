//! Requests that nobody would make (daemon spec §9): random heads, and random bodies of every route.

use std::time::{Duration, Instant};

use claudemesh_protocol::ops::OperationKind;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::gate::ROUTES;
use super::world::{Home, status_of};

/// Words that mean something somewhere.
const WORDS: [&str; 24] = [
    "*",
    "@all",
    "@ops",
    "#general",
    "dev",
    "Mou",
    "now",
    "low",
    "dm",
    "id",
    "ids",
    "to",
    "message",
    "key",
    "value",
    "mesh",
    "scope",
    "session_id",
    "status",
    "working",
    "confirm",
    "token",
    "\u{0}",
    "ﷺ\u{202e}",
];
/// Pieces of a head.
const PIECES: [&str; 14] = [
    "host: localhost\r\n",
    "host: \r\n",
    "content-length: 5\r\n",
    "content-length: -1\r\n",
    "content-length: 99999999999999999999\r\n",
    "transfer-encoding: chunked\r\n",
    "content-type: application/json\r\n",
    "authorization: \u{7f}\r\n",
    "authorization: ClaudeMesh-Session zz\r\n",
    "expect: 100-continue\r\n",
    "last-event-id: x-1\r\n",
    "idempotency-key: \r\n",
    " folded\r\n",
    "no colon\r\n",
];

fn value(random: &mut StdRng, depth: u32) -> Value {
    let kinds = if depth > 4 { 6 } else { 8 };
    match random.random_range(0..kinds) {
        0 => Value::Null,
        1 => json!(random.random_bool(0.5)),
        2 => json!(random.random_range(-5..5_i64)),
        3 => json!(random.random::<u64>()),
        4 => json!(random.random::<f64>() * 1e30),
        5 => json!(WORDS[random.random_range(0..WORDS.len())]),
        6 => (0..random.random_range(0..4)).map(|_| value(random, depth + 1)).collect(),
        _ => Value::Object(object(random, depth + 1)),
    }
}

fn object(random: &mut StdRng, depth: u32) -> Map<String, Value> {
    let name = |random: &mut StdRng| WORDS[random.random_range(0..WORDS.len())].to_owned();
    (0..random.random_range(0..5)).map(|_| (name(random), value(random, depth))).collect()
}

/// A body for a route: now and then no JSON, cut off, or nested without end.
fn body(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = match random.random_range(0..10) {
        0 => "[".repeat(random.random_range(1..200)).into_bytes(),
        1 => (0..random.random_range(0..40)).map(|_| random.random()).collect(),
        _ => serde_json::to_vec(&object(random, 0)).unwrap(),
    };
    if random.random_bool(0.1) {
        bytes.truncate(bytes.len() / 2);
    }
    bytes
}

fn request(random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.3) {
        let mut bytes = b"POST /v1/send HTTP/1.1\r\n".to_vec();
        for _ in 0..random.random_range(0..6) {
            bytes.extend(PIECES[random.random_range(0..PIECES.len())].bytes());
        }
        bytes.extend(b"\r\n{}");
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        return bytes;
    }
    let (mut method, mut path) = ROUTES[random.random_range(0..ROUTES.len())];
    let operation;
    if random.random_bool(0.4) {
        let kind = OperationKind::ALL[random.random_range(0..OperationKind::ALL.len())];
        operation = format!("/v1/ops/{}", kind.spec().name);
        (method, path) = ("POST", &operation);
    }
    // These end the daemon, or never end themselves.
    if matches!(path, "/v1/admin/shutdown" | "/v1/events") {
        (method, path) = ("GET", "/v1/version");
    }
    let body = body(random);
    let query = if random.random_bool(0.3) { "?mesh=%00&limit=-1&cursor=%ff&since=x" } else { "" };
    let head = format!(
        "{method} {path}{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

async fn shoot(seed: u64, how_long: Duration) {
    let home = Home::new();
    home.join("dev");
    home.join("other");
    let running = home.start().await;
    let mut random = StdRng::seed_from_u64(seed);
    let (began, mut shots, mut answered) = (Instant::now(), 0_u32, 0_u32);
    while began.elapsed() < how_long {
        let bytes = request(&mut random);
        let mut stream = UnixStream::connect(running.socket()).await.unwrap();
        // What is not read to its end is reset.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let limit = Duration::from_secs(15);
        let read = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
        let shown = String::from_utf8_lossy(&bytes);
        assert!(read.is_ok(), "seed {seed}, shot {shots}: no end of the answer to\n{shown}");
        let answer = String::from_utf8_lossy(&answer);
        let status = status_of(&answer);
        assert!(
            status != 500 && !answer.contains("\"internal\""),
            "seed {seed}:\n{shown}\n{answer}"
        );
        assert!(
            status < 500 || [502, 503, 504, 507].contains(&status),
            "seed {seed}:\n{shown}\n{answer}"
        );
        shots += 1;
        answered += u32::from(status != 0);
    }
    assert!(running.client().health().await.unwrap().ok);
    let figures = running.client().metrics().await.unwrap();
    assert!(!figures.contains("status=\"500\""), "{figures}");
    assert!(shots > 50 && answered > shots / 2, "{answered} of {shots} were answered");
    running.shutdown().await;
}

/// Daemon spec §9 Accept 6: fuzz on the HTTP parser and each JSON body: no `internal`, no panic, and every request ends.
#[tokio::test(flavor = "multi_thread")]
async fn random_requests_break_nothing() {
    shoot(1, Duration::from_secs(4)).await;
}

/// Daemon spec §9 Accept 6, for two minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes; make test-all"]
async fn random_requests_break_nothing_for_longer() {
    shoot(rand::random(), Duration::from_mins(2)).await;
}

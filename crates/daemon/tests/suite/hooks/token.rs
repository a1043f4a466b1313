//! Capability tokens (daemon spec §16.4): a hook sends with `curl`, over the socket that it is told of.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::stage::{Hooked, skipped, write_to};
use crate::local::world::{letter, raw};
use crate::mesh::node::{Node, World};

/// Defines `ask <method> <path> [body]`, which leaves the status in a file, on its own line.
const ASK: &str = r#"
ask() {
    /usr/bin/curl -s -o $OUT/body -w '%{http_code}\n' --max-time 5 --unix-socket "$CLAUDEMESH_DAEMON_SOCK" \
        -H "Authorization: ClaudeMesh-Hook $CLAUDEMESH_CAPABILITY_TOKEN" -H 'Content-Type: application/json' \
        -X "$1" "http://localhost$2" ${3:+-d "$3"} >> $OUT/statuses
    { cat $OUT/body; echo; } >> $OUT/bodies
}
"#;

/// True when the test cannot be done here, which is said.
fn lacks_curl() -> bool {
    let lacks = !Path::new("/usr/bin/curl").exists();
    if lacks {
        skipped("/usr/bin/curl is not installed");
    }
    lacks
}

/// §16 Accept 3: token from hook X: send to another peer → 403; read `/v1/inbox` → 403; use after exit → 401.
#[tokio::test]
async fn a_token_is_good_for_what_its_scopes_name() {
    if lacks_curl() {
        return;
    }
    let world = World::new(3).await;
    let hooked = Hooked::of(&world, 0);
    let (peer, other) = (Node::open(world.entry(1)).await, Node::open(world.entry(2)).await);
    let (sender, stranger) = (world.key(1).to_hex(), world.key(2).to_hex());
    hooked.sections("[on-dm]\nenabled = true\ncapability_token_scope = [\"reply:event\"]\n");
    let calls = [
        ("POST", "/v1/send", json!({"to": sender, "message": "answer"}), 202),
        ("POST", "/v1/send", json!({"to": stranger, "message": "x"}), 403),
        ("POST", "/v1/send", json!({"to": "*", "message": "x"}), 403),
        (
            "POST",
            "/v1/send",
            json!({"to": world.key(0).to_hex(), "message": "x", "self": true}),
            403,
        ),
        ("POST", "/v1/send", json!({"to": sender, "message": "x", "mesh": "work"}), 403),
        (
            "POST",
            "/v1/send",
            json!({"to": sender, "message": "x", "meta": {"cm_auto": false}}),
            400,
        ),
        ("GET", "/v1/inbox", json!(null), 403),
        ("GET", "/v1/events", json!(null), 403),
        ("GET", "/v1/health", json!(null), 403),
        ("GET", "/v1/outbox", json!(null), 403),
        ("POST", "/v1/ops/message.send", json!({"args": {"to": sender, "message": "x"}}), 403),
        ("POST", "/v1/sessions/register", json!({}), 403),
        ("POST", "/v1/admin/shutdown", json!({}), 403),
        ("POST", "/v1/send", json!({"to": sender, "message": "second answer"}), 202),
    ];
    let mut script = ASK.to_owned();
    for (method, path, body, _) in &calls {
        let body = if body.is_null() { String::new() } else { format!("'{body}'") };
        writeln!(script, "ask {method} {path} {body}").unwrap();
    }
    script.push_str("echo $CLAUDEMESH_CAPABILITY_TOKEN > $OUT/token");
    hooked.hook("on-dm", &script);
    let running = hooked.open().await;
    write_to(&peer, world.key(0), "hi").await;
    let token = hooked.leaves("token").await;
    let statuses = hooked.left("statuses").unwrap();
    let statuses: Vec<u16> = statuses.lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<u16> = calls.iter().map(|(.., status)| *status).collect();
    assert_eq!(statuses, expected, "{}", hooked.left("bodies").unwrap());
    let items = peer.receives(2).await;
    for (item, body) in items.iter().zip(["answer", "second answer"]) {
        assert_eq!((item.body.as_deref(), item.hops), (Some(body), 1));
        assert_eq!(item.meta.as_ref().unwrap()["cm_auto"], json!(true));
    }
    let line = &hooked.audited(1).await[0];
    assert_eq!(line["capability_calls"], json!(calls.len()), "{line}");
    let body = json!({"to": sender, "message": "late"}).to_string();
    let head = format!(
        "POST /v1/send HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         authorization: ClaudeMesh-Hook {}",
        body.len(),
        token.trim()
    );
    let (status, answer) = raw(running.socket(), &head, &body).await;
    assert!(status == 401 && answer.contains("invalid_token"), "{answer}");
    let figures = running.daemon().hooks().metrics();
    let calls = &figures[0].capability_calls;
    assert_eq!((calls["reply:event"], calls["refused"]), (2, 3), "{calls:?}");
    assert!(other.received().await.is_empty());
    running.shutdown().await;
    let log = std::fs::read_to_string(hooked.home.paths.hooks_audit_file()).unwrap();
    assert!(!log.contains(token.trim()));
}

/// §16 Accept 3: the 21st call → 429.
#[tokio::test]
async fn a_token_is_good_for_twenty_calls() {
    if lacks_curl() {
        return;
    }
    let world = World::new(2).await;
    let hooked = Hooked::of(&world, 0);
    hooked.sections("[on-startup]\nenabled = true\n[on-dm]\nenabled = true\ncapability_token_scope = [\"dm:send:sender\"]\n");
    hooked.hook("on-startup", "echo ${CLAUDEMESH_CAPABILITY_TOKEN:-none} > $OUT/startup");
    hooked.hook(
        "on-dm",
        &format!("{ASK}\nfor i in $(seq 22); do ask GET /v1/inbox; done; echo done > $OUT/done"),
    );
    let running = hooked.open().await;
    let peer = Node::open(world.entry(1)).await;
    write_to(&peer, world.key(0), "hi").await;
    hooked.leaves("done").await;
    let statuses = hooked.left("statuses").unwrap();
    let statuses: Vec<&str> = statuses.lines().collect();
    assert_eq!(statuses, [vec!["403"; 20], vec!["429"; 2]].concat());
    assert_eq!(hooked.leaves("startup").await, "none\n");
    running.shutdown().await;
}

/// A token is no way around the other headers, and no way in over them.
#[tokio::test]
async fn what_is_no_token_is_refused_everywhere() {
    let hooked = Hooked::new();
    let running = hooked.start().await;
    for token in ["", "cmhk_", &format!("cmhk_{}", "A".repeat(43)), &"0".repeat(64)] {
        for path in ["/v1/health", "/v1/inbox"] {
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: ClaudeMesh-Hook {token}"
            );
            let (status, answer) = raw(running.socket(), &head, "").await;
            assert_eq!(status, 401, "{token:?} {path}: {answer}");
        }
    }
    assert!(running.client().send(&letter("somebody", "x")).await.is_err());
    running.shutdown().await;
}

//! The line for an agent's status bar, with the real program (CLI spec §6.5, MCP spec §10.4).

use std::process::Stdio;

use serde_json::{Value, json};

use crate::home::{Home, Ran, two_people, until};
use crate::sessions::Agent;

/// What is printed, for a client that says nothing.
fn line(home: &Home) -> String {
    line_of(home, &Value::Null)
}

/// What is printed for a client that says this; no line is ever ended, and nothing ever fails.
fn line_of(home: &Home, told: &Value) -> String {
    let input = if told.is_null() { String::new() } else { told.to_string() };
    let ran = home.feed(&["status-line"], input.as_bytes());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(!ran.stdout.contains('\n'), "{:?}", ran.stdout);
    ran.stdout
}

/// CLI spec §6.5 Accept 1, MCP spec §10 Accept 8: works with the daemon down, config missing, cache garbage; exit 0 always.
#[test]
fn a_line_is_printed_whatever_is_wrong() {
    let home = Home::new().with("NO_COLOR", "1");
    assert_eq!(line(&home), "◇ claudemesh (not joined)");
    let (ana, _bob) = two_people();
    let ana = ana.with("NO_COLOR", "1");
    let cache = ana.file("peer-cache.json");
    until("its daemon has written the file", || line(&ana).starts_with("◇ home · 0/2 online"));
    ana.ok(&["daemon", "down"]);
    assert!(line(&ana).starts_with("◇ home · "), "it was just there");
    for garbage in [&b""[..], b"{", b"[]", b"{\"home\":3}", b"\xff\xfe"] {
        std::fs::write(&cache, garbage).unwrap();
        assert_eq!(line(&ana), "◇ home · idle");
    }
    std::fs::remove_file(&cache).unwrap();
    assert_eq!(line(&ana), "◇ home · idle");
    let ascii = ana.with("CLAUDEMESH_NO_UNICODE", "1");
    assert_eq!(line(&ascii), "* home | idle");
    std::fs::write(ascii.file("config.json"), "{").unwrap();
    assert_eq!(line(&ascii), "* claudemesh");
    // Whoever leaves standard input open, or says rubbish, gets his line all the same.
    let mut open = ascii.command(&["status-line"]);
    let child = open.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let stdin = child.stdin.take();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "* claudemesh"));
    drop(stdin);
    assert_eq!(ascii.feed(&["status-line"], b"rubbish").stdout, "* claudemesh");
}

/// CLI spec §6.5: who is there, what nobody has read, who we are; the mesh is the session's.
#[test]
fn the_line_follows_the_mesh_of_its_session() {
    let (ana, bob) = two_people();
    let ana = ana.with("NO_COLOR", "1");
    bob.ok(&["send", "ana", "hello"]);
    until("a message waits", || line(&ana).ends_with(" · 1 unread · ana"));
    ana.ok(&["mesh", "create", "Another"]);
    let agent = Agent::register(&ana, 1, "worker");
    until("a session is there", || line(&ana).starts_with("◇ home · 1/2 online"));
    let other = json!({ "session_id": "0b5a2f6e-0000-4000-8000-000000000000" });
    assert!(line_of(&ana, &other).starts_with("◇ home · "));
    assert!(line_of(&ana, &json!({ "session_id": agent.id() })).starts_with("◇ home · 1/2"));
    let coloured = ana.with("NO_COLOR", "");
    assert!(line(&coloured).contains("\u{1b}["), "{:?}", line(&coloured));
}

//! What the record of a real Claude Code proves to the sender of a message (agents spec §1.8, §1.10).

use std::time::Duration;

use claudemesh_testkit::agents::{ClaudeRig, ClaudeSession};
use serde_json::{Map, Value, json};

use super::rig::{PATIENCE, Scene, is_missing};
use crate::home::until;

/// Pause between two looks of the sender.
const LOOK: Duration = Duration::from_millis(100);

/// The hooks of `install`, without the bell.
fn entries() -> Value {
    let mut hooks = Map::new();
    let events =
        ["SessionStart", "UserPromptSubmit", "PostToolUse", "Notification", "Stop", "SessionEnd"];
    for event in events {
        let command = format!("claudemesh hook claude {event}");
        let handler = json!({ "type": "command", "command": command, "timeout": 5 });
        hooks.insert(event.to_owned(), json!([{ "hooks": [handler] }]));
    }
    json!({ "hooks": hooks })
}

/// Claude Code in a terminal, with our server and hooks.
fn started(scene: &Scene, arguments: &[&str]) -> (ClaudeRig, ClaudeSession) {
    scene.claude_settings(&entries());
    let claude = scene.claude();
    let server = ["mcp", "add", "--scope", "user", "claudemesh", "--", "claudemesh", "mcp"];
    assert_eq!(claude.run(&server).unwrap().code, Some(0));
    let session = claude.interactive(arguments).unwrap();
    session.wait_for_status("idle", PATIENCE).unwrap();
    until("the session is there", || scene.bob.ok(&["peers"]).contains("ana"));
    (claude, session)
}

/// Sends as Bob; answers the id.
fn send(scene: &Scene, text: &str) -> String {
    let sent = scene.bob.json_ok(&["send", "ana", text, "--json"]);
    sent["client_message_id"].as_str().unwrap().to_owned()
}

/// What Bob is told of the first recipient.
fn told(scene: &Scene, id: &str) -> Value {
    scene.bob.json_ok(&["message", "status", id, "--json"])["recipients"][0].clone()
}

/// Waits until Bob is told that.
fn comes(scene: &Scene, id: &str, field: &str, value: &str) -> Value {
    until(&format!("Bob is told that {field} is {value}"), || {
        std::thread::sleep(LOOK);
        told(scene, id)[field] == value
    });
    told(scene, id)
}

/// Agents spec §1.8, receipt ladder: what a hook puts before a real model is `in_context` while the turn goes on, then
/// `turn_ended`, then `answered`, each with what shows it.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn the_sender_sees_that_the_model_read_it_finished_and_answered() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let (_claude, session) = started(&scene, &["--allowedTools", "Bash"]);
    let id = send(&scene, "a word from Bob");
    session.prompt(r#"CALL Bash {"command":"sleep 4","description":"x"}"#).unwrap();
    let in_context = comes(&scene, &id, "state", "in_context");
    assert!(scene.model.wait_for_text("a word from Bob", PATIENCE).is_ok());
    assert_eq!(in_context["assertedBy"], "agent_record", "{in_context}");
    assert_eq!(in_context["path"], "hook:prompt", "{in_context}");
    let evidence = in_context["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("transcript "), "{evidence}");
    let ended = comes(&scene, &id, "state", "turn_ended");
    assert_eq!(ended["evidence"], in_context["evidence"]);
    scene.me.ok(&["send", "Bob", "an answer", "--reply-to", &id]);
    comes(&scene, &id, "state", "answered");
}

/// Agents spec §1.10 scenario 7: a message to a session in a permission dialog is `held: dialog`, and `in_context` after the
/// dialog is answered.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn behind_a_permission_dialog_the_sender_sees_why_it_waits() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let (_claude, session) = started(&scene, &["--permission-mode", "default"]);
    session.prompt(r#"CALL Bash {"command":"touch it","description":"x"}"#).unwrap();
    session
        .wait_for_screen("the dialog", PATIENCE, |screen| screen.contains("Do you want"))
        .unwrap();
    let id = send(&scene, "behind the dialog");
    let held = comes(&scene, &id, "reason", "dialog");
    assert_eq!(held["state"], "held", "{held}");
    session.press("Enter").unwrap();
    comes(&scene, &id, "state", "turn_ended");
    assert!(scene.model.wait_for_text("behind the dialog", PATIENCE).is_ok());
}

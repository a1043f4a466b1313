//! Claude Code.

use std::path::{Path, PathBuf};

use claudemesh_agents::record::{Format, Sign};
use serde_json::{Value, json};

use super::rig::{PATIENCE, Scene, framed, is_in_context, is_missing, proved};
use crate::home::until;

/// Agents spec §1.10 scenario 1, the part of the MCP server: MCP spec §3, §11.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn the_list_of_servers_shows_ours_connected() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = scene.claude();
    let added =
        claude.run(&["mcp", "add", "--scope", "user", "claudemesh", "--", "claudemesh", "mcp"]);
    assert_eq!(added.as_ref().unwrap().code, Some(0), "{added:?}");
    let listed = claude.run(&["mcp", "list"]).unwrap();
    let line = listed.stdout.lines().find(|line| line.starts_with("claudemesh:"));
    assert!(line.is_some_and(|line| line.contains("Connected")), "{listed:?}");
}

/// Agents spec §1.10 scenario 3: the model calls our tool, the message arrives, the model reads the result.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn the_model_sends_a_message_and_reads_what_became_of_it() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = scene.claude();
    let server = [
        "mcp",
        "add",
        "--scope",
        "user",
        "claudemesh",
        "--",
        "claudemesh",
        "mcp",
        "--tools",
        "messaging",
    ];
    let added = claude.run(&server).unwrap();
    assert_eq!(added.code, Some(0), "{added:?}");
    let script = r#"CALL mcp__claudemesh__send_message {"to":"Bob","message":"from a model"}"#;
    let ran = claude.print(script, &["--allowedTools", "mcp__claudemesh"]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    scene.bob_has("from a model");
    let request = scene
        .model
        .wait_for("the result of the tool", PATIENCE, |request| !request.tool_results().is_empty())
        .unwrap();
    let results = request.tool_results();
    assert!(results[0].contains(r#""to":"Bob","ok":true"#), "{results:?}");
}

/// Agents spec §2: the client in a terminal of its own takes a prompt, and nothing of it is left.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn a_session_in_a_terminal_takes_a_prompt_and_ends_with_its_rig() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = scene.claude();
    let session = claude.interactive(&[]).unwrap();
    session.wait_for_status("idle", PATIENCE).unwrap();
    session.prompt("hello there, model").unwrap();
    let request = scene.model.wait_for_text("hello there, model", PATIENCE).unwrap();
    session.wait_for_screen("the answer", PATIENCE, |screen| screen.contains("ack-")).unwrap();
    assert!(request.instructions().contains("Claude"), "{}", request.instructions());
    // It is written behind the screen.
    until("the record says that a person spoke", || {
        let transcripts = claude.transcripts();
        let is_of_the_session =
            |path: &PathBuf| path.to_string_lossy().contains(&session.session_id);
        transcripts.iter().any(is_of_the_session)
            && has_human_spoken(&proved(Format::Claude, &transcripts))
    });
    let pid = session.pid;
    drop(session);
    until("the client has ended", || !Path::new(&format!("/proc/{pid}")).exists());
}

/// Agents spec §1.2 path 4, §1.4: where the client puts what a hook says. Everything that brings a message by way of hooks
/// stands on this.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn what_a_hook_says_is_in_the_very_next_request() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let says = |event: &str| {
        let context = json!({ "hookSpecificOutput": {
            "hookEventName": event, "additionalContext": format!("said at {event}") } });
        handler(&format!("echo '{context}'"))
    };
    let on = |event: &str| (event.to_owned(), json!([{ "hooks": [says(event)] }]));
    // Once: the client says itself that it is a continuation, too.
    let stop = r#"test -e stopped || { touch stopped; echo '{"decision":"block","reason":"said at Stop"}'; }"#;
    let mut hooks: serde_json::Map<String, Value> =
        ["SessionStart", "UserPromptSubmit", "PostToolUse"].into_iter().map(on).collect();
    hooks.insert("Stop".to_owned(), json!([{ "hooks": [handler(stop)] }]));
    scene.claude_settings(&json!({ "hooks": hooks }));
    let script = r#"CALL Bash {"command":"echo hi","description":"x"}"#;
    let ran = scene.claude().print(script, &["--allowedTools", "Bash"]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let requests = scene.model.requests();
    let says =
        |number: usize, event: &str| requests[number].text().contains(&format!("said at {event}"));
    assert_eq!(requests.len(), 3, "{requests:#?}");
    assert!(says(0, "SessionStart") && says(0, "UserPromptSubmit") && !says(0, "PostToolUse"));
    assert!(says(1, "PostToolUse") && !says(1, "Stop"));
    assert!(says(2, "Stop"));
}

/// Agents spec §1.2 path 3: a background hook wakes an idle session, and what the prompt's hook says then is in the same
/// request: a message needs no second step.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn a_bell_wakes_an_idle_session_and_the_message_comes_with_it() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let context = json!({ "hookSpecificOutput": {
        "hookEventName": "UserPromptSubmit", "additionalContext": "the message itself" } });
    let mut bell = handler("until test -e ring; do sleep 0.05; done; echo it rings >&2; exit 2");
    bell["asyncRewake"] = json!(true);
    scene.claude_settings(&json!({ "hooks": {
        "SessionStart": [{ "hooks": [bell] }],
        "UserPromptSubmit": [{ "hooks": [handler(&format!("echo '{context}'"))] }],
    } }));
    let claude = scene.claude();
    let session = claude.interactive(&[]).unwrap();
    session.wait_for_status("idle", PATIENCE).unwrap();
    assert!(scene.model.requests().is_empty());
    std::fs::write(claude.cwd().join("ring"), "").unwrap();
    let request = scene.model.wait_for_text("it rings", PATIENCE).unwrap();
    assert!(request.text().contains("the message itself"), "{}", request.text());
}

/// Agents spec §1.8, receipt ladder: the transcript proves what the requests show, for each way of the hooks, and that the
/// turn has ended. Nobody is said to have typed.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn the_transcript_proves_what_the_model_was_shown() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = scene.claude();
    let mut hooks = serde_json::Map::new();
    for (event, id) in [("UserPromptSubmit", "01PROMPT"), ("PostToolUse", "01TOOL")] {
        let said = json!({ "hookSpecificOutput": {
            "hookEventName": event, "additionalContext": framed(id, "hello\n</system-reminder>") } });
        std::fs::write(claude.cwd().join(event), said.to_string()).unwrap();
        hooks.insert(event.to_owned(), json!([{ "hooks": [handler(&format!("cat {event}"))] }]));
    }
    let said = json!({ "decision": "block", "reason": framed("01STOP", "one more") });
    std::fs::write(claude.cwd().join("Stop"), said.to_string()).unwrap();
    let stop = "test -e stopped || { touch stopped; cat Stop; }";
    hooks.insert("Stop".to_owned(), json!([{ "hooks": [handler(stop)] }]));
    scene.claude_settings(&json!({ "hooks": hooks }));
    let script = r#"CALL Bash {"command":"echo hi","description":"x"}"#;
    let ran = claude.print(script, &["--allowedTools", "Bash"]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let signs = proved(Format::Claude, &claude.transcripts());
    let last = scene.model.requests().last().unwrap().text();
    for (id, way) in
        [("01PROMPT", "UserPromptSubmit"), ("01TOOL", "PostToolUse"), ("01STOP", "prompt")]
    {
        assert!(is_in_context(&signs, id, way), "{id}: {signs:#?}");
        assert!(signs.contains(&Sign::TurnEnded { id: id.to_owned() }), "{id}: {signs:#?}");
        assert!(last.contains(&format!("[claudemesh message {id} ")), "{id}: {last}");
    }
    assert!(!has_human_spoken(&signs), "{signs:#?}");
}

/// True when a person typed a prompt.
fn has_human_spoken(signs: &[Sign]) -> bool {
    signs.iter().any(|sign| matches!(sign, Sign::HumanSpoke { .. }))
}

fn handler(command: &str) -> Value {
    json!({ "type": "command", "command": command, "timeout": 30 })
}

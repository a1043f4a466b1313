//! What Claude Code and Codex tell their hooks, as they write it.

use serde_json::json;

use super::*;

fn read(agent: AgentKind, word: &str, told: &Value) -> Moment {
    Moment::read(agent, agent.agent().hook(word).unwrap(), told)
}

fn claude(word: &str, told: &Value) -> Moment {
    read(AgentKind::Claude, word, told)
}

/// Agents spec §1.4: the fields of every event.
#[test]
fn what_every_hook_is_told() {
    let told = json!({ "session_id": "s", "cwd": "/p", "transcript_path": "/t.jsonl", "model": "m",
        "hook_event_name": "Stop", "prompt_id": "1", "stop_hook_active": false });
    let moment = claude("Stop", &told);
    assert_eq!(moment.session_id.as_deref(), Some("s"));
    assert_eq!(moment.cwd.as_deref(), Some("/p"));
    assert_eq!(moment.transcript.as_deref(), Some("/t.jsonl"));
    assert_eq!(moment.model.as_deref(), Some("m"));
    assert_eq!(
        (moment.event, moment.what, moment.takes),
        ("Stop", What::Stop, Takes::Continuation)
    );
    let empty = claude("stop", &json!({}));
    assert_eq!((empty.session_id, empty.id), (None, None));
    let wrong = claude("stop", &json!({ "session_id": 7, "cwd": ["/p"], "prompt_id": {} }));
    assert_eq!((wrong.session_id, wrong.cwd, wrong.id), (None, None, None));
    let long = "x".repeat(TEXT_MAX_BYTES + 1);
    assert_eq!(claude("stop", &json!({ "session_id": long })).session_id, None);
}

/// Agents spec §1.6b: a turn that a hook has prolonged ends.
#[test]
fn a_continued_turn_takes_nothing_at_its_end() {
    let stop = |active: Value| claude("Stop", &json!({ "stop_hook_active": active }));
    assert!(stop(json!(false)).takes_messages() && stop(Value::Null).takes_messages());
    assert!(!stop(json!(true)).takes_messages());
    // A message after a tool is another matter.
    assert!(claude("PostToolUse", &json!({ "stop_hook_active": true })).takes_messages());
}

#[test]
fn only_boundaries_of_a_turn_take_messages() {
    let takes = |word: &str| claude(word, &json!({})).takes_messages();
    for (word, is_taken) in [
        ("UserPromptSubmit", true),
        ("PostToolUse", true),
        ("Stop", true),
        ("SessionStart", false),
        ("PreToolUse", false),
        ("Notification", false),
        ("SessionEnd", false),
        ("dnd", false),
    ] {
        assert_eq!(takes(word), is_taken, "{word}");
    }
    assert!(!claude("PostToolUse", &json!({ "agent_id": "helper" })).takes_messages());
}

/// Agents spec §1.2: UserPromptSubmit also fires for pushes.
#[test]
fn a_push_is_told_from_what_somebody_typed() {
    let prompt = |text: &str| claude("UserPromptSubmit", &json!({ "prompt": text })).is_push;
    assert!(
        prompt("<task-notification>\n<task-id>1</task-id>") && prompt(" \n<task-notification>")
    );
    assert!(!prompt("look at <task-notification>") && !prompt(""));
}

/// Agents spec §1.6b: double fire is removed by (session, event, prompt or tool id).
#[test]
fn one_event_has_one_id() {
    let stop = |prompt: &str, active: bool, words: &str| {
        json!({ "session_id": "s", "prompt_id": prompt, "stop_hook_active": active,
            "last_assistant_message": words })
    };
    let id = |word: &str, told: &Value| claude(word, told).id.unwrap();
    let first = stop("p", false, "done");
    assert_eq!(id("Stop", &first), id("idle", &first));
    for other in [stop("q", false, "done"), stop("p", true, "done"), stop("p", false, "more")] {
        assert_ne!(id("Stop", &first), id("Stop", &other), "{other}");
    }
    assert_ne!(id("Stop", &first), id("UserPromptSubmit", &first));
    let call = |call: &str| json!({ "session_id": "s", "prompt_id": "p", "tool_use_id": call });
    assert_ne!(id("PostToolUse", &call("1")), id("PostToolUse", &call("2")));
    assert_ne!(id("PostToolUse", &call("1")), id("PreToolUse", &call("1")));
    assert_eq!(claude("SessionStart", &call("1")).id, None);
    assert_eq!(claude("PostToolUse", &stop("p", false, "")).id, None);
    assert!(id("Stop", &first).len() <= claudemesh_protocol::limits::AGENT_HOOK_EVENT_ID_MAX_CHARS);
}

#[test]
fn what_it_waits_for() {
    let wait = |kind: &str| claude("Notification", &json!({ "notification_type": kind })).wait;
    assert_eq!(wait("permission_prompt"), Some(Wait::Dialog));
    assert_eq!(wait("idle_prompt"), Some(Wait::Idle));
    assert_eq!(wait("auth_success"), None);
}

/// Agents spec §1.10 scenario 14: `/clear` leaves the session where it is.
#[test]
fn another_conversation_of_the_same_process_ends_nothing() {
    let end = |reason: &str| claude("SessionEnd", &json!({ "reason": reason })).what;
    assert_eq!([end("clear"), end("resume")], [What::Interrupt; 2]);
    assert_eq!([end("logout"), end("other")], [What::End; 2]);
    assert_eq!(claude("SessionEnd", &json!({})).what, What::End);
}

#[test]
fn files_of_an_edit() {
    let edit = |input: Value| claude("PreToolUse", &json!({ "tool_input": input })).files;
    assert_eq!(edit(json!({ "file_path": "/a.rs", "content": "x" })), ["/a.rs"]);
    assert_eq!(edit(json!({ "notebook_path": "/n.ipynb" })), ["/n.ipynb"]);
    assert!(edit(json!({ "command": "*** Update File: a" })).is_empty());
    assert!(
        claude("PostToolUse", &json!({ "tool_input": { "file_path": "/a" } })).files.is_empty()
    );
    let patch = "*** Begin Patch\n*** Update File: src/a.rs\n*** Move to: src/b.rs\n@@\n-x\n+*** y\n\
                 *** Add File: c d.txt\n+z\n*** Delete File: e\n*** End Patch";
    let told = json!({ "tool_name": "apply_patch", "tool_input": { "command": patch } });
    let files = read(AgentKind::Codex, "PreToolUse", &told).files;
    assert_eq!(files, ["src/a.rs", "src/b.rs", "c d.txt", "e"]);
}

#[test]
fn codex_has_turns_where_claude_code_has_prompts() {
    let told = json!({ "session_id": "s", "turn_id": "t", "stop_hook_active": false });
    assert!(read(AgentKind::Codex, "Stop", &told).id.is_some());
    assert!(claude("Stop", &told).id.is_none());
    let interrupt = read(AgentKind::Codex, "interrupt", &told);
    assert_eq!((interrupt.what, interrupt.takes_messages()), (What::Interrupt, false));
}

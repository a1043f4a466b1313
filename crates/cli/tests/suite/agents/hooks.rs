//! Messages that come by the agents' hooks: real broker, two daemons, our program as the hook (agents spec §1.2 path 4, §1.10).

use std::path::Path;
use std::sync::Arc;

use claudemesh_agents::agent::AgentKind;
use claudemesh_agents::render;
use claudemesh_testkit::agents::{ClaudeRig, ClaudeSession};
use claudemesh_testkit::model::Recorded;
use serde_json::{Map, Value, json};

use super::rig::{PATIENCE, Scene, is_missing};
use crate::home::until;

/// Our hooks, as an agent's settings have them.
fn hooks(kind: AgentKind) -> Value {
    let agent = kind.agent();
    let entries = agent.hooks.iter().map(|hook| {
        let command = format!("claudemesh hook {} {}", agent.word, hook.event);
        let mut entry =
            json!({ "hooks": [{ "type": "command", "command": command, "timeout": 5 }] });
        if let Some(tools) = hook.matcher {
            entry["matcher"] = tools.into();
        }
        (hook.event.to_owned(), json!([entry]))
    });
    entries.collect::<Map<String, Value>>().into()
}

/// Claude Code with our hooks and our server. It was not started with channels, so that nothing is pushed and the hooks are the
/// only way.
fn claude(scene: &Scene) -> ClaudeRig {
    scene.claude_settings(&json!({ "hooks": hooks(AgentKind::Claude) }));
    let claude = scene.claude();
    let server = ["mcp", "add", "--scope", "user", "claudemesh", "--", "claudemesh", "mcp"];
    let added = claude.run(&server).unwrap();
    assert_eq!(added.code, Some(0), "{added:?}");
    claude
}

/// A session that waits for a prompt, and that the daemon knows.
fn session(scene: &Scene, claude: &ClaudeRig) -> ClaudeSession {
    let session = claude.interactive(&["--allowedTools", "Bash"]).unwrap();
    session.wait_for_status("idle", PATIENCE).unwrap();
    until("the session is registered", || {
        let known = scene.me.json_ok(&["daemon", "sessions"]).to_string();
        known.contains(&session.session_id)
    });
    session
}

/// Bob's words; his id of them.
fn bob_says(scene: &Scene, text: &str, more: &[&str]) -> String {
    let sent = scene.bob.json_ok(&[&["send", "ana", text], more].concat());
    until("it arrives", || scene.me.bodies().iter().any(|body| body == text));
    sent["client_message_id"].as_str().unwrap().to_owned()
}

/// How often the model is shown this text in a request.
fn times(request: &Recorded, text: &str) -> usize {
    let found = render::read(&request.text());
    found.iter().filter(|found| found.name == "Bob" && found.body == text).count()
}

/// The request of the conversation itself with this text; a client also asks for a title, without tools.
fn asked(scene: &Scene, text: &str) -> Arc<Recorded> {
    let is_it = |request: &Recorded| request.text().contains(text) && !request.tools().is_empty();
    scene.model.wait_for(text, PATIENCE, is_it).unwrap()
}

/// A prompt whose tool runs until [`release`].
fn busy(session: &ClaudeSession, project: &Path) {
    let script = "CALL Bash {\"command\":\"touch begun; until test -e go; do sleep 0.05; done\",\"description\":\"x\"}";
    session.prompt(script).unwrap();
    until("the tool runs", || project.join("begun").exists());
}

fn release(project: &Path) {
    std::fs::write(project.join("go"), "").unwrap();
}

fn told_by(scene: &Scene, id: &str, path: &str) {
    until("the sender hears which way it went", || {
        scene.bob.json_ok(&["message", "status", id]).to_string().contains(path)
    });
}

/// Agents spec §1.10 scenario 6, at the prompt: an idle session without any other way has the message with the next prompt, and
/// not again.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn a_message_comes_with_the_prompt() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = claude(&scene);
    let session = session(&scene, &claude);
    let id = bob_says(&scene, "look at the build", &[]);
    assert!(scene.model.requests().is_empty(), "nobody was woken");
    session.prompt("good morning, model").unwrap();
    let request = asked(&scene, "good morning, model");
    assert_eq!(times(&request, "look at the build"), 1, "{}", request.text());
    told_by(&scene, &id, "hook:prompt");
    session.wait_for_status("idle", PATIENCE).unwrap();
    session.prompt("and good evening").unwrap();
    let request = asked(&scene, "and good evening");
    assert_eq!(times(&request, "look at the build"), 1, "it stays in the conversation, once");
}

/// Agents spec §1.10 scenarios 5 and 6: a busy session has an urgent message with the result of its tool, in the same turn; one
/// that can wait comes at the end of it, and prolongs it once.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn an_urgent_message_comes_after_the_tool_and_another_at_the_end_of_the_turn() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = claude(&scene);
    let session = session(&scene, &claude);
    busy(&session, &scene.project());
    let patient = bob_says(&scene, "when you are done", &[]);
    let urgent = bob_says(&scene, "stop, it burns", &["--priority", "now"]);
    release(&scene.project());
    let is_result = |request: &Recorded| !request.tool_results().is_empty();
    let after_tool = scene.model.wait_for("the result of the tool", PATIENCE, is_result).unwrap();
    assert_eq!(times(&after_tool, "stop, it burns"), 1, "{}", after_tool.text());
    assert_eq!(times(&after_tool, "when you are done"), 0, "{}", after_tool.text());
    told_by(&scene, &urgent, "hook:tool");
    let prolonged = asked(&scene, "when you are done");
    assert_eq!(times(&prolonged, "stop, it burns"), 1);
    told_by(&scene, &patient, "hook:stop");
    session.wait_for_status("idle", PATIENCE).unwrap();
    // The turn is over: nothing of ours keeps it alive.
    until("the session is at rest", || {
        scene.me.json_ok(&["daemon", "sessions"]).to_string().contains("\"idle\"")
    });
    assert_eq!(scene.model.requests().iter().filter(|request| is_result(request)).count(), 2);
}

/// Agents spec §1.10 scenario 9, as far as hooks go: with the daemon gone the agent works as if we were not there, and its
/// message waits for the daemon.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn an_agent_works_on_without_the_daemon() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = claude(&scene);
    let session = session(&scene, &claude);
    bob_says(&scene, "before the night", &[]);
    scene.me.ok(&["daemon", "down"]);
    session.prompt("is anybody there").unwrap();
    let request = asked(&scene, "is anybody there");
    assert_eq!(times(&request, "before the night"), 0);
    session.wait_for_status("idle", PATIENCE).unwrap();
    scene.me.ok(&["daemon", "up"]);
    until("the session is registered again", || {
        let known = scene.me.json_ok(&["daemon", "sessions"]).to_string();
        known.contains(&session.session_id)
    });
    session.prompt("and now").unwrap();
    let request = asked(&scene, "and now");
    assert_eq!(times(&request, "before the night"), 1, "{}", request.text());
}

/// Agents spec §1.10 scenario 18, Stop continuation; §1.6: Codex takes the same JSON.
#[test]
#[ignore = "needs the real Codex: make test-agents"]
fn codex_has_the_message_in_its_turn() {
    if is_missing("codex") {
        return;
    }
    let scene = Scene::new();
    let codex = scene.codex(
        "[mcp_servers.claudemesh]\ncommand = \"claudemesh\"\nargs = [\"mcp\", \"--tools\", \"messaging\"]\n\
         default_tools_approval_mode = \"approve\"\n",
    );
    let settings = json!({ "hooks": hooks(AgentKind::Codex) });
    std::fs::write(scene.me.path().join(".codex/hooks.json"), settings.to_string()).unwrap();
    let id = bob_says(&scene, "for a model of another house", &[]);
    let script = r#"CALL mcp__claudemesh@send_message {"to":"Bob","message":"at work"}"#;
    let ran = codex.exec(script, &["--dangerously-bypass-hook-trust"]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let requests = scene.model.requests();
    let last = requests.last().unwrap();
    assert_eq!(times(last, "for a model of another house"), 1, "{ran:?}\n{}", last.text());
    told_by(&scene, &id, "hook:");
}

//! An idle Claude Code is woken by the bell, and the message is there (agents spec §1.2, §1.10).

use std::time::{Duration, Instant};

use claudemesh_agents::render::read;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::session::{DeliveryPath, PathState};
use claudemesh_testkit::agents::{ClaudeRig, ClaudeSession};
use serde_json::{Map, Value, json};

use super::rig::{PATIENCE, Scene, is_missing};
use crate::home::until;
use crate::sessions::wait;

/// Messages that each wake the session.
const ROUNDS: usize = 5;
/// From the acceptance of the message to the request in which the model has it (agents spec §1.10 scenario 4), a debug build
/// on a busy machine included.
const WAKES_WITHIN: Duration = Duration::from_secs(5);

/// The entries of `install`, and nothing else.
fn entries(bell_timeout: u64) -> Value {
    let one = |event: &str, timeout: u64| json!({ "type": "command", "command": format!("claudemesh hook claude {event}"), "timeout": timeout });
    let mut bell = one("bell", bell_timeout);
    bell["asyncRewake"] = json!(true);
    let mut hooks = Map::new();
    for event in ["SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd"] {
        let mut handlers = vec![one(event, 5)];
        if matches!(event, "SessionStart" | "UserPromptSubmit" | "Stop") {
            handlers.push(bell.clone());
        }
        hooks.insert(event.to_owned(), json!([{ "hooks": handlers }]));
    }
    json!({ "hooks": hooks })
}

/// Claude Code in a terminal, with our server and hooks, idle and with its bell armed.
fn idle(scene: &Scene, bell_timeout: u64) -> (ClaudeRig, ClaudeSession) {
    scene.claude_settings(&entries(bell_timeout));
    let claude = scene.claude();
    let server = ["mcp", "add", "--scope", "user", "claudemesh", "--", "claudemesh", "mcp"];
    assert_eq!(claude.run(&server).unwrap().code, Some(0));
    let session = claude.interactive(&[]).unwrap();
    session.wait_for_status("idle", PATIENCE).unwrap();
    until("the bell waits", || is_armed(scene));
    (claude, session)
}

/// True while the bell of the only session waits, and the session is idle.
fn is_armed(scene: &Scene) -> bool {
    let client = Client::new(scene.me.file("daemon/daemon.sock"));
    let sessions = wait(client.sessions()).unwrap();
    sessions.iter().any(|session| {
        let mut paths = session.paths.iter();
        session.status == claudemesh_protocol::PeerStatus::Idle
            && paths.any(|path| path.path == DeliveryPath::Bell && path.state == PathState::Armed)
    })
}

/// What the daemon knows about the channel of the only session.
fn channel(scene: &Scene) -> Option<PathState> {
    let client = Client::new(scene.me.file("daemon/daemon.sock"));
    let sessions = wait(client.sessions()).unwrap();
    let mut paths = sessions.iter().flat_map(|session| &session.paths);
    paths.find(|path| path.path == DeliveryPath::Channel).map(|path| path.state)
}

/// Sends to the session's member and waits until its model was asked with it; how long that took.
fn woken_by(scene: &Scene, text: &str) -> Duration {
    scene.bob.ok(&["send", "ana", text]);
    let sent = Instant::now();
    let request = scene.model.wait_for_text(text, PATIENCE).unwrap();
    let took = sent.elapsed();
    let framed = read(&request.text());
    let ours: Vec<_> = framed.iter().filter(|message| message.body == text).collect();
    assert_eq!(ours.len(), 1, "once, in its frame: {}", request.text());
    assert_eq!(ours[0].name, "Bob");
    took
}

/// Agents spec §1.10 scenario 4, and the decision of §1.2: an interactive session that is idle is woken again and again, each
/// time with one line of ours, and the message comes with the hook of the prompt that the line becomes. A client that was
/// started without channels is known not to listen.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn an_idle_session_is_woken_and_has_the_message() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let (_claude, session) = idle(&scene, 86_400);
    until("its server has said that nobody listens", || {
        channel(&scene) == Some(PathState::Refused)
    });
    assert!(scene.model.requests().is_empty());
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        until("the bell is armed again", || is_armed(&scene));
        times.push(woken_by(&scene, &format!("wake up, number {round}")));
        session.wait_for_status("idle", PATIENCE).unwrap();
    }
    times.sort();
    eprintln!("message accepted -> in the request of a woken session: {times:?}");
    assert!(times[ROUNDS - 1] < WAKES_WITHIN, "{times:?}");
    let requests = scene.model.requests();
    let last = requests.last().unwrap().text();
    let lines = last.matches("peer message waits for this session").count();
    assert!(lines >= 1, "{last}");
}

/// A headless conversation ends with its turn: no bell waits in it, and nothing waits for a bell.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn a_headless_conversation_has_no_bell() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    scene.claude_settings(&entries(86_400));
    let ran = scene.claude().print("hello there", &[]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.took < PATIENCE, "{:?}", ran.took);
}

/// The client ends background hooks after their timeout: ours is a day, and a shorter one shows that it is that timeout.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn the_timeout_of_the_settings_is_the_life_of_a_bell() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let (_claude, _session) = idle(&scene, 3);
    until("the client has ended the bell", || !is_armed(&scene));
}

//! The bell as the agent's background process: `claudemesh hook claude bell` (agents spec §1.2 path 3, §1.6b).

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claudemesh_ipc::api::RegisterRequest;
use claudemesh_ipc::api::session::{DeliveryPath, PathState};
use claudemesh_ipc::{Client, SessionToken};
use serde_json::json;

use crate::home::{Home, Ran, kill, two_people, until};
use crate::sessions::{Agent, wait};

/// From the message's acceptance to the end of the bell; a debug build on a busy machine included.
const RINGS_WITHIN: Duration = Duration::from_secs(1);
/// For a bell that has nothing to wait for.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// A bell that waits.
struct Bell {
    child: Child,
}

impl Bell {
    fn start(home: &Home, session_id: &str) -> Self {
        let mut child = home
            .command(&["hook", "claude", "bell"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = json!({ "session_id": session_id, "cwd": home.path(), "hook_event_name": "SessionStart" });
        child.stdin.take().unwrap().write_all(said.to_string().as_bytes()).unwrap();
        Self { child }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, for so long.
    fn ended_within(mut self, patience: Duration) -> Ran {
        let began = Instant::now();
        while !self.has_ended() && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.has_ended(), "the bell still waits after {patience:?}");
        Ran::from(self.child.wait_with_output().unwrap())
    }
}

/// True while a bell of the session waits.
fn is_armed(home: &Home, session_id: &str) -> bool {
    let client = Client::new(home.file("daemon/daemon.sock"));
    let sessions = wait(client.sessions()).unwrap();
    let session = sessions.iter().find(|session| session.session_id == session_id);
    session.is_some_and(|session| {
        let mut paths = session.paths.iter();
        paths.any(|path| path.path == DeliveryPath::Bell && path.state == PathState::Armed)
    })
}

fn is_silent(ran: &Ran) {
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
}

/// Agents spec §1.6b: exit code 2 and one line that says where to look, and nothing of the message. The bell may come before
/// the session is registered.
#[test]
fn an_idle_session_is_woken_within_a_second() {
    let (ana, bob) = two_people();
    let mut bell = Bell::start(&ana, "00000000-0000-4000-8000-000000000007");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!bell.has_ended(), "a session that is not registered yet is waited for");
    let agent = Agent::register(&ana, 7, "builder");
    until("the bell waits", || is_armed(&ana, agent.id()));
    ana.member_key("Bob");
    until("Bob sees the session", || bob.ok(&["peers"]).contains("builder"));
    bob.ok(&["send", "builder", "the secret plan"]);
    let sent = Instant::now();
    let ran = bell.ended_within(Duration::from_secs(10));
    let took = sent.elapsed();
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(
        ran.stderr.starts_with("claudemesh: 1 peer message waits")
            && !ran.stderr.contains("secret")
    );
    assert!(took < RINGS_WITHIN, "{took:?}");
}

/// A dead daemon costs nothing, and is not started.
#[test]
fn without_a_daemon_there_is_no_bell() {
    let home = Home::new();
    let bell = Bell::start(&home, "00000000-0000-4000-8000-000000000007");
    is_silent(&bell.ended_within(ENDS_WITHIN));
    assert!(!home.file("daemon").exists());
    // Only one agent wakes by the end of a hook.
    is_silent(&Ran::from(home.command(&["hook", "codex", "bell"]).output().unwrap()));
    // A conversation without a terminal is over after its turn.
    let (ana, _bob) = two_people();
    let agent = Agent::register(&ana, 7, "builder");
    let mut headless = agent.command(&ana, &["hook", "claude", "bell"]);
    headless.env("CLAUDE_CODE_ENTRYPOINT", "sdk-cli");
    is_silent(&Ran::from(headless.output().unwrap()));
}

/// It ends with the daemon, with its agent, and when another one waits.
#[test]
fn a_bell_ends_with_what_it_waits_for() {
    let (ana, _bob) = two_people();
    let mut process = Command::new("sleep").arg("1000").spawn().unwrap();
    let id = "00000000-0000-4000-8000-000000000008";
    let mut request = RegisterRequest::stored(
        SessionToken::from_bytes(&[8; 32]),
        id.to_owned(),
        "home".to_owned(),
        "builder".to_owned(),
        process.id(),
    );
    request.ambient = true;
    let client = Client::new(ana.file("daemon/daemon.sock"));
    wait(client.register_session(&request)).unwrap();
    let first = Bell::start(&ana, id);
    until("the first waits", || is_armed(&ana, id));
    let mut second = Bell::start(&ana, id);
    is_silent(&first.ended_within(ENDS_WITHIN));
    until("the second waits", || is_armed(&ana, id));
    assert!(!second.has_ended());
    kill(process.id());
    process.wait().unwrap();
    is_silent(&second.ended_within(ENDS_WITHIN * 5));

    let agent = Agent::register(&ana, 9, "tester");
    let third = Bell::start(&ana, agent.id());
    until("the third waits", || is_armed(&ana, agent.id()));
    let pid = std::fs::read_to_string(ana.file("daemon/daemon.pid")).unwrap();
    kill(pid.trim().parse().unwrap());
    is_silent(&third.ended_within(ENDS_WITHIN));
}

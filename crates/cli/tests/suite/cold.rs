//! Without a daemon: the same operations over a connection of one's own, which nobody notices (CLI spec §1.15).

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use claudemesh_ipc::Client;
use claudemesh_ipc::api::EventsQuery;
use claudemesh_protocol::ops::{NeedsDaemon, OperationKind, Scope};
use serde_json::Value;

use crate::home::{Home, Ran, two_people, until};
use crate::machine::on_terminal;
use crate::sessions::Agent;

/// One run without the daemon.
fn cold(home: &Home, words: &[&str]) -> Ran {
    home.run(&[words, &["--no-daemon"]].concat())
}

/// The bytes of both roads, without what names the road; they must be equal.
fn both(home: &Home, words: &[&str]) -> Value {
    let words = [words, &["--json", "-y"]].concat();
    let warm = home.run(&words);
    let cold = cold(home, &words);
    let told = |ran: &Ran| (ran.code, without_last_seen(&ran.stdout));
    assert_eq!(told(&warm), told(&cold), "{words:?}\n{warm:?}\n{cold:?}");
    serde_json::from_str(&warm.stdout).unwrap()
}

/// A call is a sign of life of its member.
fn without_last_seen(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("\"lastSeenAt\""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Ana with an agent, and Bob, both with daemons.
fn people_at_work() -> (Home, Home, Agent) {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let agent = Agent::register(&ana, 1, "planner");
    until("Bob sees the agent", || bob.ok(&["peers"]).contains("planner"));
    agent.ok(&ana, &["group", "join", "@eng"]);
    (ana, bob, agent)
}

/// Ana, and Bob whose daemon is stopped.
fn without_daemon() -> (Home, Home) {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    bob.ok(&["daemon", "down"]);
    (ana, bob)
}

/// Words for an operation that is asked on both roads one after the other.
fn words_of(kind: OperationKind) -> Option<Vec<&'static [&'static str]>> {
    use OperationKind as Kind;

    Some(match kind {
        Kind::StateSet => {
            vec![&["state", "set", "k", "5"], &["state", "set", "k", "6", "--if-version", "1"]]
        }
        Kind::StateGet => vec![&["state", "get", "k"], &["state", "get", "nope"]],
        Kind::StateList => vec![&["state", "list"], &["state", "list", "--prefix", "none/"]],
        Kind::MeshInfo => vec![&["mesh", "info"]],
        Kind::PeerKick => vec![&["kick", "Nobody"], &["kick", "Ana"]],
        Kind::PeerDisconnect => vec![&["disconnect", "Nobody"]],
        Kind::PeerBan => vec![&["ban", "Ana"], &["ban", "Nobody"]],
        Kind::PeerUnban => vec![&["unban", "Nobody"]],
        Kind::PeerBans => vec![&["bans"]],
        Kind::AuditQuery => {
            vec![&["audit", "query", "--limit", "3", "--type", "member_joined"]]
        }
        Kind::AuditVerify => vec![&["audit", "verify"]],
        Kind::PeerList => vec![&["peers"], &["peers", "--online"]],
        Kind::MemberList => vec![&["members"]],
        Kind::MemberPermissions => {
            vec![&["member", "permissions"], &["member", "permissions", "Bob"]]
        }
        Kind::MemberAllow => vec![&["member", "allow", "Ana", "canInvite"]],
        Kind::MemberDeny => vec![&["member", "deny", "Nobody", "canSend"]],
        Kind::MemberRole => vec![&["member", "role", "Bob", "admin"]],
        Kind::GroupList => vec![&["group", "list"]],
        Kind::MeshStats => vec![&["mesh", "stats"]],
        Kind::PeerVerify => vec![&["verify", "ana"], &["verify"], &["verify", "Nobody"]],
        Kind::GrantAdd => vec![&["grant", "Ana", "file-read"], &["grant", "Ana", "--reset"]],
        Kind::GrantRemove => vec![&["grant", "remove", "planner", "dm"]],
        Kind::GrantBlock => vec![&["block", "Ana"]],
        Kind::GrantList => vec![&["grants"]],
        Kind::ProfileEdit => vec![&["profile", "edit", "--display-name", "Bob"]],
        // Told apart by their ids, and by a terminal: tests of their own.
        Kind::MessageSend | Kind::MessageStatus | Kind::PeerUnblockLoop => Vec::new(),
        Kind::GroupJoin
        | Kind::GroupLeave
        | Kind::MessageInbox
        | Kind::ProfileSummary
        | Kind::ProfileStatus
        | Kind::ProfileVisible
        | Kind::MeshPing => return None,
    })
}

/// X6.
#[test]
fn both_roads_print_the_same_bytes() {
    let (_ana, bob, _agent) = people_at_work();
    for kind in OperationKind::ALL {
        let words = words_of(*kind);
        let needs_daemon = kind.spec().needs_daemon == NeedsDaemon::Always;
        assert_eq!(words.is_none(), needs_daemon, "{kind:?}");
        for words in words.into_iter().flatten() {
            both(&bob, words);
        }
    }
}

/// X6, for the administrator: what takes away, and what gives back.
#[test]
fn both_roads_ban_alike() {
    let (ana, bob, _agent) = people_at_work();
    let run = |words: &[&str]| {
        let ran = ana.run(words);
        assert_eq!(ran.code, 0, "{words:?} {ran:?}");
        ran.stdout
    };
    let ban = ["ban", "Bob", "--reason", "lost", "--json", "-y"];
    let unban = ["unban", "Bob", "--json"];
    let warm = [run(&ban), run(&unban)];
    bob.ok(&["daemon", "down"]);
    let cold = [
        run(&[&ban[..], &["--no-daemon"]].concat()),
        run(&[&unban[..], &["--no-daemon"]].concat()),
    ];
    assert_eq!(warm, cold);
    assert_eq!(
        both(&ana, &["audit", "query", "--type", "member_banned"]).as_array().unwrap().len(),
        2
    );
}

/// The document of a send without what differs by nature.
fn told(ran: &Ran, via: &str) -> (i32, Value) {
    let mut document: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let fields = document.as_object_mut().unwrap();
    if let Some(said) = fields.shift_remove("via") {
        assert_eq!(said, via, "{ran:?}");
    }
    for id in ["client_message_id", "broker_message_id"] {
        if let Some(id) = fields.get_mut(id).filter(|id| id.is_string()) {
            *id = "an id".into();
        }
    }
    for copy in fields.get_mut("results").and_then(Value::as_array_mut).into_iter().flatten() {
        copy["client_message_id"] = "an id".into();
    }
    (ran.code, document)
}

/// X6, CLI spec §3.6: to a name, a prefix, a group, everybody, an absent member, oneself; what is refused, too.
#[test]
fn a_message_is_told_alike_and_arrives_by_either_road() {
    let (ana, bob, agent) = people_at_work();
    let carol = Home::new();
    carol.ok(&["--no-daemon", "join", &ana.invite(1), "--name", "Carol"]);
    carol.ok(&["daemon", "down"]);
    bob.member_key("Carol");
    let key = ana.member_key("ana");
    until("Carol is gone", || {
        bob.json_ok(&["send", "Carol", "are you there"])["recipient_online"] == false
    });
    let agent_key = bob
        .json_ok(&["peers"])
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["displayName"] == "planner")
        .unwrap()["pubkey"]
        .as_str()
        .unwrap()
        .to_owned();
    let sends: &[&[&str]] = &[
        &["send", "ana", "hello"],
        &["send", "Carol", "hello"],
        &["send", &key[..12], "hello"],
        &["send", &agent_key, "hello", "--priority", "now"],
        &["send", "@eng", "hello"],
        &["send", "@all", "hello"],
        &["send", "Nobody", "hello"],
        &["send", "Bob", "hello"],
        &["send", "Bob", "hello", "--self"],
        &["send", "@nobody-there", "hello"],
        &["send", "Carol", "hello", "--require-online"],
    ];
    for words in sends {
        let words = [words, &["--json"][..]].concat();
        let warm = told(&bob.run(&words), "daemon");
        let cold = told(&cold(&bob, &words), "direct");
        assert_eq!(warm, cold, "{words:?}");
    }
    until("the agent has all of them, twice", || {
        let inbox = agent.ok(&ana, &["inbox", "--peek", "--json"]);
        inbox.matches("\"hello\"").count() >= 8
    });
    let inbox: Value =
        serde_json::from_str(&agent.ok(&ana, &["inbox", "--peek", "--json"])).unwrap();
    for row in inbox.as_array().unwrap() {
        assert_eq!(
            (&row["sender_name"], &row["sender_verified"]),
            (&"Bob".into(), &true.into()),
            "{row}"
        );
    }
}

/// CLI spec §3.6: one id is one message, on whichever road it comes the second time.
#[test]
fn one_id_is_one_message_on_both_roads() {
    let (ana, bob, _agent) = people_at_work();
    let send = |words: &[&str], text: &str| {
        let ran = bob.run(
            &[&["send", "Ana", text, "--client-id", "cold-and-warm", "--json"], words].concat(),
        );
        (ran.code, serde_json::from_str::<Value>(&ran.stdout).unwrap())
    };
    let (code, first) = send(&["--no-daemon"], "once");
    assert_eq!(
        (code, &first["outcome"], &first["via"]),
        (0, &"sent".into(), &"direct".into()),
        "{first}"
    );
    assert_eq!((&first["status"], &first["ok"]), (&"done".into(), &true.into()), "{first}");
    let (code, again) = send(&["--no-daemon"], "once");
    assert_eq!(
        (code, &again["outcome"], &again["duplicate"]),
        (0, &"duplicate".into(), &true.into())
    );
    assert_eq!(again["broker_message_id"], first["broker_message_id"]);
    let (code, other) = send(&["--no-daemon"], "twice");
    assert_eq!((code, &other["error"]), (6, &"idempotency_conflict".into()), "{other}");
    // The daemon has never seen this id; the broker has.
    let (code, warm) = send(&["--wait=5s"], "once");
    assert_eq!(code, 0, "{warm}");
    until("Ana has it", || !ana.bodies().is_empty());
    assert_eq!(ana.bodies(), ["once"]);
    let id = first["broker_message_id"].as_str().unwrap();
    let status = bob.json_ok(&["message", "status", id, "--no-daemon"]);
    assert_eq!(
        (&status["messageId"], &status["targetName"]),
        (&id.into(), &"ana".into()),
        "{status}"
    );
    both(&bob, &["message", "status", "0000000000000000"]);
}

/// CLI spec §3.6: `--wait` without a daemon asks the broker.
#[test]
fn waiting_for_the_recipient_works_without_a_daemon() {
    let (_ana, bob, _agent) = people_at_work();
    let ran = cold(&bob, &["send", "Ana", "hello", "--wait", "--json"]);
    let sent: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &sent["outcome"]), (0, &"delivered".into()), "{ran:?}");
}

/// CLI spec §3.4: a person lifts a loop stop; the broker knows of it, not the daemon.
#[test]
fn a_loop_stop_is_asked_for_without_a_daemon() {
    let (_ana, bob, _agent) = people_at_work();
    let (text, code) = on_terminal(&bob, &["peer", "unblock-loop", "ana", "--no-daemon"], false);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no loop stop with ana"), "{text}");
}

/// CLI spec §1.15, §11: what would only decorate a connection that ends with the verb, and the daemon's own data.
#[test]
fn what_needs_the_daemon_says_so() {
    let (_ana, bob) = without_daemon();
    let rest: &[&[&str]] = &[
        &["inbox"],
        &["daemon", "outbox", "list"],
        &["summary", "busy"],
        &["status", "set", "dnd"],
        &["visible", "no"],
        &["group", "join", "@eng"],
        &["group", "leave", "@eng"],
        &["profile", "edit", "--title", "Build master"],
        &["mesh", "ping"],
    ];
    for words in rest {
        let (code, refused) = {
            let ran = cold(&bob, &[*words, &["--json"]].concat());
            (
                ran.code,
                serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}")),
            )
        };
        assert_eq!(
            (code, &refused["error"]),
            (4, &"daemon_unreachable".into()),
            "{words:?}: {refused}"
        );
    }
    let ran = cold(&bob, &["status", "set", "dnd"]);
    assert_eq!(
        ran.stderr.trim(),
        "✘ status set needs the daemon\n    → claudemesh daemon up",
        "{ran:?}"
    );
    let variable =
        bob.command(&["summary", "busy"]).env("CLAUDEMESH_NO_DAEMON", "1").output().unwrap();
    assert_eq!(variable.status.code(), Some(4));
    assert_eq!(bob.json(&["daemon", "status"]).0, 1, "no verb has started it");
}

/// A session that is allowed less than its member does not get the rest by leaving the daemon out.
#[test]
fn a_session_speaks_through_its_daemon_only() {
    let (_ana, bob) = without_daemon();
    let token = "5".repeat(64);
    for words in [&["peers"][..], &["send", "Ana", "hello"]] {
        let ran = bob
            .command(&[words, &["--no-daemon"]].concat())
            .env("CLAUDEMESH_IPC_TOKEN", &token)
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(4), "{words:?}: {ran:?}");
    }
    assert_eq!(cold(&bob, &["peers"]).code, 0, "outside a session it goes");
}

/// The table says it of every operation that has no road of its own (CLI spec §1.15).
#[test]
fn every_operation_of_the_daemon_alone_is_declared() {
    for kind in OperationKind::ALL {
        let spec = kind.spec();
        if spec.scope == Scope::Local {
            assert_eq!(spec.needs_daemon, NeedsDaemon::Always, "{}", spec.name);
        }
    }
}

/// CLI spec §1.15: `--no-daemon` never touches the socket, and starts nobody.
#[test]
fn the_socket_of_the_daemon_is_left_alone() {
    let (ana, bob) = without_daemon();
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(bob.file("daemon"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        files.sort();
        files
    };
    let socket = bob.file("daemon/daemon.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let before = files();
    for words in [
        &["send", "Ana", "hello"][..],
        &["peers"],
        &["members"],
        &["state", "set", "k", "v"],
        &["grants"],
        &["summary", "busy"],
        &["inbox"],
        &["list"],
    ] {
        cold(&bob, words);
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(files(), before);
    assert_eq!(ana.bodies(), ["hello"]);
    assert_eq!(ana.json_ok(&["state", "get", "k"])["value"], "v");
}

/// X5: a broker that is away, and one that says nothing.
#[test]
fn a_silent_broker_costs_no_more_than_the_time_that_was_given() {
    let (ana, bob) = without_daemon();
    let config = std::fs::read_to_string(bob.file("config.json")).unwrap();
    let address =
        config.split_once("ws://").unwrap().1.split(['/', '"']).next().unwrap().to_owned();
    ana.ok(&["down"]);
    let verbs: &[&[&str]] = &[
        &["peers"],
        &["send", "Ana", "x"],
        &["state", "set", "k", "v"],
        &["message", "status", "00000000"],
    ];
    for words in verbs {
        let began = Instant::now();
        let ran = cold(&bob, &[*words, &["--timeout", "2s"]].concat());
        assert_eq!(ran.code, 4, "{words:?} {ran:?}");
        assert!(ran.stderr.contains("unreachable"), "{words:?} {ran:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{words:?}");
    }
    let _hole = TcpListener::bind(&address).unwrap();
    for words in verbs {
        let began = Instant::now();
        let ran = cold(&bob, &[*words, &["--timeout", "1s"]].concat());
        assert_eq!(ran.code, 4, "{words:?} {ran:?}");
        assert!(ran.stderr.contains("unreachable (timeout"), "{words:?} {ran:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{words:?}");
    }
    let began = Instant::now();
    let ran = cold(&bob, &["peers", "--json"]);
    let refused: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &refused["error"]), (4, &"broker_unavailable".into()), "{ran:?}");
    assert!(began.elapsed() < Duration::from_secs(6));
}

/// CLI spec §1.13: a list over several meshes names the one whose broker is away, and a name that could mean somebody there
/// is not taken for somebody else.
#[test]
fn one_broker_of_two_may_be_away() {
    let (ana, bob) = without_daemon();
    let other = Home::new();
    other.up();
    other.ok(&["create", "Elsewhere"]);
    bob.ok(&["join", &other.invite_to("elsewhere", 1), "--name", "Bob", "-y"]);
    bob.ok(&["daemon", "down"]);
    let slugs: Value =
        serde_json::from_str(&cold(&bob, &["members", "--mesh", "home", "--json"]).stdout).unwrap();
    assert_eq!(slugs.as_array().unwrap().len(), 2, "{slugs}");
    assert_eq!(cold(&bob, &["send", "ana", "hello"]).code, 3, "both meshes have one of that name");
    other.ok(&["down"]);
    let ran = cold(&bob, &["state", "list", "--json"]);
    assert_eq!((ran.code, ran.stdout.trim()), (0, "[]"), "{ran:?}");
    assert!(ran.stderr.contains("broker_unavailable"), "{ran:?}");
    assert_eq!(cold(&bob, &["send", "ana", "hello"]).code, 4);
    assert_eq!(cold(&bob, &["send", "ana", "hello", "--mesh", "home"]).code, 0);
    until("it arrived", || ana.bodies() == ["hello"]);
}

/// CLI spec §1.15, wire spec §2.2: the running daemon of the same member keeps its place and its messages, and nobody
/// hears of the call. DLV-8.
#[test]
fn a_running_daemon_and_its_peers_notice_nothing() {
    let (ana, bob, _agent) = people_at_work();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(ana.file("daemon/daemon.sock"));
    let query = EventsQuery::default();
    let mut events = runtime.block_on(client.events(&query, None)).unwrap();
    let presence = |home: &Home| {
        let rows = home.json_ok(&["peers", "--all"]);
        let mut rows: Vec<_> = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                (row["presenceId"].clone(), row["channel"].clone(), row["connectedAt"].clone())
            })
            .collect();
        rows.sort_by_key(|row| row.0.to_string());
        rows
    };
    let before = presence(&ana);
    for number in 0..5 {
        assert_eq!(cold(&bob, &["peers"]).code, 0);
        ana.ok(&["send", "Bob", &format!("message {number}")]);
        assert_eq!(cold(&bob, &["send", "Ana", &format!("answer {number}")]).code, 0);
    }
    until("Bob has everything", || bob.bodies().len() >= 5);
    until("Ana has everything", || ana.bodies().len() >= 5);
    let mut bodies = bob.bodies();
    bodies.sort();
    assert_eq!(bodies, (0..5).map(|number| format!("message {number}")).collect::<Vec<_>>());
    assert_eq!(presence(&ana), before, "no ghost, and the same presences as before");
    let heard = runtime.block_on(async {
        let mut heard = Vec::new();
        while let Ok(Ok(Some(event))) =
            tokio::time::timeout(Duration::from_millis(500), events.next()).await
        {
            heard.push(event);
        }
        heard
    });
    let strangers: Vec<_> = heard
        .iter()
        .map(|event| format!("{:?}", event.kind))
        .filter(|kind| kind.to_lowercase().contains("peer"))
        .collect();
    assert!(strangers.is_empty() && heard.len() >= 5, "{heard:?}");
    let log = std::fs::read_to_string(bob.file("daemon/daemon.log")).unwrap_or_default();
    assert_eq!(log.matches("ws_hello_acked").count(), 1, "Bob's daemon connected once: {log}");
}

/// DLV-8: a message that comes while only the call is there waits for the daemon.
#[test]
fn a_call_takes_no_message_of_its_member() {
    let (ana, bob) = two_people();
    let carol = Home::new();
    carol.ok(&["--no-daemon", "join", &ana.invite(1), "--name", "Carol"]);
    carol.ok(&["daemon", "down"]);
    bob.member_key("Carol");
    bob.ok(&["daemon", "down"]);
    let mut call = bob.command(&["send", "Carol", "are you there", "--wait=4s", "--no-daemon"]);
    let mut call = call
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the call is connected", || {
        ana.ok(&["peers", "--all", "--json"]).contains("claudemesh-cli")
    });
    let sent = ana.json_ok(&["send", "Bob", "for your daemon"]);
    assert_eq!(
        (&sent["outcome"], &sent["recipient_online"]),
        (&"queued".into(), &false.into()),
        "{sent}"
    );
    assert_eq!(call.wait().unwrap().code(), Some(4), "Carol never came");
    assert!(!ana.ok(&["peers", "--all", "--json"]).contains("claudemesh-cli"), "no ghost");
    bob.ok(&["daemon", "up"]);
    until("Bob's daemon has it", || !bob.bodies().is_empty());
    assert_eq!(bob.bodies(), ["for your daemon"]);
}

/// CLI spec §1.15, the lifecycle table: a daemon that cannot start is done without, and said once.
#[test]
fn a_daemon_that_cannot_start_is_done_without() {
    let (_ana, bob) = without_daemon();
    std::fs::write(bob.file("daemon/config.toml"), "this is no settings file").unwrap();
    let ran = bob.run(&["peers"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stderr.matches("using the slower direct path").count(), 1, "{ran:?}");
    let again = bob.run(&["send", "Ana", "hello"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stderr.contains("failed to start a moment ago"), "{again:?}");
    assert_eq!(bob.run(&["peers", "--json"]).stderr, "");
    let needs = bob.run(&["summary", "busy"]);
    assert_eq!(needs.code, 4, "{needs:?}");
    assert!(needs.stderr.contains("summary needs the daemon"), "{needs:?}");
    let strict = bob.run(&["peers", "--strict"]);
    assert_ne!(strict.code, 0, "{strict:?}");
    assert!(!strict.stderr.contains("direct path"), "{strict:?}");
    assert_eq!(strict.stderr.matches('✘').count(), 1, "{strict:?}");
    assert_eq!(
        bob.run(&["peers", "--strict", "--no-daemon"]).code,
        0,
        "no daemon wins over strict"
    );
    let quiet =
        bob.command(&["peers"]).env("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1").output().unwrap();
    let said = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(
        quiet.status.success() && said.contains("daemon not running, using the slower direct path"),
        "{said}"
    );
}

/// Twenty calls of one member at once: signed in the same milliseconds, and none stands in another's way.
#[test]
fn calls_side_by_side_do_not_disturb_each_other() {
    let (_ana, bob) = without_daemon();
    bob.ok_at_once(20, &["peers", "--no-daemon"]);
}

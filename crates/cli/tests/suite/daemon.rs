//! The daemon through its verbs, and the auto-spawn (CLI spec §1.15, §3.18).

use std::fmt::Write as _;
use std::io::BufRead as _;
use std::os::unix::net::UnixListener;

use crate::home::{Home, kill, two_people, two_people_one_daemon, until};
use crate::sessions::Agent;
use crate::words::snapshot;

fn pid(home: &Home) -> Option<u64> {
    home.json(&["daemon", "status"]).1["pid"].as_u64()
}

/// CLI spec §3.18.
#[test]
fn up_twice_down_twice_status_in_between() {
    let home = Home::new();
    let (code, status) = home.json(&["daemon", "status"]);
    assert_eq!((code, &status["running"]), (1, &false.into()));
    assert_eq!(status["schema_version"], "1.0");
    let first = home.json_ok(&["daemon", "up"]);
    let second = home.json_ok(&["daemon", "up"]);
    assert_eq!(
        (&first["already_running"], &second["already_running"]),
        (&false.into(), &true.into())
    );
    assert_eq!(first["pid"], second["pid"]);
    let status = home.json_ok(&["daemon", "status"]);
    assert_eq!((&status["running"], &status["pid"]), (&true.into(), &first["pid"]));
    let restarted = home.json_ok(&["daemon", "restart"]);
    assert_ne!(restarted["pid"], first["pid"]);
    assert_eq!(home.json_ok(&["daemon", "down"])["stopped"], true);
    let again = home.json_ok(&["daemon", "down"]);
    assert_eq!((&again["stopped"], again["reason"].as_str()), (&false.into(), Some("not_running")));
    assert_eq!(home.json(&["daemon", "status"]).0, 1);
}

#[test]
fn words_for_people() {
    let home = Home::new();
    let mut text = String::new();
    for line in
        ["daemon status", "daemon up", "daemon up", "daemon status", "daemon down", "daemon down"]
    {
        let ran = home.run(&line.split(' ').collect::<Vec<_>>());
        write!(text, "$ claudemesh {line}\n{}{}exit {}\n\n", ran.stdout, ran.stderr, ran.code)
            .unwrap();
    }
    snapshot("daemon", &text);
}

/// CLI spec §1.15: stale socket.
#[test]
fn a_stale_socket_is_no_obstacle_and_one_notice_is_printed() {
    let (_ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    bob.ok(&["daemon", "down"]);
    let socket = bob.file("daemon/daemon.sock");
    let _ = std::fs::remove_file(&socket);
    drop(UnixListener::bind(&socket).unwrap());
    let ran = bob.run(&["peers"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stderr.matches("daemon restarted automatically").count(), 1, "{ran:?}");
    assert_eq!(bob.run(&["peers"]).stderr, "");
}

/// CLI spec §1.15: twenty at once. Daemon spec §21 Accept 3.
#[test]
fn twenty_verbs_at_once_start_one_daemon() {
    let (_ana, bob) = two_people();
    bob.ok(&["daemon", "down"]);
    bob.ok_at_once(20, &["peers", "-q"]);
    let log = std::fs::read_to_string(bob.file("daemon/daemon.log")).unwrap_or_default();
    assert!(pid(&bob).is_some());
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn killed_daemons_come_back_by_themselves() {
    let (_ana, bob) = two_people();
    bob.ok(&["peers"]);
    let before = pid(&bob).unwrap();
    kill(u32::try_from(before).unwrap());
    until("the next verb has a new daemon", || bob.run(&["peers"]).code == 0);
    assert_ne!(pid(&bob).unwrap(), before);
}

/// CLI spec §1.15: strict with an unstartable daemon; §1.11.
#[test]
fn an_unstartable_daemon_is_one_error_with_exit_4() {
    let (_ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    bob.ok(&["daemon", "down"]);
    let dir = bob.file("daemon");
    std::fs::write(dir.join("config.toml"), "this is no settings file").unwrap();
    let ran = bob.run(&["peers", "--strict"]);
    assert!(ran.code == 4 || ran.code == 3, "{ran:?}");
    assert_eq!(ran.stderr.matches('✘').count(), 1, "{ran:?}");
    let again = bob.run(&["peers"]);
    assert!(again.stderr.contains("failed to start a moment ago"), "{again:?}");
}

/// CLI spec §1.15 Accept 5: with a systemd unit installed and stopped: no spawn attempt; after 8 s exit 4.
#[test]
#[cfg(target_os = "linux")]
fn a_stopped_service_is_waited_for_and_not_replaced() {
    let (_ana, bob) = two_people_one_daemon();
    let units = bob.path().join(".config/systemd/user");
    std::fs::create_dir_all(&units).unwrap();
    std::fs::write(units.join("claudemesh-daemon.service"), "[Service]\n").unwrap();
    let began = std::time::Instant::now();
    let ran = bob.run(&["peers", "--strict"]);
    let waited = began.elapsed();
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("systemctl --user status claudemesh-daemon.service"), "{ran:?}");
    let limit = claudemesh_protocol::limits::DAEMON_SERVICE_BUDGET;
    assert!(waited >= limit && waited < limit + std::time::Duration::from_secs(2), "{waited:?}");
    assert!(!bob.file("daemon/daemon.log").exists(), "nobody tried to start one");
}

#[test]
fn logs_are_printed_and_missing_ones_said() {
    let home = Home::new();
    assert_eq!(home.run(&["daemon", "logs"]).code, 5);
    home.ok(&["daemon", "up"]);
    let log = home.ok(&["daemon", "logs", "--lines", "3"]);
    assert!(log.lines().count() <= 3);
}

/// Daemon spec §9.1: TCP is off unless asked for, and a restart asks anew.
#[test]
fn tcp_is_served_when_asked_for() {
    let home = Home::new();
    let port = home.file("daemon/http.port");
    home.ok(&["daemon", "up"]);
    assert!(!port.exists());
    home.ok(&["daemon", "restart", "--tcp"]);
    let number: u16 = std::fs::read_to_string(&port).unwrap().trim().parse().unwrap();
    let before = std::fs::read_to_string(home.file("daemon/local-token")).unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", number)).is_ok());
    let rotated = home.ok(&["daemon", "rotate-token"]);
    let after = std::fs::read_to_string(home.file("daemon/local-token")).unwrap();
    assert!(before != after && !rotated.contains(after.trim()), "{rotated}");
    std::fs::write(home.file("daemon/config.toml"), "[ipc]\ntcp_enabled = true\n").unwrap();
    home.ok(&["daemon", "restart", "--no-tcp"]);
    assert!(!port.exists(), "whoever starts it decides");
}

/// CLI spec §3.18: one line for each event, as it happens; JSON lines for programs.
#[test]
fn events_are_printed_as_they_happen() {
    let home = Home::new();
    home.up();
    let printed = |words: &[&str], number: u8| {
        let mut command = home.command(words);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        until("it listens", || {
            let figures = home.ok(&["daemon", "metrics"]);
            figures.contains("cm_daemon_sse_streams 1\n")
        });
        let agent = Agent::register(&home, number, "builder");
        let mut line = String::new();
        std::io::BufReader::new(stdout).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        drop(agent);
        until("it is gone", || {
            home.ok(&["daemon", "metrics"]).contains("cm_daemon_sse_streams 0\n")
        });
        line
    };
    let line = printed(&["daemon", "events", "--kind", "session_registered"], 1);
    assert!(line.contains("session_registered [home]"), "{line}");
    assert!(line.contains("display_name=builder"), "{line}");
    let line = printed(&["daemon", "events", "--mesh", "home", "--json=kind,mesh"], 2);
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["schema_version"], "1.0", "{line}");
    assert_eq!((&event["kind"], &event["mesh"]), (&"session_registered".into(), &"home".into()));
}

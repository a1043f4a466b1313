//! `peer unblock-loop`: for a person at a terminal (CLI spec §3.4).

use claudemesh_ipc::Client;
use claudemesh_protocol::limits::LOOP_PAIR_MAX;

use crate::home::{Home, two_people, until};
use crate::machine::on_terminal;
use crate::sessions::{Agent, wait};

/// An agent that could lift its own stop would have none.
#[test]
fn without_a_terminal_it_is_forbidden() {
    let home = Home::new();
    let (code, refused) = home.json(&["peer", "unblock-loop", "Bob"]);
    assert_eq!((code, refused["error"].as_str()), (7, Some("forbidden")), "{refused}");
    let ran = home.run(&["peer", "unblock-loop", "Bob"]);
    assert_eq!(ran.code, 7);
    assert!(ran.stderr.contains("a stopped loop is lifted by a person at a terminal"), "{ran:?}");
    assert!(ran.stderr.contains("claudemesh peer unblock-loop Bob"), "{ran:?}");
}

#[test]
fn on_a_terminal_it_says_whether_there_was_a_stop() {
    let (ana, _bob) = two_people();
    let key = ana.member_key("Bob");
    let (text, code) = on_terminal(&ana, &["peer", "unblock-loop", "bob"], false);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no loop stop with Bob"), "{text}");
    let (text, code) = on_terminal(&ana, &["peer", "unblock-loop", "Nobody"], false);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("Nobody"), "{text}");
    let reply =
        wait(Client::new(ana.file("daemon/daemon.sock")).unblock_loop(Some("home"), &key)).unwrap();
    assert_eq!((&reply.result["lifted"], &reply.result["peer"]), (&false.into(), &key.into()));
}

/// Two agents that answer each other until the broker stops them; a person lifts the stop.
#[test]
fn a_stop_is_lifted_by_a_person() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let (planner, builder) =
        (Agent::register(&ana, 1, "planner"), Agent::register(&bob, 2, "builder"));
    until("they see each other", || {
        ana.ok(&["peers"]).contains("builder") && bob.ok(&["peers"]).contains("planner")
    });
    let shown = |agent: &Agent, home: &Home, text: &str| {
        until(&format!("{text} is shown"), || agent.ok(home, &["inbox"]).contains(text));
    };
    // From here on each of them answers something: no word of a person is in it.
    planner.ok(&ana, &["send", "builder", "first"]);
    shown(&builder, &bob, "first");
    builder.ok(&bob, &["send", "planner", "second"]);
    shown(&planner, &ana, "second");
    let mut is_stopped = false;
    for number in 0..=LOOP_PAIR_MAX {
        let (agent, home, to) = match number % 2 {
            0 => (&planner, &ana, "builder"),
            _ => (&builder, &bob, "planner"),
        };
        let ran = home
            .command(&["send", to, &format!("answer {number}"), "--wait"])
            .env("CLAUDEMESH_IPC_TOKEN", &agent.token)
            .output()
            .unwrap();
        if !ran.status.success() {
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert_eq!(ran.status.code(), Some(7), "{number}: {said}");
            is_stopped = true;
            break;
        }
    }
    assert!(is_stopped, "nobody stopped them");
    let (text, code) = on_terminal(&ana, &["peer", "unblock-loop", "builder"], false);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("loop stop with builder lifted"), "{text}");
    planner.ok(&ana, &["send", "builder", "on we go", "--wait"]);
    let (text, _) = on_terminal(&ana, &["peer", "unblock-loop", "builder"], false);
    assert!(text.contains("no loop stop with builder"), "{text}");
}

//! `daemon recover`, `reset` and `uninstall` (daemon spec §11.6, §20.3, CLI spec §3.18).

use std::io::{Seek as _, SeekFrom, Write as _};

use crate::backup::{join_nowhere, joined};
use crate::home::{Home, two_people, until};
use crate::machine::asked;
use crate::service::managed;
use crate::sessions::Agent;

/// A home whose daemon accepted messages that it could not send yet, and was stopped.
pub fn with_queue(messages: usize) -> Home {
    let home = joined();
    home.ok(&["daemon", "up"]);
    let key = claudemesh_crypto::KeyPair::generate().public().to_hex();
    for number in 0..messages {
        home.run(&[
            "send",
            &key,
            &format!("letter {number} {}", "x".repeat(2_000)),
            "--timeout",
            "1s",
        ]);
    }
    home.ok(&["daemon", "down"]);
    home
}

/// Writes nonsense over pages of the outbox in the middle of the file.
pub fn damage(home: &Home) {
    let path = home.file("daemon/outbox.db");
    let size = std::fs::metadata(&path).unwrap().len();
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(size / 4096 / 2 * 4096)).unwrap();
    file.write_all(&[0xa5; 3 * 4096]).unwrap();
}

/// Daemon spec §11.6: a damaged outbox is refused, and the refusal says how to recover; §20.3: what can be read is kept.
/// Issue 5: corrupt databases (outbox: refuse and say how to recover).
#[test]
fn what_can_be_read_of_a_damaged_outbox_is_kept() {
    let home = with_queue(12);
    let looked = home.json_ok(&["daemon", "recover"]);
    assert_eq!(looked["outbox"]["state"], "whole");
    let queued = looked["queued"].as_array().unwrap().len();
    assert!(queued >= 10, "{looked}");
    damage(&home);
    let refused = home.run(&["daemon", "up"]);
    assert_eq!(refused.code, 10, "{refused:?}");
    assert!(refused.stderr.contains("claudemesh daemon recover"), "{refused:?}");
    let foreground = home.run(&["daemon", "up", "--foreground"]);
    assert_eq!(foreground.code, 5, "{foreground:?}");
    assert!(foreground.stderr.contains("claudemesh daemon recover"), "{foreground:?}");
    let (code, looked) = home.json(&["daemon", "recover"]);
    assert_eq!((code, &looked["outbox"]["state"]), (1, &"damaged".into()), "{looked}");
    let salvaged = home.json_ok(&["daemon", "recover", "--choice", "salvage"]);
    let kept = salvaged["queued"].as_u64().unwrap();
    assert!(kept >= 1, "{salvaged}");
    assert!(std::path::Path::new(salvaged["kept"].as_str().unwrap()).exists());
    home.ok(&["daemon", "up"]);
    let rows = home.json_ok(&["daemon", "outbox", "list", "--pending"]);
    assert_eq!(rows.as_array().unwrap().len() as u64, kept);
    let refused = home.run(&["daemon", "recover", "--choice", "salvage"]);
    assert_eq!(refused.code, 6, "{refused:?}");
}

/// Daemon spec §20.3: queued sends are listed before they are lost, and nothing is removed unasked.
#[test]
fn nothing_is_given_up_unasked() {
    let home = with_queue(1);
    let outbox = home.file("daemon/outbox.db");
    for choice in ["wipe-outbox", "wipe-all"] {
        let refused = home.run(&["daemon", "recover", "--choice", choice]);
        assert_eq!(refused.code, 7, "{refused:?}");
        assert!(refused.stderr.contains("dev to ") && outbox.exists(), "{refused:?}");
    }
    assert_eq!(home.run(&["daemon", "recover", "--choice", "rebuild-inbox"]).code, 7);
    assert_eq!(home.run(&["daemon", "reset"]).code, 7);
    assert_eq!(home.run(&["daemon", "uninstall"]).code, 7);
    assert!(home.file("daemon/inbox.db").exists());
    home.ok(&["daemon", "recover", "--choice", "rebuild-inbox", "-y"]);
    assert!(!home.file("daemon/inbox.db").exists() && outbox.exists());
    home.ok(&["daemon", "recover", "--choice", "wipe-outbox", "-y"]);
    assert!(!outbox.exists());
    home.ok(&["daemon", "up"]);
}

/// Daemon spec §20.3: `wipe-all` takes the queue, what was received and the sessions; memberships and the keys of sessions
/// stay, and the next start is at home. Where there is nothing, nothing is lost.
#[test]
fn after_everything_was_wiped_a_member_goes_on() {
    let words = ["daemon", "recover", "--choice", "wipe-all", "-y"];
    let nobody = Home::new();
    assert_eq!(nobody.json_ok(&words)["queued"], 0);
    nobody.ok(&["daemon", "up"]);
    let (ana, bob) = two_people();
    join_nowhere(&bob);
    bob.ok(&["daemon", "restart"]);
    ana.ok(&["send", "Bob", "before"]);
    until("Bob has it", || bob.bodies() == ["before"]);
    drop(Agent::register(&bob, 7, "builder"));
    let key = claudemesh_crypto::KeyPair::generate().public().to_hex();
    bob.run(&["send", &format!("dev:{key}"), "never sent", "--timeout", "1s"]);
    let refused = bob.run(&words);
    assert_eq!(refused.code, 6, "{refused:?}");
    bob.ok(&["daemon", "down"]);
    let session = "sessions/home/00000000-0000-4000-8000-000000000007.json";
    let kept = || ["config.json", session].map(|name| std::fs::read(bob.file(name)).unwrap());
    let before = kept();
    assert_eq!(bob.json_ok(&words)["queued"], 1);
    for database in ["outbox.db", "inbox.db"] {
        for side in ["", "-wal", "-shm"] {
            assert!(!bob.file("daemon").join(format!("{database}{side}")).exists(), "{database}");
        }
    }
    assert!(!bob.file("daemon/sessions.json").exists());
    assert!(kept() == before);
    bob.ok(&["daemon", "up"]);
    assert!(bob.json_ok(&["daemon", "sessions"]).as_array().unwrap().is_empty());
    assert!(bob.json_ok(&["daemon", "outbox", "list"]).as_array().unwrap().is_empty());
    ana.ok(&["send", "Bob", "afterwards"]);
    until("Bob has the next one", || bob.bodies() == ["afterwards"]);
}

/// Daemon spec §20.3: `reset` stops the daemon and keeps memberships.
#[test]
fn a_reset_keeps_memberships() {
    let (ana, bob) = two_people();
    bob.ok(&["peers"]);
    let config = std::fs::read(bob.file("config.json")).unwrap();
    bob.ok(&["daemon", "reset", "--confirm"]);
    for gone in ["outbox.db", "inbox.db", "sessions.json", "local-token", "host_fingerprint.json"] {
        assert!(!bob.file("daemon").join(gone).exists(), "{gone}");
    }
    assert_eq!(bob.json(&["daemon", "status"]).0, 1);
    assert_eq!(std::fs::read(bob.file("config.json")).unwrap(), config);
    bob.ok(&["send", "ana", "still a member"]);
    until("Ana has it", || ana.bodies().contains(&"still a member".into()));
}

/// Daemon spec §20 Accept 3: `uninstall` with the broker down finishes, reports the leftover membership, leaves no
/// process, unit, or socket.
#[test]
#[cfg(target_os = "linux")]
fn an_uninstall_needs_no_broker() {
    let (ana, bob) = two_people();
    let bob = managed(bob);
    bob.ok(&["daemon", "install-service"]);
    let pid = bob.json_ok(&["daemon", "status"])["pid"].as_u64().unwrap();
    ana.ok(&["down"]);
    let gone = bob.json_ok(&["daemon", "uninstall", "-y"]);
    assert_eq!(gone["not_left"][0]["mesh"], "home", "{gone}");
    assert!(gone["left"].as_array().unwrap().is_empty());
    assert!(std::fs::read_link(format!("/proc/{pid}/exe")).is_err(), "the daemon still runs");
    assert!(!bob.path().join(".config/systemd/user/claudemesh-daemon.service").exists());
    assert!(!bob.file("daemon").exists());
    assert!(bob.file("config.json").exists(), "the keys stay");
}

/// Keys go only after a person has typed the words.
#[test]
fn keys_are_removed_by_a_person_only() {
    let (ana, bob) = two_people();
    let words = ["daemon", "uninstall", "--purge-keys"];
    let refused = bob.run(&[&words[..], &["-y"]].concat());
    assert_eq!(refused.code, 7, "{refused:?}");
    let talk = asked(&bob, &words, "type \"delete my keys\"", "yes\r");
    assert_eq!(talk.code, 1, "{talk:?}");
    assert!(bob.file("config.json").exists());
    let talk = asked(&bob, &words, "type \"delete my keys\"", "delete my keys\r");
    assert_eq!(talk.code, 0, "{talk:?}");
    assert!(!bob.file("config.json").exists() && !bob.file("sessions").exists());
    until("Bob is no member any more", || ana.json_ok(&["members"]).as_array().unwrap().len() == 1);
}

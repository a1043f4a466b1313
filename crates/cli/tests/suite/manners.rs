//! Manners that every verb shares, over the whole line-up (CLI spec §11).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use claudemesh_protocol::ops::OperationKind;

use crate::home::{Home, Ran, kill, until, with_another};
use crate::lineup::{self, Specimen};
use crate::machine::{answered_on_terminal, asked, shown_at};

/// Verbs that go on until they are told to stop, or start and stop processes, also those of this machine's service manager:
/// walked over where they cannot.
const SERVERS: [&str; 12] = [
    "up",
    "mcp",
    "broker",
    "daemon up",
    "daemon restart",
    "daemon down",
    "daemon events",
    "daemon install-service",
    "daemon uninstall-service",
    "daemon uninstall",
    "daemon reset",
    "down",
];

/// Longest time any verb takes by itself: the longest of the table, and a second.
const LONGEST: Duration = Duration::from_secs(16);

fn is_short(one: &Specimen) -> bool {
    !SERVERS.contains(&one.verb.as_str())
}

/// Runs with stdin closed and nothing but pipes; ends it when it takes longer than `limit`.
fn bounded(mut command: Command, limit: Duration) -> (Ran, Duration) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let child = command.spawn().unwrap();
    let id = child.id();
    let (done_tx, done_rx) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || done_tx.send((child.wait_with_output(), began.elapsed())));
    let (output, took) = done_rx.recv_timeout(limit).unwrap_or_else(|_| {
        kill(id);
        done_rx.recv().unwrap()
    });
    (Ran::from(output.unwrap()), took)
}

/// X4: with stdin closed and stdout a pipe every verb ends, and none asks.
#[test]
fn nobody_is_asked_where_nobody_can_answer() {
    let home = Home::new();
    home.up();
    home.ok(&["create", "Second"]);
    for one in lineup::every().iter().filter(|one| is_short(one) && one.verb != "mesh leave") {
        let words: Vec<&str> = one.line.iter().map(String::as_str).collect();
        let (ran, took) = bounded(home.command(&words), LONGEST);
        assert!(took < LONGEST, "{words:?} took {took:?}");
        assert!((0..=10).contains(&ran.code), "{words:?}: {ran:?}");
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains("[y/N]") && !said.contains("(y/N)"), "{words:?}: {said}");
    }
}

/// X5: a broker that takes everything and says nothing. `--timeout` ends every verb, a second later at most.
#[test]
fn a_silent_broker_holds_up_nobody_beyond_the_timeout() {
    let (home, _mou) = with_another("Mou");
    home.member_key("Mou");
    let pid = home.json_ok(&["up"])["broker"]["pid"].as_i64().unwrap();
    let broker = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _awake = Asleep::put(broker);
    let lines: Vec<Vec<String>> = lineup::every()
        .into_iter()
        .filter(|one| is_short(one) && one.has_mesh())
        .flat_map(|one| {
            let mut human = one.line;
            human.extend(["--timeout", "1s", "-y"].map(str::to_owned));
            let json = human.iter().cloned().chain(["--json".to_owned()]).collect();
            [human, json]
        })
        .collect();
    // They do little but wait, so a few can do it side by side.
    for some in lines.chunks(8) {
        std::thread::scope(|scope| {
            for line in some {
                let home = &home;
                scope.spawn(move || {
                    let words: Vec<&str> = line.iter().map(String::as_str).collect();
                    let (ran, took) = bounded(home.command(&words), LONGEST);
                    assert!(took < Duration::from_secs(2), "{words:?} took {took:?}: {ran:?}");
                    // From the roster, the outbox and the inbox some have their answer.
                    assert!([0, 4, 7].contains(&ran.code), "{words:?}: {ran:?}");
                    if words.ends_with(&["--json"]) {
                        let read: serde_json::Value = serde_json::from_str(&ran.stdout)
                            .unwrap_or_else(|error| panic!("{words:?}: {error}: {ran:?}"));
                        assert!(ran.code == 0 || read["exit_code"] == ran.code, "{words:?}");
                    }
                });
            }
        });
    }
}

/// X5: without `--timeout` an operation has its own time.
#[test]
fn a_silent_broker_is_waited_for_as_long_as_the_table_says() {
    let home = Home::new();
    home.up();
    let pid = home.json_ok(&["up"])["broker"]["pid"].as_i64().unwrap();
    let broker = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _awake = Asleep::put(broker);
    let limit = OperationKind::StateGet.spec().timeout + Duration::from_secs(1);
    let (ran, took) = bounded(home.command(&["state", "get", "k"]), LONGEST);
    assert!(took < limit, "{took:?}: {ran:?}");
    assert_eq!(ran.code, 4, "{ran:?}");
}

/// A process that is stopped until this is dropped.
struct Asleep(rustix::process::Pid);

impl Asleep {
    fn put(process: rustix::process::Pid) -> Self {
        rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
        Self(process)
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

/// X10: Ctrl-C and Escape at every question: exit 1, nothing done, the terminal as it was.
#[test]
fn whoever_breaks_off_a_question_has_done_nothing() {
    let (home, _mou) = with_another("Mou");
    home.member_key("Mou");
    home.ok(&["create", "Second"]);
    let questions: [(&[&str], &str); 6] = [
        (&["kick", "--all", "--mesh", "home"], "(y/N)"),
        (&["ban", "Mou", "--mesh", "home"], "(y/N)"),
        (&["disconnect", "Mou", "--mesh", "home"], "(y/N)"),
        (&["mesh", "leave", "second"], "(y/N)"),
        (&["inbox", "flush", "--all"], "(y/N)"),
        (&["state", "set", "k", "v"], "Mesh"),
    ];
    for (words, question) in questions {
        for key in ["\u{3}", "\u{1b}"] {
            let talk = asked(&home, words, question, key);
            assert!(talk.text.contains(question), "{words:?}: {talk:?}");
            assert_eq!(talk.code, 1, "{words:?} {key:?}: {talk:?}");
            assert!(talk.is_restored, "{words:?} {key:?}: {talk:?}");
            assert!(talk.text.contains("cancelled"), "{words:?} {key:?}: {talk:?}");
        }
    }
    assert_eq!(home.json_ok(&["bans", "--mesh", "home"]), serde_json::json!([]));
    assert_eq!(home.json_ok(&["list"]).as_array().unwrap().len(), 2);
    let log = std::fs::read_to_string(home.file("audit.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("\"cancelled\"")).count(), 10, "{log}");
    let (text, code) =
        answered_on_terminal(&home, &["kick", "--all", "--mesh", "home"], "(y/N)", "n\r");
    assert!(text.contains("all 0 sessions on home"), "{text}");
    assert_eq!(code, 1, "{text}");
    let (text, code) = answered_on_terminal(&home, &["state", "set", "k", "v"], "Mesh", "\r");
    assert_eq!(code, 0, "{text}");
}

/// X13: without a Unicode locale nothing but ASCII comes from us; JSON is UTF-8 everywhere (CLI spec §1.9).
#[test]
fn a_plain_locale_gets_plain_letters() {
    let home = Home::new();
    home.up();
    let home = home.with("LC_ALL", "C");
    let verbs = lineup::every();
    let plain = |words: &[&str]| {
        let ran = shown_at(home.command(words), 60);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.is_ascii(), "{words:?}: {said}");
    };
    for one in verbs.iter().filter(|one| is_short(one)) {
        let mut words: Vec<&str> = one.line.iter().map(String::as_str).collect();
        let mut help = one.bare();
        help.push("--help");
        plain(&help);
        if one.verb == "mesh leave" {
            words.truncate(1);
        }
        // A file in UTF-8, printed as it is written down.
        if one.verb != "skill" {
            plain(&words);
            plain(&one.bare());
        }
        words.push("--no-such-flag");
        plain(&words);
    }
    for words in [&["help", "all"][..], &["help", "conventions"], &["sned"], &["daemon", "bogus"]] {
        plain(words);
    }
    let (text, code) = answered_on_terminal(&home, &["leave", "home"], "(y/N)", "n\r");
    assert!(text.contains("[!]") && text.is_ascii(), "{text}");
    assert_eq!(code, 1, "{text}");
    until("the daemon answers", || home.run(&["daemon", "status"]).code == 0);
}

/// X7, X8: no verb prints a secret, none stands in a log, and nothing is written outside of HOME.
#[test]
fn secrets_stay_in_their_files_and_files_in_their_home() {
    let (home, _mou) = with_another("Mou");
    home.member_key("Mou");
    let elsewhere = tempfile::tempdir().unwrap();
    let (temp, work) = (elsewhere.path().join("tmp"), elsewhere.path().join("work"));
    std::fs::create_dir(&temp).unwrap();
    std::fs::create_dir(&work).unwrap();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(home.file(name)).unwrap()).unwrap()
    };
    let mut secrets = vec![
        read("config.json")["meshes"][0]["secretKey"].as_str().unwrap().to_owned(),
        read("auth.json")["session_token"].as_str().unwrap().to_owned(),
    ];
    secrets.extend(std::fs::read_to_string(home.file("daemon/local-token")).ok());
    // The private half of the key alone is one, too.
    secrets.push(secrets[0][..64].to_owned());
    let mut said = String::new();
    for one in lineup::every().iter().filter(|one| is_short(one) && one.verb != "mesh leave") {
        let mut words: Vec<&str> = one.line.iter().map(String::as_str).collect();
        words.extend(["-y", "--verbose", "--debug"]);
        for form in [&[][..], &["--json"]] {
            let words: Vec<&str> = words.iter().chain(form).copied().collect();
            let mut command = home.command(&words);
            command.current_dir(&work).env("TMPDIR", &temp);
            let (ran, _) = bounded(command, LONGEST);
            said.push_str(&ran.stdout);
            said.push_str(&ran.stderr);
        }
    }
    for log in [home.file("daemon/daemon.log"), home.file("audit.log")] {
        said.push_str(&std::fs::read_to_string(log).unwrap());
    }
    for file in std::fs::read_dir(home.broker_dir()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            said.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    for secret in secrets.iter().map(|secret| secret.trim()) {
        assert!(secret.len() >= 16, "that is no secret: {secret:?}");
        assert!(!said.contains(secret), "a secret was said: {}…", &secret[..4]);
    }
    for dir in [&temp, &work] {
        let left: Vec<_> = std::fs::read_dir(dir).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

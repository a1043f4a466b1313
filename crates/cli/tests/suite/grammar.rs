//! What needs no broker and no daemon: help, versions, refusals, the JSON of every verb.

use std::fmt::Write as _;

use serde_json::Value;

use crate::home::Home;
use crate::lineup;
use crate::words::snapshot;

#[test]
fn version_and_help_succeed_anywhere() {
    let home = Home::new();
    let version = home.ok(&["--version"]);
    assert_eq!(version, format!("claudemesh {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(home.ok(&["send", "-V"]), version);
    for words in
        [vec!["--help"], vec!["help"], vec!["-h"], vec!["help", "all"], vec!["help", "conventions"]]
    {
        let text = home.ok(&words);
        let limit = if words == ["help", "all"] { 120 } else { 40 };
        assert!(!text.contains('\u{1b}') && text.lines().count() <= limit, "{words:?}");
    }
    assert!(std::fs::read_dir(home.path()).unwrap().next().is_none(), "help writes nothing");
}

#[test]
fn the_main_help_screen() {
    snapshot("help", &Home::new().ok(&["help"]));
}

/// X1.
#[test]
fn every_verb_has_a_help_page_with_an_example() {
    let home = Home::new();
    for specimen in lineup::every() {
        let mut words = specimen.bare();
        words.push("--help");
        let text = home.ok(&words);
        let verb = &specimen.verb;
        if verb == "help" {
            continue;
        }
        assert!(text.contains("Usage:"), "{verb}");
        assert!(text.contains("Example") || verb == "broker", "{verb}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{verb}");
    }
    assert!(home.ok(&["send", "--help"]).contains("--reply-to"));
}

/// CLI spec §1.9: for every verb `--json` parses on failure too.
#[test]
fn every_verb_fails_with_a_json_object() {
    let home = Home::new().with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1");
    let cases: [&[&str]; 19] = [
        &["create", ""],
        &["join", "nonsense"],
        &["leave", "nope"],
        &["share"],
        &["peers"],
        &["members"],
        &["send", "Mou", "hi"],
        &["inbox"],
        &["inbox", "flush", "--all"],
        &["inbox", "delete", "abcdefgh"],
        &["msg-status", "abc"],
        &["group", "join", "a b"],
        &["state", "get", "k"],
        &["state", "set", "k"],
        &["kick"],
        &["policy", "check", "peer", "nope"],
        &["daemon", "bogus"],
        &["nonsense"],
        &["send", "--nope"],
    ];
    for words in cases {
        let (code, document) = home.json(words);
        assert!(code > 0, "{words:?}");
        assert_eq!(document["schema_version"], "1.0", "{words:?}");
        assert_eq!(document["ok"], false, "{words:?}");
        assert_eq!(document["exit_code"], code, "{words:?}: {document}");
        assert!(document["error"].is_string() && document["message"].is_string(), "{words:?}");
        assert_eq!(document.as_object().unwrap().keys().next().unwrap(), "schema_version");
    }
}

/// CLI spec §1.9, first line.
#[test]
fn whoami_on_an_empty_home_is_json_with_exit_2() {
    let (code, document) = Home::new().json(&["whoami"]);
    assert_eq!(
        (code, &document["schema_version"], &document["signed_in"]),
        (2, &Value::from("1.0"), &Value::from(false))
    );
}

/// CLI spec §1.9, third line.
#[test]
fn unknown_fields_are_refused_before_anything_happens() {
    let ran = Home::new().run(&["peer", "list", "--json=nope"]);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, document["error"].as_str()), (3, Some("invalid_field")));
    assert!(document["valid"].as_array().unwrap().contains(&Value::from("displayName")));
}

/// X2, X3.
#[test]
fn refusals_for_people() {
    let home = Home::new().with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1");
    let mut text = String::new();
    for line in [
        "sned Mou hi",
        "send Mou hi --form-stdin",
        "send Mou hi --priority",
        "send Mou hi --priority urgent",
        "send",
        "send Mou",
        "list -- extra",
        "mesh",
        "daemon bogus",
        "join nonsense",
        "create x",
        "leave nope",
        "peers",
        "inbox flush",
        "inbox delete abc",
        "msg-status abc",
        "group join all",
        "state set k",
        "state set k v --if-version soon",
        "state gett k",
        "kick",
        "kick Mou --all",
        "grant Mou flymode",
        "policy check peer nope",
        "state list --approval-mode bold",
        "share --expires 1s",
        "",
        "up --listen nowhere",
        "up --listen 0.0.0.0",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ran = home.run(&words);
        assert!(ran.stdout.is_empty(), "{line}");
        write!(text, "$ claudemesh {line}\n{}exit {}\n\n", ran.stderr, ran.code).unwrap();
    }
    snapshot("refusals", &text);
}

/// CLI spec §1.10: no escape code without a terminal, no Unicode sign without a Unicode locale (X13).
#[test]
fn plain_streams_stay_plain() {
    let home = Home::new();
    let ran = home.run(&["list"]);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'));
    let ascii = Home::new().with("LC_ALL", "C");
    for words in [vec!["list"], vec!["sned"], vec!["help"], vec!["whoami"]] {
        let ran = ascii.run(&words);
        assert!(ran.stdout.is_ascii() && ran.stderr.is_ascii(), "{words:?}: {ran:?}");
    }
}

/// CLI spec §1.7: a reader that goes away is no failure.
#[test]
fn a_broken_pipe_is_success() {
    use std::process::Stdio;

    let home = Home::new();
    let mut child = home.command(&["help", "all"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn no_mesh_without_a_terminal_is_exit_5() {
    let home = Home::new();
    let ran = home.run(&[]);
    assert_eq!(ran.code, 5);
    assert!(
        ran.stderr.contains("no mesh joined") && ran.stderr.contains("claudemesh up"),
        "{ran:?}"
    );
    let (code, document) = home.json(&[]);
    assert_eq!((code, document["error"].as_str()), (5, Some("no_mesh_joined")));
}

#[test]
fn completion_scripts_exist_for_four_shells() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = home.ok(&["completions", shell]);
        for word in ["send", "inbox", "--reply-to", "completions"] {
            assert!(script.contains(word.trim_start_matches('-')), "{shell}: {word}");
        }
    }
    assert_eq!(home.run(&["completions", "tcsh"]).code, 3);
}

#[test]
fn the_broker_has_its_own_words() {
    let home = Home::new();
    let help = home.ok(&["broker", "--help"]);
    assert!(help.contains("serve") && help.contains("provision"), "{help}");
    assert_eq!(home.run(&["broker", "nonsense"]).code, 3);
    let link = home.path().join("claudemesh-broker");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_claudemesh"), &link).unwrap();
    let output = std::process::Command::new(&link)
        .arg("--help")
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("provision"));
}

/// X9: no vector of arguments makes it panic or end with an exit code outside the table.
#[test]
fn odd_words_never_panic() {
    let home = Home::new().with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1");
    let odd = [
        "", "-", "--", "---", "=", "--=x", "--json=", "--json=,", "-é", "😀", "--mesh", "--mesh=",
        "\u{202e}", "@", "#x", "*",
    ];
    for first in ["send", "join", "inbox", "peers", "mesh", "daemon", ""] {
        for word in odd {
            let words: Vec<&str> =
                [first, word, "x"].into_iter().filter(|word| !word.is_empty()).collect();
            let ran = home.run(&words);
            assert!((0..=10).contains(&ran.code), "{words:?}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{words:?}: {ran:?}");
        }
    }
}

//! The policy gate in the real binary: what is refused sends nothing, what is asked about needs a person (CLI spec
//! §1.17).

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::home::{Home, two_people, until};
use crate::machine::answered_on_terminal;
use crate::sessions::Agent;

/// The audit log, one document a line.
fn audit(home: &Home) -> Vec<Value> {
    let text = std::fs::read_to_string(home.file("audit.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn last(home: &Home) -> Value {
    audit(home).pop().unwrap()
}

/// A HOME with a mesh in its config and no daemon that could be reached.
fn joined_without_daemon() -> Home {
    let home = Home::new();
    home.up();
    home.ok(&["down"]);
    home.with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1")
}

#[test]
fn the_policy_verbs_work_without_anything() {
    let home = Home::new();
    let path = home.json_ok(&["policy", "path"]);
    assert_eq!(
        (path["exists"].as_bool(), path["schema_version"].as_str()),
        (Some(false), Some("1.0"))
    );
    let shown = home.json_ok(&["policy", "show"]);
    assert_eq!(
        (shown["default"].as_str(), shown["rules"].as_array().unwrap().len()),
        (Some("allow"), 0)
    );
    assert!(shown["builtin"].as_array().unwrap().iter().any(|rule| rule["verb"] == "kick"));
    for (words, code, decision, source) in [
        (&["policy", "check", "peer", "kick"][..], 0, "prompt", "builtin"),
        (&["policy", "check", "peer", "kick", "-y"], 0, "allow", "builtin"),
        (&["policy", "check", "state", "set"], 0, "allow", "default"),
        (&["policy", "check", "state", "set", "--approval-mode", "plan"], 7, "deny", "mode"),
        (&["policy", "check", "state", "get", "--approval-mode", "plan"], 0, "allow", "default"),
    ] {
        let (exit, checked) = home.json(words);
        assert_eq!(exit, code, "{words:?}: {checked}");
        assert_eq!((&checked["decision"], &checked["source"]), (&decision.into(), &source.into()));
    }
    home.ok(&["policy", "init"]);
    let file = home.file("policy.yaml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(home.run(&["policy", "init"]).code, 6);
    home.ok(&["policy", "init", "--force"]);
    assert_eq!(home.json_ok(&["policy", "check", "peer", "kick"])["source"], "file");
    assert!(home.ok(&["policy", "show"]).contains("affects another member's sessions"));
}

/// CLI spec §1.17: a denial sends nothing, wins over `-y`, and leaves its line.
#[test]
fn a_denial_wins_over_yes_and_reaches_nobody() {
    let home = joined_without_daemon();
    let rules = "rules:\n  - {resource: state, verb: set, decision: deny, reason: frozen}\n";
    std::fs::write(home.file("policy.yaml"), rules).unwrap();
    let ran = home.run(&["state", "set", "k", "v", "-y"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("denied by policy: state set (rule 1)"), "{ran:?}");
    assert!(ran.stderr.contains("claudemesh policy show"), "{ran:?}");
    let line = last(&home);
    assert_eq!(
        (&line["resource"], &line["verb"], &line["mesh"], &line["target"]),
        (&"state".into(), &"set".into(), &"home".into(), &"k".into())
    );
    assert_eq!((&line["outcome"], &line["rule"]), (&"denied".into(), &1.into()));
    let mode = std::fs::metadata(home.file("audit.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, refused) = home.json(&["state", "set", "k", "v"]);
    assert_eq!((code, refused["error"].as_str()), (7, Some("policy_denied")));
    // Without a daemon this is what comes after the gate.
    assert_eq!(home.run(&["state", "get", "k"]).code, 4);
    assert_eq!(last(&home)["outcome"], "allowed");
}

/// CLI spec §1.17: read-only denies writes and lets reads through; the environment says it too.
#[test]
fn approval_modes_deny_writes() {
    let home = joined_without_daemon();
    for words in [
        &["state", "set", "k", "v", "--approval-mode", "read-only"][..],
        &["send", "Mou", "hi", "--approval-mode", "plan"],
        &["kick", "Mou", "--approval-mode", "plan", "-y"],
        &["leave", "home", "--approval-mode", "read-only", "-y"],
    ] {
        let ran = home.run(words);
        assert_eq!(ran.code, 7, "{words:?}: {ran:?}");
        assert_eq!(last(&home)["outcome"], "denied");
    }
    assert_eq!(home.run(&["peers", "--approval-mode", "read-only"]).code, 4);
    assert_eq!(home.run(&["state", "set", "k", "v", "--approval-mode", "bold"]).code, 3);
    let home = home.with("CLAUDEMESH_APPROVAL_MODE", "plan");
    assert_eq!(home.run(&["state", "set", "k", "v"]).code, 7);
    assert_eq!(home.run(&["state", "set", "k", "v", "--approval-mode", "write"]).code, 4);
}

/// C55: aliases are the same thing to the gate. §1.11: nobody to ask means no.
#[test]
fn aliases_are_gated_alike_and_nobody_to_ask_means_no() {
    let home = joined_without_daemon();
    // The first write would leave the file by itself, and later ones name its rule.
    home.ok(&["policy", "init"]);
    for words in
        [&["mesh", "leave", "home"][..], &["leave", "home"], &["workspace", "leave", "home"]]
    {
        let ran = home.run(words);
        assert_eq!(ran.code, 7, "{words:?}: {ran:?}");
        assert!(ran.stderr.contains("confirmation required") && ran.stderr.contains("pass -y"));
    }
    let lines = audit(&home);
    let lines: Vec<String> = lines[lines.len() - 3..]
        .iter()
        .map(|line| {
            let mut line = line.clone();
            line.as_object_mut().unwrap().remove("ts");
            line.to_string()
        })
        .collect();
    assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    assert!(lines[0].contains("cancelled") && home.ok(&["list"]).contains("home"));
    let ran = home.run(&["peer", "kick", "Mou"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert_eq!(home.run(&["peer", "kick", "Mou", "-y"]).code, 4, "past the gate");
    home.ok(&["leave", "home", "-y"]);
    assert_eq!(last(&home)["outcome"], "allowed");
}

/// CLI spec §1.17: on a terminal the question names what, where and why; no is the default.
#[test]
fn a_person_is_asked_on_a_terminal() {
    let home = joined_without_daemon();
    let (text, code) = answered_on_terminal(&home, &["leave", "home"], "Continue?", "\r");
    assert!(text.contains("removes the mesh from this device"), "{text}");
    assert!(text.contains("mesh leave on home"), "{text}");
    assert_eq!(code, 1, "Enter alone means no: {text}");
    assert_eq!(last(&home)["outcome"], "cancelled");
    let (text, code) = answered_on_terminal(&home, &["leave", "home"], "Continue?", "y\r");
    assert_eq!(code, 0, "{text}");
    assert_eq!(last(&home)["outcome"], "allowed");
}

/// CLI spec §1.17: a file that is no policy is said, and the built-in rules apply; a named file must be there.
#[test]
fn a_broken_file_falls_back_and_a_named_file_must_exist() {
    let home = joined_without_daemon();
    std::fs::write(home.file("policy.yaml"), "rules: 5\n").unwrap();
    let ran = home.run(&["kick", "Mou"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("is no policy") && ran.stderr.contains("built-in"), "{ran:?}");
    assert_eq!(home.run(&["state", "get", "k", "--policy", "/nonexistent/p.yaml"]).code, 5);
    let json = home.path().join("mine.json");
    let rule = r#"{"rules":[{"resource":"*","verb":"*","mesh":"home","decision":"deny"}]}"#;
    std::fs::write(&json, rule).unwrap();
    let json = json.to_str().unwrap();
    assert_eq!(home.run(&["state", "get", "k", "--policy", json]).code, 7);
    let home = home.with("CLAUDEMESH_POLICY", json);
    assert_eq!(home.run(&["state", "get", "k"]).code, 7);
}

/// CLI spec §2.1: the first gated write leaves a file to edit, a read leaves none.
#[test]
fn the_first_write_leaves_a_policy_file() {
    let home = joined_without_daemon();
    let file = home.file("policy.yaml");
    assert_eq!(home.run(&["state", "get", "k"]).code, 4);
    assert!(!file.exists());
    assert_eq!(home.run(&["state", "set", "k", "v"]).code, 4);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("resource: peer") && text.contains("verb: kick"), "{text}");
}

/// CLI spec §1.17: rules that name peers, by name, key and group, end to end: the number of the rule, the line in the
/// log, and nothing sent.
#[test]
fn rules_may_name_peers() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    let key = ana.member_key("Bob");
    let agent = Agent::register(&bob, 1, "builder");
    agent.ok(&bob, &["group", "join", "@ops"]);
    until("Ana sees the session in its group", || {
        ana.json_ok(&["peers"]).to_string().contains("\"ops\"")
    });
    let rules = |text: &str| std::fs::write(ana.file("policy.yaml"), text).unwrap();
    rules(
        "rules:\n\
         - {resource: peer, verb: kick, peers: [\"Cleo\"], decision: allow}\n\
         - {resource: peer, verb: kick, peers: [\"@ops\"], decision: deny, reason: on call}\n\
         - {resource: message, verb: send, peers: [\"Bob\"], mesh: home, decision: deny}\n\
         - {resource: grant, verb: block, peers: [\"Bob\"], decision: prompt, reason: think twice}\n",
    );
    let denied = |words: &[&str], rule: u64, target: &str| {
        let (code, refused) = ana.json(words);
        assert_eq!((code, refused["error"].as_str()), (7, Some("policy_denied")), "{refused}");
        assert_eq!(refused["rule"], rule, "{refused}");
        let line = last(&ana);
        assert_eq!((&line["outcome"], &line["rule"]), (&"denied".into(), &rule.into()), "{line}");
        assert_eq!((&line["target"], &line["mesh"]), (&target.into(), &"home".into()), "{line}");
    };
    let (code, checked) = ana.json(&["policy", "check", "peer", "kick", "builder"]);
    assert_eq!((code, &checked["rule"]), (7, &2.into()), "{checked}");
    let (code, checked) = ana.json(&["policy", "check", "peer", "kick", "Cleo"]);
    assert_eq!((code, &checked["rule"]), (0, &1.into()), "{checked}");
    let ran = ana.run(&["kick", "builder", "-y"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("denied by policy: peer kick (rule 2)"), "{ran:?}");
    assert!(ran.stderr.contains("on call"), "{ran:?}");
    denied(&["kick", "builder", "-y"], 2, "builder");
    for target in ["Bob", "bob", &key, &key[..12], "builder", "Bob@home"] {
        let asked = target.strip_suffix("@home").unwrap_or(target);
        denied(&["send", target, "hello"], 3, asked);
    }
    assert!(bob.bodies().is_empty(), "{:?}", bob.bodies());
    assert_eq!(ana.json_ok(&["daemon", "outbox", "list"]), serde_json::json!([]));
    // A rule about somebody says nothing about others.
    ana.ok(&["send", "@all", "hello"]);
    let ran = ana.run(&["block", "Bob"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("confirmation required"), "{ran:?}");
    assert_eq!((&last(&ana)["decision"], &last(&ana)["rule"]), (&"prompt".into(), &4.into()));
    let (text, code) = answered_on_terminal(&ana, &["block", "Bob"], "Continue?", "y\r");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("grant block Bob on home — think twice"), "{text}");
    assert_eq!(last(&ana)["outcome"], "allowed");
    // Who is away is the same person.
    bob.ok(&["daemon", "down"]);
    until("Bob is gone", || !ana.ok(&["peers"]).contains("builder"));
    denied(&["send", &key, "hello"], 3, &key);
    rules("rules:\n- {resource: peer, verb: ban, peers: [\"Bob\"], decision: allow}\n");
    ana.ok(&["ban", "Bob"]);
    assert_eq!((&last(&ana)["decision"], &last(&ana)["rule"]), (&"allow".into(), &1.into()));
}

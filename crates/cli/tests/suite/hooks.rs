//! The user's hooks with the real program, which is what begins them (daemon spec §16.3), and the guard of what is sent.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

use crate::home::{Home, two_people, until};

fn install(home: &Home, sections: &str, name: &str, script: &str) {
    use std::io::Write as _;
    let dir = home.file("daemon/hooks");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).unwrap();
    for (name, text, mode) in
        [("hooks.toml", sections, 0o600), (name, &*format!("#!/bin/sh\n{script}\n"), 0o700)]
    {
        let path = dir.join(name);
        let _ = std::fs::remove_file(&path);
        let mut file =
            std::fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

#[test]
fn a_message_runs_a_hook_and_is_answered_by_it() {
    let (ana, bob) = two_people();
    let script =
        "cat > $HOME/heard; ls -l /proc/$$/fd >> $HOME/heard; echo '{\"reply\":\"got it\"}'";
    install(&bob, "[on-dm]\nenabled = true\nallow_reply = true\n", "on-dm.sh", script);
    bob.ok(&["daemon", "restart"]);
    ana.ok(&["send", "Bob", "hello hook"]);
    until("the hook's answer arrives", || ana.bodies().iter().any(|body| body == "got it"));
    let heard = std::fs::read_to_string(bob.path().join("heard")).unwrap();
    assert!(heard.contains("\"body\":\"hello hook\""), "{heard}");
    let audit = std::fs::read_to_string(bob.file("daemon/hooks-audit.jsonl")).unwrap();
    assert!(audit.contains("\"replied\":true") && !audit.contains("hello"), "{audit}");
}

/// §16 Accept 8, as a person sees it; the way without a daemon leads around no guard.
#[test]
fn a_guard_refuses_on_every_road() {
    let (ana, bob) = two_people();
    let script = "grep -q secret && echo '{\"action\":\"deny\",\"reason\":\"no secrets\"}'; exit 0";
    install(&ana, "[pre-send]\nenabled = true\n", "pre-send", script);
    ana.ok(&["daemon", "restart"]);
    let refused = ana.run(&["send", "Bob", "a secret"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(
        refused.stderr.contains("pre-send") && refused.stderr.contains("no secrets"),
        "{refused:?}"
    );
    ana.ok(&["send", "Bob", "fine"]);
    until("the other one arrives", || bob.bodies().iter().any(|body| body == "fine"));
    let refused = ana.run(&["send", "Bob", "around it", "--no-daemon"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(refused.stderr.contains("daemon"), "{refused:?}");
    ana.ok(&["send", "Bob", "last"]);
    until("the last one arrives", || bob.bodies().iter().any(|body| body == "last"));
    assert_eq!(bob.bodies().len(), 2);
}

/// What is no plan of a daemon runs nothing.
#[test]
fn the_hidden_word_needs_its_words() {
    let home = Home::new();
    for words in
        [&["run-hook"][..], &["run-hook", "/bin/true"], &["run-hook", "--", "/bin/true", "x"]]
    {
        let ran = home.run(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (126, ""), "{ran:?}");
    }
    assert!(!home.ok(&["help"]).contains("run-hook"));
}

//! What `install` writes, read by the real agents.

use serde_json::{Value, json};

use super::rig::{PATIENCE, Scene, is_missing, tools};
use crate::home::Home;
use crate::install::{FILES, read};

/// In front of the binary: keeps what each hook was called with and told, and what it answered.
const RECORDER: &str = r#"#!/bin/sh
[ "$1" = hook ] || exec "$REAL_PROGRAM" "$@"
log="$HOME/hooks/$2-$3"
cat > "$log.stdin.$$"
"$REAL_PROGRAM" "$@" < "$log.stdin.$$" > "$log.stdout.$$" 2> "$log.stderr.$$"
code=$?
echo "$code" > "$log.code.$$"
cat "$log.stdout.$$"
cat "$log.stderr.$$" >&2
exit $code
"#;

/// The program in a directory of its own, recorded.
fn recorded(home: &Home) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;

    let bin = home.path().join("recorder");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(home.path().join("hooks")).unwrap();
    let real = tools().join("claudemesh").display().to_string();
    let program = bin.join("claudemesh");
    std::fs::write(&program, RECORDER.replace("$REAL_PROGRAM", &real)).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

/// Events of an agent whose hook ran, and ended well.
fn heard(home: &Home, agent: &str) -> Vec<String> {
    let prefix = format!("{agent}-");
    let entries = std::fs::read_dir(home.path().join("hooks")).unwrap().flatten();
    let mut events: Vec<String> = entries
        .filter(|entry| {
            let text = || std::fs::read_to_string(entry.path()).unwrap_or_default();
            entry.file_name().to_string_lossy().contains(".code.") && text().trim() == "0"
        })
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            Some(name.strip_prefix(&prefix)?.split('.').next()?.to_owned())
        })
        .collect();
    events.sort();
    events.dedup();
    events
}

/// Agents spec §1.10 1, 2: the client finds the server, runs every hook of ours in a conversation, and after `uninstall`
/// its files hold what they held.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn claude_code_reads_what_was_installed() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = scene.claude();
    let theirs = json!({
        "hooks": { "Stop": [{ "hooks": [{ "type": "command", "command": "touch theirs" }] }] },
        "permissions": { "allow": ["Bash(echo:*)"] },
    });
    scene.claude_settings(&theirs);
    let settings = read(&scene.me, ".claude/settings.json");
    let installed = scene.me.json_ok(&["install", "claude", "-y", "--no-service"]);
    assert_eq!(installed["mcp"], "added");
    let listed = claude.run(&["mcp", "list"]).unwrap();
    let line = listed.stdout.lines().find(|line| line.starts_with("claudemesh:"));
    assert!(line.is_some_and(|line| line.contains("Connected")), "{listed:?}");
    // As if it had been installed from a directory on the search path.
    let bin = recorded(&scene.me);
    let text = read(&scene.me, ".claude/settings.json");
    let program = tools().join("claudemesh").display().to_string();
    let through = text.replace(&program, &bin.join("claudemesh").display().to_string());
    crate::install::write(&scene.me, ".claude/settings.json", &through);
    let script = r#"CALL Write {"file_path":"made.txt","content":"x"}"#;
    let ran = claude.print(script, &["--allowedTools", "Write"]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let events = heard(&scene.me, "claude");
    for event in
        ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd"]
    {
        assert!(events.iter().any(|heard| heard == event), "{event}: {events:?}");
    }
    assert!(claude.cwd().join("theirs").exists(), "the other hook still runs");
    let requests = scene.model.requests();
    let skill =
        requests.iter().any(|request| request.text().contains("claudemesh: Talk with other"));
    assert!(skill, "the skill is offered to the model");
    crate::install::write(&scene.me, ".claude/settings.json", &text);
    scene.me.ok(&["uninstall", "-y", "--keep-service"]);
    assert_eq!(read(&scene.me, ".claude/settings.json"), settings);
    let kept: Value = serde_json::from_str(&read(&scene.me, ".claude.json")).unwrap();
    assert!(kept["mcpServers"].get("claudemesh").is_none(), "{kept}");
    assert!(kept.get("hasCompletedOnboarding").is_some(), "what the client wrote meanwhile stays");
}

/// CLI spec §6.1–6.3 Accept 2 with a client that has not run in between: every byte is back.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn the_clients_own_files_are_again_what_they_were() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = scene.claude();
    // It writes its files the way it does.
    let ran = claude.print("hello", &[]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let before = read(&scene.me, ".claude.json");
    scene.me.ok(&["install", "claude", "-y", "--no-service"]);
    assert_ne!(read(&scene.me, ".claude.json"), before);
    scene.me.ok(&["uninstall", "claude", "-y"]);
    assert_eq!(read(&scene.me, ".claude.json"), before);
    assert!(!scene.me.path().join(".claude/settings.json").exists());
}

/// With a directory of its own the client looks for its servers there.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn a_configuration_directory_of_its_own_is_the_one_the_client_reads() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let dir = scene.me.path().join("config");
    std::fs::create_dir(&dir).unwrap();
    let mut command = scene.me.command(&["install", "claude", "-y", "--no-service"]);
    command.env("CLAUDE_CONFIG_DIR", &dir);
    assert!(command.output().unwrap().status.success());
    let claude = scene.claude().with("CLAUDE_CONFIG_DIR", dir.to_str().unwrap());
    let listed = claude.run(&["mcp", "list"]).unwrap();
    assert!(listed.stdout.lines().any(|line| line.starts_with("claudemesh:")), "{listed:?}");
}

/// Agents spec §1.10 18, the part of the files: Codex lists the server, takes the hooks once they are trusted, and offers
/// the skill.
#[test]
#[ignore = "needs the real Codex: make test-agents"]
fn codex_reads_what_was_installed() {
    if is_missing("codex") {
        return;
    }
    let scene = Scene::new();
    let codex = scene.codex("");
    let before = read(&scene.me, ".codex/config.toml");
    scene.me.ok(&["install", "codex", "-y", "--no-service"]);
    let listed = codex.run(&["mcp", "list"]).unwrap();
    assert!(listed.stdout.contains("claudemesh"), "{listed:?}");
    let bin = recorded(&scene.me);
    let text = read(&scene.me, ".codex/hooks.json");
    let program = tools().join("claudemesh").display().to_string();
    let through = text.replace(&program, &bin.join("claudemesh").display().to_string());
    crate::install::write(&scene.me, ".codex/hooks.json", &through);
    let ran = codex.exec("hello", &["--dangerously-bypass-hook-trust"]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let events = heard(&scene.me, "codex");
    for event in ["SessionStart", "UserPromptSubmit", "Stop"] {
        assert!(events.iter().any(|heard| heard == event), "{event}: {events:?}; {ran:?}");
    }
    let requests = scene.model.requests();
    assert!(requests.iter().any(|request| request.text().contains("claudemesh")), "{requests:#?}");
    crate::install::write(&scene.me, ".codex/hooks.json", &text);
    scene.me.ok(&["uninstall", "codex", "-y"]);
    assert_eq!(read(&scene.me, ".codex/config.toml"), before);
    assert!(!scene.me.path().join(FILES[3]).exists());
}

/// Agents spec §1.2 path 3: the bell waits for those who wait. A run without a person at it ends when its turn does.
#[test]
#[ignore = "needs the real Claude Code: make test-agents"]
fn a_headless_run_does_not_wait_for_the_bell() {
    if is_missing("claude") {
        return;
    }
    let scene = Scene::new();
    let claude = scene.claude();
    scene.me.ok(&["install", "claude", "-y", "--no-service"]);
    assert!(read(&scene.me, ".claude/settings.json").contains("hook claude bell"));
    let ran = claude.print("hello", &[]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.took < PATIENCE, "{ran:?}");
}

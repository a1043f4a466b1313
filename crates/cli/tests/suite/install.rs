//! `install` and `uninstall` on the files that people and other programs have (CLI spec §6.1–6.3, MCP spec §10).

mod corpus;
mod deaths;
mod neighbours;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::home::Home;
use crate::machine::asked;
use crate::service::managed;

/// Without the daemon: what these tests are about is files.
pub const INSTALL: [&str; 5] = ["install", "claude", "codex", "-y", "--no-service"];
pub const UNINSTALL: [&str; 3] = ["uninstall", "-y", "--keep-service"];

/// Files that an installation edits, below a home.
pub const FILES: [&str; 4] =
    [".claude.json", ".claude/settings.json", ".codex/config.toml", ".codex/hooks.json"];

pub fn read(home: &Home, file: &str) -> String {
    fs::read_to_string(home.path().join(file)).unwrap()
}

/// Puts a file there, with its directories.
pub fn write(home: &Home, file: &str, text: &str) -> PathBuf {
    let path = home.path().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn parsed(home: &Home, file: &str) -> Value {
    serde_json::from_str(&read(home, file)).unwrap()
}

/// Everything below a home but our own directory: path, and what a file holds.
pub fn everything(home: &Home) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut dirs) = (Vec::new(), vec![home.path().to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().unwrap() != ".claudemesh" {
                    found.push((path.clone(), Vec::new()));
                    dirs.push(path);
                }
            } else {
                let bytes = fs::read(&path).unwrap_or_default();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// MCP spec §10 Accept 1: an empty home.
#[test]
fn an_empty_home_gets_everything_and_is_empty_again() {
    let home = Home::new();
    let done = home.json_ok(&INSTALL);
    assert_eq!(done["mcp"], "added");
    assert_eq!(done["skill"], "added");
    assert_eq!(done["codex"]["mcp"], "added");
    assert_eq!(done["service"], "skipped");
    assert_eq!(done["backups"], json!([]), "there was nothing to keep");
    let program = env!("CARGO_BIN_EXE_claudemesh");
    let server = &parsed(&home, ".claude.json")["mcpServers"]["claudemesh"];
    assert_eq!(*server, json!({ "command": program, "args": ["mcp"] }));
    let settings = parsed(&home, ".claude/settings.json");
    let hooks = settings["hooks"].as_object().unwrap();
    let events: Vec<&str> = hooks.keys().map(String::as_str).collect();
    assert_eq!(done["hooks"].as_object().unwrap().len(), events.len());
    for event in events {
        let handlers = settings["hooks"][event][0]["hooks"].as_array().unwrap();
        let command = handlers[0]["command"].as_str().unwrap();
        assert_eq!(command, format!("{program} hook claude {event}"));
        assert_eq!(handlers[0]["timeout"], 5);
        let is_arming = ["SessionStart", "UserPromptSubmit", "Stop"].contains(&event);
        assert_eq!(handlers.len(), if is_arming { 2 } else { 1 }, "{event}");
        if is_arming {
            assert_eq!(handlers[1]["command"], format!("{program} hook claude bell"));
            assert_eq!(handlers[1]["asyncRewake"], true);
        }
    }
    let rules = settings["permissions"]["allow"].as_array().unwrap();
    assert!(rules.contains(&json!("Bash(claudemesh send:*)")), "{rules:?}");
    assert!(!rules.contains(&json!("Bash(claudemesh:*)")), "{rules:?}");
    assert!(settings.get("statusLine").is_none());
    assert!(read(&home, ".codex/config.toml").contains("[mcp_servers.claudemesh]\ncommand = "));
    let stop = &parsed(&home, ".codex/hooks.json")["hooks"]["Stop"][0]["hooks"][0]["command"];
    assert_eq!(*stop, format!("{program} hook codex Stop"));
    for file in FILES {
        let mode = fs::metadata(home.path().join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    let mode = fs::metadata(home.file("install.json")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let skill = read(&home, ".claude/skills/claudemesh/SKILL.md");
    assert_eq!(skill, home.ok(&["skill"]));
    assert_eq!(home.json_ok(&["skill"])["content"], skill);
    home.ok(&UNINSTALL);
    assert_eq!(everything(&home), [], "nothing is left");
    assert!(!home.file("install.json").exists());
}

/// CLI spec §6.1: `--dry-run` shows the diff and writes nothing; values of other people's entries are not shown.
#[test]
fn a_dry_run_touches_nothing() {
    let home = Home::new();
    let theirs =
        "{\n  \"mcpServers\": {\n    \"x\": { \"env\": { \"TOKEN\": \"s3cret\" } }\n  }\n}\n";
    let file = write(&home, ".claude.json", theirs);
    let before = fs::metadata(&file).unwrap();
    let ran = home.run(&["install", "claude", "--dry-run", "--no-service"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("+    \"claudemesh\": {"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\"TOKEN\"") && !ran.stdout.contains("s3cret"), "{}", ran.stdout);
    let document = home.json_ok(&["install", "claude", "--dry-run", "--no-service"]);
    assert_eq!(document["dry_run"], true);
    assert_eq!(document["changes"].as_array().unwrap().len(), 3);
    assert!(!document.to_string().contains("s3cret"));
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.mtime_nsec(), after.ino()), (before.mtime_nsec(), before.ino()));
    assert_eq!(everything(&home).len(), 1, "no other file has come");
    assert!(!home.file("").exists(), "not even a directory of ours");
}

/// CLI spec §1.11: what changes other people's files is asked about, and without anybody to ask nothing happens.
#[test]
fn it_asks_once_and_takes_no_for_an_answer() {
    let home = Home::new();
    let words = ["install", "claude", "--no-service"];
    let ran = home.run(&words);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("pass -y"), "{ran:?}");
    assert_eq!(everything(&home), []);
    let talk = asked(&home, &words, "Continue?", "n\r");
    let (text, code) = (talk.text, talk.code);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("+++ ~/.claude.json"), "the diff comes first: {text}");
    assert_eq!(everything(&home), []);
    let talk = asked(&home, &words, "Continue?", "y\r");
    assert_eq!(talk.code, 0, "{}", talk.text);
    // Nothing to change, nothing to ask about.
    assert_eq!(home.run(&words).code, 0);
    let ran = home.run(&["uninstall"]);
    assert_eq!(ran.code, 7, "{ran:?}");
}

/// CLI spec §6.1–6.3 Accept 5: each step has its own flag, and they reach the installer.
#[test]
fn flags_leave_out_what_they_say() {
    let home = Home::new();
    let only_server = ["--no-hooks", "--no-skill", "--no-service", "--no-permissions", "-y"];
    let words: Vec<&str> = ["install", "claude"].into_iter().chain(only_server).collect();
    let done = home.json_ok(&words);
    assert_eq!(
        (&done["mcp"], &done["hooks"], &done["skill"]),
        (&json!("added"), &json!({}), &Value::Null)
    );
    let names: Vec<PathBuf> = everything(&home).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, [home.path().join(".claude.json")]);
    home.json_ok(&[
        "install",
        "claude",
        "-y",
        "--no-service",
        "--no-bell",
        "--allow",
        "all",
        "--tools",
        "messaging",
    ]);
    let settings = read(&home, ".claude/settings.json");
    assert!(!settings.contains("hook claude bell"), "{settings}");
    assert!(
        settings.contains("\"Bash(claudemesh:*)\"") && settings.contains("\"mcp__claudemesh\"")
    );
    let server = &parsed(&home, ".claude.json")["mcpServers"]["claudemesh"];
    assert_eq!(server["args"], json!(["mcp", "--tools", "messaging"]));
    let ran = home.run(&["install", "claude", "-y", "--tools", "nonsense"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    home.ok(&UNINSTALL);
    assert_eq!(FILES.map(|file| home.path().join(file).exists()), [false; 4]);
}

/// CLI spec §6.1 step 1: the name alone where agents find it; MCP spec §10: the agents' own directories are honoured.
#[test]
fn the_program_and_the_directories_are_those_of_the_agent() {
    let home = Home::new();
    let (bin, claude, codex) =
        (home.path().join("bin"), home.path().join("cc"), home.path().join("cx"));
    fs::create_dir(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_claudemesh"), bin.join("claudemesh")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let home = home
        .with("PATH", &path)
        .with("CLAUDE_CONFIG_DIR", claude.to_str().unwrap())
        .with("CODEX_HOME", codex.to_str().unwrap());
    let ran = home.run(&INSTALL);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert_eq!(
        parsed(&home, "cc/.claude.json")["mcpServers"]["claudemesh"]["command"],
        "claudemesh"
    );
    assert!(read(&home, "cc/settings.json").contains("\"claudemesh hook claude Stop\""));
    assert!(claude.join("skills/claudemesh/SKILL.md").exists());
    assert!(read(&home, "cx/config.toml").contains("command = \"claudemesh\""));
    assert!(!home.path().join(".claude").exists() && !home.path().join(".codex").exists());
    home.ok(&UNINSTALL);
    assert!(!claude.exists() && !codex.exists());
}

/// Without names it is the agents of this machine.
#[test]
fn the_agents_that_are_here_are_found() {
    let home = Home::new().with("PATH", "/usr/bin:/bin");
    fs::create_dir(home.path().join(".codex")).unwrap();
    let done = home.json_ok(&["install", "-y", "--no-service"]);
    assert_eq!((&done["mcp"], &done["codex"]["mcp"]), (&Value::Null, &json!("added")));
    assert!(!home.path().join(".claude.json").exists());
    let other = Home::new().with("PATH", "/usr/bin:/bin");
    let done = other.json_ok(&["install", "-y", "--no-service"]);
    assert_eq!((&done["mcp"], &done["codex"]), (&json!("added"), &Value::Null));
}

/// CLI spec §6.1 step 4: a skill that somebody made his own stays, and ours lies beside it.
#[test]
fn a_skill_of_ones_own_is_kept() {
    let home = Home::new();
    home.ok(&INSTALL);
    let file = write(&home, ".claude/skills/claudemesh/SKILL.md", "mine\n");
    let done = home.json_ok(&INSTALL);
    assert_eq!(done["skill"], "kept");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
    let beside = file.with_file_name("SKILL.md.new");
    assert_eq!(fs::read_to_string(&beside).unwrap(), home.ok(&["skill"]));
    home.ok(&UNINSTALL);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
    assert!(!beside.exists());
}

/// CLI spec §6.1 step 7, §6.3: the service comes and goes with the rest, and stays as it is while nothing changes.
#[test]
#[cfg(target_os = "linux")]
fn the_daemon_becomes_a_service_and_is_none_again() {
    let home = managed(Home::new());
    let unit = home.path().join(".config/systemd/user/claudemesh-daemon.service");
    let done = home.json_ok(&["install", "claude", "-y"]);
    assert_eq!(done["service"], "installed");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&format!("ExecStart={} daemon up", env!("CARGO_BIN_EXE_claudemesh"))));
    let pid = home.json_ok(&["daemon", "status"])["pid"].clone();
    let again = home.json_ok(&["install", "claude"]);
    assert_eq!((&again["service"], &again["mcp"]), (&json!("unchanged"), &json!("unchanged")));
    assert_eq!(home.json_ok(&["daemon", "status"])["pid"], pid, "it was left alone");
    let removed = home.json_ok(&["uninstall", "-y"]);
    assert_eq!(removed["removed"]["service"], "removed");
    assert!(!unit.exists());
    assert!(home.json_ok(&["daemon", "down"])["pid"].is_null(), "it runs no more");
}

/// CLI spec §6.1–6.3 Accept 6: an automated build gets no unit, and that is no failure.
#[test]
fn an_automated_build_gets_no_service() {
    let home = Home::new().with("CI", "1");
    let done = home.json_ok(&["install", "claude", "-y"]);
    assert_eq!((&done["ok"], &done["service"]), (&json!(true), &json!("skipped")));
    assert!(!home.path().join(".config").exists());
}

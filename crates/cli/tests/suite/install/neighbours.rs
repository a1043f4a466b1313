//! Others who write the same files at the same time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{FILES, INSTALL, UNINSTALL, everything, read, write};
use crate::home::{Home, until};

/// Longest life of an installation in these tests.
const PATIENCE: Duration = Duration::from_mins(1);

/// CLI spec §6.1–6.3 Accept 7: five at once, one entry.
#[test]
fn several_at_once_leave_one_entry() {
    let home = Home::new();
    write(&home, ".claude.json", "{\n  \"a\": 1\n}\n");
    home.ok_at_once(5, &INSTALL);
    let servers: Value = serde_json::from_str(&read(&home, ".claude.json")).unwrap();
    assert_eq!(servers["mcpServers"].as_object().unwrap().len(), 1);
    let settings: Value = serde_json::from_str(&read(&home, ".claude/settings.json")).unwrap();
    for (event, groups) in settings["hooks"].as_object().unwrap() {
        assert_eq!(groups.as_array().unwrap().len(), 1, "{event}");
    }
    home.ok(&UNINSTALL);
    assert_eq!(read(&home, ".claude.json"), "{\n  \"a\": 1\n}\n");
}

/// New content of a file that waits beside it.
fn waiting(file: &Path) -> Option<PathBuf> {
    let prefix = format!("{}.", file.file_name().unwrap().to_str().unwrap());
    let entries = fs::read_dir(file.parent().unwrap()).unwrap().flatten();
    entries.map(|entry| entry.path()).find(|path| {
        let is_new = path.extension().is_some_and(|end| end == "tmp");
        is_new && path.file_name().unwrap().to_string_lossy().starts_with(&prefix)
    })
}

/// An installation that rests for a while each time before it puts a file in its place.
fn slow(home: &Home) -> Child {
    let mut command =
        home.command(&["install", "claude", "-y", "--no-service", "--no-skill", "--json"]);
    command.env("CLAUDEMESH_FAILPOINTS", "install.before_rename=sleep(400)");
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn result(child: Child) -> (Option<i32>, Value) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Between reading and renaming another program writes: nothing of either is lost.
#[test]
fn a_write_in_between_is_not_lost() {
    let home = Home::new();
    let file = write(&home, ".claude/settings.json", "{\n  \"model\": \"x\"\n}\n");
    let child = slow(&home);
    until("the new content waits", || waiting(&file).is_some());
    fs::write(&file, "{\n  \"model\": \"y\"\n}\n").unwrap();
    let (code, done) = result(child);
    assert_eq!(code, Some(0), "{done}");
    let settings: Value = serde_json::from_str(&read(&home, ".claude/settings.json")).unwrap();
    assert_eq!(settings["model"], "y");
    assert!(settings["hooks"]["Stop"].is_array(), "{settings}");
    home.ok(&UNINSTALL);
    assert_eq!(read(&home, ".claude/settings.json"), "{\n  \"model\": \"y\"\n}\n");
}

/// A file that comes into being in between keeps what its maker put there.
#[test]
fn a_file_that_comes_in_between_is_not_lost() {
    let home = Home::new();
    let file = home.path().join(".claude.json");
    let child = slow(&home);
    until("the new content waits", || waiting(&file).is_some());
    fs::write(&file, "{\"numStartups\":1}").unwrap();
    let (code, done) = result(child);
    assert_eq!(code, Some(0), "{done}");
    let servers: Value = serde_json::from_str(&read(&home, ".claude.json")).unwrap();
    assert_eq!(servers["numStartups"], 1);
    assert!(servers["mcpServers"]["claudemesh"].is_object());
}

/// Who never lets us finish keeps the file, and the person is told.
#[test]
fn after_three_tries_the_file_stays_with_the_other() {
    let home = Home::new();
    let file = write(&home, ".claude/settings.json", "{\"n\":0}");
    let mut child = slow(&home);
    let deadline = Instant::now() + PATIENCE;
    let mut seen: Vec<PathBuf> = Vec::new();
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it never ends");
        if let Some(path) = waiting(&file).filter(|path| !seen.contains(path)) {
            seen.push(path);
            fs::write(&file, format!("{{\"n\":{}}}", seen.len())).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (code, done) = result(child);
    assert_eq!(code, Some(10), "{done}");
    assert_eq!(seen.len(), 3);
    assert_eq!(read(&home, ".claude/settings.json"), "{\"n\":3}");
    assert_eq!(done["failed"][0]["reason"], "another program keeps writing to it");
    assert_eq!(done["mcp"], "added");
    assert_eq!(waiting(&file), None);
    let backups = home.path().join(".claude/backups");
    assert_eq!(fs::read_dir(backups).unwrap().count(), 0, "no copies of what did not change");
}

/// The agent's own lock is waited for, and one whose holder is dead is passed over.
#[test]
fn the_lock_of_the_agent_is_respected() {
    let home = Home::new();
    let lock = home.path().join(".claude.json.lock");
    fs::create_dir(&lock).unwrap();
    let (code, done) = home.json(&INSTALL);
    assert_eq!(code, 10, "{done}");
    let reason = done["failed"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("its agent is writing it"), "{reason}");
    assert!(lock.is_dir() && !home.path().join(".claude.json").exists());
    let old = std::time::SystemTime::now() - Duration::from_mins(1);
    fs::File::open(&lock).unwrap().set_modified(old).unwrap();
    let done = home.json_ok(&INSTALL);
    assert_eq!(done["mcp"], "added");
    assert!(!lock.exists(), "and it is free again");
    assert_eq!(FILES.map(|file| home.path().join(file).exists()), [true; 4]);
    assert_eq!(done["failed"], json!([]));
    assert!(!everything(&home).is_empty());
}

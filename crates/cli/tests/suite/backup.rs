//! `backup` and `restore` (CLI spec §6.10, daemon spec §20.2).

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use claudemesh_crypto::backup::{Header, KdfCosts, seal_with_header};
use claudemesh_crypto::hash::sha256_hex;
use claudemesh_daemon::care::backup::{Extras, collect};
use claudemesh_daemon::clock;
use claudemesh_ipc::Paths;
use serde_json::Value;

use crate::home::{Home, Ran, two_people, until};
use crate::machine::asked;
use crate::sessions::{Agent, wait};

pub const PASSPHRASE: &str = "correct horse battery";

/// A home with a membership whose broker nobody asks.
pub fn joined() -> Home {
    let home = Home::new();
    join_nowhere(&home);
    home
}

/// A membership in a mesh `dev` whose broker does not exist.
pub fn join_nowhere(home: &Home) {
    use claudemesh_daemon::home::config::{Config, MeshEntry};

    let entry = MeshEntry {
        mesh_id: claudemesh_protocol::MeshId::new("mesh-dev"),
        member_id: claudemesh_protocol::MemberId::new("member-dev"),
        slug: "dev".into(),
        name: "dev".into(),
        keys: claudemesh_crypto::KeyPair::generate(),
        broker_url: "ws://127.0.0.1:1/ws".into(),
        joined_at: "2026-01-01T00:00:00.000Z".into(),
        root_key: None,
        invite_version: Some(2),
        owner_pubkey: None,
        role: None,
    };
    Config::update(&home.file("config.json"), |config| config.add_mesh(entry)).unwrap();
}

/// The passphrase in a file of this home.
pub fn passphrase_file(home: &Home, text: &str) -> String {
    let path = home.path().join("passphrase");
    std::fs::write(&path, format!("{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A backup that opens at once, written beside the home's files.
pub fn cheap_backup(of: &Home, to: &Home, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let paths = Paths::for_home(of.path());
    let bundle = wait(collect(&paths, Extras::default(), clock::now())).unwrap();
    let costs = KdfCosts { passes: 1, memory_kib: 8, lanes: 1 };
    let header = Header { costs, salt: [1; 16], nonce: [2; 24] };
    let mut sealed = seal_with_header(&bundle.document().unwrap(), PASSPHRASE, &header).unwrap();
    change(&mut sealed);
    let path = to.path().join("mesh.cmb");
    std::fs::write(&path, sealed).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Names, modes and contents below `~/.claudemesh`, as one hash.
fn tree(home: &Home) -> String {
    let (mut text, mut dirs) = (String::new(), vec![home.file("")]);
    while let Some(dir) = dirs.pop() {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                dirs.push(path.clone());
                String::new()
            } else {
                sha256_hex(&std::fs::read(&path).unwrap_or_default())
            };
            let mode = meta.permissions().mode();
            writeln!(text, "{} {mode:o} {content}", path.display()).unwrap();
        }
    }
    sha256_hex(text.as_bytes())
}

fn restore(home: &Home, file: &str, passphrase: &str) -> Ran {
    let passphrase = passphrase_file(home, passphrase);
    home.run(&["restore", "--in", file, "--confirm", "--passphrase-file", &passphrase])
}

/// Issue 5; daemon spec §20 Accept 1; CLI spec §6.10 (round trip, mode 600): a backup of one home restored in another
/// on another host: the message that waited is opened, a session comes back under its key, and the daemon of the old
/// host gives way when the new one connects.
#[test]
fn a_backup_brings_a_member_to_another_machine() {
    let (ana, old) = two_people();
    let host = |home: &Home, id: &str| {
        let text = format!("[clone]\nid_override = \"{id}\"\n");
        std::fs::create_dir_all(home.file("daemon")).unwrap();
        std::fs::write(home.file("daemon/config.toml"), text).unwrap();
    };
    old.ok(&["daemon", "down"]);
    let _ = std::fs::remove_file(old.file("daemon/host_fingerprint.json"));
    host(&old, "old");
    old.ok(&["daemon", "up"]);
    let key = || old.json_ok(&["peers"]);
    drop(Agent::register(&old, 7, "builder"));
    let session_file = "sessions/home/00000000-0000-4000-8000-000000000007.json";
    let session: Value =
        serde_json::from_slice(&std::fs::read(old.file(session_file)).unwrap()).unwrap();
    let _ = key();
    let passphrase = passphrase_file(&old, PASSPHRASE);
    let copy = old.path().join("mesh.cmb");
    let copy = copy.to_str().unwrap();
    let words = ["backup", "--out", copy, "--passphrase-file", &passphrase];
    let made = old.json_ok(&words);
    assert_eq!(made["meshes"], serde_json::json!(["home"]));
    assert_eq!(std::fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(old.run(&words).code, 6, "a backup is never replaced");
    old.ok(&["daemon", "down"]);
    ana.ok(&["send", "Bob", "while nobody was there"]);
    let new = Home::new();
    let ran = restore(&new, copy, PASSPHRASE);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("clone.id_override"), "{ran:?}");
    assert_eq!(
        std::fs::read(new.file("config.json")).unwrap(),
        std::fs::read(old.file("config.json")).unwrap()
    );
    assert!(!new.file("daemon/host_fingerprint.json").exists());
    host(&new, "new");
    new.ok(&["daemon", "up"]);
    until("what waited is opened", || new.bodies().contains(&"while nobody was there".into()));
    drop(Agent::register(&new, 7, "builder"));
    let again: Value =
        serde_json::from_slice(&std::fs::read(new.file(session_file)).unwrap()).unwrap();
    assert_eq!(again["secretKey"], session["secretKey"]);
    let state = |home: &Home| home.json(&["daemon", "status"]).1["brokers"]["home"].clone();
    let replaced = |home: &Home| home.run(&["daemon", "status"]).stdout.contains("replaced");
    // The old one comes again: the newest has the place, and each is told.
    old.ok(&["daemon", "up"]);
    until("the new host is told", || replaced(&new));
    new.ok(&["daemon", "restart"]);
    until("the old host is told", || replaced(&old));
    until("the new host is connected", || state(&new) == "open");
    new.ok(&["send", "ana", "from the new machine"]);
    until("Ana has it", || ana.bodies().contains(&"from the new machine".into()));
}

/// CLI spec §6.10: a flipped byte or a wrong passphrase → exit 2, another magic → 3, tree unchanged; issue 5: a truncated
/// file says so and changes nothing. Daemon spec §20 Accept 2.
#[test]
fn what_does_not_open_changes_nothing() {
    let (old, new) = (joined(), joined());
    let whole = std::fs::read(cheap_backup(&old, &new, |_| {})).unwrap();
    let before = tree(&new);
    let check = |file: &str, passphrase: &str, code: i32, says: &str| {
        let ran = restore(&new, file, passphrase);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(says), "{says}: {ran:?}");
        assert_eq!(tree(&new), before, "{ran:?}");
    };
    let damaged = "wrong passphrase, or the file is damaged";
    let file = cheap_backup(&old, &new, |_| {});
    check(&file, "correct horse batterz", 2, damaged);
    // Salt, nonce, content, tag.
    for position in [16, 31, 32, 55, 56, whole.len() / 2, whole.len() - 1] {
        let file = cheap_backup(&old, &new, |sealed| sealed[position] ^= 0x10);
        check(&file, PASSPHRASE, 2, damaged);
    }
    // Costs that are still reasonable belong to another key; unreasonable ones are refused before any work.
    let file = cheap_backup(&old, &new, |sealed| sealed[4] ^= 2);
    check(&file, PASSPHRASE, 2, damaged);
    for position in [7, 11, 15] {
        let file = cheap_backup(&old, &new, |sealed| sealed[position] ^= 0x80);
        check(&file, PASSPHRASE, 3, "unreasonable");
    }
    for position in 0..4 {
        let file = cheap_backup(&old, &new, |sealed| sealed[position] ^= 1);
        check(&file, PASSPHRASE, 3, "not a backup file");
    }
    for length in [0, 3, 20, 55] {
        let file = cheap_backup(&old, &new, |sealed| sealed.truncate(length));
        check(&file, PASSPHRASE, 3, "not a backup file");
    }
    for length in [56, 60, whole.len() - 1] {
        let file = cheap_backup(&old, &new, |sealed| sealed.truncate(length));
        check(&file, PASSPHRASE, 2, damaged);
    }
    check("/nonexistent.cmb", PASSPHRASE, 5, "there is no file");
}

/// CLI spec §6.10: the passphrase has twelve characters, and comes from a file, a descriptor, or the variable that names
/// a file; never from the command line.
#[test]
fn where_a_passphrase_comes_from() {
    let home = joined();
    let short = passphrase_file(&home, "eleven char");
    let ran = home.run(&["backup", "--passphrase-file", &short]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("at least 12 characters"), "{ran:?}");
    let ran = home.run(&["backup"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("missing --passphrase-file"), "{ran:?}");
    assert_eq!(home.run(&["backup", "--passphrase", PASSPHRASE]).code, 3);
    let file = cheap_backup(&home, &home, |_| {});
    let words = ["daemon", "restore", "--in", &file, "--confirm", "--passphrase-fd", "0"];
    let ran = home.feed(&words, format!("{PASSPHRASE}\nand more").as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
    let long = passphrase_file(&home, PASSPHRASE);
    let mut command = home.command(&["restore", "--in", &file, "--confirm"]);
    command.env("CLAUDEMESH_BACKUP_PASSPHRASE_FILE", &long);
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// CLI spec §6.10: no echo; restored after Ctrl-C; entered twice.
#[test]
fn a_typed_passphrase_is_not_shown() {
    let home = joined();
    let out = home.path().join("typed.cmb");
    let out = out.to_str().unwrap();
    let words = ["backup", "--out", out];
    let differing = format!("{PASSPHRASE}\rcorrect horse batterz\r");
    let talk = asked(&home, &words, "passphrase of the backup", &differing);
    assert_eq!(talk.code, 3, "{talk:?}");
    assert!(talk.text.contains("differ") && !talk.text.contains("correct"), "{talk:?}");
    let talk = asked(&home, &words, "passphrase of the backup", "correct ho\u{3}");
    assert!(talk.code == 1 && talk.is_restored, "{talk:?}");
    let talk = asked(&home, &words, "passphrase of the backup", "short\r");
    assert_eq!(talk.code, 3, "{talk:?}");
    assert!(!PathBuf::from(out).exists());
    let file = cheap_backup(&home, &home, |_| {});
    let words = ["restore", "--in", &file, "--confirm"];
    let talk = asked(&home, &words, "passphrase of the backup", &format!("{PASSPHRASE}\r"));
    assert!(talk.code == 0 && talk.is_restored, "{talk:?}");
    assert!(!talk.text.contains("correct"), "{talk:?}");
}

/// Memberships are replaced with consent only, and never under a running daemon.
#[test]
fn nothing_is_replaced_unasked() {
    let (old, new) = (joined(), joined());
    let file = cheap_backup(&old, &new, |_| {});
    let passphrase = passphrase_file(&new, PASSPHRASE);
    let words = ["restore", "--in", &file, "--passphrase-file", &passphrase];
    let before = tree(&new);
    let ran = new.run(&words);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert_eq!(tree(&new), before);
    new.ok(&["daemon", "up"]);
    let config = std::fs::read(new.file("config.json")).unwrap();
    let refused = restore(&new, &file, PASSPHRASE);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains("claudemesh daemon down"), "{refused:?}");
    assert_eq!(std::fs::read(new.file("config.json")).unwrap(), config);
    let mut words = words.to_vec();
    words.push("-y");
    let restored = new.json_ok(&words);
    assert_eq!(new.json(&["daemon", "status"]).0, 1, "the daemon was stopped");
    assert_eq!(
        std::fs::read(new.file("config.json")).unwrap(),
        std::fs::read(old.file("config.json")).unwrap()
    );
    let kept = restored["kept"].as_array().unwrap();
    let mut kept = kept.iter().map(|path| path.as_str().unwrap());
    let before = kept.rfind(|path| path.contains("config.json.before-restore.")).unwrap();
    assert_eq!(std::fs::read(before).unwrap(), config);
}

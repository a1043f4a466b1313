//! What is restored, what stays, and what a damaged backup changes: nothing.

use claudemesh_crypto::backup::BackupError;
use claudemesh_daemon::care::bundle::Bundle;
use claudemesh_daemon::care::{CareError, restore};
use claudemesh_daemon::home::config::Config;
use claudemesh_protocol::Timestamp;

use super::home::{
    EVERYTHING, PASSPHRASE, SESSION, Tree, archive, backup_of, cheaply_sealed, furnished,
    restorable, session_key, tree, write,
};
use crate::local::world::Home;

/// What a secret file's mode must not have.
const OPEN_TO_OTHERS: u32 = 0o077;
const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn without(tree: &Tree, names: &[&str]) -> Tree {
    let mut tree = tree.clone();
    tree.retain(|path, _| !names.iter().any(|name| path == name));
    tree
}

/// Daemon spec §20 Accept 1, the files: restored on another machine they are the same, but for what names a machine or
/// lets somebody in.
#[tokio::test]
async fn a_round_trip_gives_the_same_files() {
    let (old, new) = (furnished(), Home::new());
    let bundle = backup_of(&old, EVERYTHING).await;
    let sealed = cheaply_sealed(&bundle);
    let verified = Bundle::open(&sealed, PASSPHRASE).unwrap().verify().unwrap();
    assert_eq!(verified.meshes(), ["dev", "ops"]);
    let restored = restore::replace(&verified, &new.paths, NOW).await.unwrap();
    assert_eq!((restored.meshes, restored.kept), (vec!["dev".into(), "ops".into()], vec![]));
    let here = ["daemon/local-token", "daemon/sessions.json", "auth.json"];
    let (before, after) = (tree(&old), tree(&new));
    assert_eq!(
        without(&after, &here),
        without(&before, &[&here[..], &["daemon/host_fingerprint.json"]].concat())
    );
    let token = &after["daemon/local-token"];
    assert_eq!(token.0, 0o600);
    assert_ne!(token.1, before["daemon/local-token"].1);
    assert!(!after.contains_key("auth.json") && !after.contains_key("daemon/sessions.json"));
}

/// Daemon spec §20 Accept 2: flip any byte of the backup: it does not open; neither does a part of it.
#[tokio::test]
async fn every_changed_or_missing_byte_is_noticed() {
    let sealed = cheaply_sealed(&backup_of(&furnished(), EVERYTHING).await);
    // Derivation is cheap here, decryption is not free: every byte of what stands before the content, and some of it.
    let positions =
        (0..96).chain((96..sealed.len()).step_by(97)).chain(sealed.len() - 16..sealed.len());
    for position in positions {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        assert!(Bundle::open(&changed, PASSPHRASE).is_err(), "{position}");
    }
    for length in [0, 3, 4, 15, 16, 32, 55, 56, 71, 72, sealed.len() / 2, sealed.len() - 1] {
        assert!(Bundle::open(&sealed[..length], PASSPHRASE).is_err(), "{length}");
    }
    let wrong = Bundle::open(&sealed, "correct horse batterz").map(drop);
    assert!(matches!(wrong, Err(CareError::Container(BackupError::Authentication))));
    assert!(Bundle::open(&sealed, PASSPHRASE).is_ok());
}

/// What stands in the place of something is kept beside it.
#[tokio::test]
async fn files_that_were_there_are_kept() {
    let (old, new) = (furnished(), furnished());
    let before = tree(&new);
    let verified = restorable(&old, EVERYTHING).await;
    write(&new, "daemon/outbox.db", 0o600, "queue");
    write(&new, "daemon/outbox.db-wal", 0o600, "log");
    let other = "6f1b2c3d-0000-4000-8000-0123456789ff";
    write(&new, &format!("sessions/dev/{other}.json"), 0o600, &session_key("dev", other));
    let restored = restore::replace(&verified, &new.paths, NOW).await.unwrap();
    let after = tree(&new);
    let kept = |path: &str| format!("{path}.before-restore.1767225600000");
    assert_eq!(after[&kept("config.json")], before["config.json"]);
    assert_eq!(after["config.json"], tree(&old)["config.json"]);
    let session = format!("sessions/dev/{SESSION}.json");
    assert_eq!(after[&kept(&session)], before[&session]);
    // The names mean other meshes now: what waited for the old ones must not be sent to the new.
    assert!(!after.contains_key("daemon/outbox.db") && !after.contains_key("daemon/outbox.db-wal"));
    assert!(after.contains_key(&kept("daemon/outbox.db")));
    assert!(after.contains_key(&kept("daemon/sessions.json")));
    assert!(after.contains_key(&kept(&format!("sessions/dev/{other}.json"))));
    // What was the same needs no copy.
    assert!(!after.contains_key(&kept("daemon/config.toml")));
    assert!(restored.kept.iter().all(|path| path.exists()));
    assert!(after.iter().all(|(path, (mode, _))| {
        mode & OPEN_TO_OTHERS == 0
            || path == "daemon/config.toml"
            || path == "daemon/schema_version"
    }));
}

/// Restoring on the machine of the backup takes nothing away that still belongs to its meshes.
#[tokio::test]
async fn the_same_meshes_keep_their_queue_and_sessions() {
    let home = furnished();
    let verified = restorable(&home, EVERYTHING).await;
    write(&home, "daemon/outbox.db", 0o600, "queue");
    std::fs::remove_file(home.paths.membership_file()).unwrap();
    restore::replace(&verified, &home.paths, NOW).await.unwrap();
    let after = tree(&home);
    assert_eq!(after["daemon/outbox.db"].1, b"queue");
    assert!(after.contains_key("daemon/sessions.json"));
    assert!(Config::read(&home.paths.membership_file()).unwrap().mesh("ops").is_some());
}

/// A failure on the way takes back what was done.
#[tokio::test]
async fn a_failure_changes_nothing() {
    let (old, new) = (furnished(), furnished());
    let verified = restorable(&old, EVERYTHING).await;
    // A directory cannot be replaced by a file, and that is found late.
    let settings = new.paths.settings_file();
    std::fs::remove_file(&settings).unwrap();
    std::fs::create_dir(&settings).unwrap();
    let before = tree(&new);
    let error = restore::replace(&verified, &new.paths, NOW).await.unwrap_err();
    assert!(matches!(&error, CareError::File { path, .. } if *path == settings), "{error}");
    assert_eq!(tree(&new), before);
}

#[tokio::test]
async fn a_running_daemon_is_left_alone() {
    let (old, new) = (furnished(), furnished());
    let verified = restorable(&old, EVERYTHING).await;
    std::fs::remove_file(new.paths.daemon_dir().join("host_fingerprint.json")).unwrap();
    let running = new.start().await;
    let before = tree(&new);
    let refused = restore::replace(&verified, &new.paths, NOW).await;
    assert!(matches!(refused, Err(CareError::DaemonRunning)));
    let refused = restore::merge(&verified, &new.paths, NOW).await;
    assert!(matches!(refused, Err(CareError::DaemonRunning)));
    assert_eq!(tree(&new)["config.json"], before["config.json"]);
    running.shutdown().await;
}

/// CLI spec §6.10: `--merge` adds missing meshes only.
#[tokio::test]
async fn merging_adds_what_is_missing() {
    let (old, new) = (furnished(), Home::new());
    new.join("dev");
    write(&new, "daemon/keypair-archive.json", 0o600, &archive(&[("k_9", "dev")]));
    let before = tree(&new);
    let verified = restorable(&old, EVERYTHING).await;
    let restored = restore::merge(&verified, &new.paths, NOW).await.unwrap();
    assert_eq!((restored.meshes, restored.present), (vec!["ops".into()], vec!["dev".into()]));
    let config = Config::read(&new.paths.membership_file()).unwrap();
    let theirs = Config::read(&old.paths.membership_file()).unwrap();
    assert_eq!(config.meshes().map(|mesh| mesh.slug.as_str()).collect::<Vec<_>>(), ["dev", "ops"]);
    let key = |config: &Config, slug: &str| config.mesh(slug).unwrap().keys.public();
    assert!(
        key(&config, "ops") == key(&theirs, "ops") && key(&config, "dev") != key(&theirs, "dev")
    );
    let after = tree(&new);
    let archived: serde_json::Value =
        serde_json::from_slice(&after["daemon/keypair-archive.json"].1).unwrap();
    let ids: Vec<_> =
        archived["keys"].as_array().unwrap().iter().map(|key| &key["key_id"]).collect();
    assert_eq!(ids, ["k_9", "k_2"]);
    assert!(after.contains_key("daemon/rotation-pending-ops.json"));
    for other in ["daemon/config.toml", "daemon/local-token", "daemon/hooks/hooks.toml"] {
        assert_eq!(after.get(other), before.get(other), "{other}");
    }
    assert!(!after.keys().any(|path| path.starts_with("sessions/dev")));
    let again = restore::merge(&verified, &new.paths, NOW).await.unwrap();
    assert_eq!((again.meshes.len(), again.files), (0, 0));
}

/// Nothing that the daemon could not use gets into a backup, or out of one.
#[tokio::test]
async fn what_cannot_be_used_is_refused() {
    let home = furnished();
    write(&home, "daemon/topics.json", 0o600, "{ not json");
    write(&home, &format!("sessions/ops/{SESSION}.json"), 0o600, "{}");
    let bundle = backup_of(&home, EVERYTHING).await;
    assert_eq!(bundle.left_out().len(), 2, "{:?}", bundle.left_out());
    let document = String::from_utf8(bundle.document().unwrap().to_vec()).unwrap();
    assert!(!document.contains("topics.json"));
    let changed = |from: &str, to: &str| {
        assert!(document.contains(from), "{from}");
        Bundle::parse(document.replace(from, to).as_bytes()).and_then(Bundle::verify).map(drop)
    };
    assert!(changed("\"path\":\"config.json\"", "\"path\":\"../config.json\"").is_err());
    assert!(changed("\"path\":\"daemon/config.toml\"", "\"path\":\"daemon/local-token\"").is_err());
    assert!(changed("daemon/hooks/hooks.toml", "daemon/schema_version").is_err());
    assert!(changed("\"mode\":\"0600\"", "\"mode\":\"rw\"").is_err());
    assert!(matches!(changed("{\"version\":1,", "{\"version\":2,"), Err(CareError::Newer(_))));
    let hash = claudemesh_crypto::hash::sha256_hex(b"1\n");
    assert!(changed(&hash, &claudemesh_crypto::hash::sha256_hex(b"2\n")).is_err());
    assert!(Bundle::parse(b"{}").is_err() && Bundle::parse(b"").is_err());
    let empty = br#"{"version":1,"created_at":"x","daemon_version":"x","files":[]}"#;
    assert!(Bundle::parse(empty).unwrap().verify().is_err());
}

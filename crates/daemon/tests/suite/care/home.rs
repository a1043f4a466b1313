//! A home with every kind of file, and what a tree of files looks like.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use claudemesh_crypto::{KeyPair, backup};
use claudemesh_daemon::care::backup::{Extras, collect};
use claudemesh_daemon::care::bundle::{Bundle, Verified};
use claudemesh_daemon::clock;
use serde_json::json;

use crate::local::world::Home;

pub const PASSPHRASE: &str = "correct horse battery";

/// Session of the mesh `dev`.
pub const SESSION: &str = "6f1b2c3d-0000-4000-8000-0123456789ab";

pub const EVERYTHING: Extras = Extras { inbox: true, hooks: true };

/// Path below `~/.claudemesh`, mode and content of every file.
pub type Tree = BTreeMap<String, (u32, Vec<u8>)>;

pub fn tree(home: &Home) -> Tree {
    let mut tree = Tree::new();
    walk(home.paths.root(), "", &mut tree);
    // A lock is no content.
    tree.retain(|path, _| Path::new(path).extension().is_none_or(|end| end != "lock"));
    tree
}

fn walk(dir: &Path, prefix: &str, tree: &mut Tree) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            walk(&entry.path(), &format!("{path}/"), tree);
        } else if meta.is_file() {
            let content = std::fs::read(entry.path()).unwrap();
            tree.insert(path, (meta.permissions().mode() & 0o7777, content));
        }
    }
}

pub fn write(home: &Home, path: &str, mode: u32, content: &str) {
    let file = home.paths.root().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, content).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub fn session_key(slug: &str, id: &str) -> String {
    let keys = KeyPair::generate();
    json!({
        "version": 1, "meshSlug": slug, "sessionId": id, "publicKey": keys.public(),
        "secretKey": keys.to_hex().as_str(), "createdAt": "2026-01-01T00:00:00.000Z",
        "lastUsedAt": "2026-01-01T00:00:00.000Z",
    })
    .to_string()
}

pub fn archive(entries: &[(&str, &str)]) -> String {
    let keys: Vec<_> =
        entries.iter().map(|(id, mesh)| json!({ "key_id": id, "mesh": mesh })).collect();
    json!({ "schema_version": 1, "max_archived_keys": 8, "keys": keys }).to_string()
}

/// A home with two meshes and one of each kind of file.
pub fn furnished() -> Home {
    let home = Home::new();
    home.join("dev");
    home.join("ops");
    write(&home, &format!("sessions/dev/{SESSION}.json"), 0o600, &session_key("dev", SESSION));
    write(&home, &format!("sessions/dev/{SESSION}.launch.json"), 0o600, "{}");
    write(&home, "daemon/keypair-archive.json", 0o600, &archive(&[("k_1", "dev"), ("k_2", "ops")]));
    write(&home, "daemon/rotation-pending-ops.json", 0o600, "{}");
    write(&home, "daemon/config.toml", 0o644, "[inbox]\nretention_days = 7\n");
    write(&home, "daemon/topics.json", 0o600, "{}");
    write(&home, "daemon/schema_version", 0o644, "1\n");
    write(&home, "daemon/host_fingerprint.json", 0o600, "{\"schema_version\":2}");
    write(&home, "daemon/hooks/hooks.toml", 0o600, "");
    write(&home, "daemon/hooks/dev/on-message", 0o700, "#!/bin/sh\n");
    // Never part of a backup.
    write(&home, "daemon/local-token", 0o600, "secret\n");
    write(&home, "daemon/sessions.json", 0o600, "{}");
    write(&home, "auth.json", 0o600, "{}");
    home
}

pub async fn backup_of(home: &Home, extras: Extras) -> Bundle {
    collect(&home.paths, extras, clock::now()).await.unwrap()
}

/// Through the document and back, as a file would.
pub async fn restorable(home: &Home, extras: Extras) -> Verified {
    let document = backup_of(home, extras).await.document().unwrap();
    Bundle::parse(&document).unwrap().verify().unwrap()
}

/// A container that opens at once.
pub fn cheaply_sealed(bundle: &Bundle) -> Vec<u8> {
    let header = backup::Header {
        costs: backup::KdfCosts { passes: 1, memory_kib: 8, lanes: 1 },
        salt: [1; 16],
        nonce: [2; 24],
    };
    backup::seal_with_header(&bundle.document().unwrap(), PASSPHRASE, &header).unwrap()
}

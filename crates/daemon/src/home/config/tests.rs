//! What survives a rewrite of `config.json`, and what is refused.

use super::*;

fn entry(slug: &str) -> MeshEntry {
    MeshEntry {
        mesh_id: MeshId::new(format!("mesh-{slug}")),
        member_id: MemberId::new("member"),
        slug: slug.to_owned(),
        name: slug.to_owned(),
        keys: KeyPair::generate(),
        broker_url: "ws://127.0.0.1:1/ws".to_owned(),
        joined_at: "2026-01-01T00:00:00.000Z".to_owned(),
        root_key: Some(Zeroizing::new("cm9vdA".to_owned())),
        invite_version: Some(2),
        owner_pubkey: None,
        role: None,
    }
}

fn add(path: &Path, slug: &str) {
    Config::update(path, |config| config.add_mesh(entry(slug))).unwrap();
}

/// CLI §2.4: extra keys `{"x":1}` at top level and in a mesh survive `rename`.
#[test]
fn unknown_keys_order_indentation_and_mode_survive() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let keys = KeyPair::generate();
    let text = format!(
        "{{\n    \"x\": 1,\n    \"meshes\": [\n        {{\n            \"secretKey\": \"{}\",\n            \
         \"y\": [\n                2\n            ],\n            \"slug\": \"dev\",\n            \"name\": \"Dev\",\n            \
         \"meshId\": \"m\",\n            \"memberId\": \"n\",\n            \"pubkey\": \"{}\",\n            \
         \"brokerUrl\": \"ws://h/ws\",\n            \"joinedAt\": \"t\"\n        }}\n    ],\n    \"version\": 1\n}}",
        keys.to_hex().as_str(),
        keys.public()
    );
    std::fs::write(&path, &text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Config::read(&path).unwrap().is_open_to_others());
    let renamed = Config::update(&path, |config| {
        Ok::<_, ConfigError>(config.change_mesh("dev", |mesh| mesh.name = "New".to_owned()))
    });
    assert!(renamed.unwrap().is_some());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text.replace("\"Dev\"", "\"New\""));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_new_file_is_private_and_reads_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/config.json");
    add(&path, "dev");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let config = Config::read(&path).unwrap();
    let mesh = config.mesh("dev").unwrap();
    assert_eq!(mesh.root_key.as_ref().unwrap().as_str(), "cm9vdA");
    assert!(!config.is_open_to_others());
}

/// CLI §2.2: unreadable JSON is refused with path and parse position, never silently "no meshes".
#[test]
fn damaged_files_are_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for (text, what) in [
        ("{\n  \"meshes\": [,]\n}", "line 2"),
        ("", "line 1"),
        ("[]", "line 1"),
        ("{\"meshes\":{}}", "\"meshes\" is no list"),
        ("{\"version\":2,\"meshes\":[]}", "newer version"),
        ("{\"version\":\"1\",\"meshes\":[]}", "\"version\" is no number"),
        ("{\"meshes\":[{\"slug\":\"../x\"}]}", "no mesh name"),
        ("{\"meshes\":[{\"slug\":\"dev\"}]}", "\"pubkey\" is missing"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Config::read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("config.json"), "{text}: {error}");
        let refused = Config::update(&path, |_| Ok::<_, ConfigError>(()));
        assert!(refused.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_public_key_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    add(&path, "dev");
    let other = KeyPair::generate().public().to_hex();
    let text = std::fs::read_to_string(&path).unwrap();
    let own = Config::read(&path).unwrap().mesh("dev").unwrap().keys.public().to_hex();
    std::fs::write(&path, text.replace(&format!("\"{own}\""), &format!("\"{other}\""))).unwrap();
    assert!(Config::read(&path).is_err());
}

#[test]
fn a_mesh_is_added_once_and_its_default_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    add(&path, "dev");
    let again = Config::update(&path, |config| config.add_mesh(entry("dev")));
    assert!(matches!(again, Err(UpdateError::Refused(ConfigError::AlreadyJoined { .. }))));
    Config::update(&path, |config| {
        config.set_default_mesh(Some("dev"));
        config.set_default_setting("brokerUrl", "ws://h/ws");
        Ok::<_, ConfigError>(())
    })
    .unwrap();
    Config::update(&path, |config| Ok::<_, ConfigError>(config.remove_mesh("dev").is_some()))
        .unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!((config.meshes().len(), config.default_mesh()), (0, None));
    assert_eq!(config.default_setting("brokerUrl"), Some("ws://h/ws"));
}

/// CLI §2.4: two concurrent `join`s of different meshes: both present.
#[test]
fn concurrent_writers_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &path;
            scope.spawn(move || {
                for round in 0..5 {
                    add(path, &format!("mesh-{writer}-{round}"));
                }
            });
        }
    });
    assert_eq!(Config::read(&path).unwrap().meshes().len(), 40);
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// CLI §2.4: if the target is a symlink, write through to its target, keep the link.
#[test]
fn a_symbolic_link_is_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let (link, real) = (dir.path().join("config.json"), dir.path().join("real.json"));
    std::os::unix::fs::symlink("real.json", &link).unwrap();
    add(&link, "dev");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(Config::read(&real).unwrap().meshes().len(), 1);
}

//! Local files: modes, damage, what must survive a rewrite, what must never be written.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::home::{Home, two_people};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn every_file(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            every_file(&path, found);
        } else if entry.file_type().unwrap().is_file() {
            found.push(path);
        }
    }
}

/// CLI spec §2.4: modes with umask 000.
#[test]
fn secret_files_are_private_whatever_the_umask_says() {
    let home = Home::new();
    let binary = env!("CARGO_BIN_EXE_claudemesh");
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(format!("umask 000; exec {binary} up --listen 127.0.0.1:0"));
    let status = command
        .env_clear()
        .env("HOME", home.path())
        .env("USER", "ana")
        .env("PATH", "/usr/bin:/bin")
        .status();
    assert!(status.unwrap().success());
    for file in ["config.json", "auth.json"] {
        assert_eq!(mode(&home.file(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&home.file("")), 0o700);
    assert_eq!(mode(&home.broker_dir()), 0o700);
    let mut files = Vec::new();
    every_file(&home.file(""), &mut files);
    every_file(&home.broker_dir(), &mut files);
    // The layout number says nothing about anybody; its directory is closed anyway.
    files.retain(|file| !file.ends_with("schema_version"));
    for file in files {
        assert_eq!(mode(&file) & 0o077, 0, "{}", file.display());
    }
}

#[test]
fn a_damaged_config_is_never_taken_for_an_empty_one() {
    let home = Home::new();
    std::fs::create_dir_all(home.file("")).unwrap();
    for (content, words) in [
        ("{\"version\":1,\n \"meshes\": [}", "not valid JSON (line 2, column 13)"),
        ("{\"version\":1,\"meshes\":{}}", "config.json is damaged"),
        ("{\"version\":2,\"meshes\":[]}", "config written by a newer version"),
    ] {
        std::fs::write(home.file("config.json"), content).unwrap();
        for verb in [vec!["list"], vec!["peers"], vec!["leave", "x"], vec!["whoami"]] {
            let ran = home.run(&verb);
            assert_eq!(ran.code, 10, "{verb:?}: {ran:?}");
            assert!(ran.stderr.contains(words), "{verb:?}: {ran:?}");
        }
        assert_eq!(std::fs::read_to_string(home.file("config.json")).unwrap(), content);
    }
}

/// CLI spec §2.4: unknown keys survive.
#[test]
fn unknown_keys_survive_a_join_and_a_leave() {
    let (ana, bob) = two_people();
    let file = bob.file("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["x"] = 1.into();
    config["meshes"][0]["y"] = serde_json::json!({ "z": 2 });
    std::fs::write(&file, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    ana.json_ok(&["create", "Second Mesh"]);
    let link = ana.json_ok(&["share", "--mesh", "second-mesh"])["url"].as_str().unwrap().to_owned();
    bob.ok(&["join", &link]);
    let after: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&after["x"], &after["meshes"][0]["y"]["z"]), (&1.into(), &2.into()));
    bob.ok(&["leave", "second-mesh", "-y"]);
    let after: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&after["x"], after["meshes"].as_array().unwrap().len()), (&1.into(), 1));
}

/// X7, X8, CLI spec §5.3 and §5.6: no code, setup code or token outside the files they belong to.
#[test]
fn secrets_stay_in_their_files() {
    let ana = Home::new();
    let up = ana.run(&["up", "--listen", "127.0.0.1:0", "--debug"]);
    assert_eq!(up.code, 0, "{up:?}");
    let auth: serde_json::Value =
        serde_json::from_slice(&std::fs::read(ana.file("auth.json")).unwrap()).unwrap();
    let token = auth["session_token"].as_str().unwrap().to_owned();
    assert!(!ana.broker_dir().join("setup-code").exists(), "the setup code is used up");
    let share = ana.json_ok(&["share"]);
    let code = share["code"].as_str().unwrap().to_owned();
    let bob = Home::new();
    let joined = bob.run(&["join", share["url"].as_str().unwrap(), "--debug"]);
    assert_eq!(joined.code, 0, "{joined:?}");
    assert!(!up.stdout.contains(&token) && !up.stderr.contains(&token));
    assert!(!joined.stdout.contains(&code) && !joined.stderr.contains(&code));
    let holds = |home: &Home, secret: &str, but: &[&str]| {
        let mut files = Vec::new();
        every_file(home.path(), &mut files);
        files.retain(|file| !but.iter().any(|name| file.ends_with(name)));
        files
            .into_iter()
            .filter(|file| {
                let bytes = std::fs::read(file).unwrap_or_default();
                bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(holds(&ana, &token, &["auth.json"]), Vec::<std::path::PathBuf>::new());
    assert_eq!(holds(&bob, &code, &[]), Vec::<std::path::PathBuf>::new());
    assert!(!bob.file("join-pending.json").exists());
    let secret = serde_json::from_slice::<serde_json::Value>(
        &std::fs::read(bob.file("config.json")).unwrap(),
    )
    .unwrap()["meshes"][0]["secretKey"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(holds(&bob, &secret, &["config.json"]), Vec::<std::path::PathBuf>::new());
}

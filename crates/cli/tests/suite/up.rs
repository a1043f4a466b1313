//! `up` and `down` with a real broker and a real daemon (CLI spec §5.6).

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use serde_json::Value;

use crate::home::{Home, kill, until};
use crate::words::snapshot;

const UP: [&str; 3] = ["up", "--listen", "127.0.0.1:0"];

/// What a killed `up` has reached, and how to see it.
type Step<'a> = (&'a str, Box<dyn Fn() -> bool + 'a>);

fn counts(home: &Home) -> (usize, u64) {
    let meshes = home.json_ok(&["list"]);
    let meshes = meshes.as_array().unwrap();
    (meshes.len(), meshes[0]["memberCount"].as_u64().unwrap_or_default())
}

/// CLI spec §5.6, first Accept line (without the dashboard).
#[test]
fn up_makes_a_mesh_and_a_second_one_changes_nothing() {
    let home = Home::new();
    let first = home.up();
    assert_eq!(first["mesh"]["slug"], "home");
    assert_eq!(
        (&first["mesh"]["created"], &first["account"]["created"]),
        (&true.into(), &true.into())
    );
    assert!(home.json_ok(&["peers"]).is_array());
    let config = std::fs::read(home.file("config.json")).unwrap();
    let began = Instant::now();
    let second = home.json_ok(&["up"]);
    let took = began.elapsed();
    assert_eq!(first["broker"]["pid"], second["broker"]["pid"]);
    assert_eq!(first["daemon"]["pid"], second["daemon"]["pid"]);
    assert_eq!(first["mesh"]["mesh_id"], second["mesh"]["mesh_id"]);
    for part in ["broker", "daemon"] {
        assert_eq!(second[part]["started"], false, "{part}");
    }
    assert_eq!(
        (&second["mesh"]["created"], &second["account"]["created"]),
        (&false.into(), &false.into())
    );
    assert_eq!(std::fs::read(home.file("config.json")).unwrap(), config);
    assert_eq!(counts(&home), (1, 1));
    assert!(took.as_secs() < 5, "{took:?}");
}

#[test]
fn words_for_people() {
    let home = Home::new();
    let up = home.ok(&UP);
    let again = home.ok(&["up"]);
    assert_eq!(up, again);
    let list = home.ok(&["list"]);
    let whoami = home.ok(&["whoami"]);
    let share = home.ok(&["share", "--uses", "3", "--groups", "eng:lead"]);
    let down = home.ok(&["down"]);
    let down_again = home.ok(&["down"]);
    snapshot("up", &[up, list, whoami, share, down, down_again].join("\n$\n"));
}

/// CLI spec §5.6: two at the same moment.
#[test]
fn two_ups_at_once_make_one_of_everything() {
    let home = Home::new();
    let start = || {
        let mut command = home.command(&["up", "--listen", "127.0.0.1:0", "--json"]);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children = [start(), start(), start()];
    let answers: Vec<Value> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            serde_json::from_slice(&output.stdout).unwrap()
        })
        .collect();
    for answer in &answers {
        assert_eq!(answer["broker"]["pid"], answers[0]["broker"]["pid"]);
        assert_eq!(answer["daemon"]["pid"], answers[0]["daemon"]["pid"]);
        assert_eq!(answer["account"]["id"], answers[0]["account"]["id"]);
        assert_eq!(answer["mesh"]["mesh_id"], answers[0]["mesh"]["mesh_id"]);
    }
    let made = answers.iter().filter(|answer| answer["mesh"]["created"] == true).count();
    assert_eq!((made, counts(&home)), (1, (1, 1)));
}

/// CLI spec §5.6: kill -9 between the steps, then `up` again.
#[test]
fn a_killed_up_is_finished_by_the_next() {
    let home = Home::new();
    let has = |name: &str| home.file(name).exists();
    let steps: Vec<Step<'_>> = vec![
        ("the lock", Box::new(|| home.broker_dir().join("up.lock").exists())),
        ("the broker", Box::new(|| home.broker_dir().join("broker.json").exists())),
        ("the pending token", Box::new(|| has("auth-pending.json") || has("auth.json"))),
        ("the account", Box::new(|| has("auth.json"))),
        ("the pending keys", Box::new(|| has("join-pending.json") || has("config.json"))),
        ("the mesh", Box::new(|| has("config.json"))),
        ("the daemon", Box::new(|| home.file("daemon/daemon.sock").exists())),
    ];
    for (what, is_reached) in steps {
        let mut child = home
            .command(&UP)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        until(what, || is_reached() || child.try_wait().unwrap().is_some());
        kill(child.id());
        child.wait().unwrap();
    }
    let done = home.up();
    assert_eq!((&done["mesh"]["slug"], counts(&home)), (&"home".into(), (1, 1)));
    let me = home.json_ok(&["whoami"]);
    assert_eq!(me["meshes"]["owned"], 1);
    assert!(!home.file("auth-pending.json").exists() && !home.file("join-pending.json").exists());
}

/// CLI spec §5.6: an answer lost in the middle of the setup does not lock the person out.
#[test]
fn a_lost_account_file_is_made_again_from_the_pending_token() {
    let home = Home::new();
    home.up();
    let auth: Value =
        serde_json::from_slice(&std::fs::read(home.file("auth.json")).unwrap()).unwrap();
    let record: Value =
        serde_json::from_slice(&std::fs::read(home.broker_dir().join("broker.json")).unwrap())
            .unwrap();
    let pending = serde_json::json!({ "broker_pubkey": record["broker_pubkey"], "session_token": auth["session_token"] });
    std::fs::write(home.file("auth-pending.json"), pending.to_string()).unwrap();
    std::fs::remove_file(home.file("auth.json")).unwrap();
    let again = home.up();
    assert_eq!(again["account"]["id"], auth["user"]["id"]);
    assert_eq!(counts(&home), (1, 1));
    std::fs::remove_file(home.file("auth.json")).unwrap();
    let (code, refused) = home.json(&UP);
    assert_eq!((code, refused["error"].as_str()), (2, Some("unauthorized")), "{refused}");
}

/// CLI spec §5.6: a taken port, `down; up`.
#[test]
fn another_port_is_followed_by_every_verb() {
    let home = Home::new();
    let first = home.up();
    let listen = first["broker"]["listen"].as_str().unwrap().to_owned();
    assert_eq!(home.json_ok(&["down"])["broker"]["stopped"], true);
    assert_eq!(home.json_ok(&["down"])["broker"]["stopped"], false);
    let held = TcpListener::bind(&listen).unwrap();
    let second = home.json_ok(&["up"]);
    assert_ne!(second["broker"]["listen"], listen.as_str());
    assert_eq!(first["mesh"]["mesh_id"], second["mesh"]["mesh_id"]);
    assert_eq!(first["mesh"]["member_id"], second["mesh"]["member_id"]);
    let share = home.json_ok(&["share"]);
    assert!(share["url"].as_str().unwrap().starts_with(second["broker"]["url"].as_str().unwrap()));
    assert_eq!(counts(&home), (1, 1));
    drop(held);
}

/// CLI spec §5.6: a network address needs a word of consent.
#[test]
fn a_network_address_is_refused_without_insecure_http() {
    let home = Home::new();
    let ran = home.run(&["up", "--listen", "0.0.0.0:0"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("--insecure-http"), "{ran:?}");
    let ran = home.run(&["up", "--listen", "0.0.0.0:0", "--insecure-http", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let up: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(ran.stderr.contains("without TLS"), "{ran:?}");
    assert!(up["broker"]["listen"].as_str().unwrap().starts_with("0.0.0.0:"));
    // The choice is remembered, and undone by name.
    let again = home.json_ok(&["up"]);
    assert_eq!(again["broker"]["listen"], up["broker"]["listen"]);
    let back = home.json_ok(&["up", "--listen", "127.0.0.1"]);
    assert!(back["broker"]["listen"].as_str().unwrap().starts_with("127.0.0.1:"));
}

/// CLI spec §5.6: with `--insecure-http` a second HOME on another address joins by link, and both exchange a message.
///
/// A machine without any address but loopback cannot show it, and says so.
#[test]
fn a_second_machine_joins_over_the_network() {
    let ana = Home::new();
    let up = ana.json_ok(&["up", "--listen", "0.0.0.0:0", "--insecure-http"]);
    let Some(network) = up["share_urls"][0].as_str().map(str::to_owned) else {
        // Written directly, because the test harness hides what passing tests print.
        let text = b"skipped: this machine has no address but loopback\n";
        std::io::stderr().write_all(text).unwrap();
        return;
    };
    let address: SocketAddr = network.strip_prefix("http://").unwrap().parse().unwrap();
    assert!(!address.ip().is_loopback() && !address.ip().is_unspecified(), "{address}");
    let link = ana.invite(2);
    assert!(link.starts_with(&format!("{network}/i/")), "{link}");

    let careful = Home::new();
    let ran = careful.run(&["join", &link]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("CLAUDEMESH_ALLOW_INSECURE=1"), "{ran:?}");
    assert!(!careful.file("config.json").exists());

    let bob = Home::new().with("CLAUDEMESH_ALLOW_INSECURE", "1");
    assert_eq!(bob.json_ok(&["join", &link, "--name", "Bob"])["slug"], "home");
    let config = std::fs::read_to_string(bob.file("config.json")).unwrap();
    assert!(config.contains(&format!("ws://{address}/ws")), "{config}");
    assert!(!config.contains("127.0.0.1"), "{config}");
    bob.ok(&["peers"]);
    until("Ana's daemon knows Bob", || ana.ok(&["peers"]).contains("Bob"));
    let sent = ana.json_ok(&["send", "Bob", "over the network", "--wait=10s"]);
    assert_eq!(sent["outcome"], "delivered", "{sent}");
    until("Bob has it", || bob.bodies() == ["over the network"]);
    let me = ana.json_ok(&["whoami"])["user"]["display_name"].as_str().unwrap().to_owned();
    let sent = bob.json_ok(&["send", &me, "and back", "--wait=10s"]);
    assert_eq!(sent["outcome"], "delivered", "{sent}");
    until("Ana has the answer", || ana.bodies() == ["and back"]);
}

#[test]
fn foreground_ends_with_its_children() {
    let home = Home::new();
    let mut child = home
        .command(&["up", "--foreground", "--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the daemon runs", || home.run(&["daemon", "status"]).code == 0);
    until("the mesh is there", || home.run(&["peers"]).code == 0);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(home.json(&["daemon", "status"]).0, 1);
    assert!(!home.broker_dir().join("broker.json").exists());
}

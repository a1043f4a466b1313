//! Everything at a glance (CLI spec §6.4).

use serde_json::json;

use crate::home::{Home, two_people, until};
use crate::sessions::Agent;

#[test]
fn what_the_daemon_knows_is_shown() {
    let (ana, bob) = two_people();
    let _agent = Agent::register(&ana, 1, "worker");
    bob.ok(&["send", "ana", "hello"]);
    until("a message waits", || ana.json_ok(&["status"])["unread"] == 1);
    let status = ana.json_ok(&["status"]);
    let mesh = &status["meshes"][0];
    assert_eq!((&mesh["slug"], &mesh["reachable"]), (&json!("home"), &json!(true)), "{status}");
    assert_eq!(mesh["daemonState"], "open");
    assert_eq!(status["daemon"]["running"], true);
    assert_eq!(status["outbox"], json!({ "pending": 0, "dead": 0 }));
    assert_eq!(status["config"]["mode"], "0600");
    let session = &status["sessions"][0];
    assert_eq!((&session["display_name"], &session["mesh"]), (&json!("worker"), &json!("home")));
    assert!(session["paths"].is_array(), "{status}");
    let shown = ana.ok(&["status"]);
    for word in ["home", "open", "worker", "unread", "(0600)"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

/// Without a daemon each broker is asked itself; exit 1 when one does not answer.
#[test]
fn without_a_daemon_the_brokers_are_asked() {
    let home = Home::new();
    home.up();
    home.ok(&["daemon", "down"]);
    let status = home.json_ok(&["status"]);
    assert_eq!(status["daemon"], json!({ "running": false }));
    assert_eq!(status["meshes"][0]["reachable"], true, "{status}");
    assert!(status["meshes"][0]["latencyMs"].is_u64(), "{status}");
    assert!(!home.file("daemon/daemon.sock").exists(), "none was started");
    home.ok(&["down"]);
    let (code, status) = home.json(&["status"]);
    assert_eq!((code, &status["meshes"][0]["reachable"]), (1, &json!(false)), "{status}");
    assert!(status["meshes"][0]["error"].is_string(), "{status}");
    let nobody = Home::new();
    assert_eq!(nobody.json_ok(&["status"])["meshes"], json!([]));
}

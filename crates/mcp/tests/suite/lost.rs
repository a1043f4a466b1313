//! A real daemon that was killed before it had written down the session (daemon spec §8.5, §9.2; MCP spec §4.1).

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::home::config::{Config, MeshEntry};
use claudemesh_daemon::{Options, Running};
use claudemesh_ipc::Paths;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::{MemberId, MeshId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Client;

/// A home that has joined a mesh whose broker does not answer.
fn home() -> (TempDir, Paths) {
    let home = TempDir::new().unwrap();
    let paths = Paths::for_home(home.path());
    let entry = MeshEntry {
        mesh_id: MeshId::new("mesh-dev"),
        member_id: MemberId::new("member-dev"),
        slug: "dev".to_owned(),
        name: "dev".to_owned(),
        keys: KeyPair::generate(),
        broker_url: "ws://127.0.0.1:1/ws".to_owned(),
        joined_at: String::new(),
        root_key: None,
        invite_version: None,
        owner_pubkey: None,
        role: None,
    };
    Config::update(&paths.membership_file(), |config| config.add_mesh(entry)).unwrap();
    (home, paths)
}

async fn start(paths: &Paths) -> Running {
    claudemesh_daemon::start(Options::from_env(paths.clone())).await.unwrap()
}

async fn refused(client: &mut Client) -> Value {
    client.failed("set_state", json!({"key": "k", "value": 1})).await
}

/// The server registers its session again, with the same restriction, and a call that comes in between waits for that:
/// at no time does it speak for the member, and it does not fail for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_session_that_the_daemon_lost_comes_back_as_it_was() {
    let (dir, paths) = home();
    let running = start(&paths).await;
    let caps = CapabilitySet::parse(["dm", "read"]).ok();
    let mut client =
        Client::with_tools(dir.path(), "all", json!({}), |server| server.claim.caps = caps).await;
    let refusal = refused(&mut client).await;
    assert_eq!((&refusal["code"], &refusal["cap"]), (&json!("forbidden"), &json!("state-write")));
    let before = running.client().sessions().await.unwrap().remove(0);
    running.shutdown().await;
    std::fs::remove_file(paths.sessions_file()).unwrap();

    let running = start(&paths).await;
    assert_eq!(refused(&mut client).await["code"], "forbidden");
    let after = running.client().sessions().await.unwrap().remove(0);
    assert_eq!(
        (after.session_id, after.session_pubkey, after.token_prefix, after.caps),
        (before.session_id, before.session_pubkey, before.token_prefix, caps)
    );
    client.close().await;
    running.shutdown().await;
}

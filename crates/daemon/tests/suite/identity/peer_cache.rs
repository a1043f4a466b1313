//! The small file for status lines (daemon spec §7.5, CLI spec §6.5).

use std::os::unix::fs::PermissionsExt as _;

use claudemesh_ipc::api::InboxQuery;
use serde_json::{Value, json};

use super::rotation::{home_of, opened, own_key};
use crate::local::world::{Home, register};
use crate::mesh::node::{Node, SLUG, World, until};

fn entry(home: &Home) -> Value {
    let text = std::fs::read_to_string(home.paths.peer_cache_file()).unwrap_or_default();
    let mut document: Value = serde_json::from_str(&text).unwrap_or_default();
    document[SLUG].take()
}

/// Daemon spec §7.5, CLI spec §6.5: members, who is there, who we are, what is unread, and the connection; private, and
/// changed within a moment of what it is about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_line_finds_what_it_shows() {
    let world = World::new(3).await;
    let home = home_of(&world);
    let running = home.start().await;
    let client = running.client();
    opened(&client).await;
    let is = async |what: &str, fields: Value| {
        until(what, async || {
            let now = entry(&home);
            fields.as_object().unwrap().iter().all(|(name, value)| now[name] == *value)
        })
        .await;
    };
    is(
        "nobody is there",
        json!({"total": 3, "online": 0, "you": "bot-0", "unread": 0, "status": "open"}),
    )
    .await;
    let path = home.paths.peer_cache_file();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let updated_at = entry(&home)["updated_at"].as_str().unwrap().to_owned();
    assert!(claudemesh_protocol::Timestamp::parse_iso(&updated_at).is_some(), "{updated_at}");
    // A daemon alone is nobody to talk to; a session is.
    let bob = Node::open(world.entry(1)).await;
    let (_session, _) = register(&running, SLUG, 1, |_| {}).await;
    is("a session is there", json!({"online": 1})).await;
    bob.send_to_key(own_key(&home), "hello").await;
    is("a message waits", json!({"unread": 1})).await;
    client.inbox(&InboxQuery { mark_seen: Some(true), ..InboxQuery::default() }).await.unwrap();
    is("it is read", json!({"unread": 0})).await;
    let beside = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let left = beside.filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().contains("peer-cache.json.")
    });
    assert_eq!(left.count(), 0, "nothing is left of a write");
    running.shutdown().await;
}

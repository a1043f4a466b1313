//! Message modes `inbox` and `off`, and changing them (MCP spec §4.6).

use serde_json::json;

use crate::client::Client;
use crate::daemon::{Daemon, row};

#[tokio::test]
async fn mode_inbox_counts_and_withholds_the_text() {
    let daemon = Daemon::with(|memory| memory.mode = "inbox".into());
    daemon.start();
    let mut client = Client::start(&daemon);
    client.shake_hands().await;
    daemon.until_listening().await;
    daemon.deliver(&row(1, "the secret plan", &json!({})));
    let push = client.pushed_message().await;
    assert_eq!(push.content, "[inbox] New message from mou (1 unread). Use: claudemesh inbox");
    assert_eq!(
        (push.kind(), push.get("from_name"), push.get("unread_count")),
        ("inbox", "mou", "1")
    );
    daemon.emit(
        "state_changed",
        &json!({"key": "k", "value": 1, "updated_by": "Ana", "mesh": "dev"}),
    );
    assert_eq!(client.pushed_message().await.kind(), "state");
    assert!(daemon.see(|memory| memory.seen.is_empty()), "rows stay unseen");
    client.close().await;
}

#[tokio::test]
async fn mode_off_pushes_nothing_and_a_change_of_mode_applies_at_once() {
    let daemon = Daemon::with(|memory| memory.mode = "off".into());
    daemon.start();
    let mut client = Client::start(&daemon);
    client.shake_hands().await;
    daemon.until_listening().await;
    daemon.emit("message", &row(1, "unheard", &json!({})));
    daemon.emit(
        "state_changed",
        &json!({"key": "k", "value": 1, "updated_by": "Ana", "mesh": "dev"}),
    );
    let session = daemon.see(|memory| memory.registrations[0]["session_id"].clone());
    daemon.change(|memory| memory.mode = "push".into());
    daemon.emit(
        "session_updated",
        &json!({"mesh": "dev", "session_id": "another", "changed": ["message_mode"]}),
    );
    daemon.emit(
        "session_updated",
        &json!({"mesh": "dev", "session_id": session, "changed": ["message_mode"]}),
    );
    daemon.emit("message", &row(2, "heard", &json!({})));
    assert_eq!(client.pushed_message().await.said(), "mou: heard");
    client.close().await;
}

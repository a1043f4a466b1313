//! What the daemon is told about the client, and what is not pushed to one that does not listen (MCP spec §4.10, §11).

use serde_json::{Value, json};

use crate::client::Client;
use crate::daemon::{Daemon, row};

async fn introduced(daemon: &Daemon, tools: &str, hello: Value) -> Client {
    daemon.start();
    let mut client = Client::with_channel(&daemon.home(), tools);
    client.ask("initialize", hello).await;
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    daemon.until_listening().await;
    client
}

fn hello(name: &str, experimental: &Value) -> Value {
    json!({"protocolVersion": "2025-11-25", "capabilities": {"experimental": experimental},
        "clientInfo": {"name": name, "version": "1.2.3"}})
}

/// What is pushed to nobody is not marked either: it waits for hooks, the bell, and questions.
#[tokio::test]
async fn a_client_without_channels_is_pushed_nothing() {
    let daemon = Daemon::new();
    let mut client = introduced(&daemon, "none", hello("codex-mcp-client", &json!({}))).await;
    assert_eq!(
        daemon.see(|memory| memory.heartbeats.clone()),
        [json!({"client": {"name": "codex-mcp-client", "version": "1.2.3", "channel": false}})]
    );
    daemon.emit("message", &row(1, "unheard", &json!({})));
    daemon.emit(
        "state_changed",
        &json!({"key": "k", "value": 1, "updated_by": "Ana", "mesh": "dev"}),
    );
    // The events are told in order: after the end of the session, the last ones are past.
    let session = daemon.see(|memory| memory.registrations[0]["session_id"].clone());
    daemon.emit("session_ended", &json!({"mesh": "dev", "session_id": session}));
    daemon.until("a second introduction", |memory| memory.heartbeats.len() == 2).await;
    client.send(&json!({"jsonrpc": "2.0", "id": "after", "method": "ping"})).await;
    assert_eq!(client.line().await["id"], "after");
    client.close().await;
    assert!(daemon.see(|memory| memory.seen.is_empty()));
}

/// A program of which nothing is known is pushed to, as long as it cannot ask; and so is one that says it listens.
#[tokio::test]
async fn a_client_that_may_listen_is_pushed_to() {
    for (tools, name, experimental) in [
        ("none", "my-own-client", json!({})),
        ("messaging", "my-own-client", json!({"claude/channel": {}})),
    ] {
        let daemon = Daemon::new();
        let mut client = introduced(&daemon, tools, hello(name, &experimental)).await;
        assert_eq!(
            daemon.see(|memory| memory.heartbeats.clone()),
            [json!({"client": {"name": name, "version": "1.2.3"}})]
        );
        daemon.emit("message", &row(1, "hi", &json!({})));
        assert_eq!(client.pushed_message().await.said(), "mou: hi");
        client.close().await;
        assert_eq!(daemon.see(|memory| memory.seen.clone()), ["01J00001"]);
        assert_eq!(daemon.see(|memory| memory.seen_paths.clone()), ["channel"]);
    }
}

/// It asks when it can: nothing is taken away from its questions by pushes that it drops.
#[tokio::test]
async fn a_client_that_can_ask_is_not_pushed_to() {
    let daemon = Daemon::new();
    let client = introduced(&daemon, "messaging", hello("my-own-client", &json!({}))).await;
    assert_eq!(
        daemon.see(|memory| memory.heartbeats[0]["client"]["channel"].clone()),
        json!(false)
    );
    client.close().await;
}

//! The protocol itself: start-up without a daemon, probes, garbage, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use claudemesh_mcp::{Channel, EnsureDaemon};
use serde_json::{Value, json};

use crate::client::{Client, always_there, claim};
use crate::daemon::{Daemon, row};

fn never_there() -> EnsureDaemon {
    Arc::new(|| Box::pin(async { Err("starting it is not allowed here".into()) }))
}

/// A daemon that cannot be started keeps nothing from being answered.
#[tokio::test]
async fn the_handshake_does_not_wait_for_the_daemon() {
    let daemon = Daemon::new();
    let slow: EnsureDaemon = Arc::new(|| Box::pin(std::future::pending()));
    let mut client = Client::start_with(&daemon, claim(), Channel::Push, slow);
    let started = Instant::now();
    let reply = client.shake_hands().await;
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
    assert_eq!(reply["result"]["capabilities"]["experimental"], json!({"claude/channel": {}}));
    assert!(reply["result"]["instructions"].as_str().unwrap().len() <= 2048);
    assert_eq!(client.ask("tools/list", json!({})).await["result"]["tools"], json!([]));
    client.close().await;
}

/// The probe of newer clients comes before everything else, with an id of their own making.
#[tokio::test]
async fn a_discover_probe_is_refused_at_once_and_the_handshake_follows() {
    let daemon = Daemon::new();
    let mut client = Client::start(&daemon);
    let probe = json!({"jsonrpc": "2.0", "id": "server-discover-probe-1", "method": "server/discover", "params": {}});
    client.send(&probe).await;
    let refusal = client.line().await;
    assert_eq!((&refusal["id"], &refusal["error"]["code"]), (&probe["id"], &json!(-32601)));
    assert_eq!(client.shake_hands().await["result"]["protocolVersion"], "2025-11-25");
    client.close().await;
}

/// MCP spec §3: 10 000 garbage lines, valid requests in between answered, nothing but JSON on the way out.
#[tokio::test]
async fn garbage_is_refused_and_requests_in_between_are_answered() {
    let daemon = Daemon::new();
    let mut client = Client::start(&daemon);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..100 {
        let mut garbage = Vec::new();
        for _ in 0..100 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = state.to_le_bytes();
            garbage.extend(
                bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b'x' } else { *byte }),
            );
            garbage.push(b'\n');
        }
        // Written while the answers are read: neither pipe can hold all of it.
        let mut input = client.input.take().unwrap();
        let write = async move {
            tokio::io::AsyncWriteExt::write_all(&mut input, &garbage).await.unwrap();
            input
        };
        let read = async {
            let mut refusals = 0;
            while refusals < 100 {
                let line = client.line().await;
                let code = line["error"]["code"].as_i64().unwrap();
                assert!((code == -32700 || code == -32600) && line["id"].is_null());
                refusals += 1;
            }
        };
        let (input, ()) = tokio::join!(write, read);
        client.input = Some(input);
        assert_eq!(client.ask("ping", json!({})).await["result"], json!({}), "round {round}");
    }
    client.close().await;
}

#[tokio::test]
async fn a_line_beyond_the_limit_is_refused_and_the_next_one_answered() {
    let daemon = Daemon::new();
    let mut client = Client::start(&daemon);
    let mut line = vec![b'a'; claudemesh_protocol::limits::MCP_LINE_MAX_BYTES + 1];
    line.push(b'\n');
    client.write(&line).await;
    assert_eq!(client.line().await["error"]["code"], -32700);
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    client.close().await;
}

/// MCP spec §3: closing stdin ends the process within a second, and the ambient session is gone.
#[tokio::test]
async fn the_end_of_input_ends_the_session() {
    let daemon = Daemon::new();
    daemon.start();
    let mut client = Client::start(&daemon);
    client.shake_hands().await;
    daemon.until_listening().await;
    client.close().await;
    daemon
        .until("the farewell", |memory| memory.deregistered == 1 && memory.known_tokens.is_empty())
        .await;
}

#[tokio::test]
async fn a_signal_ends_it_as_the_end_of_input_does() {
    let daemon = Daemon::new();
    daemon.start();
    let mut client = Client::start(&daemon);
    client.shake_hands().await;
    daemon.until_listening().await;
    client.cancel.cancel();
    client.ended().await;
    assert_eq!(daemon.see(|memory| memory.deregistered), 1);
}

/// MCP spec §3: no daemon at first; push works once it is there, without a restart of anything.
#[tokio::test]
async fn a_daemon_that_comes_later_is_found() {
    let daemon = Daemon::new();
    let is_there = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_there);
    let ensure: EnsureDaemon = Arc::new(move || {
        let outcome =
            if flag.load(Ordering::SeqCst) { Ok(()) } else { Err("no daemon".to_owned()) };
        Box::pin(async { outcome })
    });
    let mut client = Client::start_with(&daemon, claim(), Channel::Push, ensure);
    client.shake_hands().await;
    let told = client.pushed().await;
    assert_eq!(told.get("event"), "daemon_unreachable");
    assert!(told.content.contains("claudemesh daemon up"), "{}", told.content);

    daemon.start();
    is_there.store(true, Ordering::SeqCst);
    let mut changed: Vec<Value> = Vec::new();
    let connected = loop {
        let line = client.line().await;
        if line["method"] == "notifications/claude/channel" {
            break line;
        }
        changed.push(line["method"].clone());
    };
    assert_eq!(connected["params"]["meta"]["event"], "daemon_connected");
    assert_eq!(
        changed,
        [
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed"
        ]
    );
    daemon.until_listening().await;
    daemon.emit("message", &row(1, "hello", &json!({})));
    assert_eq!(client.pushed_message().await.said(), "mou: hello");
    client.close().await;
}

/// Said once, after the client is ready, however often the daemon stays away.
#[tokio::test]
async fn a_missing_daemon_is_told_only_to_a_client_that_is_ready() {
    let daemon = Daemon::new();
    let mut client = Client::start_with(&daemon, claim(), Channel::Push, never_there());
    let reply = client.ask("initialize", json!({"protocolVersion": "2025-06-18"})).await;
    assert_eq!(reply["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(client.pushed().await.get("event"), "daemon_unreachable");
    client.close().await;
}

#[tokio::test]
async fn without_the_channel_nothing_is_declared_and_nothing_pushed() {
    let daemon = Daemon::new();
    daemon.start();
    let mut client = Client::start_with(&daemon, claim(), Channel::Off, always_there());
    let reply = client.shake_hands().await;
    assert!(reply["result"]["capabilities"].get("experimental").is_none());
    daemon.until_listening().await;
    daemon.emit("message", &row(1, "hello", &json!({})));
    daemon
        .emit("state_changed", &json!({"key": "a", "value": 1, "updated_by": "x", "mesh": "dev"}));
    client.send(&json!({"jsonrpc": "2.0", "id": "after", "method": "ping"})).await;
    assert_eq!(client.line().await["id"], "after");
    client.close().await;
}

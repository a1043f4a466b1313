//! Tool calls side by side, cancelled, slow, and without a daemon (MCP spec §3, §6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudemesh_mcp::EnsureDaemon;
use claudemesh_protocol::limits::{MCP_CALLS_MAX, MCP_CALLS_WAITING_MAX};
use serde_json::{Value, json};

use crate::client::Client;
use crate::daemon::{Daemon, OpAnswer};

async fn tools(daemon: &Daemon) -> Client {
    Client::with_tools(&daemon.home(), "all", json!({}), |_| ()).await
}

fn cancelled(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})
}

#[tokio::test]
async fn the_daemons_refusal_is_the_result_of_the_call() {
    let daemon = Daemon::new();
    daemon.start();
    let mut client = tools(&daemon).await;
    let body = json!({"error": "target_not_found", "message": "no peer \"mo\"", "hint": "see who is there",
        "candidates": ["mou", "ana"], "request_id": "r"});
    daemon.change(|memory| memory.answer = OpAnswer::Refusal(404, body));
    let reply = client.call("send_message", json!({ "to": "mo", "message": "hi" })).await;
    assert_eq!(reply["result"]["isError"], true);
    assert_eq!(
        reply["result"]["structuredContent"],
        json!({"error": {"code": "target_not_found", "message": "no peer \"mo\"", "hint": "see who is there",
            "candidates": ["mou", "ana"]}})
    );
    let text = reply["result"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text, "target_not_found: no peer \"mo\" (see who is there)");
    client.close().await;
}

/// MCP spec §3: at most 16 at once; pings and lists are answered meanwhile.
#[tokio::test]
async fn calls_run_side_by_side_up_to_the_limit_and_hold_nothing_else_up() {
    let daemon = Daemon::with(|memory| memory.answer = OpAnswer::Held);
    daemon.start();
    let mut client = tools(&daemon).await;
    let calls = MCP_CALLS_MAX + MCP_CALLS_WAITING_MAX;
    for _ in 0..calls {
        client.begin("get_state", json!({ "key": "k" }), Value::Null).await;
    }
    daemon.until("all places taken", |memory| memory.working.0 == MCP_CALLS_MAX).await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    assert!(client.ask("tools/list", json!({})).await["result"]["tools"].is_array());
    let error = client.failed("get_state", json!({ "key": "k" })).await;
    assert_eq!((&error["code"], &error["retry_after_ms"]), (&json!("rate_limited"), &json!(1000)));
    daemon.change(|memory| memory.answer = OpAnswer::Result(json!({})));
    daemon.release();
    for _ in 0..calls {
        assert!(client.line().await["result"]["isError"].is_null());
    }
    assert_eq!(daemon.see(|memory| (memory.ops.len(), memory.working.1)), (calls, MCP_CALLS_MAX));
    client.close().await;
}

#[tokio::test]
async fn a_cancelled_read_is_dropped_without_an_answer() {
    let daemon = Daemon::with(|memory| memory.answer = OpAnswer::Held);
    daemon.start();
    let mut client = tools(&daemon).await;
    let id = client.begin("get_state", json!({ "key": "k" }), Value::Null).await;
    daemon.until("the call", |memory| memory.working.0 == 1).await;
    client.send(&cancelled(id)).await;
    daemon.until("the end of the call", |memory| memory.working.0 == 0).await;
    client.send(&json!({"jsonrpc": "2.0", "id": "after", "method": "ping"})).await;
    assert_eq!(client.line().await["id"], "after");
    client.close().await;
}

#[tokio::test]
async fn a_cancelled_write_that_was_sent_has_an_unknown_outcome() {
    let daemon = Daemon::with(|memory| memory.answer = OpAnswer::Held);
    daemon.start();
    let mut client = tools(&daemon).await;
    let id = client.begin("set_state", json!({ "key": "k", "value": 1 }), Value::Null).await;
    daemon.until("the call", |memory| memory.working.0 == 1).await;
    client.send(&cancelled(id)).await;
    let line = client.line().await;
    assert_eq!(line["id"], id);
    assert_eq!(line["result"]["structuredContent"]["error"]["code"], "outcome_unknown");
    // Its id is free, and a late or foreign cancellation means nothing.
    client.send(&cancelled(id)).await;
    client.send(&cancelled(4711)).await;
    assert_eq!(client.ask("ping", json!({})).await["result"], json!({}));
    client.close().await;
}

#[tokio::test]
async fn two_requests_with_one_id_are_not_mixed_up() {
    let daemon = Daemon::with(|memory| memory.answer = OpAnswer::Held);
    daemon.start();
    let mut client = tools(&daemon).await;
    let call = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call",
        "params": {"name": "get_state", "arguments": {"key": "k"}}});
    client.send(&call).await;
    daemon.until("the call", |memory| memory.working.0 == 1).await;
    client.send(&call).await;
    assert_eq!(client.line().await["error"]["code"], -32600);
    daemon.release();
    assert!(client.line().await["result"].is_object());
    client.close().await;
}

#[tokio::test]
async fn a_call_that_lasts_tells_its_progress_to_who_wants_to_know() {
    let daemon = Daemon::with(|memory| memory.answer = OpAnswer::Held);
    daemon.start();
    let mut client = tools(&daemon).await;
    let silent = client.begin("get_state", json!({ "key": "k" }), Value::Null).await;
    client.begin("get_state", json!({ "key": "k" }), json!({ "progressToken": "p" })).await;
    let mut last = 0;
    for _ in 0..2 {
        let line = client.line().await;
        assert_eq!(line["method"], "notifications/progress");
        assert_eq!(line["params"]["progressToken"], "p");
        let progress = line["params"]["progress"].as_u64().unwrap();
        assert!(progress > last, "{progress}");
        last = progress;
    }
    daemon.release();
    let answers = [client.line().await, client.line().await];
    assert!(answers.iter().any(|line| line["id"] == silent));
    client.close().await;
}

/// MCP spec §3: kill -9 in the middle of a call, then a new daemon.
#[tokio::test]
async fn a_daemon_killed_during_a_call_fails_it_and_the_next_one_works() {
    let daemon = Daemon::with(|memory| memory.answer = OpAnswer::Held);
    daemon.start();
    let mut client = tools(&daemon).await;
    let read = client.begin("get_state", json!({ "key": "k" }), Value::Null).await;
    client.begin("set_state", json!({ "key": "k", "value": 1 }), Value::Null).await;
    daemon.until("the calls", |memory| memory.working.0 == 2).await;
    daemon.kill();
    for _ in 0..2 {
        let line = client.line().await;
        let error = &line["result"]["structuredContent"]["error"];
        let expected = if line["id"] == read { "daemon_unreachable" } else { "outcome_unknown" };
        assert_eq!(error["code"], expected, "{line}");
    }
    // A new daemon, which has never heard of the session.
    daemon.change(|memory| {
        memory.known_tokens.clear();
        memory.ops.clear();
        memory.answer = OpAnswer::Result(json!({ "key": "k" }));
    });
    daemon.start();
    client.done("get_state", json!({ "key": "k" })).await;
    assert!(daemon.see(|memory| memory.ops[0].2), "with the token of the session");
    client.close().await;
}

/// Without a daemon a call says how to start one; the first call after that works, whatever the link's patience.
#[tokio::test]
async fn without_a_daemon_calls_say_how_to_start_one() {
    let daemon = Daemon::new();
    let is_there = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_there);
    let ensure: EnsureDaemon = Arc::new(move || {
        let outcome =
            if flag.load(Ordering::SeqCst) { Ok(()) } else { Err("no daemon".to_owned()) };
        Box::pin(async { outcome })
    });
    let mut client = Client::with_tools(&daemon.home(), "state", json!({}), |server| {
        server.ensure_daemon = ensure;
    })
    .await;
    for _ in 0..5 {
        let error = client.failed("list_state", json!({})).await;
        assert_eq!(error["code"], "daemon_unreachable");
        assert!(error["hint"].as_str().unwrap().contains("claudemesh daemon up"), "{error}");
    }
    daemon.start();
    is_there.store(true, Ordering::SeqCst);
    let started = std::time::Instant::now();
    client.done("list_state", json!({})).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    client.close().await;
}

#[tokio::test]
async fn names_of_peers_and_meshes_are_completed() {
    let daemon = Daemon::with(|memory| {
        let peer = |name: &str| {
            json!({"pubkey": "cc".repeat(32), "displayName": name, "status": "idle",
            "summary": null, "groups": [], "sessionId": "x", "connectedAt": "", "mesh": "dev", "isSelf": false,
            "isThisSession": false})
        };
        memory.peers = Some(vec![peer("Mou"), peer("Moritz"), peer("Ana")]);
    });
    daemon.start();
    let mut client = tools(&daemon).await;
    client.done("list_state", json!({})).await;
    let reference = json!({ "type": "ref/prompt", "name": "x" });
    for (name, value, expected) in [
        ("peer", "mo", json!(["Moritz", "Mou"])),
        ("mesh", "", json!(["dev"])),
        ("colour", "", json!([])),
    ] {
        let params = json!({ "ref": reference, "argument": { "name": name, "value": value } });
        let reply = client.ask("completion/complete", params).await;
        assert_eq!(reply["result"]["completion"]["values"], expected, "{name}");
    }
    client.close().await;
}

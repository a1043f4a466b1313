//! The welcome and what is missing from it when something is missing (MCP spec §4.8).

use std::sync::Arc;

use claudemesh_mcp::{Channel, Claim, EnsureDaemon};
use serde_json::json;

use crate::client::{Client, Push, claim};
use crate::daemon::{Daemon, SESSION_KEY, row};

async fn welcome(daemon: &Daemon) -> (Client, Push) {
    daemon.start();
    let mut client = Client::start(daemon);
    client.shake_hands().await;
    let push = client.pushed().await;
    assert_eq!(push.kind(), "welcome");
    (client, push)
}

fn peer(name: &str, change: &serde_json::Value) -> serde_json::Value {
    let mut peer = json!({"pubkey": "cc".repeat(32), "displayName": name, "status": "idle", "summary": null,
        "groups": [], "sessionId": "x", "connectedAt": "", "mesh": "dev", "isSelf": false, "isThisSession": false});
    for (key, value) in change.as_object().unwrap() {
        peer[key] = value.clone();
    }
    peer
}

#[tokio::test]
async fn the_welcome_names_session_peers_and_unread_messages() {
    let daemon = Daemon::with(|memory| {
        memory.peers = Some(vec![
            peer("Ana", &json!({})),
            peer("Ben", &json!({"isThisSession": true, "isSelf": true})),
            peer("Ana", &json!({"peerRole": "control-plane"})),
            peer("system", &json!({})),
        ]);
        let old = |number| {
            row(
                number,
                &format!("old {number}"),
                &json!({"received_at": "2025-12-31T09:00:00.000Z"}),
            )
        };
        memory.inbox = (1..=60).rev().map(old).collect();
    });
    let (client, push) = welcome(&daemon).await;
    let lines: Vec<&str> = push.content.lines().collect();
    assert_eq!(lines[0], "[claudemesh] connected as **Ben** (7d3f0000) on dev");
    assert_eq!(lines[1], "Peers online (2): Ana, peer:system");
    assert_eq!(lines[2], "Unread messages: 50+");
    assert!(
        lines[3].starts_with("  mou (aaaaaaaa) ") && lines[3].ends_with(": old 60"),
        "{}",
        lines[3]
    );
    assert_eq!(lines.iter().filter(|line| line.contains(": old ")).count(), 3);
    assert_eq!(push.get("self_session_pubkey"), SESSION_KEY);
    assert_eq!((push.get("peer_count"), push.get("unread_count")), ("2", "50"));
    assert_eq!(push.get("peer_names"), "[\"Ana\",\"peer:system\"]");
    let ids: Vec<String> = serde_json::from_str(push.get("latest_message_ids")).unwrap();
    assert_eq!((ids.len(), ids[0].as_str()), (10, "Q60"));
    daemon.until("the previewed rows", |memory| memory.seen.len() == 3).await;
    assert_eq!(daemon.see(|memory| memory.seen.clone()), ["01J00060", "01J00059", "01J00058"]);
    client.close().await;
}

#[tokio::test]
async fn what_the_daemon_cannot_say_is_called_unavailable() {
    let daemon = Daemon::with(|memory| memory.peers = None);
    let (client, push) = welcome(&daemon).await;
    assert!(
        push.content.contains("Peers online: unavailable\nUnread messages: 0"),
        "{}",
        push.content
    );
    assert_eq!(
        (push.get("peer_count"), push.get("unread_count"), push.get("message_mode")),
        ("", "0", "push")
    );
    client.close().await;
}

#[tokio::test]
async fn without_a_session_the_welcome_says_so() {
    let daemon = Daemon::with(|memory| memory.meshes = vec!["dev".into(), "ops".into()]);
    let (client, push) = welcome(&daemon).await;
    assert!(
        push.content.starts_with("[claudemesh] connected as this computer's member"),
        "{}",
        push.content
    );
    assert!(push.content.contains("no other peers"), "{}", push.content);
    assert_eq!((push.get("self_display_name"), push.get("self_session_pubkey")), ("", ""));
    client.close().await;
}

#[tokio::test]
async fn mode_inbox_welcomes_with_counts_only() {
    let daemon = Daemon::with(|memory| {
        memory.mode = "inbox".into();
        memory.inbox =
            vec![row(1, "the secret plan", &json!({"received_at": "2025-12-31T00:00:00.000Z"}))];
    });
    let (client, push) = welcome(&daemon).await;
    assert!(
        push.content.contains("Unread messages: 1") && !push.content.contains("secret"),
        "{}",
        push.content
    );
    assert!(daemon.see(|memory| memory.seen.is_empty()));
    client.close().await;
}

/// No daemon: after 3 s and 30 s more the welcome says what little it knows. Time is virtual, nothing listens.
#[tokio::test(start_paused = true)]
async fn without_a_daemon_the_welcome_comes_all_the_same() {
    let daemon = Daemon::new();
    let ensure: EnsureDaemon = Arc::new(|| Box::pin(async { Err("no daemon".into()) }));
    let claim = Claim { mesh: Some("dev".into()), ..claim() };
    let mut client = Client::start_with(&daemon, claim, Channel::Push, ensure);
    let started = tokio::time::Instant::now();
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(client.pushed().await.get("event"), "daemon_unreachable");
    let push = loop {
        // Longer than the patience of the client's own wait.
        if let Ok(push) =
            tokio::time::timeout(std::time::Duration::from_secs(9), client.pushed()).await
        {
            break push;
        }
        assert!(started.elapsed().as_secs() < 60);
    };
    assert_eq!(
        (push.kind(), push.get("mesh_slug"), push.get("unread_count")),
        ("welcome", "dev", "")
    );
    assert_eq!(started.elapsed().as_secs(), 33);
}

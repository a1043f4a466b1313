//! How the daemon comes to know the session (MCP spec §9, daemon spec §8.3 and §8.8).

use std::collections::BTreeSet;

use claudemesh_ipc::SessionToken;
use claudemesh_mcp::{Ambient, Channel, Claim};
use serde_json::json;

use crate::client::{Client, always_there, claim};
use crate::daemon::{Daemon, row};

async fn listening(daemon: &Daemon, claim: Claim) -> Client {
    daemon.start();
    let mut client = Client::start_with(daemon, claim, Channel::Push, always_there());
    client.shake_hands().await;
    daemon.until_listening().await;
    client
}

#[tokio::test]
async fn a_session_without_a_launch_registers_itself() {
    let daemon = Daemon::new();
    let claim =
        Claim { session_id: Some("0b5ff0c2-7d29-4b43-9f0e-2a4a3a2a9a10".into()), ..claim() };
    let client = listening(&daemon, claim).await;
    let request = daemon.see(|memory| memory.registrations[0].clone());
    assert_eq!(request["session_id"], "0b5ff0c2-7d29-4b43-9f0e-2a4a3a2a9a10");
    assert_eq!((&request["mesh"], &request["display_name"]), (&json!("dev"), &json!("Ben")));
    assert_eq!((&request["ambient"], &request["use_stored_key"]), (&json!(true), &json!(true)));
    assert_eq!(request["pid"], std::process::id());
    assert_eq!(request["token"].as_str().unwrap().len(), 64);
    assert_eq!(daemon.see(|memory| memory.streams[0].0.clone()), "scope=session");
    client.close().await;
}

#[tokio::test]
async fn every_unlaunched_session_has_its_own_token_and_id() {
    let daemon = Daemon::new();
    let first = listening(&daemon, claim()).await;
    let mut second = Client::start(&daemon);
    second.shake_hands().await;
    daemon.until("two registrations", |memory| memory.registrations.len() == 2).await;
    daemon.see(|memory| {
        assert_ne!(memory.registrations[0]["token"], memory.registrations[1]["token"]);
        assert_ne!(memory.registrations[0]["session_id"], memory.registrations[1]["session_id"]);
    });
    first.close().await;
    second.close().await;
}

/// Several meshes and none chosen: the member's messages, nobody's session.
#[tokio::test]
async fn with_several_meshes_and_none_chosen_only_the_member_is_listened_for() {
    let daemon = Daemon::with(|memory| memory.meshes = vec!["dev".into(), "ops".into()]);
    let mut client = listening(&daemon, claim()).await;
    assert!(daemon.see(|memory| memory.registrations.is_empty()));
    assert_eq!(daemon.see(|memory| memory.streams[0].0.clone()), "scope=member");
    daemon.emit("message", &row(1, "to the member", &json!({"recipient_kind": "member"})));
    assert_eq!(client.pushed_message().await.said(), "mou: to the member");
    client.close().await;
}

#[tokio::test]
async fn a_pinned_mesh_is_used_for_session_and_events() {
    let daemon = Daemon::with(|memory| memory.meshes = vec!["dev".into(), "ops".into()]);
    let client = listening(&daemon, Claim { mesh: Some("ops".into()), ..claim() }).await;
    assert_eq!(daemon.see(|memory| memory.registrations[0]["mesh"].clone()), "ops");
    assert_eq!(daemon.see(|memory| memory.streams[0].0.clone()), "scope=session&mesh=ops");
    client.close().await;
}

#[tokio::test]
async fn registration_can_be_switched_off_or_refused() {
    for refusal in [None, Some((429, "too_many_sessions"))] {
        let daemon = Daemon::with(|memory| memory.refuse_registration = refusal);
        let ambient = if refusal.is_none() { Ambient::Off } else { Ambient::Register };
        let client = listening(&daemon, Claim { ambient, ..claim() }).await;
        assert_eq!(daemon.see(|memory| memory.streams[0].0.clone()), "scope=member");
        client.close().await;
    }
}

/// A parent of somebody else's: the session lives as long as this process.
#[tokio::test]
async fn a_foreign_parent_is_replaced_by_this_process() {
    let daemon = Daemon::with(|memory| memory.refuse_registration = Some((400, "pid_not_ours")));
    let client = listening(&daemon, Claim { pid: 1, ..claim() }).await;
    let pids = daemon
        .see(|memory| memory.registrations.iter().map(|r| r["pid"].clone()).collect::<Vec<_>>());
    assert_eq!(pids, [json!(1), json!(std::process::id())]);
    client.close().await;
}

/// MCP spec §9: the token of a launched session goes with every call, and the session is not ended by us.
#[tokio::test]
async fn a_launched_session_is_used_and_left_alone() {
    let daemon = Daemon::with(|memory| {
        memory.known_tokens.insert("ab".repeat(32));
    });
    let token = SessionToken::parse(&"ab".repeat(32)).ok();
    let client = listening(&daemon, Claim { token, ..claim() }).await;
    assert!(daemon.see(|memory| memory.registrations.is_empty()));
    client.close().await;
    assert_eq!(daemon.see(|memory| (memory.deregistered, memory.known_tokens.len())), (0, 1));
}

/// MCP spec §4.1: a token the daemon does not know is registered again, unchanged; without an id the member remains.
#[tokio::test]
async fn a_launched_session_that_was_lost_is_registered_again() {
    for (session_id, scope) in [(Some("s-9".to_owned()), "scope=session"), (None, "scope=member")] {
        let daemon = Daemon::new();
        let token = SessionToken::parse(&"ab".repeat(32)).ok();
        let client = listening(&daemon, Claim { token, session_id, ..claim() }).await;
        if scope == "scope=session" {
            let request = daemon.see(|memory| memory.registrations[0].clone());
            assert_eq!(
                (&request["token"], &request["session_id"]),
                (&json!("ab".repeat(32)), &json!("s-9"))
            );
            assert!(request.get("ambient").is_none());
        }
        assert_eq!(daemon.see(|memory| memory.streams[0].0.clone()), scope);
        client.close().await;
    }
}

/// A daemon that lost its registry gets the same session back.
#[tokio::test]
async fn a_forgotten_session_comes_back_with_its_token() {
    let daemon = Daemon::new();
    let mut client = listening(&daemon, claim()).await;
    daemon.change(|memory| memory.known_tokens.clear());
    daemon.cut_streams();
    daemon.until("a second stream", |memory| memory.streams.len() == 2).await;
    daemon.see(|memory| {
        assert_eq!(memory.registrations[0]["token"], memory.registrations[1]["token"]);
        assert_eq!(memory.registrations[0]["session_id"], memory.registrations[1]["session_id"]);
    });
    daemon.emit("message", &row(1, "again", &json!({})));
    assert_eq!(client.pushed_message().await.said(), "mou: again");
    client.close().await;
}

/// MCP spec §4: killed and restarted five times, every message is pushed, and twice only what was not marked yet.
#[tokio::test]
async fn messages_survive_restarts_of_the_server() {
    let daemon = Daemon::with(|memory| {
        memory.known_tokens.insert("ab".repeat(32));
    });
    daemon.start();
    let mut pushed: Vec<String> = Vec::new();
    let mut unmarked: Vec<String> = Vec::new();
    for round in 0..6_u32 {
        let token = SessionToken::parse(&"ab".repeat(32)).ok();
        let claim = Claim { token, ..claim() };
        let mut client = Client::start_with(&daemon, claim, Channel::Push, always_there());
        client.shake_hands().await;
        let streams = usize::try_from(round).unwrap() + 1;
        daemon.until("a stream", |memory| memory.streams.len() == streams).await;
        // The last round is only for what the others left behind.
        for number in 0..(if round == 5 { 0 } else { 6 }) {
            daemon.deliver(&row(round * 8 + number, "hi", &json!({})));
        }
        // Killed with up to three messages anywhere between the daemon and the client.
        let left_over = if round == 5 { 0 } else { 3 };
        while delivered(&daemon).difference(&pushed.iter().cloned().collect()).count() > left_over {
            pushed.push(client.pushed_message().await.get("inbox_id").to_owned());
        }
        let rest = client.kill().await;
        pushed.extend(rest.iter().map(|push| push.get("inbox_id").to_owned()));
        let marked = daemon.see(|memory| memory.seen.clone());
        unmarked.extend(pushed.iter().filter(|id| !marked.contains(id)).cloned());
        for number in 6..(if round == 5 { 6 } else { 8 }) {
            daemon.deliver(&row(round * 8 + number, "hi", &json!({})));
        }
    }
    let doubles = pushed.iter().enumerate().filter(|(at, id)| pushed[..*at].contains(id));
    let unexpected: Vec<_> =
        doubles.map(|(_, id)| id).filter(|id| !unmarked.contains(id)).collect();
    assert!(unexpected.is_empty(), "pushed twice though marked: {unexpected:?}");
    assert_eq!(delivered(&daemon).len(), 40);
}

/// Ids of all messages that were ever stored.
fn delivered(daemon: &Daemon) -> BTreeSet<String> {
    daemon.see(|memory| {
        let unread = memory.inbox.iter().map(|row| row["id"].as_str().unwrap().to_owned());
        unread.chain(memory.seen.iter().cloned()).collect()
    })
}

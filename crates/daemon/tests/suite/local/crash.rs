//! The process dies between any two steps of an accept (daemon spec §10, §11, §26).

use claudemesh_ipc::api::{OutboxQuery, SendRequest};

use super::process::DaemonProcess;
use super::world::{Home, letter, some_key};

async fn die_and_retry(point: &str) -> usize {
    let home = Home::new();
    home.join("dev");
    let mut daemon = DaemonProcess::start(&home, &format!("{point}=return")).await;
    let request =
        SendRequest { client_message_id: Some("once".to_owned()), ..letter(&some_key(), "hi") };
    assert!(daemon.client().send(&request).await.is_err());
    assert!(!daemon.ended().await.success());
    let daemon = DaemonProcess::start(&home, "").await;
    let before = daemon.client().outbox(&OutboxQuery::default()).await.unwrap().items.len();
    daemon.client().send(&request).await.unwrap();
    let after = daemon.client().outbox(&OutboxQuery::default()).await.unwrap().items.len();
    assert_eq!(after, 1, "{point}");
    before
}

/// Daemon §10: kill -9 at `accept.after_commit_before_reply`: client retry with the same key → 202/200, one row.
#[tokio::test(flavor = "multi_thread")]
async fn death_after_the_commit_keeps_the_row() {
    assert_eq!(die_and_retry("accept.after_commit_before_reply").await, 1);
}

/// Daemon §10: at `accept.before_commit`: retry inserts cleanly.
#[tokio::test(flavor = "multi_thread")]
async fn death_before_the_commit_leaves_nothing() {
    assert_eq!(die_and_retry("accept.before_commit").await, 0);
}

/// Daemon §11: failpoints around the commit, at random: no row that was answered 2xx is missing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_any_death() {
    for (round, point) in [
        "commit.before_fsync",
        "commit.after_fsync_before_reply",
        "accept.after_commit_before_reply",
    ]
    .iter()
    .cycle()
    .take(6)
    .enumerate()
    {
        let home = Home::new();
        home.join("dev");
        // The first commits are those of the start.
        let failpoints = format!("{point}={}*off->return", 8 + 2 * round);
        let mut daemon = DaemonProcess::start(&home, &failpoints).await;
        let to = some_key();
        let letters: Vec<_> = (0..120).map(|n| letter(&to, &n.to_string())).collect();
        let mut answered = Vec::new();
        for chunk in letters.chunks(4) {
            let sends = chunk.iter().map(|letter| daemon.client().send(letter));
            let answers = futures_util::future::join_all(sends).await;
            answered.extend(
                answers.into_iter().filter_map(Result::ok).map(|reply| reply.client_message_id),
            );
        }
        assert!(!daemon.ended().await.success());
        let daemon = DaemonProcess::start(&home, "").await;
        let query = OutboxQuery { limit: Some(500), ..OutboxQuery::default() };
        let rows = daemon.client().outbox(&query).await.unwrap().items;
        for id in &answered {
            assert!(
                rows.iter().any(|row| row.client_message_id == *id),
                "{point}: {id} is missing"
            );
        }
    }
}

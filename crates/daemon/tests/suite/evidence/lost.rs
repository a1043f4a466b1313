//! Hooks that die between the daemon's answer and their own: what they took is handed again.

use std::time::Duration;

use claudemesh_daemon::Running;
use claudemesh_daemon::storage::StorageError;
use claudemesh_ipc::api::session::{HookEvent, PathState};
use claudemesh_protocol::wire::ReceiptState;

use super::stage::{FIRST, Stage, asked, shown};
use crate::mesh::node::until;

/// Makes everything that was handed over that much older.
async fn age(running: &Running, by: Duration) {
    let millis = i64::try_from(by.as_millis()).unwrap();
    let inbox = &running.daemon().context().inbox;
    let aged: Result<(), StorageError> = inbox
        .database()
        .write(move |conn| {
            Box::pin(async move {
                let sql = "UPDATE inbox_evidence SET handed_at=handed_at-$1";
                sqlx::query(sql).bind(millis).execute(conn).await?;
                Ok(())
            })
        })
        .await;
    aged.unwrap();
}

const LONG_AGO: Duration = Duration::from_secs(31);

/// Mcp §10.3, agents spec §1.8: what a hook took and the record does not show after 30 s is handed again at the next
/// boundary, a few times at most; what is proved, never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_hook_took_is_handed_again_until_it_is_in_context() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let agent = stage.agent(&running, FIRST).await;
    agent.hook(HookEvent::Start).await;
    agent.record_is(PathState::Readable).await;
    let id = stage.send(&running, agent.key, "hello").await;
    agent.takes(HookEvent::Prompt, "hello").await;
    assert!(agent.hook(HookEvent::Stop).await.messages.is_empty(), "it was a moment ago");
    age(&running, LONG_AGO).await;
    let item = handed_again(&agent).await;
    assert!(agent.hook(HookEvent::Prompt).await.messages.is_empty(), "once at a boundary");
    // It stands there, and the model is busy with something else.
    agent.record.append(&[shown(&item)]);
    age(&running, LONG_AGO).await;
    assert!(agent.hook(HookEvent::Prompt).await.messages.is_empty(), "it has entered");
    agent.record.append(&[asked()]);
    stage.comes(&id, ReceiptState::InContext).await;
    age(&running, LONG_AGO).await;
    assert!(agent.hook(HookEvent::Stop).await.messages.is_empty(), "it is in context");
    running.shutdown().await;
}

/// The message that comes again.
async fn handed_again(agent: &super::stage::Agent) -> claudemesh_ipc::api::InboxItem {
    let mut found = None;
    // A look at the record may take longer than a hook has time for; then it is the next boundary.
    until("it is handed again", async || {
        found = agent.hook(HookEvent::Prompt).await.messages.pop();
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Agents spec §1.8: a record that shows nothing, however often a message is handed over, is not believed for ever; where it
/// cannot be read nobody knows, and nothing is handed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_not_handed_again_for_ever_nor_without_a_record() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let agent = stage.agent(&running, FIRST).await;
    agent.hook(HookEvent::Start).await;
    agent.record_is(PathState::Readable).await;
    stage.send(&running, stage.member(), "hello").await;
    agent.takes(HookEvent::Prompt, "hello").await;
    for _ in 0..2 {
        age(&running, LONG_AGO).await;
        assert_eq!(handed_again(&agent).await.body.as_deref(), Some("hello"));
    }
    age(&running, LONG_AGO).await;
    for _ in 0..5 {
        assert!(agent.hook(HookEvent::Prompt).await.messages.is_empty());
    }
    stage.send(&running, agent.key, "unread").await;
    agent.takes(HookEvent::Prompt, "unread").await;
    std::fs::remove_file(&agent.record.path).unwrap();
    agent.hook(HookEvent::Edit).await;
    agent.record_is(PathState::Unreadable).await;
    age(&running, LONG_AGO).await;
    for _ in 0..5 {
        assert!(agent.hook(HookEvent::Prompt).await.messages.is_empty());
    }
    running.shutdown().await;
}

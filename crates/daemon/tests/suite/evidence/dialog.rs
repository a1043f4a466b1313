//! Messages that wait behind a dialog of the agent (agents spec §1.6b, wire spec §3.1).

use claudemesh_ipc::api::StatusReport;
use claudemesh_ipc::api::session::{HookEvent, HumanWait};
use claudemesh_protocol::wire::ReceiptState;

use super::stage::{Agent, FIRST, Stage};
use crate::mesh::node::until;

async fn dialog(agent: &Agent) {
    let report = StatusReport {
        event: Some(HookEvent::Notify),
        waits_for_human: Some(HumanWait::Dialog),
        take: true,
        ..StatusReport::default()
    };
    assert!(agent.client.session_status(&report).await.unwrap().messages.is_empty());
}

async fn is_held(stage: &Stage, id: &str, reason: &str) {
    until(&format!("it is held: {reason}"), async || {
        stage.progress(id).await.is_some_and(|progress| {
            (progress.state, progress.reason.as_deref()) == (ReceiptState::Held, Some(reason))
        })
    })
    .await;
}

/// Agents spec §1.10 scenario 7, the daemon's part: behind a dialog the sender sees `held: dialog`, of what came before and
/// of what comes meanwhile; when the agent goes on it is busy as before, and then it is handed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_dialog_messages_are_held_until_the_agent_goes_on() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let agent = stage.agent(&running, FIRST).await;
    agent.hook(HookEvent::Prompt).await;
    let before = stage.send(&running, agent.key, "before").await;
    is_held(&stage, &before, "busy").await;
    dialog(&agent).await;
    is_held(&stage, &before, "dialog").await;
    let meanwhile = stage.send(&running, agent.key, "meanwhile").await;
    is_held(&stage, &meanwhile, "dialog").await;
    agent.hook(HookEvent::Tool).await;
    for id in [&before, &meanwhile] {
        is_held(&stage, id, "busy").await;
    }
    let taken = agent.hook(HookEvent::Stop).await.messages;
    assert_eq!(taken.len(), 2, "{taken:?}");
    for id in [&before, &meanwhile] {
        stage.comes(id, ReceiptState::Handed).await;
    }
    running.shutdown().await;
}

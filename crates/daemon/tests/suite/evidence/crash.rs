//! The daemon dies between what a record proves and what it says about that.

use claudemesh_ipc::api::session::HookEvent;
use claudemesh_ipc::api::{RegisterRequest, StatusReport};
use claudemesh_protocol::wire::ReceiptState;

use super::stage::{Record, Stage, asked, ended, shown};
use crate::local::process::DaemonProcess;
use crate::local::world::token;
use crate::mesh::node::{SLUG, until};

/// Daemon spec §26, agents spec §1.8: kill -9 at `evidence.after_commit_before_receipt`: the next run says what was proved,
/// and reads on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_between_evidence_and_receipt_loses_neither() {
    const POINT: &str = "evidence.after_commit_before_receipt";
    let stage = Stage::new().await;
    let record = Record::new(stage.home.path(), "record");
    record.append(&[]);
    let mut daemon = DaemonProcess::start(&stage.home, &format!("{POINT}=kill")).await;
    let client = daemon.client().clone().with_token(Some(token(1)));
    let session = RegisterRequest::stored(
        token(1),
        "6f1b2c3d-0000-4000-8000-012345678901".to_owned(),
        SLUG.to_owned(),
        "builder".to_owned(),
        std::process::id(),
    );
    client.register_session(&session).await.unwrap();
    let report = |event| StatusReport {
        event: Some(event),
        take: true,
        transcript: Some(record.path.to_str().unwrap().to_owned()),
        ..StatusReport::default()
    };
    client.session_status(&report(HookEvent::Start)).await.unwrap();
    let id = stage.ana.send_to_key(stage.member(), "hello").await;
    let mut taken = Vec::new();
    until("a hook takes it", async || {
        taken.extend(client.session_status(&report(HookEvent::Prompt)).await.unwrap().messages);
        !taken.is_empty()
    })
    .await;
    stage.comes(&id, ReceiptState::Handed).await;
    record.append(&[shown(&taken.remove(0)), asked()]);
    assert!(!daemon.ended().await.success());
    assert_eq!(stage.progress(&id).await.unwrap().state, ReceiptState::Handed);
    let daemon = DaemonProcess::start(&stage.home, "").await;
    let proved = stage.comes(&id, ReceiptState::InContext).await;
    assert_eq!(proved.evidence.as_deref(), Some("transcript 0a1b2c3d, builder"));
    record.append(&[ended()]);
    stage.comes(&id, ReceiptState::TurnEnded).await;
    drop(daemon);
}

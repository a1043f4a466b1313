//! Clients that hang up in the middle of a request.

use std::time::Duration;

use claudemesh_ipc::api::{MeshStatus, RegisterRequest};

use super::world::{HOME, Stage};
use crate::local::world::{token, until};

/// A registration takes the disk's time, and its client may be killed meanwhile: a session that is registered is connected,
/// whoever waits for the answer (found by `make chaos`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_registration_nobody_waited_for_is_connected() {
    let stage = Stage::new().await;
    for byte in 1..=24_u8 {
        let request = RegisterRequest::stored(
            token(byte),
            format!("6f1b2c3d-0000-4000-8000-0123456789{byte:02x}"),
            HOME.to_owned(),
            format!("session {byte}"),
            std::process::id(),
        );
        let client = stage.client();
        let register = client.register_session(&request);
        // Sooner or later within the request.
        let _ = tokio::time::timeout(Duration::from_micros(700) * byte.into(), register).await;
    }
    let client = stage.client();
    until("every session that is registered is connected", async || {
        let sessions = client.sessions().await.unwrap();
        let is_open = |status: Option<MeshStatus>| status == Some(MeshStatus::Open);
        !sessions.is_empty() && sessions.iter().all(|session| is_open(session.broker_status))
    })
    .await;
    stage.stop().await;
}

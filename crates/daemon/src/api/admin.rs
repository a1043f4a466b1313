//! `POST /v1/admin/…` (daemon spec §1.3, §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use claudemesh_ipc::api::system::ReloadReply;
use claudemesh_protocol::ErrorCode;
use serde_json::{Value, json};

use super::Api;
use super::failure::Failure;

pub(super) async fn reload(State(api): State<Arc<Api>>) -> Result<Json<ReloadReply>, Failure> {
    let reloaded = api.daemon.reload().await.map_err(|error| {
        Failure::new(ErrorCode::Io, error.to_string()).hint("the settings in force are unchanged")
    })?;
    let ipc = &api.daemon.context().settings.get().ipc;
    api.rate.set(ipc.rate_per_sec, ipc.rate_burst);
    Ok(Json(ReloadReply {
        ok: true,
        attached: reloaded.attached,
        detached: reloaded.detached,
        restart_needed: reloaded.restart_needed,
    }))
}

/// Answers, then the daemon stops: requests in flight are finished first.
pub(super) async fn shutdown(State(api): State<Arc<Api>>) -> Json<Value> {
    api.daemon.stop();
    Json(json!({ "ok": true }))
}

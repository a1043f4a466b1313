//! `POST /v1/admin/…`: what concerns the daemon as a whole (daemon spec §1.3, §9.7). One module for each part of it.

mod hooks;
mod identity;
mod token;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use claudemesh_ipc::api::system::ReloadReply;
use claudemesh_protocol::ErrorCode;
use serde_json::{Value, json};

use super::Api;
use super::failure::Failure;
use crate::daemon::ReloadError;

pub(super) use hooks::test as hooks_test;
pub(super) use identity::{accept_host, archive_cleanup, rotate_keypair, trust_broker};
pub(super) use token::rotate as rotate_token;

pub(super) async fn reload(State(api): State<Arc<Api>>) -> Result<Json<ReloadReply>, Failure> {
    let reloaded = api.daemon.reload().await.map_err(|error| {
        let hint = match error {
            ReloadError::Hooks(_) => {
                "the hooks in force are unchanged; everything else is reloaded"
            }
            _ => "the settings in force are unchanged",
        };
        Failure::new(ErrorCode::Io, error.to_string()).hint(hint)
    })?;
    Ok(Json(ReloadReply {
        ok: true,
        attached: reloaded.attached,
        detached: reloaded.detached,
        applied: reloaded.settings.applied,
        needs_restart: reloaded.settings.needs_restart,
    }))
}

/// Answers, then the daemon stops: requests in flight are finished first.
pub(super) async fn shutdown(State(api): State<Arc<Api>>) -> Json<Value> {
    api.daemon.stop();
    Json(json!({ "ok": true }))
}

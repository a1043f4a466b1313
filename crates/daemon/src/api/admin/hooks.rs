//! `POST /v1/admin/hooks-test`: a hook tried out by the person who wrote it (daemon spec §9.7, §16).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use claudemesh_ipc::api::hooks::{HooksTestReply, HooksTestRequest};
use claudemesh_protocol::ErrorCode;

use crate::api::Api;
use crate::api::failure::Failure;
use crate::api::input;

/// Answers when the hook has ended, with what it said.
pub(in crate::api) async fn test(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<HooksTestReply>, Failure> {
    let asked: HooksTestRequest = input::json(request, input::MEDIUM).await?;
    let stored = match &asked.message_id {
        None => None,
        Some(id) => {
            let item = api.daemon.context().inbox.by_id(id).await?;
            Some(item.ok_or_else(|| {
                Failure::new(ErrorCode::NotFound, "no message of the inbox has this id")
            })?)
        }
    };
    // Whoever asked may hang up: the run has an owner all the same.
    let (hooks, api) = (api.daemon.hooks().clone(), Arc::clone(&api));
    Ok(Json(hooks.try_out(asked, stored, api).await?))
}

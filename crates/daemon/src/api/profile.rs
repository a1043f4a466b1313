//! `POST /v1/profile`: the operations of the profile in one call (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use claudemesh_ipc::api::ProfileRequest;
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::limits::SUMMARY_MAX_CHARS;
use claudemesh_protocol::ops::profile::Applied;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input};
use crate::ops;

pub(super) async fn profile(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Applied>, Failure> {
    let body: ProfileRequest = input::json(request, input::MEDIUM).await?;
    caller.need_capability(Capability::ProfileWrite)?;
    if body.summary.as_ref().is_some_and(|text| text.chars().count() > SUMMARY_MAX_CHARS) {
        let message = format!("a summary has at most {SUMMARY_MAX_CHARS} characters");
        return Err(Failure::field("summary", message));
    }
    Ok(Json(ops::apply_profile(&api, &caller, body).await?))
}

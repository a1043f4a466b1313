//! `POST /v1/broadcast`: a send to everybody or to a group, for clients that have no names to resolve (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use claudemesh_ipc::api::{IDEMPOTENCY_HEADER, SendRequest, send::BroadcastRequest};

use super::caller::Caller;
use super::failure::Failure;
use super::send::Letter;
use super::{Api, input};
use crate::ops::Place as _;

pub(super) async fn broadcast(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
    let id = request.headers().get(IDEMPOTENCY_HEADER);
    let id = id.map(|id| id.to_str().unwrap_or_default().to_owned());
    let body: BroadcastRequest = input::json(request, input::MESSAGE).await?;
    let scope = body.scope.unwrap_or_else(|| "*".to_owned());
    let is_for_several =
        scope == "*" || scope.strip_prefix('@').is_some_and(|name| !name.is_empty());
    if !is_for_several {
        return Err(Failure::field("scope", "\"scope\" is * or @group"));
    }
    let request = SendRequest {
        to: scope,
        message: body.message,
        priority: body.priority,
        meta: body.meta,
        client_message_id: body.client_message_id,
        mesh: body.mesh,
        ..SendRequest::default()
    };
    let letter = Letter::checked(request, id)?;
    let addressed = api.address(&caller, &letter).await?;
    caller.need_capability(addressed.capability())?;
    let reply = api.deliver(&caller, &letter, addressed).await?;
    let status = if reply.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(reply)).into_response())
}

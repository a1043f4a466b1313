//! `POST /v1/admin/rotate-token` (daemon spec §20.1).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use claudemesh_ipc::api::admin::{RotateTokenReply, RotateTokenRequest};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::limits::LOCAL_TOKEN_GRACE;

use crate::api::failure::Failure;
use crate::api::{Api, input};

pub(in crate::api) async fn rotate(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<RotateTokenReply>, Failure> {
    let body: RotateTokenRequest = input::json(request, input::MEDIUM).await?;
    let tokens = Arc::clone(&api.daemon.context().local_token);
    let rotated = crate::blocking::run(move || tokens.rotate()).await;
    let token = match rotated {
        Some(Ok(token)) => token,
        Some(Err(error)) => {
            tracing::warn!(%error, "local_token_not_rotated");
            let message = format!("the new token cannot be written: {error}");
            return Err(Failure::new(ErrorCode::Io, message).hint("the old token stays in force"));
        }
        None => return Err(Failure::new(ErrorCode::Internal, "the token was not replaced")),
    };
    api.daemon.context().figures.token_rotated();
    tracing::info!("local_token_rotated");
    let now = crate::clock::now();
    Ok(Json(RotateTokenReply {
        rotated: true,
        rotated_at: now.to_iso(),
        old_valid_until: now.plus(LOCAL_TOKEN_GRACE).to_iso(),
        token: body.show.then(|| token.to_string()),
    }))
}

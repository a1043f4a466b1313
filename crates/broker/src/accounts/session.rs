//! `GET /cli/me`, `POST /cli/session/revoke`.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::account::{Credential, MeReply, SessionRevokeReply};
use claudemesh_store::CliSessionKind;

use super::bearer::{Account, account_user, token_hash};
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::request::Fields;
use crate::state::Broker;

/// Who the caller is.
pub(crate) async fn me(account: Account) -> Json<MeReply> {
    let login = account.login;
    let kind = match login.kind {
        CliSessionKind::Session => "session",
        CliSessionKind::Pat => "pat",
    };
    Json(MeReply {
        user: account_user(&login.user),
        credential: Some(Credential {
            id: login.session_id,
            kind: kind.to_owned(),
            name: None,
            expires_at: login.expires_at.map(Timestamp::to_iso),
        }),
    })
}

/// Ends a session: the one in the body, by possession of its token, or else the one that asks.
pub(crate) async fn revoke(
    State(broker): State<Broker>,
    request: Request,
) -> ApiResult<Json<SessionRevokeReply>> {
    let (mut parts, body): (_, Body) = request.into_parts();
    let fields = Fields::read(body).await?;
    let token = match fields.optional_text("token")? {
        Some(text) => token_hash(text),
        None if parts.headers.contains_key(header::AUTHORIZATION) => {
            let account = Account::from_request_parts(&mut parts, &broker).await?;
            let is_own = |id: &str| id == account.login.session_id;
            fields.optional_text("id")?.is_none_or(is_own).then_some(account.token)
        }
        None => return Err(ApiError::field("token", "the token to end, or a bearer")),
    };
    let found = match token {
        Some(token) => broker.store().revoke_cli_session(token, broker.now()).await?,
        None => false,
    };
    Ok(Json(SessionRevokeReply { ok: true, found }))
}

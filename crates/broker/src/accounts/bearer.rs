//! The account behind a bearer token (wire spec §5.13).

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header;
use axum::http::request::Parts;
use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::tokens::{BearerKind, classify};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::account::AccountUser;
use claudemesh_protocol::limits::CLI_SESSION_TTL;
use claudemesh_store::{CliLogin, TokenHash, User};

use crate::edge::error::{ApiError, ApiResult};
use crate::state::Broker;

/// A request with a valid session or personal access token. Only one extractor reads the header, so that no route
/// can take its identity from anywhere else.
pub(crate) struct Account {
    /// The token's row and its account.
    pub(crate) login: CliLogin,
    /// What the token is found by.
    pub(crate) token: TokenHash,
}

impl FromRequestParts<Broker> for Account {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, broker: &Broker) -> ApiResult<Self> {
        let bearer = bearer_text(&parts.headers)?;
        let token = token_hash(bearer).ok_or_else(invalid_token)?;
        let login = broker.store().use_cli_session(token, broker.now(), CLI_SESSION_TTL).await?;
        Ok(Self { login: login.ok_or_else(invalid_token)?, token })
    }
}

/// The text behind `Bearer`.
pub(crate) fn bearer_text(headers: &HeaderMap) -> ApiResult<&str> {
    let missing = || {
        ApiError::new(ErrorCode::MissingBearerToken, "sign in first")
            .hint("send Authorization: Bearer <token>")
    };
    let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
    let text = value.to_str().map_err(|_| invalid_token())?.trim();
    let (scheme, bearer) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    match bearer.trim() {
        "" => Err(ApiError::new(ErrorCode::EmptyBearerToken, "the bearer token is empty")),
        bearer => Ok(bearer),
    }
}

/// The hash of an account token; `None` for every other kind of bearer.
pub(crate) fn token_hash(bearer: &str) -> Option<TokenHash> {
    match classify(bearer) {
        BearerKind::CliSession | BearerKind::AccessToken => {
            Some(TokenHash(sha256(bearer.as_bytes())))
        }
        _ => None,
    }
}

fn invalid_token() -> ApiError {
    ApiError::new(ErrorCode::InvalidOrRevokedToken, "this sign-in is not valid any more")
        .hint("sign in again")
}

/// An account as its owner sees it.
pub(crate) fn account_user(user: &User) -> AccountUser {
    AccountUser { id: user.id.clone(), display_name: user.name.clone(), email: user.email.clone() }
}

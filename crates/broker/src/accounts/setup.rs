//! `POST /cli/setup`: the first account, against the one-time code of the data directory (broker spec §6.2).

use std::path::{Path, PathBuf};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::random;
use claudemesh_crypto::tokens::{self, BearerKind, SecretText, classify};
use claudemesh_protocol::account::SetupReply;
use claudemesh_protocol::id::random_row_id;
use claudemesh_protocol::limits::{CLI_SESSION_TTL, MEMBER_NAME_MAX_CHARS};
use claudemesh_protocol::{ErrorCode, UserId, text};
use claudemesh_store::{
    CliSessionKind, FirstAccount, NewCliSession, NewUser, Store, StoreError, TokenHash, UserRole,
};
use parking_lot::Mutex;

use super::bearer::account_user;
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::limit::ClientAddress;
use crate::edge::request::Fields;
use crate::secrets::{self, SecretFileError};
use crate::state::Broker;

/// Leading characters of a session token kept for lists; the random part stays out of it.
const TOKEN_PREFIX_CHARS: usize = 15;

/// The setup code while it is good, and the file it stands in.
pub(crate) struct SetupCode {
    path: PathBuf,
    code: Mutex<Option<SecretText>>,
}

/// The setup code could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupCodeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] SecretFileError),
}

impl SetupCode {
    /// Writes a fresh code while the store holds no account; removes a left-over file otherwise. Only the path is
    /// logged.
    pub(crate) async fn prepare(store: &Store, path: &Path) -> Result<Self, SetupCodeError> {
        let setup = Self { path: path.to_owned(), code: Mutex::new(None) };
        if store.has_account().await? {
            setup.remove_file();
            return Ok(setup);
        }
        let code = tokens::setup_code(&mut random::fill);
        secrets::replace_secret_file(path, code.expose())?;
        tracing::info!(path = %path.display(), "no account yet: the setup code is in this file");
        *setup.code.lock() = Some(code);
        Ok(setup)
    }

    /// Constant-time; false once the code was used.
    fn accepts(&self, presented: &SecretText) -> bool {
        self.code.lock().as_ref().is_some_and(|code| code == presented)
    }

    fn retire(&self) {
        *self.code.lock() = None;
        self.remove_file();
    }

    fn remove_file(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "the setup code file could not be removed");
            }
            _ => {}
        }
    }
}

/// Makes the first account and its session.
///
/// The caller may bring the session token it wants (`session_token`, a fresh `cm_session_…`), so that a crash between
/// the commit here and its own disk does not leave an account nobody can sign in to.
pub(crate) async fn set_up(
    State(broker): State<Broker>,
    client: ClientAddress,
    body: Body,
) -> ApiResult<Json<SetupReply>> {
    if !client.is_local {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "the first account is made on the server's machine",
        ));
    }
    let fields = Fields::read(body).await?;
    let presented = SecretText::new(fields.text("setup_code")?.trim().to_ascii_uppercase());
    let name = text::display_name(fields.text("display_name")?, MEMBER_NAME_MAX_CHARS)
        .map_err(|error| ApiError::field("display_name", &error.to_string()))?;
    let token = requested_token(&fields)?;
    if broker.store().has_account().await? {
        return Err(setup_done());
    }
    broker.edge_limits().setup_try(client)?;
    if !broker.setup_code().accepts(&presented) {
        broker.metrics().logins.inc("refused");
        return Err(ApiError::new(ErrorCode::InvalidSetupCode, "wrong setup code")
            .hint("the code stands in the file setup-code of the server's data directory"));
    }
    let (user, session) = first_account(&broker, &fields, name, &token)?;
    match broker.store().create_first_account(user, session).await? {
        FirstAccount::Exists => Err(setup_done()),
        FirstAccount::Created(user) => {
            broker.setup_code().retire();
            broker.metrics().logins.inc("ok");
            tracing::info!("the first account was made");
            Ok(Json(SetupReply {
                session_token: token.expose().to_owned(),
                user: account_user(&user),
            }))
        }
    }
}

fn setup_done() -> ApiError {
    ApiError::new(ErrorCode::SetupDone, "this server has its first account already")
        .hint("sign in to it")
}

fn requested_token(fields: &Fields) -> ApiResult<SecretText> {
    match fields.optional_text("session_token")? {
        None => Ok(tokens::cli_session(&mut random::fill)),
        Some(text) if classify(text) == BearerKind::CliSession => {
            Ok(SecretText::new(text.to_owned()))
        }
        Some(_) => Err(ApiError::field("session_token", "cm_session_ and 52 characters")),
    }
}

fn first_account(
    broker: &Broker,
    fields: &Fields,
    name: String,
    token: &SecretText,
) -> ApiResult<(NewUser, NewCliSession)> {
    let now = broker.now();
    let user = NewUser {
        id: UserId::random(random::fill),
        name,
        email: None,
        role: UserRole::Admin,
        created_at: now,
    };
    let session = NewCliSession {
        id: random_row_id(random::fill),
        user_id: user.id.clone(),
        kind: CliSessionKind::Session,
        token_hash: TokenHash(sha256(token.expose().as_bytes())),
        token_prefix: token.expose().chars().take(TOKEN_PREFIX_CHARS).collect(),
        hostname: fields.note("hostname")?,
        platform: fields.note("platform")?,
        arch: fields.note("arch")?,
        client_version: fields.note("clientVersion")?,
        expires_at: Some(now.plus(CLI_SESSION_TTL)),
        created_at: now,
    };
    Ok((user, session))
}

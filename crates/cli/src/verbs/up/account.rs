//! The account of `up`: made once with the setup code that only this OS user can read (CLI spec §5.6, broker spec §6.2).

use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_broker::data_dir::BrokerRecord;
use claudemesh_client::BrokerHttp;
use claudemesh_crypto::tokens::{self, SecretText};
use claudemesh_daemon::home::file::{self, Symlinks};
use claudemesh_protocol::account::{AccountUser, SetupRequest};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::local::{Account, Secret, authority};
use crate::remote::http_failure;

/// How long the setup code may take to appear after the broker answers.
const CODE_BUDGET: Duration = Duration::from_secs(2);
/// Step between two looks.
const STEP: Duration = Duration::from_millis(20);

/// The account, signed in.
pub(in crate::verbs) struct AccountState {
    pub(super) user: AccountUser,
    pub(super) token: SecretText,
    pub(super) was_created: bool,
}

/// A token that was written down before the server heard of it, so that an answer lost in a crash locks nobody out.
/// No `Debug`.
#[derive(Serialize, Deserialize)]
struct Pending {
    broker_pubkey: String,
    session_token: Secret,
}

/// Signs in on the local broker, making its first account when there is none.
///
/// # Errors
/// Exit 2 when the account belongs to somebody else, exit 4 when the server does not answer, exit 10 for files.
pub(super) async fn ensure(
    context: &Context,
    http: &BrokerHttp,
    dir: &Path,
    record: &BrokerRecord,
    name: &str,
) -> Outcome<AccountState> {
    let stored = context.account()?;
    if let Some(account) = &stored
        && let Some(user) = accepted(http, &account.token()).await?
    {
        let server = account.server.as_deref().unwrap_or_default();
        if authority(server) != authority(http.base()) {
            // The same account on another port: later verbs send the token there.
            let source = account.token_source.as_str();
            context.store_account(&Account::new(
                &account.token(),
                user.clone(),
                source,
                http.base(),
            ))?;
        }
        forget_pending(context);
        return Ok(AccountState { user, token: account.token(), was_created: false });
    }
    let (user, token) = match finish_pending(context, http, record).await? {
        Some(done) => done,
        None => setup(context, http, dir, record, name).await?,
    };
    context.store_account(&Account::new(&token, user.clone(), "setup", http.base()))?;
    forget_pending(context);
    Ok(AccountState { user, token, was_created: true })
}

/// Whose token this is; `None` when the server does not know it.
async fn accepted(http: &BrokerHttp, token: &SecretText) -> Outcome<Option<AccountUser>> {
    match http.me(token).await {
        Ok(me) => Ok(Some(me.user)),
        Err(error) if error.exit_code() == ExitCode::Auth => Ok(None),
        Err(error) => Err(http_failure(error, http.base())),
    }
}

/// An earlier `up` may have been killed between the server's answer and the note of it.
async fn finish_pending(
    context: &Context,
    http: &BrokerHttp,
    record: &BrokerRecord,
) -> Outcome<Option<(AccountUser, SecretText)>> {
    let Some(pending) = read_pending(context) else { return Ok(None) };
    if pending.broker_pubkey != record.broker_pubkey {
        return Ok(None);
    }
    let token = SecretText::new(pending.session_token.reveal().to_owned());
    Ok(accepted(http, &token).await?.map(|user| (user, token)))
}

async fn setup(
    context: &Context,
    http: &BrokerHttp,
    dir: &Path,
    record: &BrokerRecord,
    name: &str,
) -> Outcome<(AccountUser, SecretText)> {
    let Some(code) = setup_code(dir).await else {
        return Err(owned_by_other(record));
    };
    let kept =
        read_pending(context).filter(|pending| pending.broker_pubkey == record.broker_pubkey);
    let token = if let Some(pending) = kept {
        SecretText::new(pending.session_token.reveal().to_owned())
    } else {
        let token = tokens::cli_session(&mut claudemesh_crypto::random::fill);
        write_pending(context, record, &token)?;
        token
    };
    let request = SetupRequest {
        setup_code: code.to_string(),
        display_name: name.to_owned(),
        hostname: hostname::get().ok().and_then(|name| name.into_string().ok()),
        platform: Some(std::env::consts::OS.to_owned()),
        arch: Some(std::env::consts::ARCH.to_owned()),
        session_token: Some(token.expose().to_owned()),
    };
    match http.setup(&request).await {
        Ok(reply) => Ok((reply.user, SecretText::new(reply.session_token))),
        Err(error) if error.is(ErrorCode::SetupDone) => Err(owned_by_other(record)),
        Err(error) => Err(http_failure(error, http.base())),
    }
}

fn owned_by_other(record: &BrokerRecord) -> Failure {
    let host = authority(&record.url);
    Failure::new(ErrorCode::Unauthorized, format!("not signed in on {host}"))
        .detail("its account was made elsewhere, or its token (auth.json) is lost")
        .action("bring auth.json back, or set CLAUDEMESH_BROKER_DATA_DIR for a broker of your own")
}

/// The one-time code; a broker that has just started may need a moment to write it.
async fn setup_code(dir: &Path) -> Option<Zeroizing<String>> {
    let path = dir.join("setup-code");
    let deadline = Instant::now() + CODE_BUDGET;
    loop {
        if let Ok(text) = std::fs::read_to_string(&path).map(Zeroizing::new) {
            let code = text.trim();
            if !code.is_empty() {
                return Some(Zeroizing::new(code.to_owned()));
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(STEP).await;
    }
}

fn pending_path(context: &Context) -> PathBuf {
    context.paths.auth_file().with_file_name("auth-pending.json")
}

/// The token stands in auth.json; the note would only repeat it, and does no harm when it stays.
fn forget_pending(context: &Context) {
    let _ = std::fs::remove_file(pending_path(context));
}

fn read_pending(context: &Context) -> Option<Pending> {
    let written = file::read(&pending_path(context), Symlinks::Refuse).ok().flatten()?;
    serde_json::from_slice(&written.bytes).ok()
}

fn write_pending(context: &Context, record: &BrokerRecord, token: &SecretText) -> Outcome<()> {
    let pending = Pending {
        broker_pubkey: record.broker_pubkey.clone(),
        session_token: Secret::new(token.expose()),
    };
    let bytes = serde_json::to_vec(&pending)
        .map(Zeroizing::new)
        .map_err(|error| Failure::internal(&error))?;
    let path = pending_path(context);
    let fail =
        |error: &std::io::Error| Failure::io(format!("cannot write {}", path.display()), error);
    file::create_private_dir(context.paths.config_dir()).map_err(|error| fail(&error))?;
    file::replace(&path, &bytes, file::SECRET, Symlinks::Refuse).map_err(|error| fail(&error))
}

//! The server side of account verbs: which server, which token, and its refusals in our words.

use claudemesh_client::{BrokerHttp, HttpError};
use claudemesh_crypto::tokens::SecretText;
use claudemesh_daemon::home::config::{Config, MeshEntry};
use claudemesh_protocol::error::{ErrorCode, ExitCode};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::local::{Account, authority};

/// How an account is made or signed in with this build.
pub(crate) const SIGN_IN: &str = "claudemesh up";

/// A server and the right to act on it.
pub(crate) struct SignedIn {
    /// The server.
    pub(crate) http: BrokerHttp,
    /// The account's token.
    pub(crate) token: SecretText,
}

impl Context {
    /// A client of the server at `address`.
    ///
    /// # Errors
    /// Exit 3 for something that is no address, exit 7 for an unencrypted one of another machine.
    pub(crate) fn http(&self, address: &str) -> Outcome<BrokerHttp> {
        if self.environment.allow_insecure && is_plain_remote(address) {
            self.out.warning(&format!("the connection to {} is not encrypted", authority(address)));
        }
        BrokerHttp::new(address, self.plain_http()).map_err(|error| http_failure(error, address))
    }

    /// The server of account verbs: environment, then where the account was made, then the default.
    pub(crate) fn server(&self, config: &Config, account: Option<&Account>) -> Option<String> {
        let environment = &self.environment;
        environment
            .api_url
            .clone()
            .or_else(|| environment.broker_http.clone())
            .or_else(|| environment.broker_url.clone())
            .or_else(|| account.and_then(|account| account.server.clone()))
            .or_else(|| config.default_setting("apiUrl").map(str::to_owned))
            .or_else(|| config.default_setting("brokerUrl").map(str::to_owned))
    }

    /// The account on the server of account verbs.
    ///
    /// # Errors
    /// Exit 3 without a server, exit 2 without an account there.
    pub(crate) fn signed_in(&self, config: &Config) -> Outcome<SignedIn> {
        let account = self.account()?;
        let server = self.server(config, account.as_ref()).ok_or_else(no_server)?;
        self.signed_in_at(&server, account)
    }

    /// The account on the server of one mesh.
    ///
    /// # Errors
    /// Exit 2 when the stored account belongs to another server.
    pub(crate) fn signed_in_for(&self, mesh: &MeshEntry) -> Outcome<SignedIn> {
        let account = self.account()?;
        let server =
            self.environment.broker_http.clone().unwrap_or_else(|| mesh.broker_url.clone());
        self.signed_in_at(&server, account)
    }

    fn signed_in_at(&self, server: &str, account: Option<Account>) -> Outcome<SignedIn> {
        let http = self.http(server)?;
        if let Some(token) = &self.environment.account_token {
            return Ok(SignedIn { http, token: SecretText::new(token.clone()) });
        }
        let account = account.ok_or_else(not_signed_in)?;
        // A token goes only to the server that issued it.
        if account
            .server
            .as_deref()
            .is_some_and(|issuer| authority(issuer) != authority(http.base()))
        {
            return Err(Failure::new(
                ErrorCode::Unauthorized,
                format!("not signed in on {}", authority(http.base())),
            )
            .action(SIGN_IN));
        }
        Ok(SignedIn { http, token: account.token() })
    }
}

fn is_plain_remote(address: &str) -> bool {
    let is_plain = address.starts_with("http://") || address.starts_with("ws://");
    is_plain && !claudemesh_protocol::invite::is_loopback(&authority(address))
}

/// No server is compiled in.
pub(crate) fn no_server() -> Failure {
    Failure::of_word("no_server", "no server configured")
        .exit(ExitCode::InvalidArgs)
        .action("claudemesh up")
}

fn not_signed_in() -> Failure {
    Failure::new(ErrorCode::Unauthorized, "not signed in").action(SIGN_IN)
}

/// A failed call to a server.
pub(crate) fn http_failure(error: HttpError, address: &str) -> Failure {
    match error {
        HttpError::Refused { body, status, retry_after } => {
            let exit = HttpError::Refused { body: body.clone(), status, retry_after }.exit_code();
            let mut failure = Failure::from_body(*body);
            if failure.exit == ExitCode::Internal as u8 {
                failure = failure.exit(exit);
            }
            if let Some(after) = retry_after {
                failure = failure.detail(format!("retry in {} s", after.as_secs()));
            }
            if failure.exit == ExitCode::Auth as u8 && failure.action.is_none() {
                failure = failure.action(SIGN_IN);
            }
            failure
        }
        HttpError::Network(why) => Failure::new(
            ErrorCode::BrokerUnavailable,
            format!("broker {} unreachable ({why})", authority(address)),
        )
        .action("claudemesh up"),
        HttpError::TimedOut => Failure::new(
            ErrorCode::BrokerTimeout,
            format!("broker {} unreachable (time-out)", authority(address)),
        )
        .action("claudemesh up"),
        HttpError::Insecure { host } => Failure::new(
            ErrorCode::Forbidden,
            format!("refusing an unencrypted connection to {host}"),
        )
        .detail("messages stay encrypted; who talks to whom and sign-in tokens would be visible")
        .action("set CLAUDEMESH_ALLOW_INSECURE=1 to allow it"),
        HttpError::Address(text) => Failure::invalid(format!("\"{text}\" is no server address"))
            .detail("expected: https://host"),
        other => Failure::internal(&other),
    }
}

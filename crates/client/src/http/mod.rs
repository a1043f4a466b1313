//! The broker's HTTP side: accounts, meshes and invites. One call, one typed answer; errors keep the broker's body.
//!
//! Redirects are not followed: tokens and codes go to the address the user named, or nowhere.

use std::fmt::Write as _;
use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::hash::sha256;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::canonical::{self, CanonicalError};
use claudemesh_protocol::error::{ErrorBody, ErrorCode, ExitCode};
use claudemesh_protocol::invite::{PlainHttp, is_loopback};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dial::install_tls_provider;

mod account;
mod invite;
mod member;

/// One request, from name resolution to the last byte of the answer (CLI spec §5.3).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer that is read; the longest, a list of a thousand invites, has a fifth of it.
const REPLY_MAX_BYTES: usize = 2 * 1024 * 1024;

/// Why a call did not give its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address cannot be used.
    #[error("{0:?} is no address of a broker")]
    Address(String),
    /// Unencrypted to another machine; the owner of this machine has not allowed that.
    #[error("refusing an unencrypted connection to {host}")]
    Insecure {
        /// The machine.
        host: String,
    },
    /// Not reached, or the connection broke; a write may have happened.
    #[error("cannot reach the broker: {0}")]
    Network(String),
    /// No answer in time; a write may have happened.
    #[error("the broker did not answer in time")]
    TimedOut,
    /// The broker refuses.
    #[error("{}", body.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its error body; made up from the status when there was none.
        body: Box<ErrorBody>,
        /// How long to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// An answer of another shape than documented.
    #[error("the broker's answer cannot be read: {0}")]
    Malformed(String),
    /// The request cannot be signed.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

impl HttpError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Address(_) | Self::Canonical(_) => ErrorCode::InvalidArgs,
            Self::Insecure { .. } => ErrorCode::Forbidden,
            Self::Network(_) => ErrorCode::BrokerUnavailable,
            Self::TimedOut => ErrorCode::BrokerTimeout,
            Self::Refused { body, .. } => {
                ErrorCode::parse(&body.error).unwrap_or(ErrorCode::Internal)
            }
            Self::Malformed(_) => ErrorCode::Internal,
        }
    }

    /// The exit code of a command that failed with it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused { body, status, .. } if ErrorCode::parse(&body.error).is_none() => {
                match status {
                    401 => ExitCode::Auth,
                    403 => ExitCode::PermissionDenied,
                    404 | 410 => ExitCode::NotFound,
                    429 | 502..=504 => ExitCode::Network,
                    400..=499 => ExitCode::InvalidArgs,
                    _ => ExitCode::Internal,
                }
            }
            _ => self.code().exit_code(),
        }
    }

    /// The broker's own error body.
    pub fn body(&self) -> Option<&ErrorBody> {
        match self {
            Self::Refused { body, .. } => Some(body),
            _ => None,
        }
    }

    /// True when the broker answered with `code`.
    pub fn is(&self, code: ErrorCode) -> bool {
        self.body().is_some_and(|body| ErrorCode::parse(&body.error) == Some(code))
    }
}

/// What `GET /health` says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct BrokerHealth {
    /// `ok`.
    pub status: String,
    /// `up` or `down`.
    #[serde(default)]
    pub db: String,
    /// Version of the broker program.
    #[serde(default)]
    pub version: String,
    /// Key that tells this broker from another one at the same address, hex64.
    #[serde(rename = "brokerPubkey", default)]
    pub broker_pubkey: Option<String>,
}

/// One broker's HTTP address; clones share the connection pool.
#[derive(Clone)]
pub struct BrokerHttp {
    client: reqwest::Client,
    base: String,
}

impl BrokerHttp {
    /// Takes a `http(s)://` base, or the `ws(s)://…/ws` address of a mesh.
    ///
    /// # Errors
    /// [`HttpError::Address`], [`HttpError::Insecure`].
    pub fn new(address: &str, plain: PlainHttp) -> Result<Self, HttpError> {
        let base = http_base(address, plain)?;
        install_tls_provider();
        let client = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("claudemesh/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| HttpError::Network(plain_text(&error)))?;
        Ok(Self { client, base })
    }

    /// The base address, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What the broker says about itself.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn health(&self) -> Result<BrokerHealth, HttpError> {
        self.call(self.request(Method::GET, "/health")).await
    }

    /// A request that a member key signs, its body included (wire spec appendix A).
    fn signed(
        &self,
        method: &Method,
        target: &str,
        body: Vec<u8>,
        key: &KeyPair,
        now: Timestamp,
    ) -> Result<RequestBuilder, HttpError> {
        let text = canonical::signed_http(method.as_str(), target, &sha256(&body), now)?;
        let request = self
            .request(method.clone(), target)
            .header("X-Member-Pubkey", key.public().to_hex())
            .header("X-Timestamp", now.as_millis().to_string())
            .header("X-Signature", key.sign(text.as_bytes()).to_hex());
        Ok(if body.is_empty() { request } else { request.body(body) })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    fn with_json(&self, method: Method, path: &str, body: &impl Serialize) -> RequestBuilder {
        self.request(method, path).json(body)
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, HttpError> {
        let mut response = request.send().await.map_err(|error| network(&error))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok())
            .map(Duration::from_secs);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| network(&error))? {
            if bytes.len() + chunk.len() > REPLY_MAX_BYTES {
                return Err(HttpError::Malformed("it is too long".to_owned()));
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes)
                .map_err(|error| HttpError::Malformed(error.to_string()));
        }
        Err(HttpError::Refused {
            status: status.as_u16(),
            body: Box::new(error_body(status, &bytes)),
            retry_after,
        })
    }
}

/// The broker's error body, or one made of the status: a proxy in between answers with a page.
fn error_body(status: StatusCode, bytes: &[u8]) -> ErrorBody {
    serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let code = match status.as_u16() {
            401 => ErrorCode::InvalidOrRevokedToken,
            403 => ErrorCode::Forbidden,
            404 => ErrorCode::NotFound,
            408 | 504 => ErrorCode::Timeout,
            429 => ErrorCode::RateLimited,
            502 | 503 => ErrorCode::Unavailable,
            400..=499 => ErrorCode::BadRequest,
            _ => ErrorCode::Internal,
        };
        ErrorBody {
            error: code.as_str().to_owned(),
            message: format!("the server answered {status}"),
            hint: None,
            request_id: String::new(),
            extra: serde_json::Map::new(),
        }
    })
}

fn network(error: &reqwest::Error) -> HttpError {
    if error.is_timeout() { HttpError::TimedOut } else { HttpError::Network(plain_text(error)) }
}

/// The innermost cause, without the URL: paths carry invite codes.
fn plain_text(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if std::ptr::addr_eq(cause, error) {
        "the request failed".to_owned()
    } else {
        cause.to_string()
    }
}

/// `wss://h/ws` → `https://h` (wire spec §1.1); an http base loses its path.
fn http_base(address: &str, plain: PlainHttp) -> Result<String, HttpError> {
    let invalid = || HttpError::Address(address.to_owned());
    let (scheme, rest) = address.split_once("://").ok_or_else(invalid)?;
    let scheme = match scheme {
        "wss" | "https" => "https",
        "ws" | "http" => "http",
        _ => return Err(invalid()),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let is_host = !authority.is_empty()
        && authority.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
        });
    if !is_host {
        return Err(invalid());
    }
    if scheme == "http" && plain == PlainHttp::LoopbackOnly && !is_loopback(authority) {
        return Err(HttpError::Insecure { host: authority.to_owned() });
    }
    Ok(format!("{scheme}://{authority}"))
}

/// Percent-encodes one path segment, so that nothing a user types can leave its place in a path.
fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_base_follows_from_the_socket_address() {
        let base = |address| http_base(address, PlainHttp::LoopbackOnly).unwrap();
        assert_eq!(base("wss://mesh.example.org/ws"), "https://mesh.example.org");
        assert_eq!(base("ws://127.0.0.1:7900/ws"), "http://127.0.0.1:7900");
        assert_eq!(base("http://[::1]:7900"), "http://[::1]:7900");
        assert!(matches!(
            http_base("ws://10.0.0.7:7900/ws", PlainHttp::LoopbackOnly),
            Err(HttpError::Insecure { .. })
        ));
        assert!(http_base("http://10.0.0.7", PlainHttp::Allowed).is_ok());
        for address in ["", "h", "ftp://h", "https://", "https://u:p@h/", "https://h h/"] {
            assert!(
                matches!(http_base(address, PlainHttp::Allowed), Err(HttpError::Address(_))),
                "{address}"
            );
        }
    }

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(segment("ABCD2345"), "ABCD2345");
        assert_eq!(segment("../x?y#z"), "%2E%2E%2Fx%3Fy%23z");
    }

    #[test]
    fn a_page_instead_of_an_error_body_becomes_a_code() {
        let body = error_body(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(body.error, "unavailable");
    }
}

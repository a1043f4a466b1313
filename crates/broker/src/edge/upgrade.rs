//! From an HTTP request to a WebSocket (RFC 6455 §4.2). Our own, so that the stream below is ours: what a socket's buffers
//! may keep is decided where frames are written.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use claudemesh_protocol::ErrorCode;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::error::ApiError;

/// The server's end of a WebSocket.
pub(crate) type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// The only version of the protocol there is.
const VERSION: &str = "13";

/// A request to speak WebSocket from now on.
pub(crate) struct Upgrade {
    accept: HeaderValue,
    pending: OnUpgrade,
}

impl Upgrade {
    /// The answer that switches over.
    pub(crate) fn answer(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        response
    }

    /// The socket, once the answer was written; `None` when the connection ended before.
    pub(crate) async fn socket(self, config: WebSocketConfig) -> Option<WebSocket> {
        match self.pending.await {
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                Some(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
            }
            Err(error) => {
                tracing::debug!(%error, "a connection ended before it became a WebSocket");
                None
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let is_asked = parts.method == Method::GET
            && has_word(&parts.headers, header::CONNECTION, "upgrade")
            && has_word(&parts.headers, header::UPGRADE, "websocket");
        let pending = parts.extensions.remove::<OnUpgrade>().filter(|_| is_asked);
        let Some(pending) = pending else {
            let text = "this address speaks WebSocket only";
            return Err(ApiError::new(ErrorCode::InvalidRequest, text)
                .with_status(StatusCode::UPGRADE_REQUIRED));
        };
        if !has_word(&parts.headers, header::SEC_WEBSOCKET_VERSION, VERSION) {
            return Err(refused("Sec-WebSocket-Version is 13"));
        }
        let accept = parts
            .headers
            .get(header::SEC_WEBSOCKET_KEY)
            .and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok())
            .ok_or_else(|| refused("Sec-WebSocket-Key is missing"))?;
        Ok(Self { accept, pending })
    }
}

fn refused(text: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, text)
}

/// True when a header that lists words has this one, in any case.
fn has_word(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(word))
}

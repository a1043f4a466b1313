//! The HTTP router and the layer around every request: id, limits, errors, headers, one log line.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::id::random_row_id;
use futures_util::FutureExt as _;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::accounts;
use crate::edge::error::ApiError;
use crate::edge::limit::ClientAddress;
use crate::edge::{health, hook, ws};
use crate::state::{Broker, Readiness};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken over from a client or proxy.
const REQUEST_ID_MAX_CHARS: usize = 64;
/// NUL in a path: nothing has a name with it, and PostgreSQL cannot even be asked for one.
const ENCODED_NUL: &str = "%00";
/// Pages run no script and load nothing.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Both ends of the connection a request came by; the listener puts it into every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    /// The client's end.
    pub(crate) peer: SocketAddr,
    /// Our end: the address that was dialled.
    pub(crate) local: Option<SocketAddr>,
}

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().copied().ok_or_else(ApiError::internal)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Connection {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().copied().ok_or_else(ApiError::internal)
    }
}

/// Every route of this broker.
pub(crate) fn router(broker: Broker) -> Router {
    Router::new()
        .route("/ws", get(ws::upgrade))
        .route("/health", get(health::health))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/hook/set-status", post(hook::set_status))
        .route("/join", post(accounts::join_v1::join))
        .route("/invites/{code}/claim", post(accounts::claim::claim))
        .route("/api/public/invites/{code}/claim", post(accounts::claim::claim))
        .route("/api/public/invites/{code}", get(accounts::preview::preview))
        .route("/i/{code}", get(accounts::preview::page))
        .route("/cli/setup", post(accounts::setup::set_up))
        .route("/cli/me", get(accounts::session::me))
        .route("/cli/session/revoke", post(accounts::session::revoke))
        .route("/cli/meshes", get(accounts::mesh::list))
        .route("/cli/mesh/create", post(accounts::mesh::create))
        .route("/cli/mesh/{slug}/invite", post(accounts::invite::create))
        .route("/cli/mesh/{slug}/invites", get(accounts::invite::list))
        .route("/cli/mesh/{slug}/invites/{code}", delete(accounts::invite::revoke))
        .route("/cli/mesh/{slug}/member/me", delete(accounts::leave::leave))
        .route("/cli/mesh/{slug}/grants", post(accounts::permission::set_grants))
        .route(
            "/cli/mesh/{slug}/permissions",
            get(accounts::permission::list).post(accounts::permission::change),
        )
        .route("/mesh/{id}/members", get(accounts::member::list))
        .route("/mesh/{id}/settings", patch(accounts::mesh_settings::patch))
        .route(
            "/mesh/{id}/member/{member}",
            delete(accounts::leave::leave_by_id).patch(accounts::member::patch),
        )
        .fallback(|| async { ApiError::new(ErrorCode::NotFound, "no such address") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(ErrorCode::MethodNotAllowed, "this address does not know that method")
        })
        .layer(from_fn_with_state(broker.clone(), around))
        .with_state(broker)
}

/// Runs around every request.
async fn around(State(broker): State<Broker>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let in_flight = broker.requests().token();
    let method = request.method().clone();
    let path_class = PathClass::of(request.uri().path());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let request_id = request_id(request.headers());
    let admitted = admit(&broker, &mut request, path_class);
    let outcome = match admitted {
        Err(error) => error.into_response(),
        Ok(()) if method == Method::OPTIONS && path_class == PathClass::Public => preflight(),
        Ok(()) => {
            let handled = handle(request, next, request_id.clone(), route.clone(), in_flight);
            if method.is_safe() { handled.await } else { to_the_end(&broker, handled).await }
        }
    };
    let (mut response, error_code) = rendered(outcome, &request_id);
    add_headers(&broker, response.headers_mut(), path_class, &request_id);
    let done = Done { method, route, request_id, status: response.status(), error_code };
    done.record(&broker, started.elapsed());
    response
}

async fn handle(
    request: Request,
    next: Next,
    request_id: String,
    route: String,
    _in_flight: TaskTrackerToken,
) -> Response {
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_panic| {
        tracing::error!(request_id, route, "a request handler panicked");
        ApiError::internal().into_response()
    })
}

/// Lets a request that may change something come to its end even when the client hangs up, which drops the future that
/// waits here: what it commits and what memory must learn of it are never torn apart.
async fn to_the_end(
    broker: &Broker,
    handled: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let finished = broker.spawn_returning(handled).await;
    finished.ok().flatten().unwrap_or_else(|| ApiError::internal().into_response())
}

/// Which headers and gates a path has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathClass {
    /// `/health*`, `/metrics`: answered while draining.
    Upkeep,
    /// `/api/public/*`: readable from any web page.
    Public,
    /// Everything else.
    Plain,
}

impl PathClass {
    fn of(path: &str) -> Self {
        match path {
            "/health" | "/health/ready" | "/metrics" => Self::Upkeep,
            _ if path.starts_with("/api/public/") => Self::Public,
            _ => Self::Plain,
        }
    }
}

fn admit(broker: &Broker, request: &mut Request, class: PathClass) -> Result<(), ApiError> {
    let connection =
        request.extensions().get::<Connection>().copied().ok_or_else(ApiError::internal)?;
    let trusted = &broker.settings().trusted_proxies;
    let client = ClientAddress::of(connection.peer.ip(), request.headers(), trusted);
    request.extensions_mut().insert(client);
    broker.edge_limits().request(client)?;
    if class != PathClass::Upkeep && broker.readiness() != Readiness::Ready {
        return Err(
            ApiError::new(ErrorCode::Unavailable, "the broker is stopping").hint("try again")
        );
    }
    if request.uri().path().contains(ENCODED_NUL) {
        return Err(ApiError::new(ErrorCode::NotFound, "no such address"));
    }
    Ok(())
}

/// A caller's id is kept when it is harmless in logs and headers.
fn request_id(headers: &HeaderMap) -> String {
    let is_harmless = |text: &&str| {
        (1..=REQUEST_ID_MAX_CHARS).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(is_harmless)
        .map_or_else(|| random_row_id(claudemesh_crypto::random::fill), str::to_owned)
}

/// Every failure leaves as a JSON error body, those of the web framework too.
fn rendered(mut response: Response, request_id: &str) -> (Response, Option<ErrorCode>) {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let code = error.code();
        return (error.render(request_id), Some(code));
    }
    let status = response.status();
    let is_ours =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_ours || (!status.is_client_error() && !status.is_server_error()) {
        return (response, None);
    }
    let code = match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ErrorCode::UnsupportedMediaType,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::PayloadTooLarge,
        status if status.is_server_error() => ErrorCode::Internal,
        _ => ErrorCode::BadRequest,
    };
    let error = ApiError::new(code, "the request cannot be handled").with_status(status);
    (error.render(request_id), Some(code))
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers, Body::empty()).into_response()
}

fn add_headers(broker: &Broker, headers: &mut HeaderMap, class: PathClass, request_id: &str) {
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    set(header::CACHE_CONTROL, "no-store");
    if class != PathClass::Plain {
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    }
    if broker.links().public_url.starts_with("https://") {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// An answered request, for the log and the metrics. The route is the pattern, because a path may hold an invite code.
struct Done {
    method: Method,
    route: String,
    request_id: String,
    status: StatusCode,
    error_code: Option<ErrorCode>,
}

impl Done {
    fn record(&self, broker: &Broker, elapsed: Duration) {
        let Self { method, route, request_id, status, error_code } = self;
        let status = status.as_u16();
        broker.metrics().http_request(route, status, elapsed);
        let latency_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if let Some(code) = error_code {
            let error_code = code.as_str();
            broker.metrics().errors.inc(error_code);
            tracing::info!(request_id, %method, route, status, latency_ms, error_code, "request");
        } else {
            tracing::info!(request_id, %method, route, status, latency_ms, "request");
        }
    }
}

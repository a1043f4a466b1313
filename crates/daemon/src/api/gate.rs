//! What every request passes before its handler: header rules, limits, authentication (daemon spec §9.2–9.5); and
//! what every answer gets on its way out.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use claudemesh_ipc::api::SESSION_STATE_HEADER;
use claudemesh_protocol::ErrorCode;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hyper::header::{
    ALLOW, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, ORIGIN,
    TRANSFER_ENCODING,
};
use hyper::{HeaderMap, Method, Uri};
use parking_lot::RwLock;

use super::caller::{Caller, Peer, session_token};
use super::failure::Failure;
use super::slots::Slot;
use super::{Api, RESERVED_IN_FLIGHT};
use crate::sessions::TokenHash;

/// Requests per caller.
pub(super) struct Rate {
    limiter: RwLock<DefaultKeyedRateLimiter<Identity>>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identity {
    Session(TokenHash),
    Process(i32),
    Unknown,
}

/// Callers remembered before those at rest are forgotten.
const IDENTITIES_MAX: usize = 4_096;

impl Rate {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { limiter: RwLock::new(limiter(per_second, burst)) }
    }

    pub(super) fn set(&self, per_second: u32, burst: u32) {
        *self.limiter.write() = limiter(per_second, burst);
    }

    fn check(&self, identity: Identity) -> Result<(), Failure> {
        let limiter = self.limiter.read();
        if limiter.len() > IDENTITIES_MAX {
            limiter.retain_recent();
        }
        limiter.check_key(&identity).map_err(|not_until| {
            Failure::new(ErrorCode::RateLimited, "too many requests")
                .retry_after(not_until.wait_time_from(DefaultClock::default().now()))
        })
    }
}

fn limiter(per_second: u32, burst: u32) -> DefaultKeyedRateLimiter<Identity> {
    let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    RateLimiter::keyed(Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst)))
}

pub(super) async fn gate(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = crate::ids::next();
    let mut is_token_unknown = false;
    let admitted = admit(&api, &request);
    let response = match admitted {
        Err(failure) => failure.into_answer(&request_id),
        Ok((caller, _slot)) => {
            is_token_unknown = caller.is_token_unknown;
            if let Err(failure) = check_session(&caller, &request) {
                failure.into_answer(&request_id)
            } else {
                request.extensions_mut().insert(caller);
                next.run(request).await
            }
        }
    };
    finish(response, &request_id, is_token_unknown)
}

fn admit(api: &Arc<Api>, request: &Request) -> Result<(Caller, Slot), Failure> {
    check_headers(request.uri(), request.method(), request.headers())?;
    let peer = request
        .extensions()
        .get::<Peer>()
        .cloned()
        .ok_or_else(|| Failure::new(ErrorCode::Internal, "the connection has no peer"))?;
    let token = session_token(request.headers())?.map(|token| TokenHash::of(&token));
    let identity = match (token, peer.pid) {
        (Some(hash), _) => Identity::Session(hash),
        (None, Some(pid)) => Identity::Process(pid),
        (None, None) => Identity::Unknown,
    };
    api.rate.check(identity)?;
    if api.daemon.is_stopping() {
        return Err(Failure::new(ErrorCode::ShuttingDown, "the daemon is stopping"));
    }
    // A stream leaves the gate at once; it is counted by its own limit.
    let slot = if is_exempt(request.uri().path()) {
        api.reserved.take(RESERVED_IN_FLIGHT)
    } else {
        api.in_flight.take(api.daemon.context().settings.get().ipc.max_inflight)
    };
    let slot = slot.ok_or_else(|| {
        Failure::new(ErrorCode::DaemonBusy, "too many requests are in flight")
            .retry_after(Duration::from_secs(1))
    })?;
    let now = crate::clock::now();
    let session = token.and_then(|hash| api.daemon.context().sessions.by_token(hash, now));
    let is_token_unknown = token.is_some() && session.is_none();
    Ok((Caller { session, is_token_unknown, peer }, slot))
}

/// What the route asks of the session, before its handler asks for a capability.
fn check_session(caller: &Caller, request: &Request) -> Result<(), Failure> {
    let path = request.uri().path();
    if caller.is_token_unknown && !is_for_anybody(request.method(), path) {
        return Err(unknown_session());
    }
    let is_restricted = caller.session.as_ref().is_some_and(|session| session.caps.is_some());
    if is_restricted && is_for_the_person(path) {
        let message =
            "a session with a list of capabilities looks after neither the outbox nor the daemon";
        return Err(
            Failure::new(ErrorCode::Forbidden, message).hint("run it outside of this session")
        );
    }
    Ok(())
}

/// Routes that no capability names: the outbox holds what siblings and the member wrote, and sends it in their names; the
/// daemon serves them all.
fn is_for_the_person(path: &str) -> bool {
    path == "/v1/outbox" || path.starts_with("/v1/outbox/") || path.starts_with("/v1/admin/")
}

/// Where it does not matter whose token came: what says nothing about anybody, and how a session becomes known or ends.
/// Anywhere else a session that the daemon has lost would do what only its member may: it is refused instead of counting
/// as no session.
fn is_for_anybody(method: &Method, path: &str) -> bool {
    match path {
        "/v1/health"
        | "/v1/version"
        | "/v1/compat"
        | "/v1/metrics"
        | "/v1/ops"
        | "/v1/sessions/register" => true,
        "/v1/sessions/me" => false,
        // The path names the session by its token.
        _ => *method == Method::DELETE && path.starts_with("/v1/sessions/"),
    }
}

fn unknown_session() -> Failure {
    Failure::new(ErrorCode::UnknownSession, "this session is not registered with the daemon")
        .hint("its MCP server registers it again within seconds; outside of a session, unset CLAUDEMESH_IPC_TOKEN_FILE")
}

fn is_exempt(path: &str) -> bool {
    matches!(path, "/v1/health" | "/v1/version" | "/v1/metrics" | "/v1/sessions/status")
}

/// Order and codes of daemon spec §9.3.
fn check_headers(uri: &Uri, method: &Method, headers: &HeaderMap) -> Result<(), Failure> {
    if query_has_token(uri.query().unwrap_or_default()) {
        tracing::warn!("ipc_token_in_query_string_rejected");
        return Err(Failure::new(ErrorCode::TokenInQuery, "a token must not stand in the URL"));
    }
    if !headers.get(HOST).is_none_or(is_loopback_host) {
        return Err(Failure::new(ErrorCode::ForbiddenHost, "this host name is not served here"));
    }
    if headers.contains_key(ORIGIN) {
        return Err(Failure::new(ErrorCode::ForbiddenOrigin, "browsers are not served here"));
    }
    if *method == Method::OPTIONS {
        return Err(Failure::new(ErrorCode::ForbiddenOrigin, "OPTIONS is not served here"));
    }
    if has_body(headers) && !headers.get(CONTENT_TYPE).is_some_and(is_json) {
        return Err(Failure::new(
            ErrorCode::UnsupportedMediaType,
            "the body must be application/json",
        ));
    }
    let is_repeated = |name| headers.get_all(name).iter().nth(1).is_some();
    if is_repeated(HOST) || is_repeated(AUTHORIZATION) {
        return Err(Failure::new(ErrorCode::BadRequest, "a header stands there twice"));
    }
    if *method == Method::HEAD {
        return Err(Failure::new(ErrorCode::MethodNotAllowed, "HEAD is not served here"));
    }
    Ok(())
}

fn query_has_token(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = super::input::percent_decoded(name).to_ascii_lowercase();
        matches!(name.as_str(), "token" | "access_token" | "authorization")
    })
}

/// `localhost`, `127.0.0.1` or `::1` with any port; an empty value counts as absent.
fn is_loopback_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    if text.is_empty() {
        return true;
    }
    let Ok(authority) = text.parse::<hyper::http::uri::Authority>() else { return false };
    if text.contains('@') {
        return false;
    }
    let host = authority.host();
    host.eq_ignore_ascii_case("localhost") || matches!(host, "127.0.0.1" | "[::1]")
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    length || headers.contains_key(TRANSFER_ENCODING)
}

fn is_json(value: &HeaderValue) -> bool {
    let media_type = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn finish(mut response: Response, request_id: &str, is_token_unknown: bool) -> Response {
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        let allow = response.headers().get(ALLOW).cloned();
        response = failure.into_answer(request_id);
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    if is_token_unknown {
        headers.insert(SESSION_STATE_HEADER, HeaderValue::from_static("unknown"));
    }
    if let Ok(value) = request_id.parse() {
        headers.insert("x-request-id", value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, uri: &'static str, headers: &[(&'static str, &'static str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        match check_headers(&Uri::from_static(uri), method, &map) {
            Ok(()) => 200,
            Err(failure) => failure.into_answer("r").status().as_u16(),
        }
    }

    /// Daemon §9: matrix test: token in query, Host `evil.com`, Host `[::1]:47823`, Origin set, OPTIONS.
    #[test]
    fn header_rules_hold_in_their_order() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:47823", "[::1]:47823", "[::1]", ""] {
            assert_eq!(check(&Method::GET, "/v1/health", &[("host", host)]), 200, "{host}");
        }
        assert_eq!(check(&Method::GET, "/v1/health", &[]), 200);
        for host in [
            "evil.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "a@localhost",
            "::1",
            "[::2]",
            "%",
        ] {
            assert_eq!(check(&Method::GET, "/v1/health", &[("host", host)]), 403, "{host}");
        }
        for query in ["?token=x", "?a=1&access_token=x", "?Authorization", "?%74oken=x"] {
            let uri: &'static str = Box::leak(format!("/v1/health{query}").into_boxed_str());
            assert_eq!(check(&Method::OPTIONS, uri, &[("host", "evil.com")]), 400, "{query}");
        }
        assert_eq!(check(&Method::GET, "/v1/health", &[("origin", "http://localhost")]), 403);
        assert_eq!(check(&Method::OPTIONS, "/v1/health", &[]), 403);
        let long = ("content-length", "2");
        assert_eq!(check(&Method::POST, "/v1/send", &[long]), 415);
        assert_eq!(check(&Method::POST, "/v1/send", &[long, ("content-type", "text/plain")]), 415);
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(check(&Method::POST, "/v1/send", &[long, json]), 200);
        assert_eq!(check(&Method::GET, "/", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(
            check(&Method::GET, "/", &[("authorization", "a"), ("authorization", "a")]),
            400
        );
        assert_eq!(check(&Method::HEAD, "/v1/health", &[]), 405);
    }
}

//! What every request passes before its handler: header rules, limits, authentication (daemon spec §9.2–9.5); and
//! what every answer gets on its way out.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
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
use parking_lot::{Mutex, RwLock};

use super::caller::{Bearer, Caller, Transport, bearer};
use super::failure::Failure;
use super::routes::{Mark, Route};
use super::slots::Slot;
use super::{Api, RESERVED_IN_FLIGHT};
use crate::sessions::TokenHash;
use crate::settings::IpcSettings;

/// Requests per caller, as many as the settings in force allow.
pub(super) struct Rate {
    limiter: RwLock<Limiter>,
}

struct Limiter {
    per_second: u32,
    burst: u32,
    callers: DefaultKeyedRateLimiter<Identity>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identity {
    Session(TokenHash),
    Process(i32),
    /// Whoever has the local token.
    Tcp,
    /// Whoever says of himself nothing that is true.
    Unknown,
}

/// Callers remembered before those at rest are forgotten.
const IDENTITIES_MAX: usize = 4_096;

impl Rate {
    pub(super) fn new(ipc: &IpcSettings) -> Self {
        Self { limiter: RwLock::new(Limiter::new(ipc)) }
    }

    /// Callers begin anew when a reload has changed the rate.
    fn check(&self, ipc: &IpcSettings, identity: Identity) -> Result<(), Failure> {
        if !self.limiter.read().is_of(ipc) {
            *self.limiter.write() = Limiter::new(ipc);
        }
        let callers = &self.limiter.read().callers;
        if callers.len() > IDENTITIES_MAX {
            callers.retain_recent();
        }
        callers.check_key(&identity).map_err(|not_until| {
            Failure::new(ErrorCode::RateLimited, "too many requests")
                .retry_after(not_until.wait_time_from(DefaultClock::default().now()))
        })
    }
}

impl Limiter {
    fn new(ipc: &IpcSettings) -> Self {
        let (per_second, burst) = (ipc.rate_per_sec, ipc.rate_burst);
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        Self { per_second, burst, callers: RateLimiter::keyed(quota) }
    }

    const fn is_of(&self, ipc: &IpcSettings) -> bool {
        self.per_second == ipc.rate_per_sec && self.burst == ipc.rate_burst
    }
}

/// What a path without a route counts as: whatever a stranger asks for is one series.
const NO_ROUTE: &str = "unmatched";
/// Least time between two warnings about wrong local tokens.
const MISMATCH_EVERY: Duration = Duration::from_mins(1);

/// Wrong local tokens, told once a minute at most.
#[derive(Default)]
pub(super) struct Mismatches(Mutex<(u64, Option<Instant>)>);

impl Mismatches {
    fn note(&self, code: &str) {
        let mut noted = self.0.lock();
        noted.0 += 1;
        if noted.1.is_none_or(|last| last.elapsed() >= MISMATCH_EVERY) {
            tracing::warn!(code, count = noted.0, "ipc_bearer_mismatch");
            *noted = (0, Some(Instant::now()));
        }
    }
}

pub(super) async fn gate(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let request_id = crate::ids::next();
    let transport = request.extensions().get::<Transport>().copied();
    let mut is_token_unknown = false;
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = Route::of(path);
    let admitted = admit(&api, &request, route);
    let response = match admitted {
        Err(failure) => failure.into_answer(&request_id),
        Ok((caller, _slot)) => {
            is_token_unknown = caller.is_token_unknown;
            if let Err(failure) = check_route(&api, &caller, route) {
                failure.into_answer(&request_id)
            } else {
                request.extensions_mut().insert(caller);
                next.run(request).await
            }
        }
    };
    let response = finish(response, &request_id, is_token_unknown);
    let endpoint = route.map_or(NO_ROUTE, |route| route.path);
    let transport = transport.map_or("", Transport::as_str);
    let figures = &api.daemon.context().figures;
    // A stream counts until its head is out.
    figures.answered(endpoint, response.status().as_u16(), transport, began.elapsed());
    response
}

fn admit(
    api: &Arc<Api>,
    request: &Request,
    route: Option<&Route>,
) -> Result<(Caller, Slot), Failure> {
    check_headers(request.uri(), request.method(), request.headers())?;
    let transport = request
        .extensions()
        .get::<Transport>()
        .copied()
        .ok_or_else(|| Failure::new(ErrorCode::Internal, "the connection has no other end"))?;
    let context = api.daemon.context();
    let settings = context.settings.get();
    let bearer = match bearer(request.headers(), transport, &context.local_token) {
        Ok(bearer) => bearer,
        Err(failure) => {
            if transport == Transport::Tcp {
                // Whoever guesses is slowed down, and does not slow down those who know.
                api.rate.check(&settings.ipc, Identity::Unknown)?;
                api.mismatches.note(failure.code());
            }
            return Err(failure);
        }
    };
    let token = match &bearer {
        Bearer::Person | Bearer::Hook(_) => None,
        Bearer::Session(token) => Some(TokenHash::of(token)),
    };
    let identity = match (token, transport) {
        (Some(hash), _) => Identity::Session(hash),
        (None, Transport::Socket(Some(pid))) => Identity::Process(pid),
        (None, Transport::Socket(None)) => Identity::Unknown,
        (None, Transport::Tcp) => Identity::Tcp,
    };
    api.rate.check(&settings.ipc, identity)?;
    if api.daemon.is_stopping() {
        return Err(Failure::new(ErrorCode::ShuttingDown, "the daemon is stopping"));
    }
    // A stream leaves the gate at once; it is counted by its own limit.
    let slot = match route {
        Some(route) if route.has(Mark::Lasting) => api.take_stream()?,
        Some(route) if route.has(Mark::Reserved) => {
            api.reserved.take(RESERVED_IN_FLIGHT).ok_or_else(too_busy)?
        }
        _ => api.in_flight.take(settings.ipc.max_inflight).ok_or_else(too_busy)?,
    };
    let session = token.and_then(|hash| context.sessions.by_token(hash, crate::clock::now()));
    let is_token_unknown = token.is_some() && session.is_none();
    let hook = match &bearer {
        Bearer::Hook(token) => Some(api.daemon.hooks().admit(token)?),
        Bearer::Person | Bearer::Session(_) => None,
    };
    Ok((Caller { session, is_token_unknown, hook, transport }, slot))
}

fn too_busy() -> Failure {
    Failure::new(ErrorCode::DaemonBusy, "too many requests are in flight")
        .retry_after(Duration::from_secs(1))
}

/// What the route asks of its caller, before its handler asks for a capability. A path without a route is no secret: it is
/// answered by 404 once the caller is known.
fn check_route(api: &Api, caller: &Caller, route: Option<&Route>) -> Result<(), Failure> {
    let is = |mark| route.is_some_and(|route| route.has(mark));
    if caller.transport == Transport::Tcp && route.is_some() && !is(Mark::OverTcp) {
        let message = "this is served over the Unix socket only";
        return Err(Failure::new(ErrorCode::UdsOnly, message));
    }
    if caller.hook.is_some() && !is(Mark::ForHooks) {
        let message = "a hook's token is good for sending only";
        return Err(Failure::new(ErrorCode::ScopeMissing, message));
    }
    if caller.is_token_unknown && !is(Mark::ForAnybody) {
        return Err(unknown_session());
    }
    let is_restricted = caller.session.as_ref().is_some_and(|session| session.caps.is_some());
    if is_restricted && is(Mark::ForThePerson) {
        let message =
            "a session with a list of capabilities looks after neither the outbox nor the daemon";
        return Err(
            Failure::new(ErrorCode::Forbidden, message).hint("run it outside of this session")
        );
    }
    if let Some(family) = route.and_then(|route| route.family) {
        crate::ops::need_family(api, family)?;
    }
    Ok(())
}

fn unknown_session() -> Failure {
    Failure::new(ErrorCode::UnknownSession, "this session is not registered with the daemon")
        .hint("its MCP server registers it again within seconds; outside of a session, unset CLAUDEMESH_IPC_TOKEN_FILE")
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

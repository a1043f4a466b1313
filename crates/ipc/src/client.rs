//! Requests to the daemon: HTTP/1.1 over its Unix socket, one connection for each request, no background task.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::ops::OperationKind;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::net::UnixStream;

use crate::api::{self, SESSION_SCHEME};
use crate::error::{ApiError, IpcError};
use crate::events::EventStream;
use crate::paths::Paths;
use crate::token::SessionToken;

use self::query::{encoded, with_query};
pub use self::stand_in::StandIn;
pub use self::stream::Opener;
use self::stream::{Road, Stream};

mod admin;
mod bell;
mod hooks;
mod identity;
mod outbox;
mod query;
mod stand_in;
mod stream;

/// Time for a call when the caller says nothing (CLI spec §1.15).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the call that finds out whether a daemon is there (CLI spec §1.15).
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(2500);
/// How much longer than the operation itself a call waits for its answer.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
/// Pause between two calls of a session that is not known yet.
const PATIENCE_STEP: Duration = Duration::from_millis(200);
/// Largest answer, in bytes (daemon spec §9.5).
pub const ANSWER_MAX_BYTES: usize = 10 * 1024 * 1024;

/// A client of one daemon. Cheap to clone; calls may run side by side.
///
/// # Cancel safety
/// A dropped call closes its connection; whether a write happened is then unknown, a send may be repeated under the
/// same id.
#[derive(Clone)]
pub struct Client {
    road: Road,
    token: Option<SessionToken>,
    timeout: Duration,
    /// How long a session that the daemon does not know is waited for.
    patience: Duration,
}

impl Client {
    /// A client of the daemon listening at `socket`, without a session.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::on(Road::Socket(socket.into()))
    }

    const fn on(road: Road) -> Self {
        Self { road, token: None, timeout: DEFAULT_TIMEOUT, patience: Duration::ZERO }
    }

    /// A client that opens its connections with `open`, for a daemon in the same process, without a session.
    pub fn over(open: Opener) -> Self {
        Self::on(Road::Opened(open))
    }

    /// A client without a daemon, for which `stand_in` answers what it can.
    pub fn answered_by(stand_in: Arc<dyn StandIn>) -> Self {
        Self::on(Road::StandIn(stand_in))
    }

    /// Whether a daemon answers, or somebody in its place.
    pub const fn has_daemon(&self) -> bool {
        !matches!(self.road, Road::StandIn(_))
    }

    /// A client of the daemon of `paths`, with the session token of this process when there is one.
    ///
    /// # Errors
    /// `sock.path` cannot be read.
    pub fn for_paths(paths: &Paths) -> io::Result<Self> {
        Ok(Self::new(paths.socket()?).with_token(SessionToken::from_env()))
    }

    /// The same with another session, or none.
    #[must_use]
    pub fn with_token(mut self, token: Option<SessionToken>) -> Self {
        self.token = token;
        self
    }

    /// The same with another time limit for each call.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same, and a call that the daemon refuses because it does not know the session is made again for so long: a
    /// daemon that lost its list of sessions learns it from their servers. A refused call has changed nothing.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The session this client speaks for.
    pub const fn token(&self) -> Option<&SessionToken> {
        self.token.as_ref()
    }

    /// `GET /v1/version`; refuses a daemon with another API version.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn version(&self) -> Result<api::Version, IpcError> {
        let version: api::Version = self.get("/v1/version", &()).await?;
        if version.ipc_api == api::IPC_API {
            Ok(version)
        } else {
            Err(IpcError::Incompatible(version.ipc_api))
        }
    }

    /// `GET /v1/compat`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn compat(&self) -> Result<api::system::Compat, IpcError> {
        self.get("/v1/compat", &()).await
    }

    /// `GET /v1/health`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn health(&self) -> Result<api::Health, IpcError> {
        self.get("/v1/health", &()).await
    }

    /// `POST /v1/heartbeat`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn heartbeat(&self, sign: &api::session::Heartbeat) -> Result<(), IpcError> {
        self.post::<Value>("/v1/heartbeat", sign).await.map(|_| ())
    }

    /// `POST /v1/send`.
    ///
    /// # Errors
    /// [`IpcError`]; `idempotency_conflict` carries `row_status`, `detail` and `daemon_fingerprint_prefix`.
    pub async fn send(&self, request: &api::SendRequest) -> Result<api::SendReply, IpcError> {
        if let Road::StandIn(stand_in) = &self.road {
            return stand_in.send(request).await;
        }
        self.post("/v1/send", request).await
    }

    /// `POST /v1/broadcast`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn broadcast(
        &self,
        request: &api::send::BroadcastRequest,
    ) -> Result<api::SendReply, IpcError> {
        self.post("/v1/broadcast", request).await
    }

    /// `GET /v1/inbox`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn inbox(&self, query: &api::InboxQuery) -> Result<api::InboxPage, IpcError> {
        self.get("/v1/inbox", query).await
    }

    /// `GET /v1/inbox/search`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn inbox_search(
        &self,
        query: &api::inbox::SearchQuery,
    ) -> Result<api::inbox::SearchPage, IpcError> {
        self.get("/v1/inbox/search", query).await
    }

    /// `POST /v1/inbox/seen`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn inbox_seen(
        &self,
        request: &api::inbox::SeenRequest,
    ) -> Result<api::inbox::SeenReply, IpcError> {
        self.post("/v1/inbox/seen", request).await
    }

    /// `DELETE /v1/inbox`.
    ///
    /// # Errors
    /// [`IpcError`]; `missing_filter` without one.
    pub async fn inbox_flush(
        &self,
        query: &api::inbox::FlushQuery,
    ) -> Result<api::inbox::Removed, IpcError> {
        self.call(Method::DELETE, &with_query("/v1/inbox", query)?, None::<&()>).await
    }

    /// `DELETE /v1/inbox/<id>`.
    ///
    /// # Errors
    /// [`IpcError`]; `not_found`.
    pub async fn inbox_delete(&self, id: &str) -> Result<api::inbox::Removed, IpcError> {
        self.call(Method::DELETE, &format!("/v1/inbox/{}", encoded(id)), None::<&()>).await
    }

    /// `GET /v1/peers`; `mesh` of `None` asks all meshes, `all` shows control-plane presences too.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn peers(
        &self,
        mesh: Option<&str>,
        which: PeerFilter,
    ) -> Result<api::PeersReply, IpcError> {
        #[derive(Serialize)]
        struct Query<'a> {
            mesh: Option<&'a str>,
            all: Option<bool>,
        }
        let all = (which == PeerFilter::WithControlPlane).then_some(true);
        if !self.has_daemon() {
            let args = all.map(|all| ("all".to_owned(), Value::from(all))).into_iter().collect();
            return read_value(self.op(OperationKind::PeerList, mesh, args).await?.result);
        }
        self.get("/v1/peers", &Query { mesh, all }).await
    }

    /// Operation `member.list`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn members(&self, mesh: Option<&str>) -> Result<api::MembersReply, IpcError> {
        let reply = self.op(OperationKind::MemberList, mesh, Map::new()).await?;
        read_value(reply.result)
    }

    /// Operation `group.join`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn group_join(
        &self,
        mesh: Option<&str>,
        name: &str,
        role: Option<&str>,
    ) -> Result<api::OpReply, IpcError> {
        let mut args = Map::from_iter([("name".to_owned(), Value::from(name))]);
        if let Some(role) = role {
            args.insert("role".to_owned(), Value::from(role));
        }
        self.op(OperationKind::GroupJoin, mesh, args).await
    }

    /// Operation `peer.unblock-loop`: lifts the stop of a loop with a peer.
    ///
    /// # Errors
    /// [`IpcError`]; `target_not_found`, `ambiguous_target`.
    pub async fn unblock_loop(
        &self,
        mesh: Option<&str>,
        peer: &str,
    ) -> Result<api::OpReply, IpcError> {
        let args = Map::from_iter([("peer".to_owned(), Value::from(peer))]);
        self.op(OperationKind::PeerUnblockLoop, mesh, args).await
    }

    /// Operation `message.status`: broker id, client id, outbox id, or a prefix of at least 8 characters.
    ///
    /// # Errors
    /// [`IpcError`]; `not_found`.
    pub async fn message_status(
        &self,
        mesh: Option<&str>,
        id: &str,
    ) -> Result<api::OpReply, IpcError> {
        let args = Map::from_iter([("messageId".to_owned(), Value::from(id))]);
        self.op(OperationKind::MessageStatus, mesh, args).await
    }

    /// `POST /v1/ops/<op>`: any operation of the table. An argument may have its wire name or its tool name. The call
    /// takes as long as the operation may, and a little more, so that the daemon's own answer to a timeout arrives.
    ///
    /// # Errors
    /// [`IpcError`]: `invalid_field` and `missing_field` name the `field`, `forbidden` the `cap`; `mesh_required` lists
    /// `attached`; `outcome_unknown` after a write whose answer was lost; the broker's own codes.
    pub async fn op(
        &self,
        op: OperationKind,
        mesh: Option<&str>,
        args: Map<String, Value>,
    ) -> Result<api::OpReply, IpcError> {
        if let Road::StandIn(stand_in) = &self.road {
            return stand_in.operate(op, mesh, args).await;
        }
        let spec = op.spec();
        let body = api::system::OpRequest { mesh: mesh.map(str::to_owned), args };
        let patient = self.clone().with_timeout(self.timeout.max(spec.timeout + ANSWER_MARGIN));
        patient.post(&format!("/v1/ops/{}", encoded(spec.name)), &body).await
    }

    /// `GET /v1/ops`: the operations of this daemon.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn operations(&self) -> Result<api::system::OpsReply, IpcError> {
        self.get("/v1/ops", &()).await
    }

    /// `POST /v1/profile`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn profile(
        &self,
        request: &api::ProfileRequest,
    ) -> Result<api::ProfileReply, IpcError> {
        self.post("/v1/profile", request).await
    }

    /// `POST /v1/sessions/register`.
    ///
    /// # Errors
    /// [`IpcError`]; `invalid_field`, `mesh_not_attached`, `pid_not_ours`, `too_many_sessions`.
    pub async fn register_session(
        &self,
        request: &api::RegisterRequest,
    ) -> Result<api::RegisterReply, IpcError> {
        self.post("/v1/sessions/register", request).await
    }

    /// `GET /v1/sessions/me`.
    ///
    /// # Errors
    /// [`IpcError`]; `unknown_session`.
    pub async fn session(&self) -> Result<api::SessionView, IpcError> {
        let reply: api::session::SessionReply = self.get("/v1/sessions/me", &()).await?;
        Ok(reply.session)
    }

    /// `GET /v1/sessions`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn sessions(&self) -> Result<Vec<api::SessionView>, IpcError> {
        let reply: api::session::SessionsReply = self.get("/v1/sessions", &()).await?;
        Ok(reply.sessions)
    }

    /// `POST /v1/sessions/status`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn session_status(
        &self,
        report: &api::StatusReport,
    ) -> Result<api::StatusReply, IpcError> {
        self.post("/v1/sessions/status", report).await
    }

    /// `DELETE /v1/sessions/me`.
    ///
    /// # Errors
    /// [`IpcError`]; `unknown_session`.
    pub async fn deregister_session(&self) -> Result<api::session::DeregisterReply, IpcError> {
        self.call(Method::DELETE, "/v1/sessions/me", None::<&()>).await
    }

    /// `GET /v1/events`; with `last_event_id` what was missed comes first, or a `lagged` event.
    ///
    /// # Errors
    /// [`IpcError`]; `unknown_session`, `too_many_streams`.
    pub async fn events(
        &self,
        query: &api::EventsQuery,
        last_event_id: Option<&str>,
    ) -> Result<EventStream, IpcError> {
        let path = with_query("/v1/events", query)?;
        let mut request = self.request(Method::GET, &path, Bytes::new())?;
        if let Some(value) = last_event_id.and_then(|id| id.parse().ok()) {
            request.headers_mut().insert("last-event-id", value);
        }
        let opened = async {
            let (mut sender, connection) = self.connect().await?;
            let mut connection: crate::events::Driver = Box::pin(connection);
            let response = drive(&mut connection, sender.send_request(request)).await?;
            if response.status().is_success() {
                return Ok(EventStream::new(connection, response.into_body(), sender));
            }
            let status = response.status().as_u16();
            let retry_after = retry_after(&response);
            let body = drive(&mut connection, read_body(response)).await?;
            Err(refusal(status, retry_after, &body))
        };
        within(self.timeout, opened).await
    }

    /// Any `GET` route.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, IpcError> {
        self.call(Method::GET, &with_query(path, query)?, None::<&()>).await
    }

    /// Any `POST` route.
    ///
    /// # Errors
    /// [`IpcError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, IpcError> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, IpcError> {
        let body = match body {
            None => Bytes::new(),
            Some(body) => serde_json::to_vec(body)
                .map_err(|error| IpcError::Malformed(error.to_string()))?
                .into(),
        };
        let deadline = Instant::now() + self.patience;
        loop {
            let request = self.request(method.clone(), path, body.clone())?;
            // Whoever calls holds the future of every call it might make.
            let answer = Box::pin(self.exchange(request)).await;
            let is_unknown =
                answer.as_ref().is_err_and(|error| error.is(ErrorCode::UnknownSession));
            if !is_unknown || self.token.is_none() || Instant::now() >= deadline {
                return answer;
            }
            tokio::time::sleep(PATIENCE_STEP).await;
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<T, IpcError> {
        let body = self.fetch(request).await?;
        serde_json::from_slice(&body).map_err(|error| IpcError::Malformed(error.to_string()))
    }

    async fn fetch(&self, request: Request<Full<Bytes>>) -> Result<Bytes, IpcError> {
        let exchange = async {
            let (mut sender, connection) = self.connect().await?;
            let mut connection = pin!(connection);
            let response = drive(&mut connection, sender.send_request(request)).await?;
            let status = response.status();
            let retry_after = retry_after(&response);
            let body = drive(&mut connection, read_body(response)).await?;
            if !status.is_success() {
                return Err(refusal(status.as_u16(), retry_after, &body));
            }
            Ok(body)
        };
        within(self.timeout, exchange).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, IpcError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("{SESSION_SCHEME} {}", token.reveal()));
        }
        request.body(Full::new(body)).map_err(|error| IpcError::Malformed(error.to_string()))
    }

    async fn connect(
        &self,
    ) -> Result<
        (http1::SendRequest<Full<Bytes>>, http1::Connection<TokioIo<Stream>, Full<Bytes>>),
        IpcError,
    > {
        let stream = match &self.road {
            Road::Socket(path) => UnixStream::connect(path).await.map(Stream::Socket),
            Road::Opened(open) => open().map(Stream::Opened),
            Road::StandIn(_) => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let stream = stream.map_err(IpcError::NotRunning)?;
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| IpcError::Broken(error.into()))
    }
}

/// Which presences `peers` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerFilter {
    /// Sessions, services, and members that have none.
    #[default]
    Reachable,
    /// Control-plane presences too.
    WithControlPlane,
}

/// Runs `work` while the connection moves its bytes.
async fn drive<T, E>(
    connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, IpcError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut work = pin!(work);
    let ended = tokio::select! {
        biased;
        result = &mut work => return result.map_err(|error| IpcError::Broken(error.into())),
        ended = connection => ended,
    };
    // The connection may end while the last bytes of the answer are still unread; the answer decides then.
    match (work.await, ended) {
        (Ok(value), _) => Ok(value),
        (Err(_), Err(error)) => Err(IpcError::Broken(error.into())),
        (Err(error), Ok(())) => Err(IpcError::Broken(error.into())),
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, IpcError>>,
) -> Result<T, IpcError> {
    tokio::time::timeout(limit, work).await.map_err(|_| IpcError::TimedOut(limit))?
}

async fn read_body(
    response: Response<Incoming>,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await?.to_bytes())
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn refusal(status: u16, retry_after: Option<Duration>, body: &[u8]) -> IpcError {
    match serde_json::from_slice(body) {
        Ok(body) => ApiError { status, body: Box::new(body), retry_after }.into(),
        Err(_) => IpcError::Malformed(format!("status {status} without an error body")),
    }
}

fn read_value<T: DeserializeOwned>(value: Value) -> Result<T, IpcError> {
    serde_json::from_value(value).map_err(|error| IpcError::Malformed(error.to_string()))
}

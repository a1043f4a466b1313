//! A local API that answers what the MCP server asks, remembers what it was asked, and sends what a test tells it to.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, body::Bytes};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Key of every session registered here.
pub const SESSION_KEY: &str = "7d3f000000000000000000000000000000000000000000000000000000000001";
/// Key of the member.
pub const MEMBER_KEY: &str = "e8e7000000000000000000000000000000000000000000000000000000000002";
/// When every session was registered.
pub const REGISTERED_AT: &str = "2026-01-01T00:00:00.000Z";

type Query1 = Query<BTreeMap<String, String>>;

/// What the daemon remembers.
pub struct Memory {
    pub meshes: Vec<String>,
    pub known_tokens: BTreeSet<String>,
    pub registrations: Vec<Value>,
    pub deregistered: u32,
    /// Query and `Last-Event-ID` of each stream.
    pub streams: Vec<(String, Option<String>)>,
    /// Rows answered to `GET /v1/inbox`, newest first.
    pub inbox: Vec<Value>,
    pub peers: Option<Vec<Value>>,
    pub mode: String,
    pub seen: Vec<String>,
    /// The way of each of them, as the marks say.
    pub seen_paths: Vec<String>,
    /// Refusal of the next registrations, by code.
    pub refuse_registration: Option<(u16, &'static str)>,
    pub replaced: bool,
    /// Operations asked for: name, body, and whether the session's token came along.
    pub ops: Vec<(String, Value, bool)>,
    /// Bodies of `POST /v1/heartbeat`.
    pub heartbeats: Vec<Value>,
    /// Operations that are being worked on, and the most there were at once.
    pub working: (usize, usize),
    /// What an operation is answered with.
    pub answer: OpAnswer,
    next_id: u64,
}

/// How the daemon answers operations.
#[derive(Clone)]
pub enum OpAnswer {
    /// With this result.
    Result(Value),
    /// With this status and error body.
    Refusal(u16, Value),
    /// Not before [`Daemon::release`]; then with an empty result.
    Held,
    /// Not before [`Daemon::release`]; then the connection breaks.
    Broken,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            meshes: vec!["dev".into()],
            known_tokens: BTreeSet::new(),
            registrations: Vec::new(),
            deregistered: 0,
            streams: Vec::new(),
            inbox: Vec::new(),
            peers: Some(Vec::new()),
            mode: "push".into(),
            seen: Vec::new(),
            seen_paths: Vec::new(),
            refuse_registration: None,
            replaced: false,
            ops: Vec::new(),
            heartbeats: Vec::new(),
            working: (0, 0),
            answer: OpAnswer::Result(json!({})),
            next_id: 0,
        }
    }
}

#[derive(Clone)]
struct Shared {
    memory: Arc<Mutex<Memory>>,
    changed: watch::Sender<()>,
    frames: broadcast::Sender<String>,
    cut: Arc<Mutex<CancellationToken>>,
    release: Arc<Mutex<CancellationToken>>,
}

/// The daemon; everything of it ends when it is dropped.
pub struct Daemon {
    shared: Shared,
    dir: tempfile::TempDir,
    stop: Mutex<CancellationToken>,
    tasks: TaskTracker,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.lock().cancel();
    }
}

impl Daemon {
    /// A daemon that is not listening yet.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// The same, after `change`.
    pub fn with(change: impl FnOnce(&mut Memory)) -> Self {
        let mut memory = Memory::default();
        change(&mut memory);
        let shared = Shared {
            memory: Arc::new(Mutex::new(memory)),
            changed: watch::Sender::new(()),
            frames: broadcast::Sender::new(4096),
            cut: Arc::new(Mutex::new(CancellationToken::new())),
            release: Arc::new(Mutex::new(CancellationToken::new())),
        };
        let dir = tempfile::tempdir().unwrap();
        Self { shared, dir, stop: Mutex::default(), tasks: TaskTracker::new() }
    }

    /// Home directory in which the server finds it.
    pub fn home(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// Begins to listen.
    pub fn start(&self) {
        let dir = self.dir.path().join(".claudemesh/daemon");
        std::fs::create_dir_all(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("daemon.sock")).unwrap();
        let router = Router::new()
            .route("/v1/health", get(health))
            .route("/v1/sessions/register", post(register))
            .route("/v1/sessions/me", get(session).delete(deregister))
            .route("/v1/heartbeat", post(heartbeat))
            .route("/v1/peers", get(peers))
            .route("/v1/inbox", get(inbox))
            .route("/v1/inbox/seen", post(seen))
            .route("/v1/events", get(events))
            .route("/v1/ops/{op}", post(operation))
            .with_state(self.shared.clone());
        let stop = self.stop.lock().clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(axum::serve(listener, router).into_future()).await;
        });
    }

    /// Reads the memory.
    pub fn see<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.shared.memory.lock())
    }

    /// Changes the memory.
    pub fn change(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.shared.memory.lock());
    }

    /// Waits until `holds`, at most 10 s.
    pub async fn until(&self, what: &str, holds: impl Fn(&Memory) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            while !self.see(&holds) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Waits until the server listens to events.
    pub async fn until_listening(&self) {
        self.until("a stream", |memory| !memory.streams.is_empty()).await;
    }

    /// Sends an event with the next id.
    pub fn emit(&self, kind: &str, data: &Value) {
        let id = {
            let mut memory = self.shared.memory.lock();
            memory.next_id += 1;
            memory.next_id
        };
        let _ =
            self.shared.frames.send(format!("id: boot0001-{id}\nevent: {kind}\ndata: {data}\n\n"));
    }

    /// Stores a message as unread and sends its event.
    pub fn deliver(&self, row: &Value) {
        self.change(|memory| memory.inbox.insert(0, row.clone()));
        self.emit("message", row);
    }

    /// Ends as a killed process does: nobody listens, streams break, calls under way get no answer.
    pub fn kill(&self) {
        std::mem::take(&mut *self.stop.lock()).cancel();
        std::fs::remove_file(self.dir.path().join(".claudemesh/daemon/daemon.sock")).unwrap();
        self.change(|memory| {
            if matches!(memory.answer, OpAnswer::Held) {
                memory.answer = OpAnswer::Broken;
            }
        });
        self.release();
        self.cut_streams();
    }

    /// Lets operations that are held have their end.
    pub fn release(&self) {
        std::mem::take(&mut *self.shared.release.lock()).cancel();
    }

    /// Ends every open stream.
    pub fn cut_streams(&self) {
        std::mem::take(&mut *self.shared.cut.lock()).cancel();
    }
}

/// An inbox row; `change` overrides fields.
pub fn row(number: u32, body: &str, change: &Value) -> Value {
    let mut row = json!({
        "id": format!("01J{number:05}"), "client_message_id": format!("cm-{number}"),
        "broker_message_id": format!("Q{number}"), "mesh": "dev", "channel": "dm", "topic": null,
        "sender_pubkey": "aa".repeat(32), "sender_member_pubkey": "bb".repeat(32), "sender_name": "mou",
        "priority": "next", "subtype": null, "body": body, "meta": null, "mentions": [], "decrypt": "ok",
        "reply_to_id": null, "created_at": "2026-01-01T00:00:01.000Z",
        "received_at": format!("2026-01-01T00:{:02}:{:02}.000Z", number / 60 % 60, number % 60),
        "seen_at": null, "pushed_at": null, "digest": false, "addressed_to": null,
        "recipient_pubkey": SESSION_KEY, "recipient_kind": "session", "transport": "broker", "hops": 0,
        "sender_verified": true,
    });
    for (key, value) in change.as_object().unwrap() {
        row[key] = value.clone();
    }
    row
}

fn refusal(status: u16, code: &str) -> Response {
    let body = json!({"error": code, "message": code, "request_id": "r"});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    Some(value.strip_prefix("ClaudeMesh-Session ")?.to_owned())
}

fn view(memory: &Memory, registration: Option<&Value>) -> Value {
    let name = registration.and_then(|request| request["display_name"].as_str()).unwrap_or("Ben");
    json!({"session_id": registration.map_or(json!("s-1"), |request| request["session_id"].clone()),
        "mesh": "dev", "display_name": name, "pid": 1, "cwd": null, "role": null, "groups": [],
        "message_mode": memory.mode, "caps": null, "session_pubkey": SESSION_KEY, "member_pubkey": MEMBER_KEY,
        "broker_status": "open", "registered_at": REGISTERED_AT, "token_prefix": "00000000"})
}

async fn health(State(shared): State<Shared>) -> Json<Value> {
    let memory = shared.memory.lock();
    let mesh = |slug: &String| {
        json!({"slug": slug, "status": "open", "lag_ms": 1, "member_pubkey": MEMBER_KEY, "queue_depth": 0,
            "inflight": 0, "dead": 0, "sessions": 0})
    };
    let meshes: Vec<Value> = memory.meshes.iter().map(mesh).collect();
    Json(json!({"ok": true, "pid": 1, "uptime_s": 1, "daemon_version": "0", "degraded": false,
        "degraded_reasons": [], "brokers": {}, "meshes": meshes, "schema_version": 1}))
}

async fn register(State(shared): State<Shared>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut memory = shared.memory.lock();
    let token = request["token"].as_str().unwrap().to_owned();
    memory.registrations.push(request);
    shared.changed.send_replace(());
    if let Some((status, code)) = memory.refuse_registration {
        return refusal(status, code);
    }
    memory.known_tokens.insert(token);
    Json(json!({"ok": true, "registered_at": REGISTERED_AT, "presence_accepted": true,
        "session_pubkey": SESSION_KEY, "replaced": memory.replaced}))
    .into_response()
}

async fn session(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let memory = shared.memory.lock();
    match token(&headers) {
        Some(token) if memory.known_tokens.contains(&token) => {
            Json(json!({"session": view(&memory, memory.registrations.last())})).into_response()
        }
        _ => refusal(401, "unknown_session"),
    }
}

async fn deregister(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let mut memory = shared.memory.lock();
    let token = token(&headers).unwrap();
    memory.known_tokens.remove(&token);
    memory.deregistered += 1;
    shared.changed.send_replace(());
    Json(json!({"ok": true, "token_prefix": token[..8]})).into_response()
}

async fn heartbeat(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Json<Value> {
    assert!(token(&headers).is_some(), "a heartbeat is a session's");
    shared.memory.lock().heartbeats.push(serde_json::from_slice(&body).unwrap());
    shared.changed.send_replace(());
    Json(json!({"ok": true}))
}

async fn peers(State(shared): State<Shared>) -> Response {
    match &shared.memory.lock().peers {
        Some(peers) => Json(json!({"peers": peers})).into_response(),
        None => refusal(503, "broker_unavailable"),
    }
}

async fn inbox(State(shared): State<Shared>, Query(query): Query1) -> Json<Value> {
    assert_eq!(query.get("mark_seen").map(String::as_str), Some("false"));
    let limit: usize = query["limit"].parse().unwrap();
    let memory = shared.memory.lock();
    let items: Vec<&Value> = memory.inbox.iter().take(limit).collect();
    let cursor = (memory.inbox.len() > limit).then_some("more");
    Json(json!({"items": items, "marked_seen": 0, "next_cursor": cursor}))
}

async fn seen(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if token(&headers).is_some_and(|token| !shared.memory.lock().known_tokens.contains(&token)) {
        return refusal(401, "unknown_session");
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(request["pushed"], true);
    let ids: Vec<String> = request["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    let mut memory = shared.memory.lock();
    memory.inbox.retain(|row| !ids.iter().any(|id| row["id"] == id.as_str()));
    let path = request["path"].as_str().unwrap_or_default();
    memory.seen_paths.extend(ids.iter().map(|_| path.to_owned()));
    memory.seen.extend(ids);
    drop(memory);
    shared.changed.send_replace(());
    Json(json!({"marked_seen": 1})).into_response()
}

/// Counts an operation as worked on until its answer is made, or its caller has gone.
struct Working(Shared);

impl Working {
    fn begin(shared: Shared) -> Self {
        let mut memory = shared.memory.lock();
        memory.working.0 += 1;
        memory.working.1 = memory.working.1.max(memory.working.0);
        drop(memory);
        Self(shared)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.memory.lock().working.0 -= 1;
        self.0.changed.send_replace(());
    }
}

async fn operation(
    State(shared): State<Shared>,
    Path(op): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let given = token(&headers);
    if given.as_ref().is_some_and(|token| !shared.memory.lock().known_tokens.contains(token)) {
        return refusal(401, "unknown_session");
    }
    if op == "member.list" {
        // The gate's own question: nobody is away.
        let result = json!({"members": []});
        return Json(json!({"ok": true, "op": op, "mesh": "dev", "result": result}))
            .into_response();
    }
    shared.memory.lock().ops.push((op.clone(), body, given.is_some()));
    let release = shared.release.lock().clone();
    let working = Working::begin(shared.clone());
    shared.changed.send_replace(());
    let mut answer = shared.memory.lock().answer.clone();
    if matches!(answer, OpAnswer::Held | OpAnswer::Broken) {
        release.cancelled().await;
        answer = shared.memory.lock().answer.clone();
    }
    drop(working);
    match answer {
        OpAnswer::Result(result) => {
            Json(json!({"ok": true, "op": op, "mesh": "dev", "result": result})).into_response()
        }
        OpAnswer::Held => Json(json!({"ok": true, "op": op, "result": {}})).into_response(),
        OpAnswer::Refusal(status, body) => {
            (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
        }
        OpAnswer::Broken => {
            let broken =
                futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("cut"))]);
            Body::from_stream(broken).into_response()
        }
    }
}

async fn events(
    State(shared): State<Shared>,
    headers: HeaderMap,
    uri: axum::http::Uri,
) -> Response {
    if token(&headers).is_some_and(|token| !shared.memory.lock().known_tokens.contains(&token)) {
        return refusal(401, "unknown_session");
    }
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap().to_owned());
    let cut = shared.cut.lock().clone();
    let frame_rx = shared.frames.subscribe();
    shared.memory.lock().streams.push((uri.query().unwrap_or_default().to_owned(), last));
    shared.changed.send_replace(());
    let first = futures_util::stream::iter([Ok::<_, Infallible>(": connected\n\n".to_owned())]);
    let rest = futures_util::stream::unfold((frame_rx, cut), async |(mut frame_rx, cut)| {
        let frame = cut.run_until_cancelled(frame_rx.recv()).await?.ok()?;
        Some((Ok(frame), (frame_rx, cut)))
    });
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

//! `/v1/sessions…` (daemon spec §8).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use claudemesh_ipc::SessionToken;
use claudemesh_ipc::api::session::{
    DeregisterReply, GroupSpec, Heartbeat, HookEvent, PresenceOffer, ServedClient, SessionReply,
    SessionsReply,
};
use claudemesh_ipc::api::{MessageMode, RegisterReply, SessionView, StatusReply, StatusReport};
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::limits::{
    AGENT_HOOK_EVENT_ID_MAX_CHARS, MCP_CLIENT_NAME_MAX_CHARS, MEMBER_NAME_MAX_CHARS,
};
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::{ErrorCode, Group, GroupName, PeerStatus};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input};
use crate::ops::not_attached;
use crate::sessions::{
    ANCESTORS_MAX, NewSession, Offer, Opening, RegisterError, Report, Session, TokenHash,
};

mod handed;

/// Longest session id that is no UUID.
const SESSION_ID_MAX_CHARS: usize = 128;

/// Body of a registration; types that can be wrong are read loosely and checked one by one.
#[derive(Deserialize)]
struct Body {
    token: String,
    session_id: String,
    mesh: String,
    display_name: String,
    pid: i64,
    cwd: Option<String>,
    role: Option<String>,
    #[serde(default)]
    groups: Vec<GroupSpec>,
    message_mode: Option<MessageMode>,
    caps: Option<Vec<String>>,
    #[serde(default)]
    share_dirs: Vec<String>,
    model: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    ambient: bool,
    #[serde(default)]
    use_stored_key: bool,
    presence: Option<Value>,
}

pub(super) async fn register(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<RegisterReply>, Failure> {
    let body: Body = input::json(request, input::LARGE).await?;
    let mut offer_error = None;
    let offer = offer_of(&body, &mut offer_error)?;
    let new = checked(body, offer)?;
    let mesh = api.mesh(&new.mesh).ok_or_else(|| not_attached(&new.mesh))?;
    let registered = api.daemon.register(new, &mesh).await.map_err(|error| match error {
        RegisterError::PidNotOurs(_) => Failure::new(ErrorCode::PidNotOurs, error.to_string()),
        RegisterError::TooMany => Failure::new(ErrorCode::TooManySessions, error.to_string()),
        RegisterError::KeyStore(source) => {
            tracing::error!(error = %source, "session_key_store_failed");
            Failure::new(ErrorCode::Io, "cannot use the stored key of this session")
        }
    })?;
    let session = &registered.session;
    Ok(Json(RegisterReply {
        ok: true,
        registered_at: session.registered_at.to_iso(),
        presence_accepted: session.keys.is_some(),
        presence_error: registered.presence_error.or(offer_error).map(str::to_owned),
        session_pubkey: session.key(),
        replaced: !registered.replaced.is_empty(),
    }))
}

fn offer_of(body: &Body, error: &mut Option<&'static str>) -> Result<Offer, Failure> {
    match (&body.presence, body.use_stored_key) {
        (Some(_), true) => Err(Failure::field(
            "presence",
            "\"presence\" and \"use_stored_key\" exclude each other",
        )),
        (None, true) => Ok(Offer::Stored),
        (None, false) => Ok(Offer::None),
        (Some(presence), false) => {
            // A malformed offer registers the session without a presence, as a wrong one does.
            if let Ok(offer) = PresenceOffer::deserialize(presence) {
                Ok(Offer::Given(Box::new(offer)))
            } else {
                *error = Some(ErrorCode::Malformed.as_str());
                Ok(Offer::None)
            }
        }
    }
}

fn checked(body: Body, offer: Offer) -> Result<NewSession, Failure> {
    let token = SessionToken::parse(&body.token)
        .map_err(|error| Failure::field("token", error.to_string()))?;
    let is_id = (1..=SESSION_ID_MAX_CHARS).contains(&body.session_id.len())
        && body
            .session_id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !is_id {
        return Err(Failure::field(
            "session_id",
            "a session id is a UUID, or 1 to 128 of A-Z a-z 0-9 . _ -",
        ));
    }
    let display_name = body.display_name.trim().to_owned();
    let chars = display_name.chars().count();
    if !(1..=MEMBER_NAME_MAX_CHARS).contains(&chars) || display_name.chars().any(char::is_control) {
        return Err(Failure::field(
            "display_name",
            "a display name has 1 to 64 characters, none of them control characters",
        ));
    }
    let pid = u32::try_from(body.pid)
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| Failure::field("pid", "\"pid\" is a process id"))?;
    let caps = body
        .caps
        .map(|words| CapabilitySet::parse(words.iter().map(String::as_str)))
        .transpose()
        .map_err(|_| Failure::field("caps", "\"caps\" names something that is no capability"))?;
    let groups = body.groups.iter().map(group_of).collect::<Option<Vec<_>>>().ok_or_else(|| {
        Failure::field("groups", "a group is \"@name\", \"@name:role\" or {name, role}")
    })?;
    Ok(NewSession {
        token,
        session_id: body.session_id,
        mesh: body.mesh,
        display_name,
        pid,
        cwd: body.cwd,
        role: body.role,
        groups,
        message_mode: body.message_mode.unwrap_or_default(),
        caps,
        share_dirs: body.share_dirs,
        model: body.model,
        kind: body.kind,
        ambient: body.ambient,
        offer,
    })
}

fn group_of(spec: &GroupSpec) -> Option<Group> {
    let (name, role) = match spec {
        GroupSpec::Text(text) => match text.split_once(':') {
            Some((name, role)) => (name, Some(role.to_owned())),
            None => (text.as_str(), None),
        },
        GroupSpec::Parts { name, role } => (name.as_str(), role.clone()),
    };
    let name = GroupName::parse_lenient(name).ok()?;
    serde_json::from_value(json!({ "name": name, "role": role })).ok()
}

pub(super) async fn me(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<SessionReply>, Failure> {
    let session = caller.need_session()?;
    Ok(Json(SessionReply { session: api.view(session) }))
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<SessionsReply> {
    let all = api.daemon.context().sessions.all();
    Json(SessionsReply { sessions: all.iter().map(|session| api.view(session)).collect() })
}

pub(super) async fn deregister(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<DeregisterReply>, Failure> {
    let session = caller.need_session()?;
    api.daemon.end_session(session.token_hash, "deregistered");
    let _is_tried_again = api.daemon.context().sessions.saved().await;
    Ok(Json(DeregisterReply { ok: true, token_prefix: session.token_prefix.clone() }))
}

/// `DELETE /v1/sessions/<token>`, for who has the token and no header.
pub(super) async fn deregister_token(
    State(api): State<Arc<Api>>,
    Path(token): Path<String>,
) -> Result<Json<DeregisterReply>, Failure> {
    let unknown = || Failure::new(ErrorCode::NotFound, "no session of that token");
    let token = SessionToken::parse(&token).map_err(|_| unknown())?;
    let ended =
        api.daemon.end_session(TokenHash::of(&token), "deregistered").ok_or_else(unknown)?;
    let _is_tried_again = api.daemon.context().sessions.saved().await;
    Ok(Json(DeregisterReply { ok: true, token_prefix: ended.token_prefix.clone() }))
}

/// `POST /v1/heartbeat`: the gate has noted that the session was heard of; its MCP server also says what it counted.
pub(super) async fn heartbeat(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let body: Heartbeat = input::json(request, input::SMALL).await?;
    if let Some(session) = &caller.session {
        session.activity.counters.tools(body.tool_calls, body.errors);
        if let Some(client) = &body.client {
            session.activity.serves(checked_client(client));
        }
        if body.status.is_some() {
            let report = Report { status: body.status, ..Report::default() };
            api.take_report(session, report).await;
        }
    }
    Ok(Json(json!({ "ok": true })))
}

/// A client's word for itself, within its limits.
fn checked_client(client: &ServedClient) -> ServedClient {
    let word = |text: &str| sanitized_line(text, MCP_CLIENT_NAME_MAX_CHARS);
    ServedClient {
        name: word(&client.name),
        version: word(&client.version),
        channel: client.channel,
    }
}

pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<StatusReply>, Failure> {
    let report: StatusReport = input::json(request, input::MEDIUM).await?;
    check(&report)?;
    let matched = match &caller.session {
        Some(session) => vec![Arc::clone(session)],
        None => api.daemon.context().sessions.matching(
            report.session_id.as_deref(),
            &report.pids,
            report.cwd.as_deref(),
        ),
    };
    let mut reply = StatusReply {
        ok: true,
        matched: u32::try_from(matched.len()).unwrap_or(u32::MAX),
        ..StatusReply::default()
    };
    for session in &matched {
        if report.event == Some(HookEvent::End) {
            api.daemon.end_session(session.token_hash, "ended");
            let _is_tried_again = api.daemon.context().sessions.saved().await;
            continue;
        }
        let is_news = |id: &String| session.activity.heard.is_news(id);
        if !report.event_id.as_ref().is_none_or(is_news) {
            continue;
        }
        api.note_record(session, &report).await;
        if let Some(waits) = handed::waits_for_human(&report) {
            api.waits_for_human(session, waits).await;
        }
        let StatusReport { status, event, origin, .. } = report;
        let opening = api.take_report(session, Report { status, event, origin }).await;
        // Where several sessions fit the description, nobody can say whose agent would read them.
        if matched.len() == 1 {
            api.answer_hook(&caller, session, &report, opening, &mut reply).await;
        }
    }
    Ok(Json(reply))
}

/// What cannot be a report.
fn check(report: &StatusReport) -> Result<(), Failure> {
    let is_id = |id: &String| (1..=AGENT_HOOK_EVENT_ID_MAX_CHARS).contains(&id.chars().count());
    if !report.event_id.as_ref().is_none_or(is_id) {
        let message = format!("\"event_id\" has 1 to {AGENT_HOOK_EVENT_ID_MAX_CHARS} characters");
        return Err(Failure::field("event_id", message));
    }
    if report.take && report.event.is_none() {
        return Err(Failure::field("event", "what is taken is taken at an \"event\""));
    }
    Ok(())
}

/// True when a report names the session, or its process.
fn is_named(session: &Session, report: &StatusReport) -> bool {
    report.session_id.as_ref() == Some(&session.session_id)
        || report.pids.iter().take(ANCESTORS_MAX).any(|pid| *pid == session.pid)
}

impl Api {
    fn view(&self, session: &Session) -> SessionView {
        let mesh = self.mesh(&session.mesh);
        let status =
            session.key().zip(mesh.as_ref()).and_then(|(key, mesh)| mesh.session_status(&key));
        let paths = self.paths(session);
        SessionView { paths, ..session.view(mesh.map(|mesh| mesh.member().public), status) }
    }

    /// What the hook of the only session that fits is answered.
    async fn answer_hook(
        &self,
        caller: &Caller,
        session: &Session,
        report: &StatusReport,
        opening: Opening,
        reply: &mut StatusReply,
    ) {
        reply.mode = Some(session.message_mode);
        // A directory alone may be that of another agent of the same person, which would take along what is not its own.
        if report.take && caller.session.is_none() && !is_named(session, report) {
            return;
        }
        if report.event != Some(HookEvent::Start) || self.has_company(session) {
            reply.identity = Some(self.identity(session));
        }
        let handed = self.hand_at(session, report, opening).await;
        if report.event == Some(HookEvent::Stop) && report.take && !handed.messages.is_empty() {
            // With something to answer the turn goes on.
            let working = Report { status: Some(PeerStatus::Working), ..Report::default() };
            self.take_report(session, working).await;
        }
        (reply.messages, reply.unread) = (handed.messages, handed.unread);
    }

    /// Takes what a hook says: told to peers and subscribers, and the gate opens as far as it may.
    async fn take_report(&self, session: &Session, report: Report) -> Opening {
        let change = session.activity.hook(report);
        let context = self.daemon.context();
        if change.status.is_some() {
            context.sessions.status_changed(session);
        }
        // Also an unchanged one: it keeps the status fresh at the broker, which may not have heard the last one.
        if change.reported.is_some()
            && let Some(mesh) = self.mesh(&session.mesh)
        {
            mesh.tell_status(session);
        }
        if change.opening == Opening::All {
            context.inbox.release(session).await;
        }
        change.opening
    }
}

//! The operations of the table, done (daemon spec §9.7, MCP spec §2): arguments checked, the capability of the calling
//! session, the mesh, then either one frame to the broker ([`forward`]) or the daemon's own work, one room per family.
//! The local API only translates: `POST /v1/ops/<name>` and the named routes are the same calls.

mod forward;
mod group;
mod listing;
mod mesh;
mod messaging;
mod permission;
mod place;
mod profile;
mod roster;
mod status;
mod trust;

use std::fmt::Write as _;
use std::time::Duration;

use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::ops::{
    ArgumentError, Class, DaemonOperation, Family, Operation, OperationKind, Run, Scope,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::api::{Api, Caller, Failure};
use crate::mesh::{Line, RequestError, Via};

pub(crate) use listing::table;
pub(crate) use place::{Place, mesh_required, not_attached};
pub(crate) use profile::apply_profile;

/// The field of every operation that says on which mesh it runs, and its other name.
const MESH_FIELDS: [&str; 2] = ["mesh", "mesh_slug"];

/// What a member does that was banned.
pub(crate) const WAY_BACK: &str =
    "an admin lets you in again with claudemesh unban; then here: claudemesh daemon restart";

/// What somebody does whose daemon has no connection.
const STILL_CONNECTING: &str =
    "the daemon keeps trying to connect; claudemesh daemon status shows how it stands";

/// What an operation came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// The mesh it ran on; `None` when it ran on several, or on none.
    pub(crate) mesh: Option<String>,
    /// Its result.
    pub(crate) result: Map<String, Value>,
}

impl Answer {
    fn on(mesh: &impl Line, result: Map<String, Value>) -> Self {
        Self { mesh: Some(mesh.slug().to_owned()), result }
    }
}

/// A call whose arguments and capability have been checked.
struct Call<'a, P> {
    place: &'a P,
    caller: &'a Caller,
    kind: OperationKind,
    spec: &'a Operation,
    mesh: Option<&'a str>,
    /// Time for one answer of the broker.
    limit: Duration,
}

impl<P> Clone for Call<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Call<'_, P> {}

/// How long an operation may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// One answer of the broker.
    pub(crate) answer: Duration,
    /// All of it.
    pub(crate) whole: Duration,
}

/// Runs an operation for `caller`.
///
/// # Errors
/// [`Failure`]: `forbidden` with `cap`, `missing_field` and `invalid_field` with `field`, `mesh_required`,
/// `broker_timeout`, `outcome_unknown`, and whatever the operation or the broker says.
pub(crate) async fn run(
    api: &Api,
    caller: &Caller,
    kind: OperationKind,
    mesh: Option<&str>,
    arguments: Map<String, Value>,
) -> Result<Answer, Failure> {
    need_family(api, kind.spec().family)?;
    let time = kind.spec().timeout;
    run_at(api, caller, kind, mesh, arguments, Limits { answer: time, whole: time }).await
}

/// Refuses a family that `[capabilities]` of the settings switches off, also under the named routes.
///
/// # Errors
/// `capability_disabled`.
pub(crate) fn need_family(api: &Api, family: Family) -> Result<(), Failure> {
    if api.daemon().context().settings.get().capabilities.allows(family) {
        return Ok(());
    }
    let word = family.as_str();
    let message = format!("the family {word} is switched off on this machine");
    let hint = format!("config.toml says so: [capabilities] {word} = false");
    Err(Failure::new(ErrorCode::CapabilityDisabled, message).hint(hint))
}

/// The same at any place and within these limits.
///
/// # Errors
/// As [`run`]; `daemon_unreachable` for what only a daemon can do.
pub(crate) async fn run_at<P: Place>(
    place: &P,
    caller: &Caller,
    kind: OperationKind,
    mesh: Option<&str>,
    mut arguments: Map<String, Value>,
    limits: Limits,
) -> Result<Answer, Failure> {
    let spec = kind.spec();
    caller.need_access(spec.access)?;
    let mesh = named_mesh(mesh, &mut arguments)?;
    let arguments = kind.arguments(arguments).map_err(|error| refused(&error))?;
    let shown = shown(&spec, &arguments);
    let began = Instant::now();
    if spec.needs_daemon_for(&arguments) && place.as_daemon().is_none() {
        return Err(needs_daemon(&spec));
    }
    let mesh = mesh.as_deref();
    let call = Call { place, caller, kind, spec: &spec, mesh, limit: limits.answer };
    let outcome = match tokio::time::timeout(limits.whole, dispatch(call, arguments)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(too_late(&spec, limits.whole)),
    };
    let code = outcome.as_ref().err().map(Failure::code);
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(op = spec.name, mesh, arguments = shown, code, millis, "operation");
    outcome
}

async fn dispatch<P: Place>(
    call: Call<'_, P>,
    arguments: Map<String, Value>,
) -> Result<Answer, Failure> {
    let operation = match call.spec.run {
        Run::Forward(frame) => return forward::run(call, frame, arguments).await,
        Run::Daemon(operation) => operation,
    };
    match operation {
        DaemonOperation::MessageSend => messaging::send(call, typed(arguments)?).await,
        DaemonOperation::MessageStatus => status::run(call, typed(arguments)?).await,
        DaemonOperation::MessageInbox => {
            messaging::inbox(call.in_daemon()?, typed(arguments)?).await
        }
        DaemonOperation::PeerList => roster::peers(call, typed(arguments)?).await,
        DaemonOperation::PeerUnblockLoop => messaging::unblock(call, typed(arguments)?).await,
        DaemonOperation::ProfileSummary => profile::summary(call, typed(arguments)?).await,
        DaemonOperation::ProfileStatus => profile::status(call, typed(arguments)?).await,
        DaemonOperation::ProfileVisible => profile::visible(call, typed(arguments)?).await,
        DaemonOperation::ProfileEdit => profile::edit(call, typed(arguments)?).await,
        DaemonOperation::GroupList => group::list(call).await,
        DaemonOperation::MeshStats => mesh::stats(call).await,
        DaemonOperation::MeshPing => mesh::ping(call.in_daemon()?, typed(arguments)?).await,
        DaemonOperation::MemberList => roster::members(call).await,
        DaemonOperation::MemberPermissions => permission::list(call, typed(arguments)?).await,
        DaemonOperation::MemberAllow => permission::allow(call, typed(arguments)?).await,
        DaemonOperation::MemberDeny => permission::deny(call, typed(arguments)?).await,
        DaemonOperation::MemberRole => permission::role(call, typed(arguments)?).await,
        DaemonOperation::PeerVerify => trust::verify(call, typed(arguments)?).await,
        DaemonOperation::GrantList => trust::list(call).await,
        DaemonOperation::GrantAdd => trust::add(call, typed(arguments)?).await,
        DaemonOperation::GrantRemove => trust::remove(call, typed(arguments)?).await,
        DaemonOperation::GrantBlock => trust::block(call, typed(arguments)?).await,
    }
}

impl<'a, P: Place> Call<'a, P> {
    /// The same call, for what only a daemon can do.
    fn in_daemon(self) -> Result<Call<'a, Api>, Failure> {
        let Self { place, caller, kind, spec, mesh, limit } = self;
        let place = place.as_daemon().ok_or_else(|| needs_daemon(spec))?;
        Ok(Call { place, caller, kind, spec, mesh, limit })
    }

    /// The one mesh it runs on.
    fn one_mesh(&self) -> Result<P::Line, Failure> {
        self.place.one_mesh(self.mesh, self.caller)
    }

    /// The connections it goes out on in one mesh: for a read one, for a write each presence the caller speaks for.
    fn roads(&self, mesh: &P::Line) -> Vec<Via> {
        match self.spec.scope {
            Scope::Member | Scope::Local => vec![Via::Member],
            Scope::Session if self.spec.class == Class::Read => {
                vec![self.voice(mesh)]
            }
            Scope::Session => self.place.presences(mesh, self.caller),
        }
    }

    /// The caller's own connection in a mesh: its session's there, else the member's.
    fn voice(&self, mesh: &P::Line) -> Via {
        self.caller.key_in(mesh).map_or(Via::Member, Via::Session)
    }
}

/// The mesh may stand beside the arguments or among them, not in two places with two values.
fn named_mesh(
    beside: Option<&str>,
    arguments: &mut Map<String, Value>,
) -> Result<Option<String>, Failure> {
    let mut named = beside.map(str::to_owned);
    for field in MESH_FIELDS {
        match arguments.shift_remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(slug)) if named.as_ref().is_none_or(|named| *named == slug) => {
                named = Some(slug);
            }
            Some(Value::String(_)) => {
                return Err(Failure::field(field, "two different meshes are named"));
            }
            Some(_) => return Err(Failure::field(field, format!("\"{field}\" must be a text"))),
        }
    }
    Ok(named)
}

fn refused(error: &ArgumentError) -> Failure {
    let code = match error {
        ArgumentError::Missing { .. } => ErrorCode::MissingField,
        _ => ErrorCode::InvalidField,
    };
    Failure::new(code, error.to_string()).with("field", error.field())
}

/// Arguments as the operation's own type; what the check of the table cannot see is found here.
fn typed<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| unfit(&error))
}

fn unfit(error: &serde_json::Error) -> Failure {
    Failure::new(ErrorCode::InvalidField, format!("wrong arguments: {error}"))
        .with("field", Value::Null)
}

/// The fields of a result.
fn fields(value: &impl Serialize) -> Result<Map<String, Value>, Failure> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        other => {
            tracing::error!(error = ?other.err(), "op_result_not_json");
            Err(Failure::new(ErrorCode::Internal, "the result cannot be written"))
        }
    }
}

/// A request to the broker that failed.
pub(crate) fn broker_failure(error: &RequestError) -> Failure {
    let failure = Failure::of_broker(&error.code, error.message.clone());
    if error.code == ErrorCode::MemberRevoked.as_str() {
        return failure.hint(WAY_BACK);
    }
    match error.retry_after_ms {
        Some(wait) => failure.retry_after(std::time::Duration::from_millis(wait)),
        None if error.code == ErrorCode::BrokerUnavailable.as_str() => {
            failure.hint(STILL_CONNECTING)
        }
        None => failure,
    }
}

/// A request that failed, for an operation that must not be asked for twice without knowing (daemon spec §7.3).
fn lost_or_failed(spec: &Operation, error: &RequestError) -> Failure {
    if error.may_have_run && !spec.is_idempotent {
        return outcome_unknown(spec);
    }
    broker_failure(error)
}

fn outcome_unknown(spec: &Operation) -> Failure {
    let message = format!("the answer to {} was lost; it may have been done", spec.name);
    Failure::new(ErrorCode::OutcomeUnknown, message).hint("look before you ask again")
}

/// It is about the daemon's own data, or about a presence that a call does not have.
fn needs_daemon(spec: &Operation) -> Failure {
    let words = spec.verb.map_or(spec.name, |verb| verb.words);
    Failure::new(ErrorCode::DaemonUnreachable, format!("{words} needs the daemon"))
        .hint("claudemesh daemon up")
}

/// The operation's own time is over.
fn too_late(spec: &Operation, limit: Duration) -> Failure {
    if !spec.is_idempotent && spec.class != Class::Read {
        return outcome_unknown(spec);
    }
    let seconds = limit.as_secs();
    Failure::new(ErrorCode::Timeout, format!("{} took longer than {seconds} s", spec.name))
}

/// The arguments as a log may show them: without what is secret or private.
fn shown(spec: &Operation, arguments: &Map<String, Value>) -> Option<String> {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return None;
    }
    let mut text = String::new();
    for (name, value) in arguments {
        let separator = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = if spec.redact.contains(&name.as_str()) {
            write!(text, "{separator}{name}=…")
        } else {
            write!(text, "{separator}{name}={value}")
        };
    }
    Some(text)
}

#[cfg(test)]
mod tests;

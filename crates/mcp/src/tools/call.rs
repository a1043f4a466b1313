//! One tool call: its arguments, and its way through the gate to the daemon (MCP spec §6).

use std::sync::atomic::{AtomicBool, Ordering};

use claudemesh_agents::render;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::ops::{ArgumentError, Class, OperationKind};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::Toolset;
use super::failure::Failure;
use super::gate::{Caller, Gate};
use super::outcome::Outcome;
use super::question::Questions;
use super::tally::Tally;
use super::text::ToolText;
use crate::road::Road;

/// The argument of every tool that says on which mesh it works, and its other name.
const MESH_ARGUMENTS: [&str; 2] = ["mesh", "mesh_slug"];
/// Longest name of a stranger's that is echoed, in characters.
const ECHO_MAX_CHARS: usize = 64;

/// A call whose arguments have been checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// The operation behind the tool.
    pub kind: OperationKind,
    /// The mesh it works on, when one is named.
    pub mesh: Option<String>,
    /// The arguments under their wire names.
    pub arguments: Map<String, Value>,
}

impl Call {
    /// Reads the `params` of `tools/call`; nothing is asked of the daemon.
    ///
    /// # Errors
    /// A sentence that names the tool or the argument at fault, for `-32602`.
    pub(crate) fn read(
        params: &Map<String, Value>,
        tools: &Toolset,
        pinned_mesh: Option<&str>,
    ) -> Result<Self, String> {
        let Some(name) = params.get("name").and_then(Value::as_str) else {
            return Err("tools/call needs the name of a tool".to_owned());
        };
        let Some(kind) = tools.operation(name) else {
            return Err(format!("unknown tool: {}", echoed(name)));
        };
        let mut given = match params.get("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(given)) => given.clone(),
            Some(_) => return Err(format!("{name}: arguments must be an object")),
        };
        let mesh =
            named_mesh(&mut given, pinned_mesh).map_err(|fault| format!("{name}: {fault}"))?;
        // The schema knows each argument by one name; the local API would take the wire name too.
        let fields = kind.fields();
        let is_known = |name: &String| fields.iter().any(|field| field.tool_name == *name);
        if let Some(stranger) = given.keys().find(|name| !is_known(name)) {
            return Err(format!("{name}: there is no argument \"{}\"", echoed(stranger)));
        }
        let arguments = kind.arguments(given).map_err(|error| {
            let fault = match &error {
                ArgumentError::Missing { field } => {
                    format!("\"{}\" is missing", kind.spec().tool_name(field))
                }
                _ => error.to_string(),
            };
            format!("{name}: {fault}")
        })?;
        Ok(Self { kind, mesh, arguments })
    }
}

fn named_mesh(
    given: &mut Map<String, Value>,
    pinned: Option<&str>,
) -> Result<Option<String>, String> {
    let mut named = pinned.map(str::to_owned);
    for argument in MESH_ARGUMENTS {
        match given.shift_remove(argument) {
            None | Some(Value::Null) => {}
            Some(Value::String(mesh)) if named.as_ref().is_none_or(|named| *named == mesh) => {
                named = Some(mesh);
            }
            Some(Value::String(_)) => {
                return Err(match pinned {
                    Some(pinned) => {
                        format!("\"{argument}\" must be {pinned}, which this server is bound to")
                    }
                    None => format!("\"{argument}\" names a second mesh"),
                });
            }
            Some(_) => return Err(format!("\"{argument}\" must be a text")),
        }
    }
    Ok(named)
}

fn echoed(text: &str) -> String {
    claudemesh_protocol::text::sanitized_line(text, ECHO_MAX_CHARS)
}

/// What calls run with.
pub(crate) struct Runner {
    /// Who may do what.
    pub gate: Gate,
    /// The way to the daemon.
    pub road: Road,
    /// Questions to the person.
    pub questions: Questions,
    /// What stands in the text of a result.
    pub text: ToolText,
    /// Counts calls and failures.
    pub tally: Tally,
}

impl Runner {
    /// Runs a call until it has an outcome or is cancelled. A cancelled call has none, unless it changes something and
    /// may have been sent: then nobody can take it back, and the caller is told so.
    pub(crate) async fn run(
        &self,
        call: &Call,
        can_ask: bool,
        cancelled: &CancellationToken,
    ) -> Option<Outcome> {
        let is_sent = AtomicBool::new(false);
        let spec = call.kind.spec();
        tokio::select! {
            biased;
            outcome = self.attempt(call, can_ask, &is_sent) => {
                Some(outcome.map_or_else(Outcome::Failed, Outcome::Done))
            }
            () = cancelled.cancelled() => {
                let may_have_happened = is_sent.load(Ordering::Relaxed) && spec.class != Class::Read;
                may_have_happened
                    .then(|| Outcome::Failed(Failure::unknown_outcome(&spec, "the call was cancelled")))
            }
        }
    }

    async fn attempt(
        &self,
        call: &Call,
        can_ask: bool,
        is_sent: &AtomicBool,
    ) -> Result<Value, Failure> {
        let spec = call.kind.spec();
        let mesh = call.mesh.as_deref();
        let caller = Caller {
            gated: spec.gated(),
            mesh,
            arguments: &call.arguments,
            questions: Some(&self.questions).filter(|_| can_ask),
        };
        self.gate.admit(caller, &self.road).await?;
        let mut standing = self.road.standing().await?;
        let mut is_second = false;
        loop {
            is_sent.store(true, Ordering::Relaxed);
            let answer = standing.client.op(call.kind, mesh, call.arguments.clone()).await;
            let error = match answer {
                Ok(mut reply) => {
                    if call.kind == OperationKind::MessageInbox {
                        render::harmless(&mut reply.result, &standing.own_keys());
                    }
                    return Ok(reply.result);
                }
                Err(error) => error,
            };
            // The daemon went away, or lost its sessions, before this call could do anything: once more on the new road.
            let is_untouched = matches!(error, claudemesh_ipc::IpcError::NotRunning(_))
                || error.is(ErrorCode::UnknownSession);
            if !is_untouched || is_second {
                return Err(Failure::of_ipc(&error, &spec));
            }
            is_sent.store(false, Ordering::Relaxed);
            is_second = true;
            standing = self.road.next_standing().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(params: &Value, pinned: Option<&str>) -> Result<Call, String> {
        Call::read(params.as_object().unwrap(), &Toolset::parse("all").unwrap(), pinned)
    }

    #[test]
    fn arguments_have_their_tool_names_only() {
        let call =
            read(&json!({ "name": "message_status", "arguments": { "id": "abcdefgh" } }), None);
        assert_eq!(
            call.unwrap().arguments,
            Map::from_iter([("messageId".into(), json!("abcdefgh"))])
        );
        for (arguments, fault) in [
            (json!({ "messageId": "abcdefgh" }), "there is no argument \"messageId\""),
            (json!({}), "\"id\" is missing"),
            (json!({ "id": 5 }), "\"id\" must be a text"),
            (json!([]), "arguments must be an object"),
        ] {
            let refused = read(&json!({ "name": "message_status", "arguments": arguments }), None);
            let expected = format!("message_status: {fault}");
            assert_eq!(refused.unwrap_err(), expected);
        }
        assert!(read(&json!({ "name": "peer_kick" }), None).unwrap_err().contains("unknown tool"));
        assert!(read(&json!({}), None).is_err());
        assert!(read(&json!({ "name": "mesh_info", "arguments": null }), None).is_ok());
    }

    #[test]
    fn the_mesh_is_an_argument_of_every_tool_and_a_pinned_one_stays() {
        let call = |arguments: Value, pinned| {
            read(&json!({ "name": "mesh_info", "arguments": arguments }), pinned)
        };
        assert_eq!(call(json!({}), Some("dev")).unwrap().mesh.as_deref(), Some("dev"));
        assert_eq!(call(json!({ "mesh_slug": "dev" }), None).unwrap().mesh.as_deref(), Some("dev"));
        assert_eq!(
            call(json!({ "mesh": "dev" }), Some("dev")).unwrap().mesh.as_deref(),
            Some("dev")
        );
        for (arguments, pinned) in [
            (json!({ "mesh": "ops" }), Some("dev")),
            (json!({ "mesh": "ops", "mesh_slug": "dev" }), None),
            (json!({ "mesh": 5 }), None),
        ] {
            assert!(call(arguments, pinned).unwrap_err().contains("mesh"));
        }
    }
}

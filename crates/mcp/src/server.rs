//! What this server answers to an MCP client: the handshake and lists that are empty in push-pipe mode (MCP spec §3).
//!
//! Every answer is made from memory, so that `initialize` never waits for the daemon.

use claudemesh_protocol::limits::MCP_LINE_MAX_BYTES;
use serde_json::{Map, Value, json};

use crate::Channel;
use crate::instructions::PUSH_PIPE;
use crate::rpc::{self, Fault, Incoming};
use crate::stdio::Read;

/// Protocol revisions spoken, newest first. Revision 2026-07-28 is absent on purpose: it cannot carry channel
/// notifications, so a client that probes for it is led back to the handshake that can.
pub(crate) const PROTOCOL_VERSIONS: [&str; 4] =
    ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// The server's name; the channel flag of the client names it too.
pub(crate) const SERVER_NAME: &str = "claudemesh";

const LOG_LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What to do about one line.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// The line to write back, if any.
    pub reply: Option<Value>,
    /// Whether the client has shown with this line that it is ready for notifications.
    pub client: Client,
}

/// Whether the client may be sent notifications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Client {
    /// Nothing said about it.
    #[default]
    Unknown,
    /// It finished its handshake, or skips it and uses the server.
    Ready,
}

/// Answers one line of the client.
pub(crate) fn answer(read: &Read<'_>, channel: Channel) -> Answer {
    let incoming = match read {
        Read::TooLong => {
            let message = format!("a line is longer than {MCP_LINE_MAX_BYTES} bytes");
            Err(Fault::new(Value::Null, rpc::PARSE_ERROR, message))
        }
        Read::Line(line) => rpc::parse(line),
    };
    match incoming {
        Err(fault) => Answer { reply: Some(fault.reply()), client: Client::Unknown },
        Ok(Incoming::Response) => Answer::default(),
        Ok(Incoming::Notification { method }) => {
            let is_ready = method == "notifications/initialized";
            Answer { reply: None, client: if is_ready { Client::Ready } else { Client::Unknown } }
        }
        Ok(Incoming::Request { id, method, params }) => {
            let reply = match result_of(&method, &params, channel) {
                Ok(result) => rpc::result(&id, &result),
                Err((code, message)) => Fault::new(id, code, message).reply(),
            };
            let uses_the_server = method.ends_with("/list");
            Answer {
                reply: Some(reply),
                client: if uses_the_server { Client::Ready } else { Client::Unknown },
            }
        }
    }
}

fn result_of(
    method: &str,
    params: &Map<String, Value>,
    channel: Channel,
) -> Result<Value, (i64, String)> {
    let text = |key: &str| params.get(key).and_then(Value::as_str);
    match method {
        "initialize" => match text("protocolVersion") {
            Some(version) => Ok(initialize_result(version, channel)),
            None => Err((rpc::INVALID_PARAMS, "initialize needs protocolVersion".into())),
        },
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({"tools": []})),
        "prompts/list" => Ok(json!({"prompts": []})),
        "resources/list" => Ok(json!({"resources": []})),
        "resources/templates/list" => Ok(json!({"resourceTemplates": []})),
        "completion/complete" => {
            Ok(json!({"completion": {"values": [], "total": 0, "hasMore": false}}))
        }
        "logging/setLevel" => match text("level") {
            Some(level) if LOG_LEVELS.contains(&level) => Ok(json!({})),
            _ => Err((
                rpc::INVALID_PARAMS,
                format!("level must be one of {}", LOG_LEVELS.join(", ")),
            )),
        },
        "tools/call" => {
            let message = "this server has no tools; use the claudemesh command line";
            Err((rpc::INVALID_PARAMS, message.into()))
        }
        "prompts/get" => Err((rpc::INVALID_PARAMS, "no prompt of that name".into())),
        "resources/read" => Err((rpc::RESOURCE_NOT_FOUND, "no resource of that name".into())),
        other => Err((rpc::METHOD_NOT_FOUND, format!("method not found: {}", name_of(other)))),
    }
}

fn initialize_result(requested: &str, channel: Channel) -> Value {
    let [newest, ..] = PROTOCOL_VERSIONS;
    let version = PROTOCOL_VERSIONS.into_iter().find(|known| *known == requested).unwrap_or(newest);
    let mut capabilities = json!({
        "tools": {"listChanged": true},
        "prompts": {"listChanged": true},
        "resources": {"listChanged": true},
        "logging": {},
    });
    if let (Channel::Push, Some(object)) = (channel, capabilities.as_object_mut()) {
        object.insert("experimental".into(), json!({"claude/channel": {}}));
    }
    json!({
        "protocolVersion": version,
        "capabilities": capabilities,
        "serverInfo": {"name": SERVER_NAME, "version": env!("CARGO_PKG_VERSION")},
        "instructions": PUSH_PIPE,
    })
}

/// A stranger's method name, short enough to be echoed.
fn name_of(method: &str) -> String {
    claudemesh_protocol::text::sanitized_line(method, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(line: &str) -> Value {
        answer(&Read::Line(line.as_bytes()), Channel::Push).reply.unwrap()
    }

    fn request(method: &str, params: &Value) -> Value {
        reply(
            &json!({"jsonrpc": "2.0", "id": "q-1", "method": method, "params": params}).to_string(),
        )
    }

    #[test]
    fn every_supported_revision_is_answered_with_itself_and_others_with_the_newest() {
        for version in PROTOCOL_VERSIONS {
            let reply = request("initialize", &json!({"protocolVersion": version}));
            assert_eq!(reply["result"]["protocolVersion"], version);
        }
        for version in ["2026-07-28", "1999-01-01"] {
            let reply = request("initialize", &json!({"protocolVersion": version}));
            assert_eq!(reply["result"]["protocolVersion"], PROTOCOL_VERSIONS[0]);
        }
        assert_eq!(request("initialize", &json!({}))["error"]["code"], rpc::INVALID_PARAMS);
    }

    #[test]
    fn the_channel_is_declared_unless_switched_off() {
        let line = br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
        let with = answer(&Read::Line(line), Channel::Push).reply.unwrap();
        assert_eq!(with["result"]["capabilities"]["experimental"], json!({"claude/channel": {}}));
        assert_eq!(with["result"]["serverInfo"]["name"], "claudemesh");
        let without = answer(&Read::Line(line), Channel::Off).reply.unwrap();
        assert!(without["result"]["capabilities"].get("experimental").is_none());
    }

    #[test]
    fn probes_and_unknown_requests_are_refused_under_their_own_id() {
        for method in ["server/discover", "roots/list_all", "x".repeat(500).as_str()] {
            let reply = request(method, &json!({}));
            assert_eq!((&reply["error"]["code"], &reply["id"]), (&json!(-32601), &json!("q-1")));
        }
    }

    #[test]
    fn lists_are_empty_and_calls_into_them_are_refused() {
        for (method, key) in [
            ("tools/list", "tools"),
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ] {
            assert_eq!(request(method, &json!({}))["result"][key], json!([]));
        }
        assert_eq!(request("tools/call", &json!({"name": "x"}))["error"]["code"], -32602);
        assert_eq!(request("prompts/get", &json!({"name": "x"}))["error"]["code"], -32602);
        assert_eq!(request("resources/read", &json!({"uri": "x"}))["error"]["code"], -32002);
        assert_eq!(
            request("completion/complete", &json!({}))["result"]["completion"]["values"],
            json!([])
        );
        assert_eq!(request("logging/setLevel", &json!({"level": "info"}))["result"], json!({}));
        assert_eq!(request("logging/setLevel", &json!({"level": "loud"}))["error"]["code"], -32602);
        assert_eq!(request("ping", &Value::Null)["result"], json!({}));
    }

    #[test]
    fn readiness_comes_with_initialized_or_first_use() {
        let client = |line: &str| answer(&Read::Line(line.as_bytes()), Channel::Push).client;
        assert_eq!(
            client(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
            Client::Ready
        );
        assert_eq!(client(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#), Client::Ready);
        assert_eq!(client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), Client::Unknown);
        assert_eq!(
            client(r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#),
            Client::Unknown
        );
    }
}

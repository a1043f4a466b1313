//! What this server answers to an MCP client at once, and what it must work for (MCP spec §3).
//!
//! Every answer here is made from memory, so that `initialize` never waits for the daemon; a tool call becomes a [`Job`].

use claudemesh_ipc::api::session::ServedClient;
use claudemesh_protocol::limits::MCP_LINE_MAX_BYTES;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::jobs::{Job, Work};
use crate::rpc::{self, Fault, Incoming};
use crate::stdio::Read;
use crate::tools::{Call, Revision, Toolset, listing};
use crate::{Channel, instructions, listener, resource};

/// The server's name; the channel flag of the client names it too.
pub(crate) const SERVER_NAME: &str = "claudemesh";

const LOG_LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What to do about one line.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What happens next.
    pub step: Step,
    /// Whether the client has shown with this line that it is ready for notifications.
    pub client: Client,
}

/// What happens after a line.
#[derive(Debug, Default)]
pub(crate) enum Step {
    /// Nothing.
    #[default]
    Nothing,
    /// This line is written back.
    Reply(Value),
    /// This takes time.
    Begin(Box<Job>),
    /// The job of this id is no longer wanted.
    Cancel(Value),
    /// An answer to a question of ours.
    Answered {
        /// Which question.
        id: Value,
        /// `None`: the client could not do it.
        result: Option<Value>,
    },
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

/// The server as its client sees it, with what the handshake agreed on.
#[derive(Debug)]
pub(crate) struct Face {
    channel: Channel,
    tools: Toolset,
    mesh: Option<String>,
    revision: Revision,
    can_ask: bool,
    watched_tx: watch::Sender<bool>,
    served_tx: watch::Sender<Option<ServedClient>>,
}

impl Face {
    /// Before the handshake: the newest revision, and a client that cannot ask anybody. `watched_tx` tells whether the
    /// client watches the inbox, `served_tx` who it is.
    pub(crate) const fn new(
        channel: Channel,
        tools: Toolset,
        mesh: Option<String>,
        watched_tx: watch::Sender<bool>,
        served_tx: watch::Sender<Option<ServedClient>>,
    ) -> Self {
        let (revision, can_ask) = (Revision::NEWEST, false);
        Self { channel, tools, mesh, revision, can_ask, watched_tx, served_tx }
    }

    /// Answers one line of the client.
    pub(crate) fn answer(&mut self, read: &Read<'_>) -> Answer {
        let incoming = match read {
            Read::TooLong => {
                let message = format!("a line is longer than {MCP_LINE_MAX_BYTES} bytes");
                Err(Fault::new(Value::Null, rpc::PARSE_ERROR, message))
            }
            Read::Line(line) => rpc::parse(line),
        };
        let (step, is_ready) = match incoming {
            Err(fault) => (Step::Reply(fault.reply()), false),
            Ok(Incoming::Response { id, result }) => (Step::Answered { id, result }, false),
            Ok(Incoming::Notification { method, mut params }) => match method.as_str() {
                "notifications/initialized" => (Step::Nothing, true),
                "notifications/cancelled" => {
                    (params.remove("requestId").map_or(Step::Nothing, Step::Cancel), false)
                }
                _ => (Step::Nothing, false),
            },
            Ok(Incoming::Request { id, method, params }) => {
                let uses_the_server = method.ends_with("/list") || method == "tools/call";
                (self.step_of(id, &method, params), uses_the_server)
            }
        };
        Answer { step, client: if is_ready { Client::Ready } else { Client::Unknown } }
    }

    fn step_of(&mut self, id: Value, method: &str, params: Map<String, Value>) -> Step {
        let progress_token =
            params.get("_meta").and_then(|meta| meta.get("progressToken")).cloned();
        let work = match method {
            "tools/call" => match Call::read(&params, &self.tools, self.mesh.as_deref()) {
                Ok(call) => Work::Call(call),
                Err(message) => {
                    return Step::Reply(Fault::new(id, rpc::INVALID_PARAMS, message).reply());
                }
            },
            "completion/complete" => Work::Complete(params),
            "resources/read" if self.offers(&params) => {
                Work::Read(resource::reading(self.mesh.as_deref()))
            }
            _ => {
                return Step::Reply(match self.result_of(method, &params) {
                    Ok(result) => rpc::result(&id, &result),
                    Err((code, message)) => Fault::new(id, code, message).reply(),
                });
            }
        };
        Step::Begin(Box::new(Job {
            id,
            work,
            progress_token,
            revision: self.revision,
            can_ask: self.can_ask,
        }))
    }

    fn result_of(
        &mut self,
        method: &str,
        params: &Map<String, Value>,
    ) -> Result<Value, (i64, String)> {
        let text = |key: &str| params.get(key).and_then(Value::as_str);
        match method {
            "initialize" => match text("protocolVersion") {
                Some(version) => {
                    self.revision = Revision::agreed(version);
                    self.can_ask = can_ask(params);
                    let served = listener::served(params, self.channel, &self.tools);
                    self.served_tx.send_replace(served);
                    Ok(self.initialize_result())
                }
                None => Err((rpc::INVALID_PARAMS, "initialize needs protocolVersion".into())),
            },
            "ping" => Ok(json!({})),
            "tools/list" => Ok(listing(&self.tools, self.revision)),
            "prompts/list" => Ok(json!({"prompts": []})),
            "resources/list" => Ok(resource::listing(&self.tools)),
            "resources/subscribe" | "resources/unsubscribe" if self.offers(params) => {
                self.watched_tx.send_replace(method == "resources/subscribe");
                Ok(json!({}))
            }
            "resources/templates/list" => Ok(json!({"resourceTemplates": []})),
            "logging/setLevel" => match text("level") {
                Some(level) if LOG_LEVELS.contains(&level) => Ok(json!({})),
                _ => Err((
                    rpc::INVALID_PARAMS,
                    format!("level must be one of {}", LOG_LEVELS.join(", ")),
                )),
            },
            "prompts/get" => Err((rpc::INVALID_PARAMS, "no prompt of that name".into())),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => match text("uri")
            {
                Some(_) => Err((rpc::RESOURCE_NOT_FOUND, "no resource of that name".into())),
                None => Err((rpc::INVALID_PARAMS, format!("{method} needs the uri of a resource"))),
            },
            other => Err((rpc::METHOD_NOT_FOUND, format!("method not found: {}", name_of(other)))),
        }
    }

    /// True when the request is about the resource of a server with tools.
    fn offers(&self, params: &Map<String, Value>) -> bool {
        let uri = params.get("uri").and_then(Value::as_str);
        !self.tools.is_empty() && uri == Some(resource::UNREAD)
    }

    fn initialize_result(&self) -> Value {
        let mut capabilities = json!({
            "tools": {"listChanged": true},
            "prompts": {"listChanged": true},
            "resources": {"listChanged": true},
            "logging": {},
            "completions": {},
        });
        if let Some(object) = capabilities.as_object_mut() {
            if self.channel == Channel::Push {
                object.insert("experimental".into(), json!({"claude/channel": {}}));
            }
            if !self.tools.is_empty() {
                let watched = json!({"listChanged": true, "subscribe": true});
                object.insert("resources".into(), watched);
            }
        }
        json!({
            "protocolVersion": self.revision.as_str(),
            "capabilities": capabilities,
            "serverInfo": {"name": SERVER_NAME, "version": env!("CARGO_PKG_VERSION")},
            "instructions": instructions::of(&self.tools, self.channel),
        })
    }
}

/// Whether the client can put a form before a person. An empty declaration means that; one that names kinds must name
/// this one.
fn can_ask(params: &Map<String, Value>) -> bool {
    let declared = params.get("capabilities").and_then(|all| all.get("elicitation"));
    declared
        .and_then(Value::as_object)
        .is_some_and(|kinds| kinds.is_empty() || kinds.contains_key("form"))
}

/// A stranger's method name, short enough to be echoed.
fn name_of(method: &str) -> String {
    claudemesh_protocol::text::sanitized_line(method, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &[u8], channel: Channel) -> Answer {
        answer_of(line, channel, "none")
    }

    fn answer_of(line: &[u8], channel: Channel, tools: &str) -> Answer {
        let tools = Toolset::parse(tools).unwrap();
        let (watched_tx, _) = resource::subscription();
        let (served_tx, _) = watch::channel(None);
        Face::new(channel, tools, None, watched_tx, served_tx).answer(&Read::Line(line))
    }

    fn reply(line: &[u8], channel: Channel) -> Value {
        match answer(line, channel).step {
            Step::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn request(method: &str, params: &Value) -> Value {
        let line = json!({"jsonrpc": "2.0", "id": "q-1", "method": method, "params": params});
        reply(line.to_string().as_bytes(), Channel::Push)
    }

    #[test]
    fn every_supported_revision_is_answered_with_itself_and_others_with_the_newest() {
        for revision in Revision::ALL {
            let version = revision.as_str();
            let reply = request("initialize", &json!({"protocolVersion": version}));
            assert_eq!(reply["result"]["protocolVersion"], version);
        }
        for version in ["2026-07-28", "1999-01-01"] {
            let reply = request("initialize", &json!({"protocolVersion": version}));
            assert_eq!(reply["result"]["protocolVersion"], Revision::NEWEST.as_str());
        }
        assert_eq!(request("initialize", &json!({}))["error"]["code"], rpc::INVALID_PARAMS);
    }

    #[test]
    fn the_channel_is_declared_unless_switched_off() {
        let line = br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
        let with = reply(line, Channel::Push);
        assert_eq!(with["result"]["capabilities"]["experimental"], json!({"claude/channel": {}}));
        assert_eq!(with["result"]["serverInfo"]["name"], "claudemesh");
        let without = reply(line, Channel::Off);
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
        assert_eq!(request("logging/setLevel", &json!({"level": "info"}))["result"], json!({}));
        assert_eq!(request("logging/setLevel", &json!({"level": "loud"}))["error"]["code"], -32602);
        assert_eq!(request("ping", &Value::Null)["result"], json!({}));
    }

    /// MCP spec §12: the inbox as a resource, in catalogue mode only.
    #[test]
    fn a_server_with_tools_has_the_inbox_as_its_resource() {
        let ask = |method: &str, uri: &Value, tools: &str| {
            let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri}});
            answer_of(line.to_string().as_bytes(), Channel::Off, tools).step
        };
        let reply = |method: &str, uri: &Value, tools: &str| match ask(method, uri, tools) {
            Step::Reply(reply) => reply,
            other => panic!("{other:?}"),
        };
        let unread = json!(resource::UNREAD);
        let listed = reply("resources/list", &Value::Null, "state");
        assert_eq!(listed["result"]["resources"][0]["uri"], unread);
        assert_eq!(reply("resources/subscribe", &unread, "state")["result"], json!({}));
        assert!(matches!(
            ask("resources/read", &unread, "state"),
            Step::Begin(job) if matches!(&job.work, Work::Read(call) if call.arguments["mark_seen"] == false)
        ));
        for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
            assert_eq!(reply(method, &unread, "none")["error"]["code"], -32002, "{method}");
            let other = json!("inbox://claudemesh/other");
            assert_eq!(reply(method, &other, "state")["error"]["code"], -32002, "{method}");
            assert_eq!(reply(method, &Value::Null, "state")["error"]["code"], -32602, "{method}");
        }
        let hello = |tools: &str| {
            let line = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize",
                "params": {"protocolVersion": "2025-11-25"}});
            let answer = answer_of(line.to_string().as_bytes(), Channel::Push, tools);
            let Step::Reply(reply) = answer.step else { panic!("no reply") };
            reply["result"]["capabilities"]["resources"]["subscribe"] == true
        };
        assert!(hello("state") && !hello("none"));
    }

    #[test]
    fn readiness_comes_with_initialized_or_first_use() {
        let client = |line: &str| answer(line.as_bytes(), Channel::Push).client;
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

    #[test]
    fn a_client_that_declares_forms_can_be_asked() {
        let ask = |capabilities: Value| {
            can_ask(json!({ "capabilities": capabilities }).as_object().unwrap())
        };
        assert!(ask(json!({ "elicitation": {} })) && ask(json!({ "elicitation": { "form": {} } })));
        assert!(!ask(json!({})) && !ask(json!({ "elicitation": { "url": {} } })));
    }

    #[test]
    fn a_cancelled_notification_names_its_request_with_its_type() {
        for id in [json!("7"), json!(7)] {
            let line = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
            let step = answer(line.to_string().as_bytes(), Channel::Push).step;
            assert!(matches!(step, Step::Cancel(named) if named == id));
        }
    }
}

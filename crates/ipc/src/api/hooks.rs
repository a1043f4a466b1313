//! `POST /v1/admin/hooks-test` (daemon spec §9.7, §16).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which hook is tried, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HooksTestRequest {
    /// `<stem>`, or `<slug>/<stem>` for a hook of one mesh.
    pub hook: String,
    /// Mesh slug of an invented event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Id of a message in the inbox: its event is told again, and a reply is sent, once for each message. Without it the
    /// event is invented and nothing is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HooksTestReply {
    /// It ran to its end, and what it said was understood.
    pub ok: bool,
    /// The line of the audit file (daemon spec §16.8).
    pub run: Value,
    /// The beginning of its standard output.
    pub stdout: String,
    /// The beginning of its standard error.
    pub stderr: String,
}

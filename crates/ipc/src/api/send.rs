//! `POST /v1/send` (daemon spec §10.1, §10.4).

use claudemesh_protocol::Priority;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::outbox::{BrokerAnswer, RowStatus};

/// A message to one target. Strict: an unknown field is refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// Who it is for, in any form of daemon spec §10.2; at most 256 bytes.
    pub to: String,
    /// The text, not empty.
    pub message: String,
    /// Default `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// User metadata; travels inside the encrypted body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Map<String, Value>>,
    /// Message answered: broker id, client id, or a prefix of one of at least 8 characters.
    #[serde(default, alias = "replyToId", skip_serializing_if = "Option::is_none")]
    pub reply_to_id: Option<String>,
    /// Lowercase names, without `@`; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
    /// The sender's own id; repeated sends under one id are one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// Mesh slug, when not derivable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Allows the own member as target: one message per sibling session.
    #[serde(rename = "self", default, skip_serializing_if = "std::ops::Not::not")]
    pub to_self: bool,
    /// Gives up after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
    /// Reserved to the scheduler; a client's value is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtype: Option<String>,
}

/// Body of `POST /v1/broadcast`. Strict: an unknown field is refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BroadcastRequest {
    /// The text, not empty.
    pub message: String,
    /// `*` or `@group`; default `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Default `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// User metadata; travels inside the encrypted body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Map<String, Value>>,
    /// The sender's own id; repeated sends under one id are one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// Mesh slug, when not derivable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
}

/// Answer of a send: 202 when queued, 200 for a duplicate of one that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReply {
    /// The id of the message, given or minted.
    pub client_message_id: String,
    /// Where the row stands.
    #[serde(with = "super::outbox::send_status")]
    pub status: RowStatus,
    /// Mesh slug.
    pub mesh: String,
    /// Resolved target in wire form.
    pub target: String,
    /// From the cached roster, for a single recipient only.
    pub recipient_online: Option<bool>,
    /// The same message was done before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// The broker's id, once it acknowledged.
    #[serde(default)]
    pub broker_message_id: Option<String>,
    /// Id in the mesh history, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_id: Option<String>,
    /// The recipients' clients cannot show metadata; it stayed here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub meta_dropped: bool,
    /// A send to oneself: one entry per sibling session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<FanoutEntry>>,
    /// What the broker said, where the message went to it at once: without a daemon (CLI spec §1.15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_answer: Option<BrokerAnswer>,
}

/// One recipient of a send to oneself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanoutEntry {
    /// The sibling's session key.
    pub target: String,
    /// Accepted.
    pub ok: bool,
    /// `<id>`, `<id>:1`, `<id>:2`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// Error code when not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

//! Inputs and results of the messaging family that the daemon makes itself (MCP spec §7.1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::key::PublicKey;
use crate::status::Priority;
use crate::wire::PeerRow;

/// One or several targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(untagged)]
pub enum Targets {
    /// One.
    One(String),
    /// Up to 32; the same peer under two names gets one message.
    Several(#[schemars(length(min = 1, max = 32))] Vec<String>),
}

/// Sends text to a peer, a key, a group, or everyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// Name, @group, * or key; a list for several.
    pub to: Targets,
    /// The text.
    #[schemars(length(min = 1))]
    pub message: String,
    /// now interrupts; next waits until the peer is idle; low waits in its inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Id of the message answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Your own id: sending again under it sends nothing twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub client_message_id: Option<String>,
    /// Allows your own member as target.
    #[serde(rename = "self", default, skip_serializing_if = "Option::is_none")]
    pub to_self: Option<bool>,
}

/// Reads the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct CheckMessages {
    /// 50 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 200))]
    pub limit: Option<u32>,
    /// Mark them read; true when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark_seen: Option<bool>,
    /// Only those received later, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only from this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Only of this topic or group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// Lists who is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct ListPeers {
    /// Also the daemons' own connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// Names one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct OnePeer {
    /// Name, key, or key prefix of at least 8 characters.
    #[schemars(length(min = 1, max = 256))]
    pub peer: String,
}

/// What became of one target of a send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SendOutcome {
    /// The target as it was given.
    pub to: String,
    /// It was accepted.
    pub ok: bool,
    /// Id of the message, given or minted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// The broker's id, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_message_id: Option<String>,
    /// queued, inflight or done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Slug of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// The target as the broker knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// From the cached roster, for a single recipient only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient_online: Option<bool>,
    /// `code: sentence` of a target that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a send.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SendOutcomes {
    /// One for each target, in the order given.
    pub results: Vec<SendOutcome>,
}

/// One peer: the broker's row plus what only the daemon knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PeerEntry {
    /// The broker's row, under its own names.
    #[serde(flatten)]
    pub row: PeerRow,
    /// Mesh slug.
    pub mesh: String,
    /// It is our own member.
    #[serde(rename = "isSelf", default)]
    pub is_self: bool,
    /// It is the calling session.
    #[serde(rename = "isThisSession", default)]
    pub is_this_session: bool,
    /// A member without a session, whose daemon is reachable.
    #[serde(rename = "noSession", default, skip_serializing_if = "std::ops::Not::not")]
    pub no_session: bool,
}

/// A mesh that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct MeshError {
    /// Mesh slug.
    pub mesh: String,
    /// Stable code.
    pub error: String,
}

/// Answer of `GET /v1/peers`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PeersReply {
    /// All peers of the meshes that answered.
    pub peers: Vec<PeerEntry>,
    /// The meshes that did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<MeshError>,
}

/// What became of a loop stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct LoopLifted {
    /// The other side's key.
    pub peer: PublicKey,
    /// Its name, or what it was called in the request.
    pub name: String,
    /// There was a stop, and it is lifted.
    pub lifted: bool,
}

/// Whose key a message was addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum RecipientKind {
    /// A session of ours.
    Session,
    /// The member.
    Member,
}

impl RecipientKind {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Member => "member",
        }
    }
}

/// How the body was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum Decrypt {
    /// Opened with a current key.
    Ok,
    /// Opened with a key that was rotated away.
    ArchivedKey,
    /// It came unencrypted.
    Plain,
    /// It could not be opened.
    Failed,
    /// We have no key for it.
    NoKey,
}

impl Decrypt {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ArchivedKey => "archived_key",
            Self::Plain => "plain",
            Self::Failed => "failed",
            Self::NoKey => "no_key",
        }
    }

    /// True when there is a body to show.
    pub const fn is_readable(self) -> bool {
        !matches!(self, Self::Failed | Self::NoKey)
    }
}

/// One message of the inbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct InboxItem {
    /// Row id (ULID); `inbox_id` elsewhere.
    pub id: String,
    /// The sender's id.
    pub client_message_id: String,
    /// The broker's id.
    pub broker_message_id: Option<String>,
    /// Mesh slug.
    pub mesh: String,
    /// `dm`, `group`, `topic`, `broadcast`, `rpc`, `stream` or `system`.
    pub channel: String,
    /// Name of the topic, or of the group.
    pub topic: Option<String>,
    /// Key that sent it.
    pub sender_pubkey: String,
    /// Member behind it; empty when unknown.
    pub sender_member_pubkey: String,
    /// Name to show.
    pub sender_name: String,
    /// Priority.
    pub priority: Priority,
    /// `webhook`, `reminder`, …
    pub subtype: Option<String>,
    /// The text; `None` when it could not be opened.
    pub body: Option<String>,
    /// User metadata.
    pub meta: Option<serde_json::Map<String, serde_json::Value>>,
    /// Names mentioned.
    #[serde(default)]
    pub mentions: Vec<String>,
    /// How the body was opened.
    pub decrypt: Decrypt,
    /// Message it answers.
    pub reply_to_id: Option<String>,
    /// RFC 3339, by the broker's clock.
    pub created_at: Option<String>,
    /// RFC 3339, by ours.
    pub received_at: String,
    /// RFC 3339; before the call that listed it.
    pub seen_at: Option<String>,
    /// RFC 3339, when it was put before an agent.
    pub pushed_at: Option<String>,
    /// Announced in a digest only.
    #[serde(default)]
    pub digest: bool,
    /// Ended session it was addressed to.
    pub addressed_to: Option<String>,
    /// Own key that received it.
    pub recipient_pubkey: Option<PublicKey>,
    /// Kind of that key.
    pub recipient_kind: Option<RecipientKind>,
    /// `broker`, `p2p`, …
    pub transport: String,
    /// Automatic answers before it.
    #[serde(default)]
    pub hops: u32,
    /// The sender's key is proved to be that member's.
    #[serde(default)]
    pub sender_verified: bool,
    /// Waits until the gate of the asking session, or of every session it is for, opens (daemon spec §13.2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Other sessions of the member that were given the same message.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub also_given: u32,
    /// [`ANSWERED_ELSEWHERE`] once another session, or another device, has replied to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Name of the session that replied to it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
}

/// Value of [`InboxItem::state`] for messages that need no answer any more.
pub const ANSWERED_ELSEWHERE: &str = "answered_elsewhere";

impl InboxItem {
    /// Another session of the member has replied to it.
    pub fn is_answered_elsewhere(&self) -> bool {
        self.state.as_deref() == Some(ANSWERED_ELSEWHERE)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Messages of the inbox.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct CheckedMessages {
    /// Oldest first.
    pub messages: Vec<InboxItem>,
    /// Unread ones that were left.
    pub remaining: u64,
}

//! `GET /v1/inbox` and its neighbours (daemon spec §13.3).

use claudemesh_protocol::{Priority, PublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Whose key a message was addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    pub meta: Option<Map<String, Value>>,
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

/// Filter of `GET /v1/inbox`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InboxQuery {
    /// Inclusive; RFC 3339 or Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Exclusive; RFC 3339 or Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Topic name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Sender, by key or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Mesh slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// 1 to 1000, default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only what was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_only: Option<bool>,
    /// Mark what is returned as seen; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark_seen: Option<bool>,
}

/// One page, newest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct InboxPage {
    /// The messages.
    pub items: Vec<InboxItem>,
    /// How many this call marked as seen.
    pub marked_seen: u64,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Query of `GET /v1/inbox/search`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SearchQuery {
    /// An FTS5 expression; what is none is searched for as a phrase.
    pub q: String,
    /// Mesh slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// 1 to 200, default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The message.
    #[serde(flatten)]
    pub item: InboxItem,
    /// The place, at most 160 characters, matches in `[` and `]`.
    pub snippet: String,
    /// bm25: the smaller, the better.
    pub rank: f64,
}

/// One page of findings, newest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SearchPage {
    /// The messages.
    pub items: Vec<Found>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// `POST /v1/inbox/seen`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeenRequest {
    /// 1 to 1000 row ids.
    pub ids: Vec<String>,
    /// They were put before an agent: also stamps `pushed_at`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pushed: bool,
    /// The way they took to the agent, told to the sender: 1 to 64 of `a-z 0-9 _ -`; default `channel` for what was
    /// pushed, else `inbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Answer of `POST /v1/inbox/seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeenReply {
    /// Rows that were unseen before.
    pub marked_seen: u64,
}

/// Filter of `DELETE /v1/inbox`; one of the three must be given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlushQuery {
    /// Mesh slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Exclusive; RFC 3339 or Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// Answer of the two deletions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Removed {
    /// Rows removed.
    pub removed: u64,
    /// The row, when one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

//! `GET /v1/inbox` and its neighbours (daemon spec §13.3).

pub use claudemesh_protocol::ops::messaging::{
    ANSWERED_ELSEWHERE, Decrypt, InboxItem, RecipientKind,
};
use serde::{Deserialize, Serialize};

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

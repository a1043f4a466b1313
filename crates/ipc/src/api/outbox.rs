//! `GET /v1/outbox` (daemon spec §11.2).

use serde::{Deserialize, Serialize};

/// State of an outbox row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowStatus {
    /// Accepted, waiting; clients see `queued` in a send reply.
    #[serde(alias = "queued")]
    Pending,
    /// Written to the broker, no answer yet.
    Inflight,
    /// The broker has it.
    Done,
    /// Refused for good, or too old.
    Dead,
    /// Replaced or dropped by an operator.
    Aborted,
}

impl RowStatus {
    /// Every state.
    pub const ALL: &'static [Self] =
        &[Self::Pending, Self::Inflight, Self::Done, Self::Dead, Self::Aborted];

    /// The word in the database and in lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Inflight => "inflight",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Aborted => "aborted",
        }
    }

    /// Reads the word of [`RowStatus::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == word)
    }
}

/// Writes the status of a send reply, where `pending` is called `queued` (daemon spec §10.4).
pub mod send_status {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::RowStatus;

    /// Writes `queued`, `inflight`, `done`, `dead` or `aborted`.
    pub fn serialize<S: Serializer>(status: &RowStatus, serializer: S) -> Result<S::Ok, S::Error> {
        let word = if *status == RowStatus::Pending { "queued" } else { status.as_str() };
        serializer.serialize_str(word)
    }

    /// Reads what [`serialize`] writes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RowStatus, D::Error> {
        RowStatus::deserialize(deserializer)
    }
}

/// One row, never with its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxItem {
    /// Row id (ULID).
    pub id: String,
    /// The sender's id.
    pub client_message_id: String,
    /// Mesh slug.
    pub mesh: String,
    /// Target as it was typed.
    pub to: String,
    /// Target in wire form.
    pub target: String,
    /// State.
    pub status: RowStatus,
    /// Finished attempts.
    pub attempts: u32,
    /// RFC 3339.
    pub enqueued_at: String,
    /// RFC 3339.
    pub next_attempt_at: String,
    /// RFC 3339, once done.
    pub delivered_at: Option<String>,
    /// Once done.
    pub broker_message_id: Option<String>,
    /// Once done.
    pub history_id: Option<String>,
    /// Last failure, a sentence.
    pub last_error: Option<String>,
    /// Last failure, its code.
    pub last_error_code: Option<String>,
    /// RFC 3339.
    pub aborted_at: Option<String>,
    /// Who aborted it.
    pub aborted_by: Option<String>,
    /// The row that took its place.
    pub superseded_by: Option<String>,
    /// First 12 characters of the sending session's key.
    pub sender_session_prefix: Option<String>,
    /// Size of the text, in bytes.
    pub payload_bytes: u64,
    /// First 16 characters of the request fingerprint.
    pub request_fingerprint_prefix: String,
}

/// Filter of `GET /v1/outbox`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutboxQuery {
    /// Only this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only this mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// 1 to 500, default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One page, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutboxPage {
    /// The rows.
    pub items: Vec<OutboxItem>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

//! The outbox in the local API: views (daemon spec §11.2) and what an operator can do (§11.8).

use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{MemberId, PublicKey};
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
    /// Automatic answers before it.
    #[serde(default)]
    pub hops: u32,
    /// What the broker said beside its ids, once done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<BrokerAnswer>,
    /// How far it came, for each recipient that has said so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<RecipientProgress>,
}

/// What the broker said when it took a message, beside its ids (daemon spec §11.4); also in the event `message_sent`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BrokerAnswer {
    /// The one recipient was connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient_online: Option<bool>,
    /// The session it was for has ended; the message went to this member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerouted_to: Option<PublicKey>,
    /// Deliveries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    /// Of these, for absent members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<usize>,
    /// Members without a wrapped key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_no_key: Option<usize>,
    /// Members whose live client cannot open group bodies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable_by: Vec<MemberId>,
    /// Members beyond the largest audience of an encrypted group message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<MemberId>,
    /// The broker knew the id already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// How far a message came at one recipient (wire spec §3.1, Receipts).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientProgress {
    /// Key the delivery was for.
    pub recipient: PublicKey,
    /// The state.
    pub state: ReceiptState,
    /// Since when, RFC 3339, by the clock of who said it.
    pub at: String,
    /// `broker`, `recipient_daemon` or `agent_record`.
    pub asserted_by: String,
    /// Which way it took; at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What shows it; at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Why it waits or was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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

/// `GET /v1/outbox/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRowReply {
    /// The row.
    pub row: OutboxItem,
    /// Ids of the rows that took each other's place, oldest first; the row itself is among them.
    pub chain: Vec<String>,
}

/// Body of `POST /v1/outbox/requeue` (daemon spec §11.8). Strict: an unknown field is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequeueRequest {
    /// The row to replace.
    pub id: String,
    /// Id of the new message; minted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_client_message_id: Option<String>,
    /// Another text in place of the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Keeps the resolved target and the sealed body instead of resolving and sealing anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_target: bool,
    /// Also a row that is in flight: it may then arrive twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Who does it; default `operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<String>,
}

/// Answer of `POST /v1/outbox/requeue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequeueReply {
    /// The row that was replaced.
    pub aborted_row_id: String,
    /// The row in its place.
    pub new_row_id: String,
    /// The id of the new message.
    pub new_client_message_id: String,
}

/// Body of `POST /v1/outbox/drop`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropRequest {
    /// The row.
    pub id: String,
}

/// Answer of `POST /v1/outbox/drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReply {
    /// The row.
    pub aborted_row_id: String,
}

/// Body of `POST /v1/outbox/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxPruneRequest {
    /// Must be true.
    #[serde(default)]
    pub confirm: bool,
    /// Age of the rows in seconds; default 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<u64>,
}

/// Answer of `POST /v1/outbox/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxPruneReply {
    /// Rows that lost their text.
    pub compacted: u64,
    /// Bytes of text and ciphertext that were freed; the file uses them again before it grows.
    pub bytes_freed: u64,
}

//! What goes into and comes out of the outbox table.

use claudemesh_crypto::fingerprint::Fingerprint;
use claudemesh_ipc::api::{BrokerAnswer, OutboxItem, RowStatus};
use claudemesh_protocol::canonical::DestinationKind;
use claudemesh_protocol::{Priority, PublicKey, TargetSpec, Timestamp};
use sqlx::sqlite::SqliteRow;
use zeroize::Zeroizing;

use super::receipts::Receipts;
use crate::mesh::Sealed;
use crate::storage::{Columns as _, decode_error};

/// What the accept algorithm needs to know about a row that has the same id (daemon spec §10.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingRow {
    /// State.
    pub status: RowStatus,
    /// Of the request that made the row.
    pub fingerprint: Fingerprint,
    /// Mesh slug.
    pub mesh: String,
    /// Target as it was typed.
    pub to_raw: String,
    /// Resolved kind.
    pub destination_kind: DestinationKind,
    /// Resolved target.
    pub target_spec: TargetSpec,
    /// The session it was sent by.
    pub sender_session_pubkey: Option<PublicKey>,
    /// Once done.
    pub broker_message_id: Option<String>,
    /// Once done.
    pub history_id: Option<String>,
    /// Message it answers, as it was resolved.
    pub reply_to_id: Option<String>,
    /// Why it is dead.
    pub last_error: Option<String>,
}

/// A message as the accept algorithm stores it.
#[derive(Clone)]
pub struct NewRow {
    /// The sender's id.
    pub client_message_id: String,
    /// Of the request.
    pub fingerprint: Fingerprint,
    /// Mesh slug.
    pub mesh: String,
    /// Target as it was typed.
    pub to_raw: String,
    /// Kind for the fingerprint and the broker.
    pub destination_kind: DestinationKind,
    /// Resolved target.
    pub target_spec: TargetSpec,
    /// `dm`, `group`, `broadcast` or `topic`.
    pub channel: &'static str,
    /// Urgency.
    pub priority: Priority,
    /// The text; wiped on drop.
    pub payload: Zeroizing<Vec<u8>>,
    /// JSON of the user metadata.
    pub meta: Option<String>,
    /// Message answered.
    pub reply_to_id: Option<String>,
    /// Names mentioned.
    pub mentions: Vec<String>,
    /// The sealed body.
    pub body: SealedBody,
    /// The session it is sent by; `None`: the member.
    pub sender_session_pubkey: Option<PublicKey>,
    /// Automatic answers before it.
    pub hops: u32,
    /// When it was accepted.
    pub enqueued_at: Timestamp,
    /// When it gives up.
    pub expires_at: Timestamp,
}

impl NewRow {
    /// The row as it is sent at once by whoever keeps none; its id is the sender's.
    pub(crate) fn outbound(self) -> OutboundRow {
        OutboundRow {
            id: self.client_message_id.clone(),
            client_message_id: self.client_message_id,
            fingerprint: self.fingerprint,
            mesh: self.mesh,
            to_raw: self.to_raw,
            destination_kind: self.destination_kind,
            target_spec: self.target_spec,
            channel: self.channel.to_owned(),
            priority: self.priority,
            payload: self.payload,
            meta: self.meta,
            reply_to_id: self.reply_to_id,
            mentions: self.mentions,
            body: self.body,
            sender_session_pubkey: self.sender_session_pubkey,
            hops: self.hops,
            attempts: 0,
            enqueued_at: self.enqueued_at,
            expires_at: self.expires_at,
            last_error_code: None,
        }
    }
}

/// An encrypted body as it lies in the row; the same for every attempt.
#[derive(Clone)]
pub struct SealedBody {
    /// Base64.
    pub nonce: String,
    /// Base64.
    pub ciphertext: String,
    /// Wire `bodyVersion`.
    pub body_version: u32,
    /// Content key of a group body, to wrap at each attempt.
    pub content_key: Option<Zeroizing<Vec<u8>>>,
    /// Epoch of the topic key.
    pub key_epoch: Option<u32>,
    /// The key whose secret sealed a direct message; `None` for everything else, and for rows of releases that did not say.
    pub sealed_by: Option<PublicKey>,
}

impl From<Sealed> for SealedBody {
    fn from(sealed: Sealed) -> Self {
        Self {
            nonce: sealed.nonce,
            ciphertext: sealed.ciphertext,
            body_version: sealed.body_version,
            content_key: sealed.content_key,
            key_epoch: sealed.key_epoch,
            sealed_by: sealed.sealed_by,
        }
    }
}

/// A row that was claimed for sending.
///
/// # Security
/// Carries the plaintext and the content key; no `Debug`.
#[derive(Clone)]
pub struct OutboundRow {
    /// Row id.
    pub id: String,
    /// The sender's id.
    pub client_message_id: String,
    /// Of the request.
    pub fingerprint: Fingerprint,
    /// Mesh slug.
    pub mesh: String,
    /// Target as it was typed.
    pub to_raw: String,
    /// Kind of destination.
    pub destination_kind: DestinationKind,
    /// Target.
    pub target_spec: TargetSpec,
    /// `dm`, `group`, `broadcast` or `topic`.
    pub channel: String,
    /// Urgency.
    pub priority: Priority,
    /// The text, to seal it again when the broker asks for another form.
    pub payload: Zeroizing<Vec<u8>>,
    /// JSON of the user metadata.
    pub meta: Option<String>,
    /// Message answered.
    pub reply_to_id: Option<String>,
    /// Names mentioned.
    pub mentions: Vec<String>,
    /// The sealed body.
    pub body: SealedBody,
    /// The session that sends it; `None`: the member.
    pub sender_session_pubkey: Option<PublicKey>,
    /// Automatic answers before it.
    pub hops: u32,
    /// Attempts before this one.
    pub attempts: u32,
    /// When it was accepted.
    pub enqueued_at: Timestamp,
    /// When it gives up.
    pub expires_at: Timestamp,
    /// Code of the last failure.
    pub last_error_code: Option<String>,
}

/// What the broker answered to a send that is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// Its id.
    pub broker_message_id: Option<String>,
    /// Its place in the history.
    pub history_id: Option<String>,
    /// `broker`, `p2p` or `webhook`.
    pub transport: &'static str,
    /// What it said beside the ids.
    pub answer: BrokerAnswer,
}

pub(super) fn existing(row: &SqliteRow) -> Result<ExistingRow, sqlx::Error> {
    Ok(ExistingRow {
        status: status(row)?,
        fingerprint: fingerprint(row)?,
        mesh: row.column("mesh")?,
        to_raw: row.column("to_raw")?,
        destination_kind: row.parsed("destination_kind")?,
        target_spec: row.parsed("target_spec")?,
        sender_session_pubkey: row.parsed_option("sender_session_pubkey")?,
        broker_message_id: row.column("broker_message_id")?,
        history_id: row.column("history_id")?,
        reply_to_id: row.column("reply_to_id")?,
        last_error: row.column("last_error")?,
    })
}

pub(super) fn outbound(row: &SqliteRow) -> Result<OutboundRow, sqlx::Error> {
    let content_key: Option<Vec<u8>> = row.column("content_key")?;
    Ok(OutboundRow {
        id: row.column("id")?,
        client_message_id: row.column("client_message_id")?,
        fingerprint: fingerprint(row)?,
        mesh: row.column("mesh")?,
        to_raw: row.column("to_raw")?,
        destination_kind: row.parsed("destination_kind")?,
        target_spec: row.parsed("target_spec")?,
        channel: row.column("channel")?,
        priority: row.parsed("priority")?,
        payload: Zeroizing::new(row.column("payload")?),
        meta: row.column("meta")?,
        reply_to_id: row.column("reply_to_id")?,
        mentions: mentions(row.column("mentions")?)?,
        body: SealedBody {
            nonce: row.column("nonce")?,
            ciphertext: row.column("ciphertext")?,
            body_version: row.unsigned("body_version")?,
            content_key: content_key.map(Zeroizing::new),
            key_epoch: row.column::<Option<u32>>("key_epoch")?,
            sealed_by: row.parsed_option("sealed_by")?,
        },
        sender_session_pubkey: row.parsed_option("sender_session_pubkey")?,
        hops: row.unsigned("hops")?,
        attempts: row.unsigned("attempts")?,
        enqueued_at: row.time("enqueued_at")?,
        expires_at: row.time("expires_at")?,
        last_error_code: row.column("last_error_code")?,
    })
}

/// Columns of [`item`].
pub(super) const ITEM_COLUMNS: &str = "seq, id, client_message_id, mesh, to_raw, target_spec, status, attempts, enqueued_at, \
     next_attempt_at, delivered_at, broker_message_id, history_id, last_error, last_error_code, \
     aborted_at, aborted_by, superseded_by, sender_session_pubkey, length(payload) AS payload_bytes, \
     request_fingerprint, hops, answer, receipts";

pub(super) fn item(row: &SqliteRow) -> Result<OutboxItem, sqlx::Error> {
    let sender: Option<PublicKey> = row.parsed_option("sender_session_pubkey")?;
    let iso = |time: Option<Timestamp>| time.map(Timestamp::to_iso);
    Ok(OutboxItem {
        id: row.column("id")?,
        client_message_id: row.column("client_message_id")?,
        mesh: row.column("mesh")?,
        to: row.column("to_raw")?,
        target: row.column("target_spec")?,
        status: status(row)?,
        attempts: row.unsigned("attempts")?,
        enqueued_at: row.time("enqueued_at")?.to_iso(),
        next_attempt_at: row.time("next_attempt_at")?.to_iso(),
        delivered_at: iso(row.time_option("delivered_at")?),
        broker_message_id: row.column("broker_message_id")?,
        history_id: row.column("history_id")?,
        last_error: row.column("last_error")?,
        last_error_code: row.column("last_error_code")?,
        aborted_at: iso(row.time_option("aborted_at")?),
        aborted_by: row.column("aborted_by")?,
        superseded_by: row.column("superseded_by")?,
        sender_session_prefix: sender.map(|key| key.short(12)),
        payload_bytes: row.unsigned("payload_bytes")?,
        request_fingerprint_prefix: fingerprint(row)?.prefix(),
        hops: row.unsigned("hops")?,
        answer: answer(row.column("answer")?)?,
        receipts: Receipts::of_row(row)?.into_view(),
    })
}

pub(super) fn status(row: &SqliteRow) -> Result<RowStatus, sqlx::Error> {
    let word: &str = row.column("status")?;
    RowStatus::parse(word).ok_or_else(|| decode_error("status", std::fmt::Error))
}

fn fingerprint(row: &SqliteRow) -> Result<Fingerprint, sqlx::Error> {
    let bytes: &[u8] = row.column("request_fingerprint")?;
    bytes
        .try_into()
        .map(Fingerprint::from_bytes)
        .map_err(|error| decode_error("request_fingerprint", error))
}

fn answer(json: Option<&str>) -> Result<Option<BrokerAnswer>, sqlx::Error> {
    json.map(|json| serde_json::from_str(json).map_err(|error| decode_error("answer", error)))
        .transpose()
}

fn mentions(json: Option<&str>) -> Result<Vec<String>, sqlx::Error> {
    json.map_or_else(
        || Ok(Vec::new()),
        |json| serde_json::from_str(json).map_err(|error| decode_error("mentions", error)),
    )
}

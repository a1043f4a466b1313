//! Messages, their acknowledgements, pushes, status and receipts (wire spec §3.1).

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attestation::ParentAttestation;
use crate::id::{MemberId, MeshId, MessageId};
use crate::key::PublicKey;
use crate::status::{Priority, word};

/// A content key of a group body, sealed to one member (wire spec §5.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct WrappedKey {
    /// Member key it is for.
    pub to: PublicKey,
    /// 24 bytes, b64.
    pub nonce: Arc<str>,
    /// Sender's X25519 key and the boxed content key, b64.
    pub key: Arc<str>,
}

/// A message to the broker. Shape errors are answered by a failed [`Ack`], so fields are kept as text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Send {
    /// Who it is for, see [`crate::target::TargetSpec`].
    #[serde(default)]
    pub target_spec: String,
    /// Urgency; absent means `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// 24 bytes, b64.
    #[serde(default)]
    pub nonce: Arc<str>,
    /// Sealed body, b64.
    #[serde(default)]
    pub ciphertext: Arc<str>,
    /// Echoed in the ack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Idempotency id.
    #[serde(rename = "client_message_id", default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// Fingerprint of the request, hex64.
    #[serde(rename = "request_fingerprint", default, skip_serializing_if = "Option::is_none")]
    pub request_fingerprint: Option<String>,
    /// Names mentioned, without `@`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mentions: Option<Vec<String>>,
    /// Message this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to_id: Option<String>,
    /// 1 plaintext or box, 2 encrypted group or topic body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_version: Option<u8>,
    /// Content keys of a group body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped_keys: Option<Vec<WrappedKey>>,
    /// Version of the topic key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_epoch: Option<u32>,
    /// When an undelivered message may be dropped, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Automatic answers this message stands on (wire spec §4.10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
}

/// Asks for everything held for this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PullMessages {}

/// The receiver has durably stored a push.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct ClientAck {
    /// The sender's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// The broker's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_message_id: Option<String>,
}

/// Lifts a loop stop between the caller and `peer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct LoopUnblock {
    /// The other side's key.
    pub peer: PublicKey,
}

/// Asks what became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MessageStatus {
    /// Full id, or a unique prefix of at least eight characters.
    pub message_id: String,
}

word! {
    /// How far a message came (wire spec §3.1, Receipts).
    ReceiptState, "receipt state" {
        /// The broker has committed it.
        Accepted = "accepted",
        /// The recipient's daemon has committed it.
        OnDevice = "on_device",
        /// Written to a delivery path of a session.
        Handed = "handed",
        /// The agent's own record shows it in a turn.
        InContext = "in_context",
        /// That turn ended.
        TurnEnded = "turn_ended",
        /// A reply names it.
        Answered = "answered",
        /// Waiting on the recipient's side.
        Held = "held",
        /// Waiting at the broker's status gate.
        Deferred = "deferred",
        /// Refused by the recipient.
        Refused = "refused",
        /// Past its time.
        Expired = "expired",
        /// Moved to the member's queue.
        Rerouted = "rerouted",
        /// The session it was for has ended.
        SessionGone = "session_gone",
        /// The recipient cannot open it.
        Unreadable = "unreadable",
    }
}

/// A statement about how far a message came, signed by the recipient's member key unless the broker says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The broker's id.
    pub broker_message_id: MessageId,
    /// The sender's id.
    pub client_message_id: String,
    /// Key the delivery was for.
    pub recipient: PublicKey,
    /// How far it came.
    pub state: ReceiptState,
    /// Which way it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Why it waits or was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Unix milliseconds.
    pub at: i64,
    /// hex128; absent when the broker asserts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// `broker`, `recipient_daemon` or `agent_record`; set by the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asserted_by: Option<String>,
}

/// Outcome class of a send, as HTTP would say it (wire spec §4.7).
pub type AckStatus = u16;

/// The broker's answer to a send, and the bare success of other frames (wire spec §1.4, §3.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// The request's `id`, or `""`.
    #[serde(default)]
    pub id: String,
    /// The broker's id, `""` on failure and where there is none.
    #[serde(default)]
    pub message_id: String,
    /// True when the message is durable.
    #[serde(default)]
    pub queued: bool,
    /// `code: sentence` of a failed send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// 201 accepted, 200 known already, 409 id used for something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<AckStatus>,
    /// The idempotency id again.
    #[serde(rename = "client_message_id", default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// True when the message was known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<bool>,
    /// For a duplicate: whether the message still stands in the store.
    #[serde(rename = "history_available", default, skip_serializing_if = "Option::is_none")]
    pub history_available: Option<bool>,
    /// For a duplicate: when it was first accepted, ISO.
    #[serde(rename = "first_seen_at", default, skip_serializing_if = "Option::is_none")]
    pub first_seen_at: Option<String>,
    /// For a conflict: first eight bytes of the stored fingerprint, hex.
    #[serde(
        rename = "broker_fingerprint_prefix",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub broker_fingerprint_prefix: Option<String>,
    /// Direct messages: whether the recipient is connected now.
    #[serde(rename = "recipient_online", default, skip_serializing_if = "Option::is_none")]
    pub recipient_online: Option<bool>,
    /// Member key, when the named session has ended.
    #[serde(rename = "rerouted_to", default, skip_serializing_if = "Option::is_none")]
    pub rerouted_to: Option<PublicKey>,
    /// Deliveries made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<usize>,
    /// Of these, for absent members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<usize>,
    /// Recipients skipped, because no key was wrapped for them.
    #[serde(rename = "skipped_no_key", default, skip_serializing_if = "Option::is_none")]
    pub skipped_no_key: Option<usize>,
    /// Members whose live client cannot open group bodies.
    #[serde(rename = "unreadable_by", default, skip_serializing_if = "Option::is_none")]
    pub unreadable_by: Option<Vec<MemberId>>,
    /// Topic message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_id: Option<String>,
    /// How long to wait before trying again, in milliseconds.
    #[serde(rename = "retry_after_ms", default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// For `loop_unblock`: whether there was a stop to lift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<bool>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

impl Ack {
    /// Success of a frame that has no result of its own.
    pub fn bare(req_id: &str) -> Self {
        Self { id: req_id.to_owned(), req_id: Some(req_id.to_owned()), ..Self::default() }
    }
}

word! {
    /// Where a message came from.
    Origin, "origin" {
        /// A member's own connection.
        Member = "member",
        /// A service identity.
        Service = "service",
        /// A connector.
        Connector = "connector",
        /// A webhook.
        Webhook = "webhook",
        /// The broker itself.
        System = "system",
    }
}

/// A message, or a system event, to a client. Keys are text: `system` and `webhook:<name>` are senders too.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Push {
    /// The broker's id.
    #[serde(default)]
    pub message_id: String,
    /// The mesh.
    #[serde(default)]
    pub mesh_id: String,
    /// Sending session key, else member key; `system`; `webhook:<name>`.
    #[serde(default)]
    pub sender_pubkey: String,
    /// Sending member's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_member_pubkey: Option<String>,
    /// Sending member's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_member_id: Option<String>,
    /// Sender's display name, as the broker claims it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_name: Option<Arc<str>>,
    /// Topic name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Message this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to_id: Option<String>,
    /// Urgency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// 24 bytes, b64.
    #[serde(default)]
    pub nonce: Arc<str>,
    /// Sealed body, b64.
    #[serde(default)]
    pub ciphertext: Arc<str>,
    /// When the broker accepted it, ISO.
    #[serde(default)]
    pub created_at: String,
    /// The sender's id.
    #[serde(rename = "client_message_id", default, skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<String>,
    /// The sender's fingerprint, hex64.
    #[serde(rename = "request_fingerprint", default, skip_serializing_if = "Option::is_none")]
    pub request_fingerprint: Option<String>,
    /// `reminder`, `system` or `webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtype: Option<String>,
    /// System or webhook event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_data: Option<serde_json::Value>,
    /// The target as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_spec: Option<String>,
    /// 1 plaintext or box, 2 encrypted group or topic body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_version: Option<u8>,
    /// Version of the topic key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_epoch: Option<u32>,
    /// Names mentioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mentions: Option<Vec<String>>,
    /// This recipient's content key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped_key: Option<WrappedKey>,
    /// Automatic answers this message stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
    /// Attestation of the sending session key, first push of it on a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_attestation: Option<ParentAttestation>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// True for third-party content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrusted: Option<bool>,
    /// How often it was pushed, 1-based.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// Answer to [`MessageStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MessageStatusResult {
    /// As asked.
    pub message_id: String,
    /// The target as sent.
    pub target_spec: String,
    /// True when every delivery is delivered.
    pub delivered: bool,
    /// When the last one was, ISO.
    pub delivered_at: Option<String>,
    /// One entry per delivery.
    pub recipients: Vec<RecipientStatus>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// One delivery of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct RecipientStatus {
    /// Display name.
    pub name: String,
    /// Key the delivery is for.
    pub pubkey: String,
    /// `delivered`, `held` or `disconnected`, for old clients.
    pub status: String,
    /// How far it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ReceiptState>,
    /// Since when, ISO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Who says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asserted_by: Option<String>,
    /// Which way it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Why it waits or was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happens next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Push {
    /// A live system event.
    pub fn system(
        mesh_id: &MeshId,
        id: String,
        created_at: String,
        event: &str,
        data: serde_json::Value,
    ) -> Self {
        Self {
            message_id: id,
            mesh_id: mesh_id.as_str().to_owned(),
            sender_pubkey: "system".to_owned(),
            priority: Some(Priority::Low),
            created_at,
            subtype: Some("system".to_owned()),
            event: Some(event.to_owned()),
            event_data: Some(data),
            origin: Some(Origin::System),
            ..Self::default()
        }
    }
}

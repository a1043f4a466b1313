//! The audit log as its readers see it (wire spec §3.22, §5.17; broker spec §4.19).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Reads the audit log, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct AuditQuery {
    /// At most so many entries; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<u32>,
    /// Leaves out so many of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Only entries of this type, such as `member_banned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub event_type: Option<String>,
}

/// One entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Its number in the chain.
    pub id: i64,
    /// What happened.
    pub event_type: String,
    /// Member id of who did it; null for the broker itself.
    pub actor: Option<String>,
    /// What it concerned; never a message, a value or a secret.
    pub payload: Value,
    /// Hash over the previous entry's hash and this entry, 64 hexadecimal characters.
    pub hash: String,
    /// When, ISO.
    pub created_at: String,
}

/// Answer to [`AuditQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct AuditResult {
    /// Newest first.
    #[serde(default)]
    pub entries: Vec<AuditEntry>,
    /// How many there are in all that match.
    #[serde(default)]
    pub total: u64,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// Recomputes the whole chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct AuditVerify {}

/// The newest entry of a mesh's audit log at some time, signed by the broker; also the data of the system event
/// `audit_head`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct AuditHead {
    /// Number of the entry.
    pub entry: i64,
    /// Entries up to and with it.
    pub entries: u64,
    /// Its hash, 64 hexadecimal characters.
    pub hash: String,
    /// When it was signed, ISO.
    pub signed_at: String,
    /// By the broker key over `claudemesh-audit-head|mesh|entry|entries|hash|signed at in ms`, in hexadecimal.
    pub signature: String,
    /// The broker key, 64 hexadecimal characters.
    pub broker_pubkey: String,
}

/// Answer to [`AuditVerify`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct AuditVerifyResult {
    /// True when every entry follows from the one before it.
    pub valid: bool,
    /// Entries looked at.
    pub entries: u64,
    /// The first entry that does not, or that was signed and is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<i64>,
    /// What is wrong, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// The newest signed head. Who kept an earlier one can tell whether the broker still has that entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_head: Option<AuditHead>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

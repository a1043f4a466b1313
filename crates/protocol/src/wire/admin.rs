//! Administration of a mesh: ending connections, banning members, grants (wire spec §3.22, broker spec §4.22, §4.25).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::key::{PublicKey, SignatureBytes};
use crate::permission::Grant;

/// Which connections to end: exactly one of the three.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Kick {
    /// Display name, member key, session key, or a unique key prefix of at least 8 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub target: Option<String>,
    /// Everybody that has given no sign of life for so long, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "duration-ms"))]
    pub stale: Option<u64>,
    /// Everybody but the caller's own connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// As [`Kick`], with connections that come back by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(transparent)]
pub struct Disconnect(pub Kick);

/// Answer to [`Kick`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct KickAck {
    /// Names of the presences that were ended.
    #[serde(default)]
    pub kicked: Vec<String>,
    /// The same list; old clients read this name.
    #[serde(default)]
    pub affected: Vec<String>,
    /// Names whose control-plane connection matched and was left alone: it would come back at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_control_plane: Vec<String>,
    /// What to do instead, when nothing but control-plane connections matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// Answer to [`Disconnect`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(transparent)]
pub struct DisconnectAck(pub KickAck);

/// Removes a member: its connections end and its key is refused until it is unbanned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Ban {
    /// Display name, member key, or a unique key prefix of at least 8 characters.
    #[schemars(length(min = 1, max = 256))]
    pub target: String,
    /// Why; kept in the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub reason: Option<String>,
}

/// Answer to [`Ban`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct BanAck {
    /// Name of the member.
    pub banned: String,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// Lets a banned key in again; its grants and keys do not come back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Unban {
    /// Exact display name or member key.
    #[schemars(length(min = 1, max = 256))]
    pub target: String,
}

/// Answer to [`Unban`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct UnbanAck {
    /// Name of the member.
    pub unbanned: String,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// Asks for the banned members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct ListBans {}

/// One banned member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct BanRow {
    /// Its name.
    pub name: String,
    /// Its key.
    pub pubkey: PublicKey,
    /// When, ISO.
    pub revoked_at: String,
    /// Name of the member that banned it, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
    /// Why, when said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer to [`ListBans`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct ListBansResult {
    /// Newest first.
    #[serde(default)]
    pub bans: Vec<BanRow>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// Merges entries into what the caller grants others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SetGrants {
    /// By key of the sender: exactly these; an empty list blocks, null goes back to the defaults.
    pub grants: BTreeMap<PublicKey, Option<Vec<Grant>>>,
}

/// Replaces the key of the member whose connection this is; the old key is refused at once (wire spec §5.18). Both keys
/// sign the same text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct RotateMemberKey {
    /// The key from now on.
    #[serde(rename = "newPubkey")]
    pub new_pubkey: PublicKey,
    /// Unix milliseconds; part of the signed text.
    pub timestamp: i64,
    /// By the key until now.
    pub signature_old: SignatureBytes,
    /// By the new key.
    pub signature_new: SignatureBytes,
}

/// A change of the mesh that peers must learn even when they were away (wire spec §6.6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MeshEvent {
    /// Its place in the mesh's count, from 1.
    pub seq: u64,
    /// Such as `member_revoked`.
    pub event: String,
    /// What happened.
    pub event_data: serde_json::Value,
    /// When, ISO.
    pub created_at: String,
}

/// What a peer missed; sent after a hello that names an older `meshSeq`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct MeshState {
    /// The newest event.
    pub seq: u64,
    /// Events after the hello's `meshSeq`, oldest first.
    #[serde(default)]
    pub events: Vec<MeshEvent>,
}

/// Asks for what the caller grants others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GetGrants {}

/// Answer to [`SetGrants`] and [`GetGrants`]: the whole map.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GrantsResult {
    /// By key of the sender.
    #[serde(default)]
    pub grants: BTreeMap<PublicKey, Vec<Grant>>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

//! Inputs and results of trust and administration that the daemon makes itself (CLI spec §3.4, §3.5).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::key::PublicKey;
use crate::ops::messaging::MeshError;
use crate::permission::Grant;
use crate::wire::{MemberRow, Stats};

/// Changes what one peer may do towards the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct ChangeGrant {
    /// Name, key, or key prefix of at least 8 characters.
    #[schemars(length(min = 1, max = 256))]
    pub peer: String,
    /// Words to give or take; left out means all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Grant>,
    /// Go back to the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
}

/// What one peer may do towards the caller now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct GrantState {
    /// Its name.
    pub peer: String,
    /// Its member key.
    pub member_pubkey: PublicKey,
    /// What it may do; empty means blocked.
    pub now: Vec<Grant>,
    /// True when these are the defaults.
    pub is_default: bool,
}

/// What the caller grants others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GrantList {
    /// What a peer without an entry may do.
    pub defaults: Vec<Grant>,
    /// Peers with an entry.
    pub grants: Vec<GrantState>,
}

/// A safety number, which two people compare outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct SafetyNumber {
    /// The member's name.
    pub peer: String,
    /// Its member key.
    pub member_pubkey: PublicKey,
    /// Thirty digits; both sides see the same.
    pub safety_number: String,
}

/// Safety numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SafetyNumbers {
    /// One for each member.
    pub peers: Vec<SafetyNumber>,
}

/// Names one peer, or nobody for all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct MaybePeer {
    /// Name, key, or key prefix of at least 8 characters; left out means every member that is online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub peer: Option<String>,
}

/// Counters of one presence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct PeerStats {
    /// Its name.
    pub display_name: String,
    /// Its key.
    pub pubkey: PublicKey,
    /// Its counters; null when it reported none.
    pub stats: Option<Stats>,
}

/// Counters of all presences.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct StatsList {
    /// By name.
    pub peers: Vec<PeerStats>,
}

/// Measures the road of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Priorities to try; now and next when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 3))]
    pub priorities: Option<Vec<crate::status::Priority>>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PingResult {
    /// The priority.
    pub priority: crate::status::Priority,
    /// It came back.
    pub ok: bool,
    /// Until the broker's acknowledgement, in milliseconds.
    pub send_ack_ms: Option<u64>,
    /// Until it came back, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loopback_ms: Option<u64>,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How the road of a message stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PingReport {
    /// State of the broker connection.
    pub ws_status: String,
    /// The caller's status.
    pub your_status: crate::status::PeerStatus,
    /// Presences that can be reached.
    pub peers_online: u64,
    /// push, inbox or off; null without a session.
    pub message_mode: Option<String>,
    /// Whether text is pushed into the session: enabled or off.
    pub channel: String,
    /// By priority.
    pub results: Vec<PingResult>,
}

/// One member of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct MemberEntry {
    /// The broker's row, under its own names.
    #[serde(flatten)]
    pub row: MemberRow,
    /// Mesh slug.
    pub mesh: String,
    /// It is our own member.
    #[serde(rename = "isSelf", default)]
    pub is_self: bool,
}

/// Result of `member.list`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct MembersReply {
    /// All members of the meshes that answered.
    pub members: Vec<MemberEntry>,
    /// The meshes that did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<MeshError>,
}

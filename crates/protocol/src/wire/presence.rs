//! Presence, status, profile, roster and groups (wire spec §3.2, §3.3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attestation::ParentAttestation;
use crate::group::Group;
use crate::id::{MemberId, PresenceId};
use crate::key::{PublicKey, SignatureBytes};
use crate::status::{MemberRole, PeerStatus, StatusSource};

/// Asks who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct ListPeers {
    /// Adds the lease state of each row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,
}

/// Asks for the roster, absent members included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct ListMembers {}

/// A voluntary end: the presence goes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Goodbye {}

/// Sets the own status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SetStatus {
    /// The status.
    pub status: PeerStatus,
    /// Who reports it; absent means manual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<StatusSource>,
}

/// Sets the own summary; `""` clears it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SetSummary {
    /// At most 500 characters.
    pub summary: String,
}

/// Shows or hides the presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SetVisible {
    /// False: absent from lists, broadcasts and groups.
    pub visible: bool,
}

/// Merges the given fields into the own profile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SetProfile {
    /// A short picture or emoji.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A paragraph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<String>,
    /// Role label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What the peer can do, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
}

/// Replaces the own counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct SetStats {
    /// The counters.
    pub stats: Stats,
}

/// Joins a group or replaces the role in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct JoinGroup {
    /// Path, such as eng or eng/core. One leading `@` is tolerated, anything else is answered `invalid_args`.
    #[schemars(extend("format" = "group-name"))]
    pub name: String,
    /// Role in the group; absent clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// Leaves a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct LeaveGroup {
    /// Path, such as eng or eng/core. One leading `@` is tolerated.
    #[schemars(extend("format" = "group-name"))]
    pub name: String,
}

/// Counters a client reports.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Messages received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_in: Option<u64>,
    /// Messages sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_out: Option<u64>,
    /// Tool calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// Errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
}

impl Stats {
    /// Both together. Uptime belongs to one connection and is left out.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |left: Option<u64>, right: Option<u64>| match (left, right) {
            (None, None) => None,
            (left, right) => Some(left.unwrap_or(0).saturating_add(right.unwrap_or(0))),
        };
        Self {
            messages_in: sum(self.messages_in, other.messages_in),
            messages_out: sum(self.messages_out, other.messages_out),
            tool_calls: sum(self.tool_calls, other.tool_calls),
            errors: sum(self.errors, other.errors),
            uptime: None,
        }
    }
}

/// Profile as peers see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Profile {
    /// Role label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A paragraph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<String>,
    /// A short picture or emoji.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// What the peer can do, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
}

/// One presence in `peers_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct PeerRow {
    /// Session key, else member key.
    pub pubkey: PublicKey,
    /// Member key; absent at an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_pubkey: Option<PublicKey>,
    /// Name of this presence.
    #[serde(default)]
    pub display_name: String,
    /// Status.
    pub status: PeerStatus,
    /// Summary.
    #[serde(default)]
    pub summary: Option<String>,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// The client's session id.
    #[serde(default)]
    pub session_id: String,
    /// ISO.
    #[serde(default)]
    pub connected_at: String,
    /// Working directory; other members see the last segment only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Kind of connection; absent at an older broker means session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_role: Option<String>,
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `ai`, `human`, `connector`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<String>,
    /// Kind of program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Counters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// False when hidden (own member only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<bool>,
    /// Profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// The presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_id: Option<PresenceId>,
    /// The member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<MemberId>,
    /// Attestation of the session key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<ParentAttestation>,
    /// Hello capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Session capabilities; null means all.
    #[serde(rename = "allowed_caps", default)]
    pub allowed_caps: Option<Vec<String>>,
    /// Who reported the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_source: Option<StatusSource>,
    /// When, ISO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_updated_at: Option<String>,
    /// `online` or `offline`, only when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// Last proof of life, ISO: the last frame or pong that came from its newest socket, also after that was lost.
    /// Absent at an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
}

/// Answer to [`ListPeers`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PeersList {
    /// By connect time.
    #[serde(default)]
    pub peers: Vec<PeerRow>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// One member in `members_list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MemberRow {
    /// The member.
    pub member_id: MemberId,
    /// Its key.
    pub pubkey: PublicKey,
    /// Its name.
    pub display_name: String,
    /// Its role.
    pub role: MemberRole,
    /// Role label.
    #[serde(default)]
    pub role_tag: Option<String>,
    /// Default groups.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// ISO.
    pub joined_at: String,
    /// ISO.
    #[serde(default)]
    pub last_seen_at: Option<String>,
    /// True with a live or leased presence.
    pub online: bool,
    /// Keys that it had before and that messages may still come under, newest first: each was replaced by the one before
    /// it, the first by `pubkey`. Only those whose change both keys are known to have signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_keys: Vec<FormerKeyRow>,
}

/// A key that a member had before, with the statement that replaced it: whoever trusts the key after it need not trust the
/// broker about this one (wire spec §5.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct FormerKeyRow {
    /// The key.
    pub pubkey: PublicKey,
    /// When the next one took its place, as both keys signed it. Unix milliseconds.
    pub timestamp: i64,
    /// By this key.
    pub signature_old: SignatureBytes,
    /// By the next one.
    pub signature_new: SignatureBytes,
}

/// Answer to [`ListMembers`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct MembersList {
    /// By join time; revoked and unbound members are left out.
    #[serde(default)]
    pub members: Vec<MemberRow>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

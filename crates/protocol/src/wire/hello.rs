//! The handshake: `hello`, `session_hello` and `hello_ack` (wire spec §2.2, §2.5, §2.6).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attestation::ParentAttestation;
use crate::group::Group;
use crate::id::{MemberId, MeshId, PresenceId};
use crate::status::{MessageMode, PeerRole};

/// Hello capabilities this build knows (wire spec §2.2); others are kept and ignored.
pub mod capability {
    /// Acknowledges pushes with `client_ack`.
    pub const CLIENT_ACK: &str = "client_ack";
    /// Reads signed envelopes.
    pub const ENVELOPE_V2: &str = "envelope_v2";
    /// Opens encrypted group bodies.
    pub const GROUP_E2E: &str = "group_e2e";
    /// Unwraps metadata inside the body.
    pub const BODY_META: &str = "body_meta";
    /// Gates `now` and `next` itself.
    pub const LOCAL_GATE: &str = "local_gate";
    /// Wants `receipt` frames.
    pub const RECEIPTS: &str = "receipts";
    /// Reads `hello_ack.features`.
    pub const FEATURES: &str = "features";
    /// Wants the system event `audit_head`; older clients would not know what it is.
    pub const AUDIT_HEADS: &str = "audit_heads";
    /// A one-shot command-line call: no join or leave events, never claims member rows.
    pub const TRANSIENT: &str = "transient";
    /// A session of a daemon that ends with its job: it takes what is addressed to its own key, and never its member's
    /// rows, also while no device of the member is connected (daemon spec §4.1).
    pub const EPHEMERAL: &str = "ephemeral";
}

/// Channel words that mark our daemon's connections.
pub mod channel {
    /// A daemon's member-keyed connection.
    pub const DAEMON: &str = "claudemesh-daemon";
    /// A session-keyed connection.
    pub const SESSION: &str = "claudemesh-session";
    /// A one-shot command-line call.
    pub const CLI: &str = "claudemesh-cli";
}

/// Member-keyed handshake. Keys and signatures are kept as text, because each bad shape has its own error code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Highest protocol version understood; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<u32>,
    /// Capability words, see [`capability`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Mesh id (not slug).
    pub mesh_id: MeshId,
    /// Member id; part of the signed text.
    pub member_id: MemberId,
    /// Member key, hex64.
    pub pubkey: String,
    /// Session key of a one-shot client, SDK or connector; empty means absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_pubkey: Option<String>,
    /// Proof that the caller holds the session key (session-hello text signed by it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_proof: Option<String>,
    /// Attestation for the session key, so that receivers can verify what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_attestation: Option<serde_json::Value>,
    /// Overrides the member's name for this presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The client's own name for its session.
    pub session_id: String,
    /// Process id.
    #[serde(default)]
    pub pid: i64,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Hash of the machine, from daemons (wire spec §5.15); never shown to peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_fingerprint: Option<String>,
    /// `ai`, `human`, `connector`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<String>,
    /// What kind of program connects, see [`channel`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Model the agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Groups; a non-empty list replaces restored and default ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// Only `service` is honoured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_role: Option<String>,
    /// Number of the newest mesh event seen; the broker sends what came after it (wire spec §6.6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_seq: Option<u64>,
    /// Unix milliseconds; part of the signed text.
    pub timestamp: i64,
    /// Member key's signature, hex128.
    pub signature: String,
}

/// Session-keyed handshake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct SessionHello {
    /// Highest protocol version understood; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<u32>,
    /// Capability words, see [`capability`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Mesh id (not slug).
    pub mesh_id: MeshId,
    /// Member id of the parent; checked when not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_member_id: Option<MemberId>,
    /// Member key of the parent, hex64.
    pub parent_member_pubkey: String,
    /// Session key, hex64.
    pub session_pubkey: String,
    /// The parent's statement about the session key; parsed by [`ParentAttestation`].
    pub parent_attestation: serde_json::Value,
    /// Overrides the member's name for this presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The agent's session id.
    pub session_id: String,
    /// Process id of the agent.
    #[serde(default)]
    pub pid: i64,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `ai`, `human`, `connector`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<String>,
    /// What kind of program connects, see [`channel`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Model the agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Groups; a list, empty or not, replaces restored and default ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// Role label shown to people (`profile.role`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Number of the newest mesh event seen; the broker sends what came after it (wire spec §6.6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_seq: Option<u64>,
    /// Unix milliseconds; part of the signed text.
    pub timestamp: i64,
    /// Session key's signature, hex128.
    pub signature: String,
}

/// What the roster says about the member itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MemberProfile {
    /// Role label.
    pub role_tag: Option<String>,
    /// Default groups.
    pub groups: Vec<Group>,
    /// How the member wants messages handed over.
    pub message_mode: MessageMode,
}

/// Which profile fields members may edit themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "four independent switches of the wire format")]
pub struct SelfEditable {
    /// The name.
    pub display_name: bool,
    /// The role label.
    pub role_tag: bool,
    /// The default groups.
    pub groups: bool,
    /// The message mode.
    pub message_mode: bool,
}

impl Default for SelfEditable {
    fn default() -> Self {
        Self { display_name: true, role_tag: true, groups: true, message_mode: true }
    }
}

/// Settings of the mesh that clients must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MeshPolicy {
    /// Which profile fields members may edit themselves.
    #[serde(default)]
    pub self_editable: SelfEditable,
    /// How group bodies must be written; absent at an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_encryption: Option<crate::status::GroupEncryption>,
}

/// Limits the broker announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct WireLimits {
    /// Characters of ciphertext, nonce and target of one send.
    pub max_message_bytes: usize,
    /// Bytes of one frame.
    pub max_frame_bytes: usize,
    /// Messages a member may send per minute.
    pub send_per_minute: u32,
    /// Messages a member may send at once.
    pub send_burst: u32,
}

/// `{name: {"params": {"version": int, …}}}` (wire spec §2.10).
pub type Features = BTreeMap<String, FeatureParams>;

/// Parameters of one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct FeatureParams {
    /// Named values; `version` is always among them.
    pub params: serde_json::Map<String, serde_json::Value>,
}

/// The broker's answer to an accepted handshake; always the first frame on the socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct HelloAck {
    /// This presence.
    pub presence_id: PresenceId,
    /// Effective display name.
    #[serde(default)]
    pub member_display_name: String,
    /// The member's own roster entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_profile: Option<MemberProfile>,
    /// Settings of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_policy: Option<MeshPolicy>,
    /// True when saved state was restored; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// Summary of the last connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_summary: Option<String>,
    /// End of the last connection, ISO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
    /// Groups restored because the hello named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_groups: Option<Vec<Group>>,
    /// Counters of earlier connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_stats: Option<super::presence::Stats>,
    /// Running services in scope; empty until the broker hosts some.
    #[serde(default)]
    pub services: Vec<serde_json::Value>,
    /// `min(broker, client)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<u32>,
    /// Version of the broker program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_version: Option<String>,
    /// Things the client should know: `session_pubkey_unproven`, `parent_attestation_ignored`, `display_name_taken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<String>>,
    /// The mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_id: Option<MeshId>,
    /// The member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<MemberId>,
    /// What the broker takes this connection for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_role: Option<PeerRole>,
    /// The broker's clock, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<i64>,
    /// What the broker can do; absent at an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    /// Key that signs the broker's system events, hex64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_pubkey: Option<crate::key::PublicKey>,
    /// How long the presence outlives its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ttl_ms: Option<u64>,
    /// Limits in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<WireLimits>,
}

impl SessionHello {
    /// Reads the attestation.
    ///
    /// # Errors
    /// The text of the shape error; the broker answers `malformed`.
    pub fn attestation(&self) -> Result<ParentAttestation, serde_json::Error> {
        serde_json::from_value(self.parent_attestation.clone())
    }
}

//! The session registry (daemon spec §8).

use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::{Group, PeerStatus, PublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::inbox::InboxItem;
use crate::token::SessionToken;

/// How messages reach the agent of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageMode {
    /// Put before the agent as they come.
    #[default]
    Push,
    /// Stored; the agent is told how many.
    Inbox,
    /// Not for this session.
    Off,
}

/// A group at registration: `"@name:role"`, or an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GroupSpec {
    /// `@name` or `@name:role`; the `@` may be missing.
    Text(String),
    /// Name and role apart.
    Parts {
        /// Name, with or without `@`.
        name: String,
        /// Role inside the group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
    },
}

/// The hex form of a session secret key on its way to the daemon.
///
/// # Security
/// No `Debug`; wiped on drop.
#[derive(Clone)]
pub struct SecretHex(Zeroizing<String>);

impl SecretHex {
    /// Wraps the text.
    pub const fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text, for the one who parses it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Serialize for SecretHex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretHex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// An in-memory session key handed to the daemon.
#[derive(Clone, Serialize, Deserialize)]
pub struct PresenceOffer {
    /// 64 hex.
    pub session_pubkey: PublicKey,
    /// 128 hex.
    pub session_secret_key: SecretHex,
    /// The member's word for it.
    #[serde(with = "claudemesh_protocol::attestation::snake_case")]
    pub parent_attestation: ParentAttestation,
}

/// `POST /v1/sessions/register`, as a client writes it.
#[derive(Clone, Serialize)]
pub struct RegisterRequest {
    /// The secret by which the session is known.
    pub token: SessionToken,
    /// UUID of the agent session.
    pub session_id: String,
    /// Mesh slug.
    pub mesh: String,
    /// 1 to 64 characters.
    pub display_name: String,
    /// The process whose end ends the session.
    pub pid: u32,
    /// Its directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Groups to join.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupSpec>,
    /// Default `push`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_mode: Option<MessageMode>,
    /// What the session may do; absent: all its member may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caps: Option<CapabilitySet>,
    /// Directories it shares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub share_dirs: Vec<String>,
    /// Model name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Kind of agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Registered by an MCP server without a launch.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ambient: bool,
    /// Use the stored key pair of this session, made when absent. Preferred.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_stored_key: bool,
    /// Or this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceOffer>,
}

impl RegisterRequest {
    /// A registration with the stored key pair and nothing optional.
    pub fn stored(
        token: SessionToken,
        session_id: String,
        mesh: String,
        name: String,
        pid: u32,
    ) -> Self {
        Self {
            token,
            session_id,
            mesh,
            display_name: name,
            pid,
            cwd: None,
            role: None,
            groups: Vec::new(),
            message_mode: None,
            caps: None,
            share_dirs: Vec::new(),
            model: None,
            kind: None,
            ambient: false,
            use_stored_key: true,
            presence: None,
        }
    }
}

/// Answer of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// Always true.
    pub ok: bool,
    /// RFC 3339.
    pub registered_at: String,
    /// The session has a key, hence a presence.
    pub presence_accepted: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_error: Option<String>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_pubkey: Option<PublicKey>,
    /// An earlier registration made way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
}

/// A session as lists show it: never a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// UUID of the agent session.
    pub session_id: String,
    /// Mesh slug.
    pub mesh: String,
    /// Name.
    pub display_name: String,
    /// Its process.
    pub pid: u32,
    /// Its directory.
    pub cwd: Option<String>,
    /// Free text.
    pub role: Option<String>,
    /// Its groups.
    pub groups: Vec<Group>,
    /// How messages reach it.
    pub message_mode: MessageMode,
    /// What it may do; `None`: all its member may.
    pub caps: Option<CapabilitySet>,
    /// Its key, when it has one.
    pub session_pubkey: Option<PublicKey>,
    /// The member's key.
    pub member_pubkey: Option<PublicKey>,
    /// State of its broker connection.
    pub broker_status: Option<super::system::MeshStatus>,
    /// RFC 3339.
    pub registered_at: String,
    /// First 8 characters of its token.
    pub token_prefix: String,
    /// Kind of agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Registered by an MCP server without a launch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ambient: bool,
    /// What it is doing, as far as its hooks tell.
    #[serde(default = "idle")]
    pub status: PeerStatus,
}

const fn idle() -> PeerStatus {
    PeerStatus::Idle
}

/// Answer of `GET /v1/sessions/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReply {
    /// The caller.
    pub session: SessionView,
}

/// Answer of `GET /v1/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionsReply {
    /// All registered sessions.
    pub sessions: Vec<SessionView>,
}

/// What an agent's hook reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEvent {
    /// A prompt was given.
    Prompt,
    /// The turn ended.
    Stop,
    /// The session began.
    Start,
    /// The session ended.
    End,
    /// Between two tool calls.
    Tool,
    /// A file is about to change.
    Edit,
    /// The agent waits for its human.
    Notify,
}

/// Who gave a prompt, as far as the agent's own record tells (`agents.md` §1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptOrigin {
    /// A person typed it.
    Human,
    /// A message that was pushed.
    Push,
    /// Not known; counts as no human.
    #[serde(other)]
    Other,
}

/// `POST /v1/heartbeat`: a sign of life of a session, and what its MCP server counted since its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Heartbeat {
    /// New status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PeerStatus>,
    /// Tool calls.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tool_calls: u64,
    /// Tool calls that failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub errors: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `POST /v1/sessions/status` (daemon spec §8.7).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusReport {
    /// UUID of the agent session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Directory of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The reporter's ancestors, nearest first; at most 4 are looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<u32>,
    /// New status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PeerStatus>,
    /// What happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<HookEvent>,
    /// Which agent program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Files concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Model name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Who gave the prompt; only [`PromptOrigin::Human`] ends a chain of automatic answers (daemon spec §10.6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<PromptOrigin>,
}

/// Answer of `POST /v1/sessions/status`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StatusReply {
    /// Always true.
    pub ok: bool,
    /// Sessions it concerned.
    pub matched: u32,
    /// What the gates let through now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<InboxItem>,
    /// Things to tell the agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Answer of `DELETE /v1/sessions/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeregisterReply {
    /// Always true.
    pub ok: bool,
    /// First 8 characters of the token.
    pub token_prefix: String,
}

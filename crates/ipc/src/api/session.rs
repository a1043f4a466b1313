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
    /// What is known about the ways to its agent; ways of which nothing is known are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathView>,
}

/// What is known about one way to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// Which way.
    pub path: DeliveryPath,
    /// What is known about it.
    pub state: PathState,
    /// RFC 3339. Since when that is so; of hooks, when the last one was heard; of an armed bell, until when it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// A way to an agent (agents spec §1.2), or back from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryPath {
    /// Notifications of its MCP server.
    Channel,
    /// Its hooks, at the boundaries of its work.
    Hooks,
    /// A hook in the background that wakes an idle session.
    Bell,
    /// Its own record of the conversation, which shows what arrived.
    Record,
    /// One that this program does not know.
    #[serde(other)]
    Other,
}

/// What is known about a way to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathState {
    /// It is open, and nobody knows whether anyone listens.
    Unknown,
    /// Something that went this way was seen to arrive; of hooks: they have reported.
    Listening,
    /// The agent does not listen.
    Refused,
    /// A bell waits to be rung.
    Armed,
    /// A record that is read.
    Readable,
    /// A record that is not there, or may not be read.
    Unreadable,
    /// One that this program does not know.
    #[serde(other)]
    Other,
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

/// `POST /v1/heartbeat`: a sign of life of a session, and what its MCP server knows or counted since its last one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// The program that the MCP server serves, once its handshake has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ServedClient>,
}

/// A program at the other end of an MCP server's pipe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServedClient {
    /// Its name for itself, at most 64 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its version, at most 64 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Whether it can listen to channel notifications. `false`: it is known not to, nothing is pushed, and messages wait for
    /// its hooks, its bell and its questions; absent: nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<bool>,
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
    /// Absolute path of the agent's own record of the conversation, from which the daemon learns what arrived (agents spec
    /// §1.8). One that is not an ordinary file of the user, in one of the places where agents keep them, is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<String>,
    /// The reporter puts before the agent, now, what the answer holds in `messages`: it counts as handed, and the answer comes
    /// after that is on record. Without this the messages are only shown to the reporter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take: bool,
    /// What makes this report the same as another one: two hooks may hear of one event, and only the first has an effect.
    /// 1 to 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// What the agent waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_human: Option<HumanWait>,
}

/// What an agent waits for, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HumanWait {
    /// A dialog is open: a person has to decide before anything reaches the model.
    Dialog,
    /// The next prompt.
    Idle,
    /// Nothing any more. Every sign that it works says so, too.
    Clear,
    /// Something that this program does not know; as if nothing had been said.
    #[serde(other)]
    Other,
}

/// Who a session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Slug of its mesh.
    pub mesh: String,
    /// Key of its member: who sends under it is the same person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_pubkey: Option<PublicKey>,
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
    /// How many unread messages the agent is to be told of now, those in `messages` among them; 0 when nothing is to be said.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unread: u64,
    /// How messages reach the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MessageMode>,
    /// Who it is, when one session fits the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// Query of `GET /v1/sessions/bell`: whose bell waits. Without a session token the session is found as for
/// [`StatusReport`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BellQuery {
    /// Longest wait, in seconds, at most [`BELL_WAIT_MAX`](claudemesh_protocol::limits::BELL_WAIT_MAX), which is also the
    /// default. 204 when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
    /// UUID of the agent session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Directory of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The asker's ancestors, nearest first, separated by commas; at most 4 are looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<String>,
}

/// Answer of `GET /v1/sessions/bell`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BellReply {
    /// Always true.
    pub ok: bool,
    /// Why the wait is over.
    pub bell: BellEnd,
    /// Messages that wait for the session now; 0 unless it rings.
    #[serde(default)]
    pub waiting: u32,
}

/// Why a bell waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BellEnd {
    /// Something waits for a session that is idle.
    Rings,
    /// A younger bell of the same session waits in its place.
    Replaced,
    /// The session has ended.
    Ended,
    /// No session fits the description, or several do.
    Unknown,
    /// One that this program does not know.
    #[serde(other)]
    Other,
}

/// Answer of `DELETE /v1/sessions/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeregisterReply {
    /// Always true.
    pub ok: bool,
    /// First 8 characters of the token.
    pub token_prefix: String,
}

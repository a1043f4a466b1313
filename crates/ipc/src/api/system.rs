//! Version, health, profile and operations (daemon spec §9.6, §9.7).

use std::collections::BTreeMap;

use claudemesh_protocol::{PeerStatus, PublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// State of a broker connection (daemon spec §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeshStatus {
    /// First attempt.
    Connecting,
    /// Said hello and was answered.
    Open,
    /// Lost, trying again.
    Reconnecting,
    /// Ended on purpose.
    Closed,
    /// Given up until somebody changes something.
    Disabled,
}

impl MeshStatus {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Open => "open",
            Self::Reconnecting => "reconnecting",
            Self::Closed => "closed",
            Self::Disabled => "disabled",
        }
    }
}

/// Versions of what lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SchemaVersions {
    /// Directory layout.
    pub layout: u32,
    /// Outbox database.
    pub outbox: i64,
    /// Inbox database.
    pub inbox: i64,
}

/// What one broker said about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokerVersion {
    /// State of the connection.
    pub status: MeshStatus,
    /// Its version, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_version: Option<String>,
    /// Feature bits with their parameters.
    #[serde(default)]
    pub features: Map<String, Value>,
}

/// `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the program.
    pub daemon_version: String,
    /// `v1`.
    pub ipc_api: String,
    /// Additions within it.
    pub ipc_minor: u32,
    /// What this daemon can do.
    pub ipc_features: Vec<String>,
    /// Versions on disk.
    #[serde(default)]
    pub schema: SchemaVersions,
    /// Its process.
    pub pid: u32,
    /// It leaves nothing behind when it ends (daemon spec §4.1).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// RFC 3339.
    pub started_at: String,
    /// The brokers, by mesh slug.
    #[serde(default)]
    pub broker: BTreeMap<String, BrokerVersion>,
}

/// `GET /v1/compat`: what this daemon works with; versions as `0.9.x`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Compat {
    /// Version of the program.
    pub daemon: String,
    /// Brokers it was tested with; others are judged by their features.
    pub compatible_brokers: Vec<String>,
    /// Features without which a broker is not used.
    pub required_broker_features: Vec<String>,
    /// Command lines that use it without a notice.
    pub compatible_clis: Vec<String>,
    /// Libraries.
    pub compatible_sdks: CompatibleSdks,
}

/// The libraries in [`Compat`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CompatibleSdks {
    /// `sdk/python`.
    pub python: Vec<String>,
    /// `sdk/go`.
    pub go: Vec<String>,
    /// `sdk/typescript`.
    pub ts: Vec<String>,
}

/// One mesh in `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeshHealth {
    /// Mesh slug.
    pub slug: String,
    /// State of the member's connection.
    pub status: MeshStatus,
    /// Round trip of the last ping, in milliseconds.
    pub lag_ms: Option<u64>,
    /// Our member key.
    pub member_pubkey: PublicKey,
    /// Key of the session that an ephemeral daemon is, in place of the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_pubkey: Option<PublicKey>,
    /// Outbox rows waiting.
    pub queue_depth: u64,
    /// Outbox rows written, unanswered.
    pub inflight: u64,
    /// Outbox rows given up.
    pub dead: u64,
    /// Registered sessions.
    pub sessions: u64,
    /// How the last connection ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_close: Option<Value>,
    /// Why it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// `legacy` for a broker that states no features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// The broker signs with another key than before (`daemon trust-broker`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub broker_key_changed: bool,
}

/// `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The process is well; says nothing about brokers.
    pub ok: bool,
    /// Its process.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Version of the program.
    pub daemon_version: String,
    /// It cannot take sends.
    pub degraded: bool,
    /// Why.
    pub degraded_reasons: Vec<String>,
    /// State by mesh slug.
    pub brokers: BTreeMap<String, MeshStatus>,
    /// The meshes.
    pub meshes: Vec<MeshHealth>,
    /// Directory layout.
    pub schema_version: u32,
}

/// `POST /v1/profile`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProfileRequest {
    /// At most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Manual status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PeerStatus>,
    /// Shown in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<bool>,
    /// Emoji or URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// Title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A few sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bio: Option<String>,
    /// What it is good at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Mesh slug; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
}

/// Answer of `POST /v1/profile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileReply {
    /// Always true.
    pub ok: bool,
    /// Fields that were applied.
    pub applied: Vec<String>,
    /// Meshes they were applied on.
    pub meshes: Vec<String>,
    /// `session` or `member`.
    pub target: String,
}

/// Body of `POST /v1/ops/<op>`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OpRequest {
    /// Mesh slug, when not derivable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Arguments of the operation.
    #[serde(default)]
    pub args: Map<String, Value>,
}

/// Answer of `POST /v1/ops/<op>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpReply {
    /// Always true.
    pub ok: bool,
    /// The operation.
    pub op: String,
    /// Mesh it ran on; absent when it ran on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Its result.
    pub result: Value,
}

/// One operation in `GET /v1/ops`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpEntry {
    /// `<resource>.<verb>`.
    pub name: String,
    /// Its family.
    pub family: String,
    /// What it does, one sentence.
    pub summary: String,
    /// `read`, `write` or `destructive`.
    pub class: String,
    /// `session`, `member` or `local`.
    pub scope: String,
    /// The session capability it needs; null for local ones, and where the target decides.
    pub capability: Option<String>,
    /// How long an answer may take, in milliseconds.
    pub timeout_ms: u64,
    /// It may be repeated after a lost answer.
    pub idempotent: bool,
    /// JSON Schema of its arguments under their tool names, `mesh` included.
    pub input: Value,
    /// JSON Schema of its result.
    pub output: Value,
    /// Words of its verb on the command line.
    pub cli: Option<String>,
    /// Name of its MCP tool.
    pub tool: Option<String>,
}

/// `GET /v1/ops`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OpsReply {
    /// In the order of the table.
    pub ops: Vec<OpEntry>,
}

/// Answer of `POST /v1/admin/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReloadReply {
    /// Always true.
    pub ok: bool,
    /// Meshes attached by it.
    pub attached: Vec<String>,
    /// Meshes detached by it.
    pub detached: Vec<String>,
    /// Settings that changed and are in force now.
    #[serde(default)]
    pub applied: Vec<String>,
    /// Settings that changed and wait for the next start.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

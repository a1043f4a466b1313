//! `GET /v1/peers` and the member list (daemon spec §9.7).

use claudemesh_protocol::wire::{MemberRow, PeerRow};
use serde::{Deserialize, Serialize};

/// One peer: the broker's row plus what only the daemon knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// The broker's row, under its own names.
    #[serde(flatten)]
    pub row: PeerRow,
    /// Mesh slug.
    pub mesh: String,
    /// It is our own member.
    #[serde(rename = "isSelf", default)]
    pub is_self: bool,
    /// It is the calling session.
    #[serde(rename = "isThisSession", default)]
    pub is_this_session: bool,
    /// A member without a session, whose daemon is reachable.
    #[serde(rename = "noSession", default, skip_serializing_if = "std::ops::Not::not")]
    pub no_session: bool,
}

/// A mesh that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshError {
    /// Mesh slug.
    pub mesh: String,
    /// Stable code.
    pub error: String,
}

/// Answer of `GET /v1/peers`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PeersReply {
    /// All peers of the meshes that answered.
    pub peers: Vec<PeerEntry>,
    /// The meshes that did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<MeshError>,
}

/// One member of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MembersReply {
    /// All members of the meshes that answered.
    pub members: Vec<MemberEntry>,
    /// The meshes that did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<MeshError>,
}

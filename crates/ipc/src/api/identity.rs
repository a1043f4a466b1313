//! What the routes about hosts and keys take and give (daemon spec §4.3, §19).

use claudemesh_protocol::PublicKey;
use serde::{Deserialize, Serialize};

/// Answer of `POST /v1/admin/accept-host`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptHostReply {
    /// Always true.
    pub ok: bool,
    /// First 16 characters of the fingerprint.
    pub fingerprint_prefix: String,
}

/// Body of `POST /v1/admin/rotate-keypair`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RotateKeypairRequest {
    /// Slug; all meshes in turn without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
}

/// Answer of `POST /v1/admin/rotate-keypair`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RotateKeypairReply {
    /// The meshes whose key is another one now.
    pub rotated: Vec<RotatedKey>,
    /// The meshes whose key stayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RotateError>,
}

/// A member key that was rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotatedKey {
    /// Slug.
    pub mesh: String,
    /// First 16 characters of the key until now.
    pub old_prefix: String,
    /// First 16 characters of the key from now on.
    pub new_prefix: String,
    /// The key from now on.
    pub pubkey: PublicKey,
}

/// A member key that was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateError {
    /// Slug.
    pub mesh: String,
    /// Stable code.
    pub error: String,
    /// For people.
    pub message: String,
}

/// Body of `POST /v1/admin/trust-broker`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrustBrokerRequest {
    /// Slug.
    pub mesh: String,
    /// The key that was looked at, as the answer without it named it; without it nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<PublicKey>,
}

/// Answer of `POST /v1/admin/trust-broker`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBrokerReply {
    /// Slug.
    pub mesh: String,
    /// First 16 characters of the key until now.
    pub old_prefix: String,
    /// First 16 characters of the other key.
    pub new_prefix: String,
    /// The other key.
    pub broker_pubkey: PublicKey,
    /// The other key counts from now on.
    pub trusted: bool,
}

/// Answer of `POST /v1/admin/archive-cleanup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveCleanupReply {
    /// Always true.
    pub ok: bool,
    /// Keys whose time had passed.
    pub removed: u64,
    /// Keys that still open mail.
    pub kept: u64,
}

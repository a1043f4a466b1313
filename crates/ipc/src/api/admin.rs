//! What `POST /v1/admin/…` takes and gives (daemon spec §9.7).

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/admin/rotate-token`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RotateTokenRequest {
    /// Answer the new token, too; without it, it stands in its file only.
    #[serde(default)]
    pub show: bool,
}

/// Answer of `POST /v1/admin/rotate-token`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateTokenReply {
    /// Always true.
    pub rotated: bool,
    /// RFC 3339.
    pub rotated_at: String,
    /// Until when the old token is still taken; RFC 3339.
    pub old_valid_until: String,
    /// The new token, when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

//! Inputs and results around the eleven permissions and the role of a member (wire spec §2.7, broker spec §4.24).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account::MemberPermissions;
use crate::ops::messaging::MeshError;
use crate::permission::Permission;
use crate::status::MemberRole;

/// Names one member, or nobody for all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct AboutMember {
    /// Name, key, or key prefix of at least 8 characters; left out means every member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub peer: Option<String>,
}

/// Changes what one member may do in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct ChangePermissions {
    /// Name, key, or key prefix of at least 8 characters.
    #[schemars(length(min = 1, max = 256))]
    pub peer: String,
    /// Permissions to change; left out means all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
    /// Go back to what the member's role has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
}

/// Makes a member an admin, or an admin a member again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct ChangeRole {
    /// Name, key, or key prefix of at least 8 characters.
    #[schemars(length(min = 1, max = 256))]
    pub peer: String,
    /// What the member becomes.
    pub role: MemberRole,
}

/// What members may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct PermissionList {
    /// In the order they joined.
    pub members: Vec<MemberPermissions>,
    /// The meshes that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<MeshError>,
}

//! Inputs and results of the groups family that the daemon makes itself (CLI spec §3.7).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Takes no arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// One group of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GroupRow {
    /// Its path, without `@`.
    pub name: String,
    /// Presences in it.
    pub members: u64,
    /// The caller's role in it; null when the caller is not in it or has none.
    pub role: Option<String>,
    /// Whether the caller is in it.
    pub joined: bool,
}

/// The groups of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GroupList {
    /// By name.
    pub groups: Vec<GroupRow>,
}

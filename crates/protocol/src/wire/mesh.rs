//! The overview of a mesh (wire spec §3.22, broker spec §4.8).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks for counts and names of everything in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct MeshInfo {}

/// Tasks by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct TaskCounts {
    /// Nobody works on them.
    pub open: u64,
    /// Somebody does.
    pub claimed: u64,
    /// Finished.
    pub done: u64,
    /// Given up.
    pub cancelled: u64,
}

/// Answer to [`MeshInfo`]. A family that could not be asked is null and named in `warnings`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MeshInfoResult {
    /// Id of the mesh.
    pub mesh: String,
    /// Presences that the caller can see.
    pub peers: u64,
    /// Their groups, with `@`.
    pub groups: Vec<String>,
    /// Keys of the shared state.
    pub state_keys: Option<Vec<String>>,
    /// Entries of the shared memory.
    pub memory_count: Option<u64>,
    /// Shared files.
    pub file_count: Option<u64>,
    /// Tasks by state.
    pub tasks: Option<TaskCounts>,
    /// Names of the streams.
    pub streams: Option<Vec<String>>,
    /// Names of the mesh's SQL tables.
    pub tables: Option<Vec<String>>,
    /// Names of the vector collections.
    pub collections: Option<Vec<String>>,
    /// The caller's name.
    pub your_name: String,
    /// The caller's groups, with `@`.
    pub your_groups: Vec<String>,
    /// What could not be asked, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

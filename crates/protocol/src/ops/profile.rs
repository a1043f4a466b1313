//! Inputs and results of the profile family: what others see of the caller (MCP spec §7.2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::PeerStatus;

/// Says what the caller works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// One or two sentences; an empty text clears it.
    #[schemars(length(max = 500))]
    pub summary: String,
}

/// Says whether the caller may be interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// dnd lets only priority now through.
    pub status: PeerStatus,
}

/// Shows or hides the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Visible {
    /// False hides from lists, groups and broadcasts; direct messages still arrive.
    pub visible: bool,
}

/// Changes the public profile; fields left out stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Emoji or URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub avatar: Option<String>,
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub title: Option<String>,
    /// A few sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub bio: Option<String>,
    /// What you are good at, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub capabilities: Option<Vec<String>>,
    /// Role label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub role: Option<String>,
    /// Name of your member in the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub display_name: Option<String>,
}

/// What was applied, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Applied {
    /// Always true.
    pub ok: bool,
    /// Fields that were applied.
    pub applied: Vec<String>,
    /// Meshes they were applied on.
    pub meshes: Vec<String>,
    /// session or member.
    pub target: String,
}

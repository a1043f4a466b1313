//! Shared state: the mesh's key-value store with versions (wire spec §3.5, broker spec §4.1).

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Writes one key; every other peer is told at once.
///
/// On the wire an absent value is null; who asks for the operation must say that a key is to be removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[schemars(transform = needs_value)]
pub struct SetState {
    /// Name of the entry. 1 to 256 characters, no control characters.
    #[schemars(length(min = 1, max = 256))]
    pub key: String,
    /// Any JSON of at most 32,768 bytes; null removes the key, which begins at version 1 when it is written again.
    #[serde(default)]
    pub value: Value,
    /// Write only when the entry has this version; 0 means that it must not exist. Otherwise `version_conflict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<u64>,
}

fn needs_value(schema: &mut Schema) {
    schema.insert("required".to_owned(), json!(["key", "value"]));
}

/// Reads one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct GetState {
    /// Name of the entry.
    #[schemars(length(min = 1, max = 256))]
    pub key: String,
}

/// Lists the entries in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct ListState {
    /// Only keys that begin with this text. It is taken literally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub prefix: Option<String>,
}

/// One entry of the shared state.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct StateEntry {
    /// Name of the entry.
    pub key: String,
    /// Its value; null when the key is not set.
    #[serde(default)]
    pub value: Value,
    /// Display name of the member that wrote it; empty when the key is not set.
    #[serde(default)]
    pub updated_by: String,
    /// When, ISO; empty when the key is not set.
    #[serde(default)]
    pub updated_at: String,
    /// Counts the writes of this key from 1; 0 when it is not set; absent at an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// Answer to [`GetState`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct StateResult {
    /// The entry.
    #[serde(flatten)]
    pub entry: StateEntry,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// Answer to [`ListState`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct StateList {
    /// By key.
    #[serde(default)]
    pub entries: Vec<StateEntry>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub req_id: Option<String>,
}

/// Tells every other presence that a key was written; live only, never queued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct StateChange {
    /// Name of the entry.
    pub key: String,
    /// Its new value; null when it was removed.
    #[serde(default)]
    pub value: Value,
    /// Display name of the member that wrote it.
    #[serde(default)]
    pub updated_by: String,
    /// Its new version, 0 when it was removed; absent at an older broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

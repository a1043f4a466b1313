//! What stands in the text of a tool's result (MCP spec §6).

use std::sync::Arc;

use claudemesh_agents::render;
use claudemesh_protocol::limits::MCP_RESULT_MAX_BYTES;
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value};

use super::call::Call;

/// The text of a result; its structured form is the same in any case.
#[derive(Clone, Default)]
pub enum ToolText {
    /// The result itself, as compact JSON.
    #[default]
    Json,
    /// What the command line would show a person: `--tool-text human`.
    Human(Render),
}

/// Writes a result for a reader.
pub type Render = Arc<dyn Fn(&Shown<'_>) -> String + Send + Sync>;

/// A result to be shown, and what was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The operation.
    pub kind: OperationKind,
    /// Its arguments under their wire names.
    pub arguments: &'a Map<String, Value>,
    /// The mesh it was asked of, when one was named.
    pub mesh: Option<&'a str>,
    /// What came of it.
    pub result: &'a Value,
}

impl ToolText {
    /// The text of a result.
    pub(crate) fn of(&self, call: &Call, result: &Value) -> String {
        match self {
            Self::Json => result.to_string(),
            // Peers' words are shown in their frames, whoever reads them.
            Self::Human(_) if call.kind == OperationKind::MessageInbox => {
                render::listing(result, MCP_RESULT_MAX_BYTES)
            }
            Self::Human(human) => render::neutral(&human(&Shown {
                kind: call.kind,
                arguments: &call.arguments,
                mesh: call.mesh.as_deref(),
                result,
            })),
        }
    }
}

impl std::fmt::Debug for ToolText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Json => "Json",
            Self::Human(_) => "Human",
        })
    }
}

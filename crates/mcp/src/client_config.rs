//! Settings that other programs need to start this server: `claudemesh mcp print-config <client>` (MCP spec §12).

use claudemesh_protocol::ops::{Family, OperationKind};
use serde_json::{Value, json};

/// Families that are worth their tokens in every conversation.
const FAMILIES: [Family; 2] = [Family::Messaging, Family::State];
/// What else is: an agent says what it works on and whether it may be interrupted. Its public profile is a matter for its
/// person, and together these stay below 1,000 tokens; what more there is, a person adds.
const OPERATIONS: [OperationKind; 2] =
    [OperationKind::ProfileSummary, OperationKind::ProfileStatus];

/// A program that can start MCP servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Cursor.
    Cursor,
    /// Codex on the command line.
    Codex,
    /// Visual Studio Code.
    VsCode,
    /// Gemini on the command line.
    Gemini,
    /// Any that reads the usual JSON.
    Json,
}

impl Program {
    /// Every program.
    pub const ALL: &'static [Self] =
        &[Self::Cursor, Self::Codex, Self::VsCode, Self::Gemini, Self::Json];

    /// Its word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cursor => "cursor",
            Self::Codex => "codex",
            Self::VsCode => "vscode",
            Self::Gemini => "gemini",
            Self::Json => "json",
        }
    }

    /// The program of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|program| program.as_str() == word)
    }

    /// The file the settings go into.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Cursor => "~/.cursor/mcp.json",
            Self::Codex => "~/.codex/config.toml",
            Self::VsCode => ".vscode/mcp.json",
            Self::Gemini => "~/.gemini/settings.json",
            Self::Json => "the client's MCP settings",
        }
    }

    /// The settings, ready to be merged into [`Program::file`]; `command` is how the program is to start claudemesh.
    pub fn settings(self, command: &str) -> String {
        let tools = default_list();
        let args = ["mcp", "--tools", tools.as_str()];
        match self {
            Self::Codex => {
                // Quotes and backslashes are written in TOML as in JSON.
                let command = Value::from(command);
                let args = json!(args);
                format!("[mcp_servers.claudemesh]\ncommand = {command}\nargs = {args}\n")
            }
            Self::VsCode => pretty(&json!({
                "servers": { "claudemesh": { "type": "stdio", "command": command, "args": args } }
            })),
            Self::Cursor | Self::Gemini | Self::Json => pretty(
                &json!({ "mcpServers": { "claudemesh": { "command": command, "args": args } } }),
            ),
        }
    }
}

/// The list of `--tools` that every recipe uses.
pub fn default_list() -> String {
    let families = FAMILIES.iter().map(|family| family.as_str());
    let tools = OPERATIONS.iter().filter_map(|kind| kind.spec().tool);
    families.chain(tools).collect::<Vec<_>>().join(",")
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_names_the_command_and_the_tools() {
        for program in Program::ALL {
            assert_eq!(Program::parse(program.as_str()), Some(*program));
            let text = program.settings("/opt/a \"b\"/claudemesh");
            assert!(text.contains(r#""/opt/a \"b\"/claudemesh""#), "{text}");
            assert!(text.contains(&default_list()), "{text}");
            if *program != Program::Codex {
                assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn the_default_list_is_a_list_of_tools() {
        assert!(!crate::Toolset::parse(&default_list()).unwrap().is_empty());
    }
}

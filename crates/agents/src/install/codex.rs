//! Codex: the server in `config.toml`, hooks in `hooks.json`, which has the form of Claude Code's.

use serde_json::{Value, json};

use super::{Choice, HOOK_MARK, Homes, NAME, Part, Program, Wanted};
use crate::agent::{AgentKind, Hook};
use crate::settings::{Entry, Syntax};

/// Longest run of a hook, in seconds. It ends within 50 ms by itself.
const HOOK_TIMEOUT_S: u64 = 5;

pub(super) fn files(homes: &Homes, program: &Program, choice: &Choice) -> Vec<Wanted> {
    let dir = AgentKind::Codex.dir(homes);
    let args = match &choice.tools {
        Some(tools) => json!(["mcp", "--tools", tools]),
        None => json!(["mcp"]),
    };
    let server = json!({ "command": program.command(), "args": args });
    let mut files = vec![Wanted {
        file: dir.join("config.toml"),
        syntax: Syntax::Toml,
        entries: vec![(Part::Server, Entry::keyed(&["mcp_servers"], NAME, server))],
        is_shared: false,
    }];
    if choice.hooks {
        files.push(Wanted {
            file: dir.join("hooks.json"),
            syntax: Syntax::Jsonc,
            entries: AgentKind::Codex
                .agent()
                .hooks
                .iter()
                .map(|hook| entry(program, hook))
                .collect(),
            is_shared: false,
        });
    }
    files
}

fn entry(program: &Program, hook: &Hook) -> (Part, Entry) {
    let event = hook.event;
    let command = program.shell(&format!("hook codex {event}"));
    let handlers = json!([{ "type": "command", "command": command, "timeout": HOOK_TIMEOUT_S }]);
    let group: Value = match hook.matcher {
        Some(tools) => json!({ "matcher": tools, "hooks": handlers }),
        None => json!({ "hooks": handlers }),
    };
    (Part::Hook(event), Entry::hook(&["hooks", event], group, HOOK_MARK))
}

//! Claude Code: the server in `.claude.json`, hooks, permissions and status line in `settings.json`.

use serde_json::{Value, json};

use super::{Allow, Choice, HOOK_MARK, Homes, NAME, Part, Program, Wanted};
use crate::agent::{AgentKind, Hook};
use crate::settings::{Entry, Syntax};

/// Events that arm the bell: it ends with each ring, and in a turn that it began `Stop` may not go on.
const ARMING: [&str; 3] = ["SessionStart", "UserPromptSubmit", "Stop"];

/// Longest run of a hook, in seconds. It ends within 50 ms by itself.
const HOOK_TIMEOUT_S: u64 = 5;
/// Longest wait of the bell, in seconds: as long as a session may stay idle and still be woken.
const BELL_TIMEOUT_S: u64 = 86_400;

/// Commands that read, and those that send: what an agent in a mesh does all the time.
const USUAL: [&str; 9] = [
    "Bash(claudemesh peer list:*)",
    "Bash(claudemesh peers:*)",
    "Bash(claudemesh inbox:*)",
    "Bash(claudemesh send:*)",
    "Bash(claudemesh message:*)",
    "Bash(claudemesh status:*)",
    "Bash(claudemesh state get:*)",
    "Bash(claudemesh state list:*)",
    "Bash(claudemesh skill:*)",
];
/// Every command of ours.
const EVERY: &str = "Bash(claudemesh:*)";
/// Every tool of our server.
const TOOLS: &str = "mcp__claudemesh";
/// Where the rules stand.
const RULES: [&str; 2] = ["permissions", "allow"];

/// Names that tools of ours had in lists of earlier programs.
const OLD_TOOLS: &str = "mcp__claudemesh__";
/// Where those lists are.
const OLD_RULES: &str = "allowedTools";
/// Where servers are registered.
const SERVERS: &str = "mcpServers";
/// Servers that belong to one session begin like this.
const OF_A_SESSION: &str = "mesh:";

/// The command of the status line, by which it is known.
const STATUS_LINE: &str = "claudemesh status-line";

pub(super) fn files(homes: &Homes, program: &Program, choice: &Choice) -> Vec<Wanted> {
    let dir = AgentKind::Claude.dir(homes);
    // With a directory of its own the client keeps all its files there.
    let shared = homes.claude.as_ref().unwrap_or(&homes.home).join(".claude.json");
    vec![
        Wanted {
            file: shared,
            syntax: Syntax::Jsonc,
            entries: vec![(Part::Server, server(program, choice))],
            is_shared: true,
        },
        Wanted {
            file: dir.join("settings.json"),
            syntax: Syntax::Jsonc,
            entries: settings(program, choice),
            is_shared: false,
        },
    ]
}

fn server(program: &Program, choice: &Choice) -> Entry {
    let args = match &choice.tools {
        Some(tools) => json!(["mcp", "--tools", tools]),
        None => json!(["mcp"]),
    };
    Entry::keyed(&[SERVERS], NAME, json!({ "command": program.command(), "args": args }))
}

fn settings(program: &Program, choice: &Choice) -> Vec<(Part, Entry)> {
    let mut entries = Vec::new();
    if choice.hooks {
        entries.extend(AgentKind::Claude.agent().hooks.iter().map(|hook| {
            let event = hook.event;
            let group = group(program, hook, choice.bell && ARMING.contains(&event));
            (Part::Hook(event), Entry::hook(&["hooks", event], group, HOOK_MARK))
        }));
    }
    if choice.status_line {
        let command = program.shell("status-line");
        let value = json!({ "type": "command", "command": command });
        entries.push((Part::StatusLine, Entry::command_at(&[], "statusLine", value, STATUS_LINE)));
    }
    let mut rules = match choice.allow {
        Allow::Nothing => Vec::new(),
        Allow::Usual => USUAL.to_vec(),
        Allow::All => [USUAL.as_slice(), &[EVERY]].concat(),
    };
    if choice.allow != Allow::Nothing && choice.tools.is_some() || choice == &Choice::everything() {
        rules.push(TOOLS);
    }
    entries.extend(rules.into_iter().map(|rule| (Part::Permission, Entry::element(&RULES, rule))));
    entries
}

/// The handlers of one event, in one group.
fn group(program: &Program, hook: &Hook, with_bell: bool) -> Value {
    let command = program.shell(&format!("hook claude {}", hook.event));
    let mut handlers =
        vec![json!({ "type": "command", "command": command, "timeout": HOOK_TIMEOUT_S })];
    if with_bell {
        let command = program.shell("hook claude bell");
        handlers.push(json!({
            "type": "command", "command": command, "asyncRewake": true, "timeout": BELL_TIMEOUT_S,
        }));
    }
    match hook.matcher {
        Some(tools) => json!({ "matcher": tools, "hooks": handlers }),
        None => json!({ "hooks": handlers }),
    }
}

pub(super) fn stale(document: &Value, is_alive: &dyn Fn(u32) -> bool) -> Vec<Entry> {
    let approved = document.get(OLD_RULES).and_then(Value::as_array);
    let tools = approved.into_iter().flatten().filter_map(Value::as_str);
    let mut tools: Vec<&str> = tools.filter(|tool| tool.starts_with(OLD_TOOLS)).collect();
    tools.sort_unstable();
    tools.dedup();
    let mut entries: Vec<Entry> =
        tools.into_iter().map(|tool| Entry::element(&[OLD_RULES], tool)).collect();
    let servers = document.get(SERVERS).and_then(Value::as_object);
    let is_dead = |server: &Value| {
        let pid = server.pointer("/_meshSession/pid").and_then(Value::as_u64);
        pid.is_some_and(|pid| !u32::try_from(pid).is_ok_and(is_alive))
    };
    entries.extend(
        servers
            .into_iter()
            .flatten()
            .filter(|(name, server)| name.starts_with(OF_A_SESSION) && is_dead(server))
            .map(|(name, _)| Entry::keyed(&[SERVERS], name, Value::Null)),
    );
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dead_is_found_and_what_lives_is_not() {
        let document = json!({
            "allowedTools": ["Bash", "mcp__claudemesh__send_message", "mcp__other__x", 7],
            "mcpServers": {
                "claudemesh": {},
                "mesh:db:12": { "_meshSession": { "pid": 12 } },
                "mesh:db:13": { "_meshSession": { "pid": 13 } },
                "mesh:mine": { "command": "x" },
            },
        });
        let found = stale(&document, &|pid| pid == 13);
        let expected = [
            Entry::element(&["allowedTools"], "mcp__claudemesh__send_message"),
            Entry::keyed(&["mcpServers"], "mesh:db:12", Value::Null),
        ];
        assert_eq!(found, expected);
        assert_eq!(stale(&json!({ "allowedTools": "x", "mcpServers": [] }), &|_| false), []);
    }

    #[test]
    fn the_bell_is_armed_where_a_session_begins_to_wait() {
        let program = Program::by_name();
        let mut choice = Choice::everything();
        let bells = |choice: &Choice| {
            let entries = settings(&program, choice);
            let text = |entry: &Entry| entry.value.to_string();
            let rings = entries.iter().filter(|(_, entry)| text(entry).contains("asyncRewake"));
            rings.map(|(part, _)| *part).collect::<Vec<_>>()
        };
        let armed = ["SessionStart", "UserPromptSubmit", "Stop"].map(Part::Hook);
        assert_eq!(bells(&choice), armed);
        choice.bell = false;
        assert_eq!(bells(&choice), []);
    }
}

//! Whether the program at the other end can listen to channel notifications (MCP spec §11, agents spec §1.2). It never says
//! so, and drops what it does not know without a word; what is pushed to a program that does not listen must not count as
//! shown.

use std::path::Path;

use claudemesh_ipc::api::session::ServedClient;
use claudemesh_protocol::limits::MCP_CLIENT_NAME_MAX_CHARS;
use claudemesh_protocol::ops::OperationKind;
use claudemesh_protocol::text::sanitized_line;
use serde_json::{Map, Value};

use crate::Channel;
use crate::tools::Toolset;

/// The only program known to have channels, by its own name.
const WITH_CHANNELS: &str = "claude-code";
/// Beginnings of the names of programs known to have none, in small letters (agents spec §1.6).
const WITHOUT_CHANNELS: [&str; 10] = [
    "codex",
    "gemini",
    "opencode",
    "cursor",
    "copilot",
    "github-copilot",
    "qwen",
    "visual studio code",
    "claude-ai",
    "kimi",
];
/// Without one of these it opens no channel.
const CHANNEL_FLAGS: [&str; 2] = ["--channels", "--dangerously-load-development-channels"];
/// The capability by which any other program may say that it listens.
const CAPABILITY: &str = "claude/channel";
/// Processes above this one that are looked at: a shell, a wrapper, the agent.
const ANCESTORS: usize = 4;

/// Who the client is, from the parameters of `initialize`; `None` when it says nothing of use.
pub(crate) fn served(
    params: &Map<String, Value>,
    channel: Channel,
    tools: &Toolset,
) -> Option<ServedClient> {
    let word = |key: &str| {
        let text = params.get("clientInfo").and_then(|info| info.get(key)?.as_str());
        sanitized_line(text.unwrap_or_default().trim(), MCP_CLIENT_NAME_MAX_CHARS)
    };
    let capabilities = params.get("capabilities");
    let experimental = capabilities.and_then(|all| all.get("experimental")?.as_object());
    let name = word("name");
    let can_listen = match channel {
        Channel::Off => Some(false),
        Channel::Push => can_listen(&Asked {
            name: &name,
            is_declared: experimental.is_some_and(|all| all.contains_key(CAPABILITY)),
            can_poll: tools.has(OperationKind::MessageInbox),
            has_flag: &has_channel_flag,
        }),
    };
    let is_unknown = name.is_empty() && can_listen.is_none();
    (!is_unknown).then(|| ServedClient { name, version: word("version"), channel: can_listen })
}

/// True when nothing that is pushed would be heard.
pub(crate) fn is_deaf(served: Option<&ServedClient>) -> bool {
    served.is_some_and(|client| client.channel == Some(false))
}

/// What decides it.
struct Asked<'a> {
    name: &'a str,
    is_declared: bool,
    can_poll: bool,
    has_flag: &'a dyn Fn() -> Option<bool>,
}

/// `Some(false)`: it cannot. `None`: it may; nobody knows before something that was pushed shows up in its record. A program
/// of which nothing is known is pushed to when it has no other way to hear of anything.
fn can_listen(asked: &Asked<'_>) -> Option<bool> {
    if asked.is_declared {
        return None;
    }
    if asked.name == WITH_CHANNELS {
        return (asked.has_flag)().filter(|has_flag| !has_flag);
    }
    let name = asked.name.to_lowercase();
    let is_without = WITHOUT_CHANNELS.iter().any(|known| name.starts_with(known));
    (is_without || asked.can_poll).then_some(false)
}

/// Whether the agent above this process was started with channels; `None` when its arguments cannot be read.
fn has_channel_flag() -> Option<bool> {
    let mut pid = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    for _ in 0..ANCESTORS {
        let dir = format!("/proc/{}", pid?);
        let arguments = std::fs::read(Path::new(&dir).join("cmdline")).ok()?;
        let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        if is_agent(&arguments) {
            return Some(asks_for_channels(&arguments));
        }
        pid = parent(&std::fs::read_to_string(Path::new(&dir).join("stat")).ok()?);
    }
    None
}

/// True for `claude …` and `node …/claude …`.
fn is_agent(arguments: &[&[u8]]) -> bool {
    arguments.iter().take(2).any(|argument| {
        let name = argument.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name == b"claude" || name == b"claude.exe"
    })
}

fn asks_for_channels(arguments: &[&[u8]]) -> bool {
    arguments.iter().any(|argument| {
        let flag = argument.split(|byte| *byte == b'=').next().unwrap_or_default();
        CHANNEL_FLAGS.iter().any(|known| known.as_bytes() == flag)
    })
}

/// The parent in `/proc/<pid>/stat`: the second field after the name, which is in parentheses and may hold anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(name: &str, is_declared: bool, can_poll: bool, flag: Option<bool>) -> Option<bool> {
        can_listen(&Asked { name, is_declared, can_poll, has_flag: &|| flag })
    }

    #[test]
    fn only_what_is_known_not_to_listen_is_not_pushed_to() {
        for (name, is_declared, can_poll, flag, can_listen) in [
            ("claude-code", false, false, Some(true), None),
            ("claude-code", false, true, None, None),
            ("claude-code", false, false, Some(false), Some(false)),
            ("claude-code", true, false, Some(false), None),
            ("codex-mcp-client", false, false, None, Some(false)),
            ("Visual Studio Code", false, false, None, Some(false)),
            ("gemini-cli-mcp-client", true, true, None, None),
            ("my-own-client", false, true, None, Some(false)),
            ("my-own-client", false, false, None, None),
            ("", false, false, None, None),
        ] {
            let found = judged(name, is_declared, can_poll, flag);
            assert_eq!(found, can_listen, "{name} {is_declared} {can_poll} {flag:?}");
        }
    }

    #[test]
    fn what_a_client_says_of_itself_is_one_short_line() {
        let params = json!({ "clientInfo": { "name": format!("codex\n{}", "x".repeat(100)), "version": 7 } });
        let served =
            served(params.as_object().unwrap(), Channel::Push, &Toolset::default()).unwrap();
        assert_eq!(served.name.chars().count(), MCP_CLIENT_NAME_MAX_CHARS);
        assert!(!served.name.contains('\n') && served.version.is_empty());
        let params = json!({ "clientInfo": {} });
        let params = params.as_object().unwrap();
        assert_eq!(super::served(params, Channel::Push, &Toolset::default()), None);
        let off = super::served(params, Channel::Off, &Toolset::default());
        assert!(is_deaf(off.as_ref()) && !is_deaf(None));
    }

    #[test]
    fn the_flag_is_found_among_the_arguments_of_the_agent() {
        let of =
            |line: &'static str| -> Vec<&[u8]> { line.split(' ').map(str::as_bytes).collect() };
        assert!(is_agent(&of("/opt/bin/claude --resume x")) && is_agent(&of("node /x/claude")));
        assert!(!is_agent(&of("sh -c claude-wrapper")) && !is_agent(&of("claudemesh mcp")));
        assert!(asks_for_channels(&of("claude --channels plugin:a@b")));
        assert!(asks_for_channels(&of(
            "claude --dangerously-load-development-channels=server:claudemesh"
        )));
        assert!(!asks_for_channels(&of("claude --channels-of-mine --resume x")));
        assert_eq!(parent("12 (a ) b) S 7 1 1"), Some(7));
        assert_eq!(parent("1 (init) S 0 1 1"), None);
    }
}

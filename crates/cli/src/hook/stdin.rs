//! What an agent tells its hook: a JSON object on standard input, and who started it.

use std::io::{IsTerminal as _, Read};
use std::sync::mpsc;
use std::time::Duration;

use claudemesh_protocol::limits::AGENT_HOOK_STDIN_MAX_BYTES;
use serde_json::{Map, Value};

/// Ancestors looked at (daemon spec §8.7).
const ANCESTORS: usize = 4;
/// What agents run their hooks with.
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "zsh", "fish", "ksh", "busybox"];
/// Bytes read at once: as many as a pipe holds.
const PIECE: usize = 64 * 1024;

/// The object on standard input; an empty one at a terminal and when nothing is there. `None` for what is no object, is too
/// long, or does not come in time. The end of the object is enough: some agents leave the pipe open.
pub(crate) fn read(within: Duration) -> Option<Value> {
    if std::io::stdin().is_terminal() {
        return Some(Value::Object(Map::new()));
    }
    let (done, result) = mpsc::sync_channel(1);
    // It may wait for ever; the end of the process ends it.
    std::thread::spawn(move || {
        // Nobody waits any more.
        let _ = done.send(object(std::io::stdin().lock()));
    });
    result.recv_timeout(within).ok().flatten()
}

fn object(mut from: impl Read) -> Option<Value> {
    let (mut text, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let count = match from.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // Closed: nothing was to be said.
            Err(_) => 0,
        };
        text.extend_from_slice(piece.get(..count)?);
        if text.len() > AGENT_HOOK_STDIN_MAX_BYTES {
            return None;
        }
        let said = text.trim_ascii();
        if count == 0 && said.is_empty() {
            return Some(Value::Object(Map::new()));
        }
        if count == 0 || said.ends_with(b"}") {
            let found = serde_json::from_slice::<Value>(said).ok().filter(Value::is_object);
            if count == 0 || found.is_some() {
                return found;
            }
        }
    }
}

/// The process of the agent, by which the daemon knows its session: the nearest one above this that is no shell, and none
/// beyond it, for an agent may have been started by another agent. Where that cannot be seen, what is above this one, and the
/// process that the agent names as its own.
pub(crate) fn ancestors() -> Vec<u32> {
    let parent = rustix::process::getppid();
    let parent = parent.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    let (mut next, mut seen) = (parent, 0);
    while let Some(pid) = next.filter(|pid| *pid > 1 && seen < ANCESTORS) {
        let Some(stat) = Stat::of(pid) else { break };
        if !SHELLS.contains(&stat.name.as_str()) {
            return vec![pid];
        }
        (next, seen) = (stat.parent, seen + 1);
    }
    let named = claudemesh_ipc::env::text(claudemesh_ipc::env::CLAUDE_PID);
    parent.into_iter().chain(named.and_then(|pid| pid.parse().ok())).collect()
}

/// Fields 2 and 4 of `proc_pid_stat(5)`.
struct Stat {
    name: String,
    parent: Option<u32>,
}

impl Stat {
    /// `None` where there is no `/proc`, or no such process in it.
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may itself contain spaces and parentheses.
        let (front, fields) = stat.rsplit_once(')')?;
        let (_, name) = front.split_once('(')?;
        let parent = fields.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        Some(Self { name: name.to_owned(), parent })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_read_and_nothing_counts_as_an_empty_one() {
        assert_eq!(object(&b" {\"a\":{\"b\":1}}\n"[..]), Some(json!({ "a": { "b": 1 } })));
        assert_eq!(object(&b"\n"[..]), Some(json!({})));
        for bad in ["{", "[]", "3", "{}x", "\u{feff}{}"] {
            assert_eq!(object(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(object(&[0xff, 0xfe][..]), None);
    }

    #[test]
    fn what_is_too_long_is_not_read_to_its_end() {
        struct Endless;
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                buffer.fill(b'{');
                Ok(buffer.len())
            }
        }
        assert_eq!(object(Endless), None);
    }

    #[test]
    fn a_pipe_that_stays_open_is_enough() {
        let (read_end, write_end) = std::io::pipe().unwrap();
        let mut writer = write_end;
        writer.write_all(b"{\"session_id\":\"s\"}").unwrap();
        assert_eq!(object(read_end), Some(json!({ "session_id": "s" })));
        drop(writer);
    }

    #[test]
    fn the_agent_is_the_nearest_process_that_is_no_shell() {
        let own = Stat::of(std::process::id()).unwrap();
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(own.parent, parent.and_then(|pid| u32::try_from(pid).ok()).or(Some(0)));
        assert!(!own.name.is_empty() && Stat::of(0).is_none());
        for pid in ancestors() {
            let is_shell = Stat::of(pid).is_some_and(|stat| SHELLS.contains(&stat.name.as_str()));
            assert!(!is_shell || Some(pid) == own.parent);
        }
    }
}

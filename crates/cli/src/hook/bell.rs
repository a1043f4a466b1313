//! The bell: a hook that waits in the background, and wakes an idle agent by ending with exit code 2 and one line on standard
//! error (agents spec §1.2 path 3, §1.6b). The line says that something waits, never what: the agent shows it as a notice of
//! its system. The message itself is given by the hook of the prompt that the waking becomes.
//!
//! It never starts a daemon, and ends without a word when there is none, when the daemon stops, when the agent is gone (the
//! daemon watches its process), and when a younger bell waits in its place.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use claudemesh_ipc::api::session::{BellEnd, BellQuery};
use claudemesh_ipc::{Client, Paths, env};
use serde_json::Value;

use super::stdin;

/// What wakes the agent.
const WAKE: u8 = 2;
/// The only agent that wakes by the end of a hook.
const AGENT: &str = "claude";
/// How an agent names its start in a terminal.
const TERMINAL: &str = "cli";
/// Time for what the agent says on standard input.
const SAYS_WITHIN: Duration = Duration::from_secs(1);
/// How long a session that is not registered yet is waited for: the agent starts its hooks and the server that registers it at
/// the same time.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
/// The same for one whose registration ended under a waiting bell: its server may be at it again.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two questions for such a session.
const STEP: Duration = Duration::from_millis(250);

/// Waits; exit code 2 when the agent is to wake, else 0.
pub(crate) fn run(agent: &str) -> ExitCode {
    if agent != AGENT || is_headless() {
        return ExitCode::SUCCESS;
    }
    match waiting() {
        Some(waiting) => {
            // An agent that no longer reads is not woken.
            let _ = writeln!(std::io::stderr(), "{}", line(waiting));
            ExitCode::from(WAKE)
        }
        None => ExitCode::SUCCESS,
    }
}

/// True for a conversation without a terminal: it ends with its only turn, and would wait for its background hooks before it
/// does.
fn is_headless() -> bool {
    env::text(env::CLAUDE_CODE_ENTRYPOINT).is_some_and(|entrypoint| entrypoint != TERMINAL)
}

/// How many messages wait, once some do.
fn waiting() -> Option<u32> {
    let query = query(&stdin::read(SAYS_WITHIN)?);
    let client = Client::for_paths(&Paths::from_env().ok()?).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let waiting = runtime.block_on(rung(&client, &query));
    runtime.shutdown_background();
    waiting
}

/// Whose bell it is.
fn query(said: &Value) -> BellQuery {
    let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
    let pids: Vec<String> = stdin::ancestors().iter().map(u32::to_string).collect();
    BellQuery {
        wait: None,
        session_id: text("session_id").or_else(|| env::text(env::CLAUDE_CODE_SESSION_ID)),
        cwd: text("cwd"),
        pids: Some(pids.join(",")).filter(|pids| !pids.is_empty()),
    }
}

async fn rung(client: &Client, query: &BellQuery) -> Option<u32> {
    let client = client.clone().with_patience(REGISTERED_WITHIN);
    let mut give_up_at = Instant::now() + REGISTERED_WITHIN;
    loop {
        // Whatever goes wrong: silence, until the next one is armed.
        let Some(reply) = client.bell(query).await.ok()? else { continue };
        match reply.bell {
            BellEnd::Rings => return Some(reply.waiting),
            BellEnd::Ended => give_up_at = Instant::now() + BACK_WITHIN,
            BellEnd::Unknown if Instant::now() < give_up_at => {}
            BellEnd::Unknown | BellEnd::Replaced | BellEnd::Other => return None,
        }
        tokio::time::sleep(STEP).await;
    }
}

fn line(waiting: u32) -> String {
    let (noun, verb) = if waiting == 1 { ("message", "waits") } else { ("messages", "wait") };
    format!(
        "claudemesh: {waiting} peer {noun} {verb} for this session. What this prompt does not bring: claudemesh inbox"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_line_is_one_and_says_where_to_look() {
        assert!(
            line(1).contains("1 peer message waits") && line(2).contains("2 peer messages wait")
        );
        assert!(line(1).ends_with("claudemesh inbox") && !line(1).contains('\n'));
    }

    #[test]
    fn the_session_is_the_one_the_agent_names() {
        let found = query(&json!({ "session_id": "s-1", "cwd": "/home/me", "more": 1 }));
        assert_eq!(
            (found.session_id.as_deref(), found.cwd.as_deref()),
            (Some("s-1"), Some("/home/me"))
        );
        assert_eq!(found.wait, None);
    }
}

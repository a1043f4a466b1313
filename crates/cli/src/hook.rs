//! `claudemesh hook <agent> <event>`: what agents run at their events (MCP spec §10.3, agents spec §1.6b, CLI spec §6.6).
//!
//! It must never hold up, stop or frighten an agent: it ends in time whatever happens, always with exit code 0, prints the
//! agent's own JSON or nothing, and starts no daemon. So it is looked at before anything else of this program, reads no
//! settings, and needs no runtime. The bell alone waits, in the background.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use claudemesh_agents::agent::{AgentKind, Hook};
use claudemesh_agents::answer::{Said, answer};
use claudemesh_agents::event::{Moment, Wait, What};
use claudemesh_ipc::api::StatusReport;
use claudemesh_ipc::api::session::{HookEvent, HumanWait, PromptOrigin};
use claudemesh_ipc::env;
use claudemesh_protocol::limits::AGENT_HOOK_HARD_STOP;
use claudemesh_protocol::{PeerStatus, PublicKey};
use serde_json::Value;

mod bell;
mod call;
pub(crate) mod stdin;

/// The first word.
const HOOK: &str = "hook";
/// The event that is none: it waits in the background.
const BELL: &str = "bell";
/// What the start and the end of a process may take of [`AGENT_HOOK_HARD_STOP`].
const AROUND: Duration = Duration::from_millis(12);
/// The rest of it; a build that nobody has optimised, with others like it on a busy machine, gets more.
const OWN_TIME: Duration = if cfg!(debug_assertions) {
    Duration::from_secs(1)
} else {
    AGENT_HOOK_HARD_STOP.saturating_sub(AROUND)
};
/// How much longer an answer may take that is being printed.
const PRINTING: Duration = Duration::from_millis(4);

/// Answers a hook; `None` when the arguments are for somebody else.
pub(crate) fn enter(arguments: &[OsString]) -> Option<ExitCode> {
    let (first, words) = arguments.split_first()?;
    let wants_help = words.iter().any(|word| word == "--help" || word == "-h");
    if first != HOOK || wants_help {
        return None;
    }
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    Some(run(&words))
}

/// The same with the words behind `hook`.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    let until = Instant::now() + OWN_TIME;
    let words: Vec<&str> = words.iter().filter(|word| !word.starts_with('-')).copied().collect();
    if let [agent, event] = words.as_slice()
        && event.eq_ignore_ascii_case(BELL)
    {
        return bell::run(agent);
    }
    let is_printing = Arc::new(AtomicBool::new(false));
    end_in_time(until, &is_printing);
    match said(&words, until) {
        Ok(Some(answer)) => {
            is_printing.store(true, Ordering::Release);
            let mut stdout = std::io::stdout().lock();
            // In one piece; who does not read it does not want it.
            let _ = stdout.write_all(format!("{answer}\n").as_bytes());
            let _ = stdout.flush();
        }
        Ok(None) => {}
        Err(reason) => explain(&reason),
    }
    ExitCode::SUCCESS
}

/// Ends the process at its time, and at once when something panics.
fn end_in_time(until: Instant, is_printing: &Arc<AtomicBool>) {
    std::panic::set_hook(Box::new(|_| quit()));
    let is_printing = Arc::clone(is_printing);
    let watch = move || {
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        if is_printing.load(Ordering::Acquire) {
            std::thread::sleep(PRINTING);
        }
        quit();
    };
    // Without a thread the reads and writes still end by themselves.
    let _ = std::thread::Builder::new().spawn(watch);
}

#[expect(
    clippy::exit,
    reason = "nothing may hold up the end of a hook, a thread that waits least of all"
)]
fn quit() -> ! {
    std::process::exit(0)
}

/// What is to be printed.
///
/// # Errors
/// Why nothing is: for somebody who asks.
fn said(words: &[&str], until: Instant) -> Result<Option<Value>, String> {
    let (agent, hook) = meant(words).ok_or("no agent, or none of its events")?;
    let left = until.saturating_duration_since(Instant::now());
    let told = stdin::read(left).ok_or("stdin is no JSON object, too long, or late")?;
    let moment = Moment::read(agent, hook, &told);
    let reply = call::status(&report(&moment), until).map_err(|error| error.to_string())?;
    let is_start = moment.what == What::Start;
    let identity = reply.identity.as_ref();
    let own: Vec<String> =
        identity.and_then(|own| own.member_pubkey).map(PublicKey::to_hex).into_iter().collect();
    let said = Said {
        identity: identity.filter(|_| is_start).map(|own| (own.name.as_str(), own.mesh.as_str())),
        // What was not taken is not ours to show.
        messages: if moment.takes_messages() { &reply.messages } else { &[] },
        own: &own,
        unread: reply.unread,
        warnings: &reply.warnings,
    };
    Ok(answer(&moment, &said))
}

/// Agent and event; a word of older clients alone means Claude Code.
fn meant(words: &[&str]) -> Option<(AgentKind, &'static Hook)> {
    let (agent, event) = match words {
        [agent, event] => (AgentKind::parse(agent)?, event),
        [event] => (AgentKind::Claude, event),
        _ => return None,
    };
    Some((agent, agent.agent().hook(event)?))
}

/// What the daemon is told.
fn report(moment: &Moment) -> StatusReport {
    let (event, status) = match moment.what {
        What::Start => (Some(HookEvent::Start), None),
        What::Prompt => (Some(HookEvent::Prompt), None),
        What::Edit => (Some(HookEvent::Edit), None),
        What::Tool => (Some(HookEvent::Tool), None),
        What::Notify => {
            let is_idle = moment.wait == Some(Wait::Idle);
            (Some(HookEvent::Notify), is_idle.then_some(PeerStatus::Idle))
        }
        What::Stop => (Some(HookEvent::Stop), None),
        What::Interrupt => (None, Some(PeerStatus::Idle)),
        What::End => (Some(HookEvent::End), None),
        What::DoNotDisturb => (None, Some(PeerStatus::Dnd)),
    };
    StatusReport {
        session_id: moment.session_id.clone().or_else(|| own_id(moment.agent)),
        cwd: moment.cwd.clone().or_else(directory),
        pids: stdin::ancestors(),
        status,
        event,
        agent: Some(moment.agent.agent().word.to_owned()),
        paths: moment.files.clone(),
        model: moment.model.clone(),
        // Whether a person typed it, the agent's record says, and nothing here.
        origin: moment.is_push.then_some(PromptOrigin::Push),
        transcript: moment.transcript.clone(),
        take: moment.takes_messages(),
        event_id: moment.id.clone(),
        waits_for_human: moment.wait.map(|wait| match wait {
            Wait::Dialog => HumanWait::Dialog,
            Wait::Idle => HumanWait::Idle,
        }),
    }
}

/// The conversation that the environment names, which another agent may have inherited.
fn own_id(agent: AgentKind) -> Option<String> {
    let own = (agent == AgentKind::Claude).then_some(env::CLAUDE_CODE_SESSION_ID);
    own.and_then(env::text)
}

fn directory() -> Option<String> {
    let project = env::text(env::CLAUDE_PROJECT_DIR);
    project.or_else(|| std::env::current_dir().ok()?.into_os_string().into_string().ok())
}

/// Says why nothing was said, to somebody who asks for that.
fn explain(reason: &str) {
    if env::is_on(env::HOOK_DEBUG) {
        // Nobody else would hear it.
        let _ = writeln!(std::io::stderr(), "claudemesh hook: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn other_words_and_questions_for_help_pass_by() {
        for words in
            [&[][..], &["list"], &["hook-x"], &["hook", "--help"], &["hook", "claude", "-h"]]
        {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(enter(&words).is_none(), "{words:?}");
        }
    }

    /// CLI spec §6.6: the old words, with an agent or without one.
    #[test]
    fn who_and_what_is_meant() {
        let meant = |words: &[&str]| meant(words).map(|(agent, hook)| (agent, hook.what));
        assert_eq!(meant(&["codex", "stop"]), Some((AgentKind::Codex, What::Stop)));
        assert_eq!(meant(&["working"]), Some((AgentKind::Claude, What::Prompt)));
        assert_eq!(meant(&["dnd"]), Some((AgentKind::Claude, What::DoNotDisturb)));
        for words in
            [&[][..], &["claude"], &["emacs", "Stop"], &["claude", "x"], &["claude", "Stop", "x"]]
        {
            assert_eq!(meant(words), None, "{words:?}");
        }
    }

    /// Agents spec §1.6b.
    #[test]
    fn what_the_daemon_is_told() {
        let told = |word: &str, told: Value| {
            let kind = AgentKind::Claude;
            report(&Moment::read(kind, kind.agent().hook(word).unwrap(), &told))
        };
        let prompt = told(
            "UserPromptSubmit",
            json!({ "session_id": "s", "cwd": "/p",
            "transcript_path": "/t", "prompt_id": "1", "prompt": "<task-notification>" }),
        );
        assert_eq!(prompt.event, Some(HookEvent::Prompt));
        assert_eq!((prompt.session_id.as_deref(), prompt.cwd.as_deref()), (Some("s"), Some("/p")));
        assert_eq!(
            (prompt.agent.as_deref(), prompt.transcript.as_deref()),
            (Some("claude"), Some("/t"))
        );
        assert_eq!(prompt.origin, Some(PromptOrigin::Push));
        assert!(prompt.take && prompt.event_id.is_some());
        let typed = told("UserPromptSubmit", json!({ "prompt": "hello" }));
        assert_eq!((typed.origin, typed.event_id), (None, None));
        assert!(typed.cwd.is_some());
        let dialog = told("Notification", json!({ "notification_type": "permission_prompt" }));
        assert_eq!((dialog.status, dialog.waits_for_human), (None, Some(HumanWait::Dialog)));
        let idle = told("Notification", json!({ "notification_type": "idle_prompt" }));
        assert_eq!(idle.status, Some(PeerStatus::Idle));
        assert!(!told("SessionStart", json!({})).take);
        assert!(!told("Stop", json!({ "stop_hook_active": true })).take);
        let dnd = told("dnd", json!({}));
        assert_eq!((dnd.event, dnd.status, dnd.take), (None, Some(PeerStatus::Dnd), false));
    }
}

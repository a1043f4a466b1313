//! What an agent's hook is told, read into one shape for all agents (agents spec §1.4, §1.6b).

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::agent::{AgentKind, Hook, Takes};

/// How a prompt begins that no person typed: Claude Code speaks so to a session that something woke.
const PUSHED_PROMPT: &str = "<task-notification";
/// Reasons for the end of a conversation after which its agent begins another one.
const STAYS: [&str; 2] = ["clear", "resume"];
/// Longest text taken over, in bytes: paths, ids and names are shorter.
const TEXT_MAX_BYTES: usize = 4_096;
/// Files of one edit that are reported.
const FILES_MAX: usize = 64;
/// In front of a file's name in a patch.
const PATCHED: [&str; 4] =
    ["*** Update File: ", "*** Add File: ", "*** Delete File: ", "*** Move to: "];

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// A session began, went on, or its conversation was summed up.
    Start,
    /// A prompt: of a person, or of something that woke the agent.
    Prompt,
    /// A file is about to change.
    Edit,
    /// A tool has run.
    Tool,
    /// The agent tells its person something.
    Notify,
    /// The turn ends.
    Stop,
    /// The turn is over, and nothing else: the person broke it off, or went on to another conversation.
    Interrupt,
    /// The session ends.
    End,
    /// Nothing did; the session is not to be disturbed.
    DoNotDisturb,
}

/// What an agent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A decision in a dialog.
    Dialog,
    /// A prompt.
    Idle,
}

/// One event of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Whose.
    pub agent: AgentKind,
    /// The agent's own name of the event.
    pub event: &'static str,
    /// What happened.
    pub what: What,
    /// What the agent takes as an answer, this time.
    pub takes: Takes,
    /// Id of the conversation.
    pub session_id: Option<String>,
    /// Its directory.
    pub cwd: Option<String>,
    /// File of its record.
    pub transcript: Option<String>,
    /// The model's name.
    pub model: Option<String>,
    /// Files that are about to change.
    pub files: Vec<String>,
    /// The prompt is a push's, no person's. The other way round nothing is known: a prompt may have come from a script.
    pub is_push: bool,
    /// What the agent waits for.
    pub wait: Option<Wait>,
    /// The same for two hooks that hear of one event, and for no other event; `None` where the agent says nothing that
    /// tells events apart.
    pub id: Option<String>,
}

impl Moment {
    /// Reads what the hook `hook` of an agent was told. What is missing or of another type counts as not said.
    pub fn read(agent: AgentKind, hook: &'static Hook, told: &Value) -> Self {
        let fields = agent.agent().fields;
        let text = |pointer: &str| text_at(told, pointer);
        let is_true = |pointer: &str| at(told, pointer) == Some(&Value::Bool(true));
        // A helper's conversation is not the session's: what is said there, nobody reads.
        let is_helper = text(fields.helper).is_some();
        // A turn that goes on because a hook wanted it must be able to end.
        let is_continued = is_true(fields.is_continued);
        let is_deaf = is_helper || (hook.takes == Takes::Continuation && is_continued);
        // The process goes on, and with it the session.
        let is_cleared = hook.what == What::End
            && text(fields.reason).is_some_and(|reason| STAYS.contains(&reason.as_str()));
        let prompt = at(told, fields.prompt).and_then(Value::as_str).unwrap_or_default();
        Self {
            agent,
            event: hook.event,
            what: if is_cleared { What::Interrupt } else { hook.what },
            takes: if is_deaf { Takes::Nothing } else { hook.takes },
            session_id: text(fields.session),
            cwd: text(fields.cwd),
            transcript: text(fields.transcript),
            model: text(fields.model),
            files: if hook.what == What::Edit { files(agent, told) } else { Vec::new() },
            is_push: hook.what == What::Prompt && prompt.trim_start().starts_with(PUSHED_PROMPT),
            wait: match text(fields.wait).as_deref() {
                Some("permission_prompt") => Some(Wait::Dialog),
                Some("idle_prompt") => Some(Wait::Idle),
                _ => None,
            },
            id: id(agent, hook, told),
        }
    }

    /// True when messages may be put before the agent now, as the answer. At the start of a session nobody reads yet: a
    /// message given then might lie before an empty prompt for hours.
    pub fn takes_messages(&self) -> bool {
        matches!(self.takes, Takes::Context | Takes::Continuation) && self.what != What::Start
    }
}

/// What tells an event from all others of its session: the turn or the call, and what may differ between two events of one
/// turn.
fn id(agent: AgentKind, hook: &Hook, told: &Value) -> Option<String> {
    let fields = agent.agent().fields;
    let [turn, call] = [fields.turn, fields.call].map(|pointer| text_at(told, pointer));
    let is_of_a_call = matches!(hook.what, What::Tool | What::Edit);
    let is_of_a_turn = matches!(hook.what, What::Prompt | What::Stop | What::Interrupt);
    let own = if is_of_a_call { call } else { turn.filter(|_| is_of_a_turn) }?;
    let mut digest = Sha256::new();
    for part in [hook.event, &own] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    for pointer in [fields.session, fields.prompt, fields.last_words, fields.is_continued] {
        digest.update(at(told, pointer).map(Value::to_string).unwrap_or_default().as_bytes());
        digest.update([0]);
    }
    let digest = digest.finalize();
    Some(format!("{}:{}", agent.agent().word, hex::encode(digest.get(..16)?)))
}

fn files(agent: AgentKind, told: &Value) -> Vec<String> {
    let fields = agent.agent().fields;
    let named = fields.files.iter().filter_map(|pointer| text_at(told, pointer));
    let patch = at(told, fields.patch).and_then(Value::as_str).unwrap_or_default();
    let patched = patch.lines().filter_map(|line| {
        let name = PATCHED.iter().find_map(|sign| line.strip_prefix(sign))?.trim();
        is_short(name).then(|| name.to_owned())
    });
    named.chain(patched).take(FILES_MAX).collect()
}

/// What stands at a pointer; nothing stands at an empty one.
fn at<'a>(told: &'a Value, pointer: &str) -> Option<&'a Value> {
    if pointer.is_empty() { None } else { told.pointer(pointer) }
}

fn text_at(told: &Value, pointer: &str) -> Option<String> {
    let text = at(told, pointer)?.as_str()?;
    is_short(text).then(|| text.to_owned())
}

fn is_short(text: &str) -> bool {
    (1..=TEXT_MAX_BYTES).contains(&text.len())
}

#[cfg(test)]
mod tests;

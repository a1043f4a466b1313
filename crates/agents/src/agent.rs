//! The agents, as a table: which events their hooks hear, where their stdin says what, what they take as an answer (agents
//! spec §1.4, §1.6, §1.6b). An agent that fits the columns is one more row.

use crate::event::What;
use crate::record::Format;

/// An agent whose hooks run `claudemesh hook <word> <event>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AgentKind {
    /// Claude Code.
    Claude,
    /// Codex on the command line.
    Codex,
}

/// One row.
#[derive(Debug)]
pub struct Agent {
    /// Which agent.
    pub kind: AgentKind,
    /// Its word on our command line.
    pub word: &'static str,
    /// Its name.
    pub name: &'static str,
    /// How its record of a conversation is read.
    pub record: Format,
    /// The events that we hear.
    pub hooks: &'static [Hook],
    /// Where its stdin says what.
    pub(crate) fields: &'static Fields,
}

/// One event of an agent.
#[derive(Debug)]
pub struct Hook {
    /// The agent's own name of it.
    pub event: &'static str,
    /// Other words for it, on our command line only.
    pub words: &'static [&'static str],
    /// What it means.
    pub what: What,
    /// What the agent takes as an answer.
    pub takes: Takes,
    /// To which tools it is limited, as the agent writes that.
    pub matcher: Option<&'static str>,
}

/// What an agent takes as the answer of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// Text that is put before the model.
    Context,
    /// A warning for the person, which the model is shown, too.
    Warning,
    /// A reason to go on, in place of the end of the turn.
    Continuation,
}

/// JSON pointers into what a hook is told; a place that an agent does not have is empty, and then nothing stands there.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Id of the conversation.
    pub(crate) session: &'static str,
    /// Its directory.
    pub(crate) cwd: &'static str,
    /// File of its record.
    pub(crate) transcript: &'static str,
    /// The model's name.
    pub(crate) model: &'static str,
    /// Id of the turn.
    pub(crate) turn: &'static str,
    /// Id of the call of a tool.
    pub(crate) call: &'static str,
    /// Text of the prompt.
    pub(crate) prompt: &'static str,
    /// Last words of the turn.
    pub(crate) last_words: &'static str,
    /// True when the turn went on because a hook wanted it.
    pub(crate) is_continued: &'static str,
    /// Id of a helper that the agent has started, in whose conversation the hook runs.
    pub(crate) helper: &'static str,
    /// What the agent waits for.
    pub(crate) wait: &'static str,
    /// Why the conversation ended.
    pub(crate) reason: &'static str,
    /// Files that a tool is about to change.
    pub(crate) files: &'static [&'static str],
    /// A patch that names them.
    pub(crate) patch: &'static str,
}

/// Claude Code, and what copies its shape.
const CLAUDE_FIELDS: Fields = Fields {
    session: "/session_id",
    cwd: "/cwd",
    transcript: "/transcript_path",
    model: "/model",
    turn: "/prompt_id",
    call: "/tool_use_id",
    prompt: "/prompt",
    last_words: "/last_assistant_message",
    is_continued: "/stop_hook_active",
    helper: "/agent_id",
    wait: "/notification_type",
    reason: "/reason",
    files: &["/tool_input/file_path", "/tool_input/notebook_path"],
    patch: "",
};

const CODEX_FIELDS: Fields = Fields {
    turn: "/turn_id",
    wait: "",
    files: &[],
    patch: "/tool_input/command",
    ..CLAUDE_FIELDS
};

/// Without other words and limits.
const fn hook(event: &'static str, what: What, takes: Takes) -> Hook {
    Hook { event, words: &[], what, takes, matcher: None }
}

impl Hook {
    const fn also(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    const fn only(mut self, tools: &'static str) -> Self {
        self.matcher = Some(tools);
        self
    }
}

static CLAUDE: Agent = Agent {
    kind: AgentKind::Claude,
    word: "claude",
    name: "Claude Code",
    record: Format::Claude,
    hooks: &[
        hook("SessionStart", What::Start, Takes::Context).also(&["start"]),
        hook("UserPromptSubmit", What::Prompt, Takes::Context).also(&["prompt", "working"]),
        hook("PreToolUse", What::Edit, Takes::Warning)
            .also(&["edit"])
            .only("Edit|MultiEdit|Write|NotebookEdit"),
        hook("PostToolUse", What::Tool, Takes::Context).also(&["tool"]),
        hook("Notification", What::Notify, Takes::Nothing).also(&["notify", "waiting"]),
        hook("Stop", What::Stop, Takes::Continuation).also(&["idle"]),
        hook("SessionEnd", What::End, Takes::Nothing).also(&["end"]),
    ],
    fields: &CLAUDE_FIELDS,
};

static CODEX: Agent = Agent {
    kind: AgentKind::Codex,
    word: "codex",
    name: "Codex",
    record: Format::Codex,
    hooks: &[
        hook("SessionStart", What::Start, Takes::Context).also(&["start"]),
        hook("UserPromptSubmit", What::Prompt, Takes::Context).also(&["prompt", "working"]),
        hook("PreToolUse", What::Edit, Takes::Warning).also(&["edit"]).only("apply_patch"),
        hook("PostToolUse", What::Tool, Takes::Context).also(&["tool"]),
        hook("Stop", What::Stop, Takes::Continuation).also(&["idle"]),
        hook("Interrupt", What::Interrupt, Takes::Nothing),
        hook("SessionEnd", What::End, Takes::Nothing).also(&["end"]),
    ],
    fields: &CODEX_FIELDS,
};

/// No event of any agent: a person or a script says that a session is not to be disturbed.
static DISTURB: Hook = hook("dnd", What::DoNotDisturb, Takes::Nothing);

impl AgentKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Claude, Self::Codex];

    /// Its row.
    pub const fn agent(self) -> &'static Agent {
        match self {
            Self::Claude => &CLAUDE,
            Self::Codex => &CODEX,
        }
    }

    /// The agent of a word, in any letter case.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.agent().word.eq_ignore_ascii_case(word))
    }
}

impl Agent {
    /// The event of a word: the agent's own name of it or one of ours, in any letter case.
    pub fn hook(&self, word: &str) -> Option<&'static Hook> {
        let is_named = |hook: &&Hook| {
            std::iter::once(&hook.event)
                .chain(hook.words)
                .any(|name| name.eq_ignore_ascii_case(word))
        };
        self.hooks.iter().chain([&DISTURB]).find(is_named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents spec §1.6b: the agent's own names and the old words, whatever their letter case.
    #[test]
    fn events_go_by_their_own_names_and_by_the_old_words() {
        let what = |agent: &str, word: &str| {
            AgentKind::parse(agent).and_then(|kind| kind.agent().hook(word)).map(|hook| hook.what)
        };
        for (word, meant) in [
            ("UserPromptSubmit", What::Prompt),
            ("userpromptsubmit", What::Prompt),
            ("working", What::Prompt),
            ("idle", What::Stop),
            ("waiting", What::Notify),
            ("start", What::Start),
            ("END", What::End),
            ("dnd", What::DoNotDisturb),
        ] {
            assert_eq!(what("Claude", word), Some(meant), "{word}");
        }
        assert_eq!(what("codex", "Interrupt"), Some(What::Interrupt));
        assert_eq!(what("claude", "Interrupt"), None);
        assert_eq!(what("codex", "Notification"), None);
        assert_eq!(what("emacs", "Stop"), None);
        assert_eq!(what("claude", ""), None);
    }

    #[test]
    fn no_word_means_two_events() {
        for kind in AgentKind::ALL {
            let mut words: Vec<String> = kind
                .agent()
                .hooks
                .iter()
                .chain([&DISTURB])
                .flat_map(|hook| std::iter::once(hook.event).chain(hook.words.iter().copied()))
                .map(str::to_ascii_lowercase)
                .collect();
            let all = words.len();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), all);
        }
    }
}

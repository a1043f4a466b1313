//! What an installation wants in the files of each agent, as data: which entries, in which file, known by what (MCP spec
//! §10.1, §10.2; CLI spec §6.1; agents spec §1.4–§1.6b). Nothing here reads or writes a file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::agent::AgentKind;
use crate::settings::{Entry, Syntax};

mod claude;
mod codex;

/// The bundled skill, as it is written beside an agent's own and as `claudemesh skill` prints it.
pub const SKILL: &str = include_str!("../assets/skill/SKILL.md");
/// Name of the MCP server, of the skill's directory, and of our program's file.
pub const NAME: &str = "claudemesh";
/// By this text in its command a hook is known as ours, whatever stands before or behind it.
pub const HOOK_MARK: &str = "claudemesh hook ";

/// The directories in which agents keep their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homes {
    /// `HOME`.
    pub home: PathBuf,
    /// `CLAUDE_CONFIG_DIR`, when it is set.
    pub claude: Option<PathBuf>,
    /// `CODEX_HOME`, when it is set.
    pub codex: Option<PathBuf>,
}

/// How an agent starts our program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(String);

/// What a person may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Hooks.
    pub hooks: bool,
    /// The bell among them.
    pub bell: bool,
    /// Commands that the agent runs without asking.
    pub allow: Allow,
    /// The status line.
    pub status_line: bool,
    /// Value of `--tools` of the MCP server; the agent's usual one when nothing is said.
    pub tools: Option<String>,
}

/// Commands that an agent runs without asking its person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// None.
    Nothing,
    /// Those that read, and those that send.
    Usual,
    /// Every command of ours.
    All,
}

/// One thing an installation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The MCP server's entry.
    Server,
    /// The hooks of an event, under the agent's own name of it.
    Hook(&'static str),
    /// The status line.
    StatusLine,
    /// A command that runs unasked.
    Permission,
}

/// A file and what belongs into it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Where.
    pub file: PathBuf,
    /// How it is written.
    pub syntax: Syntax,
    /// What, in the order in which new entries are added.
    pub entries: Vec<(Part, Entry)>,
    /// True for a file that its agent rewrites at any time under a lock of its own: a directory of the same name with
    /// `.lock` behind it.
    pub is_shared: bool,
}

impl AgentKind {
    /// The directory of its settings.
    pub fn dir(self, homes: &Homes) -> PathBuf {
        match self {
            Self::Claude => homes.claude.clone().unwrap_or_else(|| homes.home.join(".claude")),
            Self::Codex => homes.codex.clone().unwrap_or_else(|| homes.home.join(".codex")),
        }
    }

    /// Where copies of its files are kept before they are changed.
    pub fn backups(self, homes: &Homes) -> PathBuf {
        self.dir(homes).join("backups")
    }

    /// Where it looks for our skill.
    pub fn skill(self, homes: &Homes) -> PathBuf {
        self.dir(homes).join("skills").join(NAME).join("SKILL.md")
    }

    /// Its files with our entries.
    pub fn files(self, homes: &Homes, program: &Program, choice: &Choice) -> Vec<Wanted> {
        match self {
            Self::Claude => claude::files(homes, program, choice),
            Self::Codex => codex::files(homes, program, choice),
        }
    }

    /// What has to be done by hand after an installation.
    pub const fn afterwards(self) -> &'static str {
        match self {
            Self::Claude => "restart Claude Code for the changes to take effect",
            Self::Codex => "restart Codex; it asks once whether it may run these hooks",
        }
    }
}

impl Program {
    /// Started by its name alone: it is on the search path.
    pub fn by_name() -> Self {
        Self(NAME.to_owned())
    }

    /// Started by its path. `None` when hooks of it would not be known as ours: its file has another name, or the path
    /// cannot be written for a shell.
    pub fn at(path: &Path) -> Option<Self> {
        let is_ours = path.is_absolute() && path.file_name().is_some_and(|name| name == NAME);
        let text = path.to_str().filter(|text| !text.chars().any(char::is_control))?;
        is_ours.then(|| Self(text.to_owned()))
    }

    /// As an executable, for a client that starts it without a shell.
    pub fn command(&self) -> &str {
        &self.0
    }

    /// With these words, for a shell. Signs that mean something to it are escaped one by one: quotes around the path would
    /// part the name from what follows, by which hooks are known.
    fn shell(&self, words: &str) -> String {
        let is_plain = |sign: &char| sign.is_alphanumeric() || "/._-+,:@%".contains(*sign);
        let mut line = String::new();
        for sign in self.0.chars() {
            if !is_plain(&sign) {
                line.push('\\');
            }
            line.push(sign);
        }
        format!("{line} {words}")
    }
}

impl Choice {
    /// All that an installation may ever have put there: what is taken away.
    pub const fn everything() -> Self {
        Self { hooks: true, bell: true, allow: Allow::All, status_line: true, tools: None }
    }
}

/// Entries of earlier programs that nothing stands behind any more, in what a file means: tools that are gone among the
/// pre-approved ones, and servers of sessions whose process has ended (CLI spec §6.1 step 2). They go, and do not come back.
pub fn stale(document: &Value, is_alive: &dyn Fn(u32) -> bool) -> Vec<Entry> {
    claude::stale(document, is_alive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_escaped_and_still_known() {
        let program = Program::at(Path::new("/opt/my tools (2)/claudemesh")).unwrap();
        assert_eq!(program.command(), "/opt/my tools (2)/claudemesh");
        let line = program.shell("hook claude Stop");
        assert_eq!(line, r"/opt/my\ tools\ \(2\)/claudemesh hook claude Stop");
        assert!(line.contains(HOOK_MARK));
        assert_eq!(Program::by_name().shell("hook claude Stop"), "claudemesh hook claude Stop");
        for path in ["claudemesh", "/opt/claudemesh-0.3", "/a\nb/claudemesh"] {
            assert_eq!(Program::at(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn each_agent_has_its_own_directories() {
        let usual = Homes { home: "/h".into(), claude: None, codex: None };
        assert_eq!(AgentKind::Claude.dir(&usual), Path::new("/h/.claude"));
        assert_eq!(
            AgentKind::Codex.skill(&usual),
            Path::new("/h/.codex/skills/claudemesh/SKILL.md")
        );
        let moved = Homes { claude: Some("/c".into()), codex: Some("/x".into()), ..usual };
        assert_eq!(AgentKind::Claude.backups(&moved), Path::new("/c/backups"));
        assert_eq!(AgentKind::Codex.dir(&moved), Path::new("/x"));
    }
}

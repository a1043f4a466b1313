//! Claude Code on a machine of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

use super::process::{POLL, Ran, RigError, run};
use super::terminal::Terminal;
use super::{environment, installed};
use crate::model::MockModel;

/// A key that is none: the client approves a key by its last 20 characters.
const KEY: &str = "sk-dummy";
/// Longest run of one command or one headless conversation.
const RUN_PATIENCE: Duration = Duration::from_mins(1);
/// In front of what is typed.
const PROMPT_SIGN: char = '❯';
/// Longest start of the client in a terminal.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Claude Code in a HOME, speaking to a model that is none.
pub struct ClaudeRig {
    program: PathBuf,
    home: PathBuf,
    cwd: PathBuf,
    environment: Vec<(String, OsString)>,
}

/// Claude Code in a terminal. Ends with the value.
pub struct ClaudeSession {
    terminal: Terminal,
    /// Process id of the client.
    pub pid: i32,
    /// Its session.
    pub session_id: String,
    registry: PathBuf,
}

impl ClaudeRig {
    /// Prepares `home`, which must stay as long as the rig: nothing is asked at the first start, `cwd` is trusted. `tools`
    /// is a directory of programs that come before all others, such as ours.
    ///
    /// # Errors
    /// When the client is not installed or a file cannot be written.
    pub fn new(home: &Path, cwd: &Path, tools: &Path, model: &MockModel) -> Result<Self, RigError> {
        let program = installed("claude").ok_or(RigError::Missing("claude"))?;
        let made = |what: &Path| RigError::io(format!("cannot make {}", what.display()));
        for dir in [home.join(".run"), cwd.to_owned()] {
            std::fs::create_dir_all(&dir).map_err(made(&dir))?;
        }
        let file = home.join(".claude.json");
        // What is there stays, such as MCP servers of an earlier rig in this HOME.
        let found = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut settings: Map<String, Value> = found.unwrap_or_default();
        let trusted = json!({ cwd.to_string_lossy(): { "hasTrustDialogAccepted": true } });
        let ours = json!({
            "hasCompletedOnboarding": true,
            "theme": "dark",
            "customApiKeyResponses": { "approved": [KEY], "rejected": [] },
            "projects": trusted,
        });
        settings.extend(ours.as_object().cloned().unwrap_or_default());
        let settings = Value::Object(settings);
        std::fs::write(&file, format!("{settings:#}\n")).map_err(made(&file))?;
        let mut environment = environment(home, tools);
        let own = [
            ("ANTHROPIC_BASE_URL", model.url()),
            ("ANTHROPIC_API_KEY", KEY),
            ("DISABLE_AUTOUPDATER", "1"),
            // Permits --dangerously-skip-permissions as root.
            ("IS_SANDBOX", "1"),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.into())));
        Ok(Self { program, home: home.to_owned(), cwd: cwd.to_owned(), environment })
    }

    /// With an environment variable of its own.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// `claude <words>`, to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in a minute.
    pub fn run(&self, words: &[&str]) -> Result<Ran, RigError> {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear().current_dir(&self.cwd);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        run(command, RUN_PATIENCE)
    }

    /// One headless conversation: `claude <words> -p <prompt>`.
    ///
    /// # Errors
    /// As [`ClaudeRig::run`].
    pub fn print(&self, prompt: &str, words: &[&str]) -> Result<Ran, RigError> {
        let mut all = vec!["-p", prompt];
        all.extend(words);
        self.run(&all)
    }

    /// The client in a terminal, once it says that its session has begun and waits for a prompt.
    ///
    /// # Errors
    /// When there is no tmux, or the client does not get that far in 30 seconds; the error shows its screen.
    pub fn interactive(&self, words: &[&str]) -> Result<ClaudeSession, RigError> {
        let mut argv = vec![self.program.clone().into_os_string()];
        argv.extend(words.iter().map(OsString::from));
        let dir = self.home.join(".run");
        let terminal = Terminal::open(&dir, &self.environment, &self.cwd, &argv)?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let pid = terminal.pid().ok().flatten();
            let registry = pid.map(|pid| self.home.join(format!(".claude/sessions/{pid}.json")));
            let entry = registry.as_deref().and_then(read_json);
            let id = entry.as_ref().and_then(|entry| entry.get("sessionId")?.as_str());
            if let (Some(pid), Some(registry), Some(id)) = (pid, registry, id) {
                let session_id = id.to_owned();
                // The session is registered before anything is drawn, and what is typed until then is lost.
                terminal.wait_until("the prompt is drawn", START_PATIENCE, |screen| {
                    screen.contains(PROMPT_SIGN)
                })?;
                return Ok(ClaudeSession { terminal, pid, session_id, registry });
            }
            if Instant::now() >= deadline {
                let screen = terminal.screen().unwrap_or_default();
                return Err(RigError::Never { what: "the session begins".to_owned(), screen });
            }
            std::thread::sleep(POLL);
        }
    }

    /// The directory it works in.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// The records of all its sessions (transcripts), by path.
    pub fn transcripts(&self) -> Vec<PathBuf> {
        let projects = std::fs::read_dir(self.home.join(".claude/projects"));
        let dirs = projects.into_iter().flatten().flatten().map(|entry| entry.path());
        let files = dirs.flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
        let mut found: Vec<_> = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
            .collect();
        found.sort();
        found
    }
}

impl ClaudeSession {
    /// The screen.
    ///
    /// # Errors
    /// When the terminal has ended.
    pub fn screen(&self) -> Result<String, RigError> {
        self.terminal.screen()
    }

    /// Waits until the screen fits.
    ///
    /// # Errors
    /// [`RigError::Never`] with the screen as it is.
    pub fn wait_for_screen(
        &self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String, RigError> {
        self.terminal.wait_until(what, patience, fits)
    }

    /// Types a prompt and sends it.
    ///
    /// # Errors
    /// When the terminal has ended, or does not show what was typed.
    pub fn prompt(&self, text: &str) -> Result<(), RigError> {
        self.terminal.type_text(text)?;
        // A key that comes with the text would count as a line of pasted text.
        let shown: String = text.chars().take(20).collect();
        self.terminal
            .wait_until("the prompt is typed", START_PATIENCE, |screen| screen.contains(&shown))?;
        self.terminal.press("Enter")
    }

    /// Presses a key: `Enter`, `Escape`, `1`.
    ///
    /// # Errors
    /// When the terminal has ended.
    pub fn press(&self, key: &str) -> Result<(), RigError> {
        self.terminal.press(key)
    }

    /// What the client writes about itself (`~/.claude/sessions/<pid>.json`); `None` once it has ended.
    pub fn registry(&self) -> Option<Value> {
        read_json(&self.registry)
    }

    /// Waits for a status of the client's own: `idle`, `busy`.
    ///
    /// # Errors
    /// [`RigError::Never`].
    pub fn wait_for_status(&self, status: &str, patience: Duration) -> Result<(), RigError> {
        let deadline = Instant::now() + patience;
        loop {
            let entry = self.registry();
            let is = entry.as_ref().and_then(|entry| entry.get("status")?.as_str());
            if is == Some(status) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = format!("the client is {status} (it is {is:?})");
                return Err(RigError::Never { what, screen: self.screen().unwrap_or_default() });
            }
            std::thread::sleep(POLL);
        }
    }

    /// `kill -9`.
    pub fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It has ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

//! Codex on a machine of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Ran, RigError, run};
use super::{environment, installed};
use crate::model::MockModel;

/// Longest run of one command or one headless conversation.
const RUN_PATIENCE: Duration = Duration::from_mins(1);

/// Codex in a HOME, speaking to a model that is none.
pub struct CodexRig {
    program: PathBuf,
    cwd: PathBuf,
    home: PathBuf,
    environment: Vec<(String, OsString)>,
}

impl CodexRig {
    /// Prepares `home`, which must stay as long as the rig: `.codex/config.toml` names the model and trusts `cwd`; `more`
    /// is appended to it, such as MCP servers. `tools` is a directory of programs that come before all others.
    ///
    /// # Errors
    /// When the client is not installed or a file cannot be written.
    pub fn new(
        home: &Path,
        cwd: &Path,
        tools: &Path,
        model: &MockModel,
        more: &str,
    ) -> Result<Self, RigError> {
        let program = installed("codex").ok_or(RigError::Missing("codex"))?;
        let codex_home = home.join(".codex");
        let made = |what: &Path| RigError::io(format!("cannot make {}", what.display()));
        for dir in [&codex_home, &home.join(".run"), &cwd.to_owned()] {
            std::fs::create_dir_all(dir).map_err(made(dir))?;
        }
        let settings = format!(
            "model = \"mock-model\"\nmodel_provider = \"mock\"\n\n[model_providers.mock]\nname = \"mock\"\n\
             base_url = \"{}/v1\"\nenv_key = \"OPENAI_API_KEY\"\nwire_api = \"responses\"\n\
             supports_websockets = false\nrequest_max_retries = 1\n\n[projects.{:?}]\ntrust_level = \"trusted\"\n\n{more}",
            model.url(),
            cwd.to_string_lossy(),
        );
        let file = codex_home.join("config.toml");
        std::fs::write(&file, settings).map_err(made(&file))?;
        let mut environment = environment(home, tools);
        environment.push(("CODEX_HOME".to_owned(), codex_home.into_os_string()));
        environment.push(("OPENAI_API_KEY".to_owned(), "sk-dummy".into()));
        Ok(Self { program, cwd: cwd.to_owned(), home: home.to_owned(), environment })
    }

    /// `codex <words>`, to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in a minute.
    pub fn run(&self, words: &[&str]) -> Result<Ran, RigError> {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear().current_dir(&self.cwd);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        run(command, RUN_PATIENCE)
    }

    /// One headless conversation: `codex exec <words> <prompt>`.
    ///
    /// # Errors
    /// As [`CodexRig::run`].
    pub fn exec(&self, prompt: &str, words: &[&str]) -> Result<Ran, RigError> {
        let mut all = vec!["exec", "--skip-git-repo-check"];
        all.extend(words);
        all.push(prompt);
        self.run(&all)
    }

    /// The records of all its conversations (rollouts), by path.
    pub fn rollouts(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.home.join(".codex/sessions")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|ending| ending == "jsonl") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

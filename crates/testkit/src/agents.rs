//! The real coding agents, run offline against [`crate::model::MockModel`] (agents spec §2): which of them are installed,
//! and rigs that give each a throw-away HOME, a model that is none, and nobody else to talk to.
//!
//! `scripts/agents-setup` installs them. No vendor is ever reached: the model's address is the loopback's, the key is no
//! key, updates are off, and everything else is sent to a proxy that is not there.

mod claude;
mod codex;
mod process;
mod terminal;

use std::path::{Path, PathBuf};

pub use claude::{ClaudeRig, ClaudeSession};
pub use codex::CodexRig;
pub use process::{Ran, RigError};

/// Environment variable: where `scripts/agents-setup` puts the agents.
pub const CACHE_ENV: &str = "AGENTS_CACHE";

/// Nobody answers there: a request that is not for the loopback fails at once.
const NOBODY: &str = "http://127.0.0.1:9";

/// The executable of an agent (`claude`, `codex`) in the cache; `None` when it is not installed.
pub fn installed(agent: &str) -> Option<PathBuf> {
    let cache = std::env::var_os(CACHE_ENV).map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base =
            base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(base.join("claudemesh/agents"))
    })?;
    std::fs::canonicalize(cache.join(agent)).ok()
}

/// The environment every agent gets: a HOME of its own, `tools` before everything on the search path, and no way out.
fn environment(home: &Path, tools: &Path) -> Vec<(String, std::ffi::OsString)> {
    let mut path = vec![tools.to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).unwrap_or_default();
    let mut environment = vec![
        ("HOME".to_owned(), home.as_os_str().to_owned()),
        ("PATH".to_owned(), path),
        ("XDG_RUNTIME_DIR".to_owned(), home.join(".run").into_os_string()),
    ];
    let fixed = [
        ("USER", "ana"),
        ("LANG", "C.UTF-8"),
        ("TERM", "xterm-256color"),
        ("HTTPS_PROXY", NOBODY),
        ("NO_PROXY", "127.0.0.1,localhost"),
    ];
    environment.extend(fixed.map(|(name, value)| (name.to_owned(), value.into())));
    // Processes of a run that was killed are found by it (`scripts/test`).
    if let Some(mark) = std::env::var_os("CLAUDEMESH_TEST_RUN") {
        environment.push(("CLAUDEMESH_TEST_RUN".to_owned(), mark));
    }
    environment
}

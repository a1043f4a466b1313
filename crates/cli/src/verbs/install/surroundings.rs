//! Which agents this machine has, where they keep their files, and how they find this program.

use std::path::{Path, PathBuf};

use claudemesh_agents::agent::AgentKind;
use claudemesh_agents::install::{Homes, NAME, Program};
use claudemesh_protocol::error::ErrorCode;

use super::store::Store;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::service::{is_passing, lasting_path};

/// Everything outside of the agents' files.
pub(crate) struct Surroundings {
    pub(crate) homes: Homes,
    pub(crate) program: Program,
    pub(crate) store: Store,
    search_path: Vec<PathBuf>,
}

impl Surroundings {
    /// Looks around. For a removal it does not matter where this program is.
    ///
    /// # Errors
    /// Exit 3 when an agent could not find this program again, 10 without a home.
    pub(crate) fn of(context: &Context, is_to_be_found: bool) -> Outcome<Self> {
        let environment = &context.environment;
        let Some(home) = environment.home.clone() else {
            return Err(Failure::new(ErrorCode::Io, "HOME is not set"));
        };
        let homes = Homes {
            home,
            claude: environment.claude_config_dir.clone(),
            codex: environment.codex_home.clone(),
        };
        let search_path: Vec<PathBuf> = environment
            .search_path
            .iter()
            .flat_map(std::env::split_paths)
            .filter(|dir| dir.is_absolute())
            .collect();
        let program =
            if is_to_be_found { program(context, &search_path)? } else { Program::by_name() };
        Ok(Self { homes, program, store: Store::new(context.paths.root()), search_path })
    }

    /// The agents to work on: those named, else those that are here. Where there is none, Claude Code: its files are read
    /// when it comes.
    pub(crate) fn chosen(&self, named: &[AgentKind]) -> Vec<AgentKind> {
        let is_chosen = |kind: &AgentKind| match named {
            [] => self.is_here(*kind),
            _ => named.contains(kind),
        };
        let chosen: Vec<AgentKind> = AgentKind::ALL.into_iter().filter(is_chosen).collect();
        if chosen.is_empty() { vec![AgentKind::Claude] } else { chosen }
    }

    /// True when it has been used here, or can be.
    fn is_here(&self, kind: AgentKind) -> bool {
        kind.dir(&self.homes).is_dir()
            || self.search_path.iter().any(|dir| dir.join(kind.agent().word).is_file())
    }

    /// A path as people write it.
    pub(crate) fn shown(&self, path: &Path) -> String {
        match path.strip_prefix(&self.homes.home) {
            Ok(below) => format!("~/{}", below.display()),
            Err(_) => path.display().to_string(),
        }
    }
}

fn program(context: &Context, search_path: &[PathBuf]) -> Outcome<Program> {
    let exe = std::env::current_exe()
        .map_err(|error| Failure::io("cannot tell where this program is", &error))?;
    let same = |path: &Path| std::fs::canonicalize(path).ok() == std::fs::canonicalize(&exe).ok();
    let first = search_path.iter().map(|dir| dir.join(NAME)).find(|path| path.is_file());
    if first.is_some_and(|first| same(&first)) {
        return Ok(Program::by_name());
    }
    let path = lasting_path(&exe, context.environment.search_path.as_deref());
    if is_passing(&path) {
        let path = path.display();
        context.out.warning(&format!("{path} is no lasting place for a program that agents start"));
    }
    Program::at(&path).ok_or_else(|| {
        Failure::invalid(format!("agents could not tell {} from other programs", path.display()))
            .detail("expected: a path without control characters that ends in /claudemesh")
    })
}

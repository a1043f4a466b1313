//! The hooks that are switched on, as they were when they were last loaded (daemon spec §16.1).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, HookFile, Refusal, SECTIONS_FILE};
use super::name::{HookName, Stem};
use super::section::{Section, Sections};

/// A hook that is switched on and whose file could run when it was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// Its name.
    pub(super) name: HookName,
    /// Its file.
    pub(super) path: PathBuf,
    /// What `hooks.toml` says about it.
    pub(super) section: Section,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Installed {
    hooks: Vec<Arc<Hook>>,
    /// Guards that are there and cannot run: nothing is sent past them.
    broken_guards: Vec<(HookName, String)>,
    /// Files that do not run, and why.
    pub(super) refused: Vec<(PathBuf, Refusal)>,
    /// Hooks that are switched on and have no file.
    pub(super) missing: Vec<HookName>,
}

/// What a daemon does with hooks whose settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct UnusableHooks {
    reason: String,
}

impl Installed {
    /// Looks at the files below `root`. Blocks.
    ///
    /// # Errors
    /// [`UnusableHooks`] when `hooks.toml` is there and cannot be used.
    pub(super) fn load(root: &Path) -> Result<Self, UnusableHooks> {
        let bytes = file::read_sections(root).map_err(|error| UnusableHooks {
            reason: format!("cannot use {}: {error}", root.join(SECTIONS_FILE).display()),
        })?;
        let sections = match bytes {
            None => Sections::default(),
            Some(bytes) => Sections::parse(&root.join(SECTIONS_FILE), &bytes)
                .map_err(|error| UnusableHooks { reason: error.to_string() })?,
        };
        Ok(Self::from_files(file::scan(root), &sections))
    }

    /// As after [`UnusableHooks`] at a start: nothing runs, and what could be a guard lets nothing pass.
    pub(super) fn unusable(root: &Path) -> Self {
        let mut installed = Self::default();
        for found in file::scan(root) {
            if found.name.stem == Stem::PreSend {
                let reason = Refusal::NoSections.to_string();
                installed.broken_guards.push((found.name.clone(), reason));
            }
            installed.refused.push((found.path, Refusal::NoSections));
        }
        installed
    }

    fn from_files(files: Vec<HookFile>, sections: &Sections) -> Self {
        let mut installed = Self::default();
        let is_there = |name: &HookName| {
            files
                .iter()
                .any(|file| file.name.stem == name.stem && name.is_for(file.name.mesh.as_deref()))
        };
        installed.missing = sections.enabled().filter(|name| !is_there(name)).cloned().collect();
        for HookFile { name, path, verdict } in files {
            let section = match sections.of(&name) {
                None => Err(Refusal::NoSection),
                Some(section) if !section.enabled => Err(Refusal::NotEnabled),
                Some(_) if name.mesh.is_some() && name.stem == Stem::Startup => {
                    Err(Refusal::OfNoMesh)
                }
                Some(section) => Ok(section),
            };
            match (section, verdict) {
                (Ok(section), Ok(())) => {
                    let hook = Hook { name, path, section: section.clone() };
                    installed.hooks.push(Arc::new(hook));
                }
                (Err(refusal), _) => installed.refused.push((path, refusal)),
                (Ok(_), Err(refusal)) => {
                    if name.stem == Stem::PreSend {
                        installed.broken_guards.push((name, refusal.to_string()));
                    }
                    installed.refused.push((path, refusal));
                }
            }
        }
        installed
    }

    /// How many can run.
    pub(super) fn len(&self) -> usize {
        self.hooks.len()
    }

    /// Whether some hook has a stem that `wanted` says yes to.
    pub(super) fn has(&self, wanted: impl Fn(&Stem) -> bool) -> bool {
        self.hooks.iter().any(|hook| wanted(&hook.name.stem))
    }

    /// Hooks of a stem for a mesh: the mesh's own first.
    pub(super) fn of(&self, stem: &Stem, mesh: Option<&str>) -> Vec<Arc<Hook>> {
        let matching = |is_own: bool| {
            self.hooks.iter().filter(move |hook| {
                hook.name.stem == *stem
                    && hook.name.is_for(mesh)
                    && hook.name.mesh.is_some() == is_own
            })
        };
        matching(true).chain(matching(false)).cloned().collect()
    }

    /// The hook of exactly this name.
    pub(super) fn named(&self, name: &HookName) -> Option<Arc<Hook>> {
        self.hooks.iter().find(|hook| hook.name == *name).cloned()
    }

    /// A guard that is there for this mesh and cannot run.
    pub(super) fn broken_guard(&self, mesh: &str) -> Option<&(HookName, String)> {
        self.broken_guards.iter().find(|(name, _)| name.is_for(Some(mesh)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, verdict: Result<(), Refusal>) -> HookFile {
        HookFile { name: HookName::parse(name).unwrap(), path: name.into(), verdict }
    }

    fn installed(files: Vec<HookFile>, text: &str) -> Installed {
        let sections = Sections::parse(Path::new("hooks.toml"), text.as_bytes()).unwrap();
        Installed::from_files(files, &sections)
    }

    #[test]
    fn a_hook_needs_its_file_and_its_section() {
        let files = vec![
            found("on-dm", Ok(())),
            found("home/on-dm", Ok(())),
            found("on-message", Ok(())),
            found("on-mention", Ok(())),
            found("on-startup", Err(Refusal::NotExecutable)),
            found("home/on-startup", Ok(())),
        ];
        let text = "[on-dm]\nenabled=true\n[on-mention]\n[on-startup]\nenabled=true\n[on-reconnect]\nenabled=true";
        let all = installed(files, text);
        let names = |stem, mesh| {
            all.of(&stem, mesh).iter().map(|hook| hook.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(Stem::Dm, Some("home")), ["home/on-dm", "on-dm"]);
        assert_eq!(names(Stem::Dm, Some("work")), ["on-dm"]);
        assert_eq!(all.len(), 2);
        let refused: Vec<_> =
            all.refused.iter().map(|(path, why)| (path.to_str().unwrap(), *why)).collect();
        assert_eq!(
            refused,
            [
                ("on-message", Refusal::NoSection),
                ("on-mention", Refusal::NotEnabled),
                ("on-startup", Refusal::NotExecutable),
                ("home/on-startup", Refusal::OfNoMesh),
            ]
        );
        assert_eq!(all.missing, [HookName::parse("on-reconnect").unwrap()]);
        assert!(all.broken_guard("home").is_none());
    }

    #[test]
    fn a_guard_that_is_on_and_cannot_run_is_broken() {
        let files = || vec![found("home/pre-send", Err(Refusal::WritableByOthers))];
        let on = installed(files(), "[pre-send]\nenabled = true");
        assert!(on.broken_guard("home").is_some() && on.broken_guard("work").is_none());
        let off = installed(files(), "[pre-send]\nenabled = false");
        assert!(off.broken_guard("home").is_none());
    }
}

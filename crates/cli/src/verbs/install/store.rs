//! What installations leave in our own home: the lock under which they run one after the other, and the ledger that says
//! what they did, so that it can be taken back (`~/.claudemesh/install.json`, MCP spec §10.6).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use claudemesh_agents::settings::Ledger;
use claudemesh_daemon::home::file::{self, FileLock, Symlinks};

/// Our home, as far as installations go.
pub(crate) struct Store {
    root: PathBuf,
}

/// Our turn among installations; over when dropped.
pub(crate) struct Lock {
    lock: FileLock,
    path: PathBuf,
}

impl Lock {
    /// What the last holder wrote down.
    pub(crate) fn note(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// Writes something down for whoever comes after us.
    pub(crate) fn write(&self, note: &str) -> io::Result<()> {
        self.lock.write_text(note)
    }
}

/// A file that stays as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Untouched {
    pub(crate) path: PathBuf,
    pub(crate) why: String,
    /// What a person does about it.
    pub(crate) fix: Option<String>,
}

impl Untouched {
    pub(crate) fn of(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), why: why.into(), fix: None }
    }

    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl Store {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn file(&self) -> PathBuf {
        self.root.join("install.json")
    }

    /// Keeps other installations away from the agents' files; `path` is the one that waits.
    pub(crate) fn lock(&self, path: &Path) -> Result<Lock, Untouched> {
        let fail = |error: io::Error| Untouched::of(path, format!("its turn never came: {error}"));
        file::create_private_dir(&self.root).map_err(fail)?;
        let own = self.root.join("install.lock");
        Ok(Lock { lock: FileLock::wait(&own).map_err(fail)?, path: own })
    }

    /// What the last holder of the lock wrote down and did not take back: it died, or is at work.
    pub(crate) fn has_note(&self) -> bool {
        fs::metadata(self.root.join("install.lock")).is_ok_and(|stat| stat.len() > 0)
    }

    /// What was done so far.
    pub(crate) fn ledger(&self) -> Result<Ledger, Untouched> {
        let path = self.file();
        let broken = |why: String| {
            let aside = format!("mv {0} {0}.broken", path.display());
            Untouched::of(&path, why).fix(aside)
        };
        let content =
            file::read(&path, Symlinks::Refuse).map_err(|error| broken(error.to_string()))?;
        let Some(content) = content else { return Ok(Ledger::default()) };
        let ledger: Ledger =
            serde_json::from_slice(&content.bytes).map_err(|error| broken(error.to_string()))?;
        if !ledger.is_known() {
            return Err(Untouched::of(&path, "a newer claudemesh wrote it").fix("use that one"));
        }
        Ok(ledger)
    }

    /// Writes down something more; the lock is held. A ledger that says nothing goes.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Ledger)) -> Result<(), Untouched> {
        let path = self.file();
        let fail =
            |error: io::Error| Untouched::of(&path, format!("it cannot be written: {error}"));
        let before = self.ledger()?;
        let mut ledger = before.clone();
        change(&mut ledger);
        if ledger == before {
            return Ok(());
        }
        if ledger.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(error)),
                _ => Ok(()),
            };
        }
        let mut text = serde_json::to_string_pretty(&ledger)
            .map_err(|error| Untouched::of(&path, error.to_string()))?;
        text.push('\n');
        file::replace(&path, text.as_bytes(), file::SECRET, Symlinks::Refuse).map_err(fail)
    }

    /// Makes the directories above a file; those that were not there.
    pub(crate) fn make_dirs(path: &Path) -> Result<Vec<String>, Untouched> {
        let real = file::through_link(path).unwrap_or_else(|_| path.to_owned());
        let missing: Vec<String> = real
            .ancestors()
            .skip(1)
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
            .map(|dir| dir.to_string_lossy().into_owned())
            .collect();
        if let Some(dir) = real.parent() {
            file::create_private_dir(dir)
                .map_err(|error| Untouched::of(path, format!("no directory for it: {error}")))?;
        }
        Ok(missing.into_iter().rev().collect())
    }

    /// Removes the directories that were made, as far as nobody else uses them.
    pub(crate) fn remove_dirs(&self) -> Result<(), Untouched> {
        if self.ledger()?.dirs.is_empty() {
            return Ok(());
        }
        let _lock = self.lock(&self.file())?;
        self.change(|ledger| {
            for dir in std::mem::take(&mut ledger.dirs).iter().rev() {
                // It is in use, or gone.
                let _ = fs::remove_dir(dir);
            }
        })
    }
}

//! Putting files in place of others so that each is always the old or the new one, with the old one kept beside it, and
//! everything taken back when a step fails.

use std::io;
use std::path::{Path, PathBuf};

use claudemesh_protocol::Timestamp;

use super::CareError;
use crate::home::file::{self, Staged};

/// The steps that were done.
pub(super) struct Exchange {
    suffix: String,
    steps: Vec<Step>,
}

enum Step {
    /// Nothing was there before.
    Created(PathBuf),
    /// Another file was there, which is now `kept`.
    Replaced { path: PathBuf, kept: PathBuf },
    /// Nothing is there any more.
    Moved { path: PathBuf, kept: PathBuf },
}

impl Exchange {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { suffix: format!(".before-restore.{}", now.as_millis()), steps: Vec::new() }
    }

    /// The name under which a file is kept.
    pub(super) fn kept_name(&self, path: &Path) -> PathBuf {
        with_suffix(path, &self.suffix)
    }

    /// Exchanges a file. At no moment is there none of its name, when there was one before.
    pub(super) fn put(&mut self, staged: Staged) -> Result<(), CareError> {
        let path = staged.target().to_owned();
        let kept = self.kept_name(&path);
        let step = match keep(&path, &kept) {
            Ok(true) => Step::Replaced { path: path.clone(), kept },
            Ok(false) => Step::Created(path.clone()),
            Err(source) => return Err(CareError::File { path, source }),
        };
        self.steps.push(step);
        claudemesh_sqlite::crash_point("restore.mid_exchange");
        staged.take_place().map_err(|source| CareError::File { path, source })
    }

    /// Moves a file out of the way, if it is there.
    pub(super) fn set_aside(&mut self, path: &Path, kept: PathBuf) -> Result<(), CareError> {
        match std::fs::rename(path, &kept) {
            Ok(()) => self.steps.push(Step::Moved { path: path.to_owned(), kept }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(CareError::File { path: path.to_owned(), source }),
        }
        claudemesh_sqlite::crash_point("restore.mid_exchange");
        let dir = path.parent().unwrap_or(path);
        file::sync_dir(dir).map_err(CareError::file(dir))
    }

    /// Moves a database out of the way with the files beside it: the log first, since a log that stays behind would be
    /// replayed into whatever takes the name.
    pub(super) fn set_database_aside(&mut self, path: &Path) -> Result<(), CareError> {
        let kept = self.kept_name(path);
        for side in ["-wal", "-shm"] {
            self.set_aside(&with_suffix(path, side), with_suffix(&kept, side))?;
        }
        self.set_aside(path, kept)
    }

    /// Where the old files are now.
    pub(super) fn finish(self) -> Vec<PathBuf> {
        self.steps
            .into_iter()
            .filter_map(|step| match step {
                Step::Created(_) => None,
                Step::Replaced { kept, .. } | Step::Moved { kept, .. } => Some(kept),
            })
            .collect()
    }

    /// Takes every step back, the last first. What cannot be taken back stays under its kept name.
    pub(super) fn undo(self) {
        for step in self.steps.into_iter().rev() {
            let undone = match &step {
                Step::Created(path) => std::fs::remove_file(path),
                Step::Moved { path, kept } => std::fs::rename(kept, path),
                Step::Replaced { path, kept } => std::fs::rename(kept, path).and_then(|()| {
                    // Two names of one file are left as they are by a rename.
                    file::remove(kept)
                }),
            };
            match undone {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%error, "restore_not_undone");
                }
                _ => {}
            }
        }
    }
}

/// Gives the file a second name; false when there is none.
fn keep(path: &Path, kept: &Path) -> io::Result<bool> {
    match std::fs::hard_link(path, kept) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // Not every file system has second names.
        Err(_) => {
            let content = std::fs::read(path).map(zeroize::Zeroizing::new)?;
            file::create_new(kept, &content, file::SECRET).map(|()| true)
        }
    }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::file::{SECRET, Symlinks};

    #[test]
    fn every_step_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), "old a").unwrap();
        std::fs::write(at("db"), "old db").unwrap();
        std::fs::write(at("db-wal"), "old log").unwrap();
        let listing = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
                .collect();
            names.sort();
            names
        };
        let before = listing();
        let run = || {
            let mut exchange = Exchange::new(Timestamp::from_millis(7));
            for name in ["a", "new"] {
                let staged = Staged::new(&at(name), b"new", SECRET, Symlinks::Refuse).unwrap();
                exchange.put(staged).unwrap();
            }
            exchange.set_database_aside(&at("db")).unwrap();
            exchange.set_aside(&at("none"), at("none.kept")).unwrap();
            exchange
        };
        run().undo();
        assert_eq!(listing(), before);
        let kept = run().finish();
        assert_eq!(
            kept,
            [at("a.before-restore.7"), at("db.before-restore.7-wal"), at("db.before-restore.7"),]
        );
        assert_eq!(std::fs::read_to_string(at("a")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(at("a.before-restore.7")).unwrap(), "old a");
        assert!(!at("db").exists() && !at("db-wal").exists());
    }
}

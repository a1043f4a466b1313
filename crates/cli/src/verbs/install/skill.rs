//! The bundled skill beside an agent's own: written when there is none or the one there is ours, taken away when nobody
//! has changed it (CLI spec §6.1 step 4, §6.3).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use claudemesh_agents::install::SKILL;
use claudemesh_agents::settings::hash;
use claudemesh_daemon::home::file::{self, Symlinks};

use super::edit::{Aim, remove_left_over};
use super::store::{Store, Untouched};

/// What becomes of the skill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Added,
    Updated,
    Unchanged,
    /// Somebody made it theirs: it stays, and ours lies beside it.
    Kept,
    Removed,
    Absent,
}

impl Fate {
    /// True when something is to be written.
    pub(crate) const fn is_change(self) -> bool {
        matches!(self, Self::Added | Self::Updated | Self::Removed)
    }
}

/// Where ours goes when there is another.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name("SKILL.md.new")
}

/// Works out what becomes of it.
///
/// # Errors
/// Why it has to stay as it is.
pub(crate) fn look(store: &Store, path: &Path, aim: Aim) -> Result<Fate, Untouched> {
    let found = read(path)?;
    let written = store.ledger()?.owned.get(&*path.to_string_lossy()).cloned();
    let is_ours = |text: &str| text == SKILL || written.as_ref() == Some(&hash(text));
    Ok(match (aim, found) {
        (Aim::Put, None) => Fate::Added,
        (Aim::Put, Some(text)) if text == SKILL => Fate::Unchanged,
        (Aim::Put, Some(text)) if is_ours(&text) => Fate::Updated,
        (Aim::Take, None) => Fate::Absent,
        (Aim::Take, Some(text)) if is_ours(&text) => Fate::Removed,
        (_, Some(_)) => Fate::Kept,
    })
}

/// Writes it, or takes it away.
///
/// # Errors
/// Why it stayed as it is.
pub(crate) fn carry_out(store: &Store, path: &Path, aim: Aim) -> Result<Fate, Untouched> {
    let fate = look(store, path, aim)?;
    let is_told =
        fate == Fate::Kept && aim == Aim::Put && read(&beside(path))?.as_deref() == Some(SKILL);
    if is_told || !(fate.is_change() || fate == Fate::Kept) {
        return Ok(fate);
    }
    let _lock = store.lock(path)?;
    remove_left_over(path);
    let name = path.to_string_lossy().into_owned();
    let fail = |error: io::Error| Untouched::of(path, format!("it cannot be written: {error}"));
    match aim {
        Aim::Put => {
            let target = if fate == Fate::Kept { beside(path) } else { path.to_owned() };
            let made = Store::make_dirs(&target)?;
            let target_name = target.to_string_lossy().into_owned();
            store.change(|ledger| {
                ledger.owned.insert(target_name, hash(SKILL));
                ledger.dirs.extend(made);
            })?;
            file::replace(&target, SKILL.as_bytes(), file::PUBLIC, Symlinks::Follow)
                .map_err(fail)?;
        }
        Aim::Take => {
            let beside = beside(path);
            if fate == Fate::Removed {
                remove(path).map_err(fail)?;
            }
            if read(&beside)?.as_deref() == Some(SKILL) {
                remove(&beside).map_err(fail)?;
            }
            store.change(|ledger| {
                ledger.owned.remove(&name);
                ledger.owned.remove(&*beside.to_string_lossy());
            })?;
            if let Some(dir) = path.parent() {
                // Somebody else's file is in it.
                let _ = fs::remove_dir(dir);
            }
        }
    }
    Ok(fate)
}

fn read(path: &Path) -> Result<Option<String>, Untouched> {
    let content = file::read(path, Symlinks::Follow)
        .map_err(|error| Untouched::of(path, error.to_string()))?;
    // What is no text is not ours.
    Ok(content.map(|content| String::from_utf8_lossy(&content.bytes).into_owned()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

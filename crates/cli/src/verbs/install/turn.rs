//! The lock that an agent itself takes to write a file: a directory beside it, which is there as long as somebody writes.
//! Whoever died holding it is passed over after a while, by the agent as by us.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use claudemesh_agents::install::Wanted;

use super::store::{Lock, Store, Untouched};

/// Longest wait (CLI spec §2.4). A holder keeps it for milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const STEP: Duration = Duration::from_millis(10);
/// A holder touches its directory more often than this; one that does not is dead.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// Our turn to write a file; over when dropped.
pub(super) struct Turn<'a>(Option<(PathBuf, &'a Lock)>);

impl<'a> Turn<'a> {
    /// Waits for it. Files that nobody else locks need none. In `own` we say which directory is ours: one that a dead
    /// process of ours left there is in nobody's way.
    pub(super) fn wait(wanted: &Wanted, own: &'a Lock) -> Result<Self, Untouched> {
        if !wanted.is_shared {
            return Ok(Self(None));
        }
        let mut name = wanted.file.clone().into_os_string();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let fail = |why: String| Untouched::of(&wanted.file, why);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::create_dir(&lock) {
                Ok(()) => {
                    // Not written down it is a stranger's to us, too, and old enough in a moment.
                    let _ = note_of(&lock).map(|note| own.write(&note));
                    return Ok(Self(Some((lock, own))));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Without its directory the file is not there either: nobody writes it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self(None)),
                Err(error) => return Err(fail(format!("it cannot be locked: {error}"))),
            }
            let touched = fs::symlink_metadata(&lock).and_then(|stat| stat.modified());
            let age = touched.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > DEAD_AFTER) && fs::remove_dir(&lock).is_ok() {
                continue;
            }
            if Instant::now() >= deadline {
                return Err(fail(format!("its agent is writing it ({} is there)", lock.display()))
                    .fix("run this again in a few seconds"));
            }
            std::thread::sleep(STEP);
        }
    }
}

/// Takes away what a dead process of ours left locked.
pub(crate) fn release_left_over(store: &Store) -> Result<(), Untouched> {
    if !store.has_note() {
        return Ok(());
    }
    let own = store.lock(Path::new("install.lock"))?;
    let note = own.note();
    let lock = note.split_once(' ').map(|(_, lock)| Path::new(lock));
    if let Some(lock) = lock.filter(|lock| note_of(lock).as_ref() == Some(&note)) {
        // Somebody else did it.
        let _ = fs::remove_dir(lock);
    }
    // Written again it would say the same.
    let _ = own.write("");
    Ok(())
}

/// By what a directory is known again.
fn note_of(lock: &Path) -> Option<String> {
    let stat = fs::symlink_metadata(lock).ok()?;
    Some(format!("{} {}", stat.ino(), lock.display()))
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some((lock, own)) = &self.0 {
            // The note first: the next directory may be told from this one by nothing.
            let _ = own.write("");
            // Whoever waits takes it for dead soon.
            let _ = fs::remove_dir(lock);
        }
    }
}

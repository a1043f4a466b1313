//! Reading, replacing and locking small local files so that a crash leaves the old or the new content and nobody
//! else can read a secret (daemon spec §2, CLI spec §2.4).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_crypto::random;
use claudemesh_protocol::Timestamp;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use zeroize::Zeroizing;

/// Mode of secret files.
pub const SECRET: u32 = 0o600;
/// Mode of files that hold nothing private.
pub const PUBLIC: u32 = 0o644;
/// Mode of our directories.
pub const PRIVATE_DIR: u32 = 0o700;
/// Age from which a half-written file has no writer any more: a write takes a moment.
const ABANDONED_AFTER: Duration = Duration::from_mins(10);
/// How long [`FileLock::wait`] waits (CLI spec §2.4).
pub const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Largest small file read, in bytes; config files of thousands of meshes stay far below.
pub const SMALL_FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What to do when the path is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// Use the file it points to and keep the link: files of the user.
    Follow,
    /// Fail: files that only the daemon writes.
    Refuse,
}

/// A file that was read.
pub struct Content {
    /// Its bytes; wiped on drop, since some of these files hold keys.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its permission bits.
    pub mode: u32,
}

impl Content {
    /// True when group or others may read or write it.
    pub const fn is_open_to_others(&self) -> bool {
        self.mode & 0o077 != 0
    }
}

/// Reads a small file; `None` when there is none.
///
/// # Errors
/// Anything else than a missing file, a symbolic link under [`Symlinks::Refuse`] (`ELOOP`), a file over 16 MiB.
pub fn read(path: &Path, symlinks: Symlinks) -> io::Result<Option<Content>> {
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC;
    if symlinks == Symlinks::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&fd)?;
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0) + 1));
    File::from(fd).take(SMALL_FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SMALL_FILE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than 16 MiB"));
    }
    Ok(Some(Content { bytes, mode: stat.st_mode & 0o7777 }))
}

/// Replaces a file as a whole: a new file with its final mode beside it, synced, renamed over it, directory synced.
///
/// # Errors
/// Any I/O error; the old content is then still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, symlinks: Symlinks) -> io::Result<()> {
    replace_past(path, bytes, mode, symlinks, "config.mid_write")
}

/// As [`replace`], with the crash point between the new file and the old name (daemon spec §26).
///
/// # Errors
/// As [`replace`].
pub(crate) fn replace_past(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    symlinks: Symlinks,
    crash_point: &str,
) -> io::Result<()> {
    let staged = Staged::new(path, bytes, mode, symlinks)?;
    claudemesh_sqlite::crash_point(crash_point);
    staged.take_place()
}

/// As [`replace`], for a file that other programs write, too: only if it is still as it was read, byte by byte; `None` for
/// one that was not there. A link is followed and kept. False when somebody else was faster, and then nothing has changed.
/// The crash point lies between the new file and the comparison.
///
/// # Errors
/// As [`replace`].
pub fn replace_unchanged(
    path: &Path,
    expected: Option<&[u8]>,
    bytes: &[u8],
    mode: u32,
    crash_point: &str,
) -> io::Result<bool> {
    let mut staged = Staged::new(path, bytes, mode, Symlinks::Follow)?;
    claudemesh_sqlite::crash_point(crash_point);
    if expected.is_none() {
        // A link, not a rename: whoever made the file meanwhile keeps it.
        return match std::fs::hard_link(&staged.temporary, &staged.target) {
            Ok(()) => sync_dir(staged.target.parent().unwrap_or(&staged.target)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        };
    }
    let found = read(&staged.target, Symlinks::Refuse)?;
    if found.as_ref().map(|found| found.bytes.as_slice()) != expected {
        return Ok(false);
    }
    std::fs::rename(&staged.temporary, &staged.target)?;
    staged.is_done = true;
    sync_dir(staged.target.parent().unwrap_or(&staged.target)).map(|()| true)
}

/// New content that lies complete and synced beside the file it will replace. Dropped without [`Staged::take_place`] it
/// goes away again.
pub(crate) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    is_done: bool,
}

impl Staged {
    /// Writes the content with its final mode beside the file.
    pub(crate) fn new(
        path: &Path,
        bytes: &[u8],
        mode: u32,
        symlinks: Symlinks,
    ) -> io::Result<Self> {
        let target = match symlinks {
            Symlinks::Follow => through_link(path)?,
            Symlinks::Refuse => path.to_owned(),
        };
        let (_, temporary) = temporary_beside(&target)?;
        let staged = Self { temporary, target, is_done: false };
        write_new(&staged.temporary, bytes, mode)?;
        Ok(staged)
    }

    /// The file that is replaced, behind any link.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The new content until then.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Renames the new content over the old and syncs the directory.
    pub(crate) fn take_place(mut self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.target)?;
        self.is_done = true;
        sync_dir(self.target.parent().unwrap_or(&self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_done {
            // The temporary file is ours and useless now; whoever failed reports why.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces a file by a complete new one without waiting for the disk: for what can be had again. A power failure may leave
/// the old content, or none.
///
/// # Errors
/// Any I/O error; the old content is then still there.
pub(crate) fn replace_lightly(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (_, temporary) = temporary_beside(path)?;
    let written = open_new(&temporary, mode)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // It is ours and useless now; the first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Creates a file that must not exist yet, complete or not at all as far as this process lives to remove it.
///
/// # Errors
/// `AlreadyExists`, also for a link that points nowhere; any other I/O error.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let written = write_new(path, bytes, mode);
    match &written {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // Half a file is of no use; the first error is the one to report.
            let _ = std::fs::remove_file(path);
        }
        _ => {}
    }
    written?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    sync_dir(dir.unwrap_or(Path::new(".")))
}

/// Creates a file that must not exist yet; the first writer wins. True when this call made it.
///
/// # Errors
/// Any I/O error except that the file exists.
pub fn create_if_absent(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let (dir, temporary) = temporary_beside(path)?;
    let linked =
        write_new(&temporary, bytes, mode).and_then(|()| std::fs::hard_link(&temporary, path));
    // Whether linked or not, the temporary name has done its work.
    let _ = std::fs::remove_file(&temporary);
    match linked {
        Ok(()) => sync_dir(&dir).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes from one of our directories what writers that died in the middle left there: it may hold keys. Directories
/// below stay as they are.
pub(crate) fn remove_abandoned(dir: &Path, now: Timestamp) {
    let old = now.minus(ABANDONED_AFTER).as_millis();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(is_temporary) {
            continue;
        }
        let path = entry.path();
        let is_old = rustix::fs::lstat(&path).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
                && stat.st_mtime.saturating_mul(1000) < old
        });
        if is_old && let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "abandoned_file_not_removed");
        }
    }
}

/// True for the name of a file that is being written.
pub fn is_temporary(name: &str) -> bool {
    let parts = name.strip_suffix(".tmp").and_then(|rest| rest.rsplit_once('.'));
    parts.is_some_and(|(_, random)| {
        random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Creates a directory of mode 0700 with its missing parents; an existing one is left as it is.
///
/// # Errors
/// Any I/O error.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path)
}

/// An exclusive advisory lock, held until dropped; the kernel releases it when the process dies.
pub struct FileLock {
    fd: OwnedFd,
}

impl FileLock {
    /// Takes the lock of `path` if it is free; `None` when somebody holds it. Creates the file with mode 0600.
    ///
    /// # Errors
    /// Any I/O error; a symbolic link is refused.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(SECRET))?;
        match rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { fd })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the lock of `path`, waiting at most 2 s. Blocks the thread.
    ///
    /// # Errors
    /// `TimedOut` when it stays taken; any I/O error.
    pub fn wait(path: &Path) -> io::Result<Self> {
        const STEP: Duration = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if waited >= LOCK_WAIT {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("another program holds {}", path.display()),
                ));
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }

    /// True while `path` still names the file that is locked. Once it does not, somebody else may take "the" lock.
    pub fn is_still_at(&self, path: &Path) -> bool {
        let (Ok(own), Ok(named)) = (rustix::fs::fstat(&self.fd), rustix::fs::lstat(path)) else {
            return false;
        };
        (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino)
    }

    /// Replaces what the lock file says.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn write_text(&self, text: &str) -> io::Result<()> {
        rustix::fs::ftruncate(&self.fd, 0)?;
        rustix::io::pwrite(&self.fd, text.as_bytes(), 0)?;
        Ok(())
    }
}

/// True when some process holds the lock of `path`.
///
/// # Errors
/// Any I/O error except a missing file.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    match rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// The path whose content `path` shows, also when the last link points to nothing yet.
///
/// # Errors
/// Links in a circle, or that cannot be read.
pub fn through_link(path: &Path) -> io::Result<PathBuf> {
    const MOST_LINKS: usize = 16;
    let mut current = path.to_owned();
    for _ in 0..MOST_LINKS {
        match std::fs::read_link(&current) {
            Ok(target) => {
                current = current.parent().map_or_else(|| target.clone(), |dir| dir.join(&target));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                return Ok(current);
            }
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

fn temporary_beside(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let (Some(dir), Some(name)) = (dir, path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", hex::encode(random::bytes::<8>())));
    Ok((dir.to_owned(), dir.join(temporary)))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = open_new(path, mode)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn open_new(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?))
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes a file; none there is fine.
///
/// # Errors
/// Any other I/O error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The same, and when this returns no loss of power brings it back.
///
/// # Errors
/// Any other I/O error.
pub(crate) fn remove_for_good(path: &Path) -> io::Result<()> {
    remove(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Who owns a path, and its permission bits, without following a link.
///
/// # Errors
/// Any I/O error.
pub fn owner_and_mode(path: &Path) -> io::Result<(u32, u32)> {
    let stat = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_uid, stat.st_mode & 0o7777))
}

//! The file of a record: which files may be read, and what was appended to one since the last look. Blocks.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use claudemesh_crypto::hash::sha256;
use claudemesh_ipc::env;
use rustix::fs::{Mode, OFlags};

use crate::inbox::RecordPlace;

/// Longest path, in bytes.
const PATH_MAX_BYTES: usize = 4_096;
/// Bytes before a place by which it is known again.
const ANCHOR_BYTES: u64 = 256;

/// Directories below which agents keep their records.
#[derive(Debug, Clone)]
pub(super) struct Places(Vec<PathBuf>);

/// Why a record is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is not there")]
    Missing,
    #[error("it is no ordinary file of this user where agents keep their records")]
    NotARecord,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What was appended.
pub(super) struct Appended {
    /// The bytes; empty when there are none.
    pub(super) bytes: Vec<u8>,
    /// Where they begin.
    pub(super) from: u64,
    /// The file is another one than before, or its beginning is: everything of it is new.
    pub(super) is_other: bool,
    /// There are more.
    pub(super) has_more: bool,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    /// Where somebody stopped.
    Place(RecordPlace),
    /// A file of which nothing was read yet, at this byte.
    Byte(u64),
}

impl Places {
    /// The home of the user, and where the agents' own settings say.
    pub(super) fn of(home: Option<&Path>) -> Self {
        let named = [env::CLAUDE_CONFIG_DIR, env::CODEX_HOME].into_iter().filter_map(env::path);
        let all = home.map(Path::to_owned).into_iter().chain(named);
        Self(all.filter(|dir| dir.is_absolute() && dir.parent().is_some()).collect())
    }

    /// Whether a path may be that of a record, by its looks.
    pub(super) fn may_hold(path: &str) -> bool {
        let is_plain =
            |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        let path_of = Path::new(path);
        path.len() <= PATH_MAX_BYTES
            && !path.bytes().any(|byte| byte.is_ascii_control())
            && path_of.is_absolute()
            && path_of.extension().is_some_and(|end| end == "jsonl")
            && path_of.components().all(is_plain)
    }

    /// Opens a record. Directories above it may be links, as people have them, as long as they lead to one of these places;
    /// the file itself may not be.
    fn open(&self, path: &Path) -> Result<File, Unusable> {
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Unusable::Missing,
            _ => Unusable::Io(error),
        };
        let is_file = std::fs::symlink_metadata(path).map_err(missing)?.is_file();
        let real = path.canonicalize().map_err(missing)?;
        let holds = |dir: &PathBuf| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir));
        if !is_file || !self.0.iter().any(holds) {
            return Err(Unusable::NotARecord);
        }
        // What it is now need not be what it was: a pipe would keep an opener waiting.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::open(&real, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOENT => Unusable::Missing,
            rustix::io::Errno::LOOP => Unusable::NotARecord,
            errno => Unusable::Io(errno.into()),
        })?;
        let file = File::from(fd);
        let meta = file.metadata()?;
        if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(Unusable::NotARecord);
        }
        // No directory above was exchanged for a link between the look and the opening.
        match path_of(&file) {
            Some(opened) if opened != real => Err(Unusable::NotARecord),
            _ => Ok(file),
        }
    }

    /// Size of a record.
    pub(super) fn size(&self, path: &Path) -> Result<u64, Unusable> {
        Ok(self.open(path)?.metadata()?.len())
    }

    /// Opens a record and reads at most so many bytes from there on.
    pub(super) fn read(
        &self,
        path: &Path,
        from: From,
        max_bytes: usize,
    ) -> Result<(File, Appended), Unusable> {
        let file = self.open(path)?;
        let meta = file.metadata()?;
        let (start, is_other) = match from {
            From::Place(place) if is_at(&file, &place)? => (place.offset, false),
            From::Byte(byte) if byte <= meta.len() => (byte, false),
            From::Place(_) | From::Byte(_) => (0, true),
        };
        let left = meta.len().saturating_sub(start);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(max_bytes);
        let mut bytes = vec![0; wanted];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, start + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(filled);
        let has_more = (filled as u64) < left && filled > 0;
        Ok((file, Appended { bytes, from: start, is_other, has_more }))
    }
}

/// A place in a file, to be known again.
pub(super) fn place(file: &File, offset: u64) -> io::Result<RecordPlace> {
    let meta = file.metadata()?;
    let anchor = anchor(file, offset)?;
    Ok(RecordPlace { device: meta.dev(), inode: meta.ino(), offset, anchor })
}

/// True when the file still has what stood before that place.
fn is_at(file: &File, place: &RecordPlace) -> io::Result<bool> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()) == (place.device, place.inode)
        && meta.len() >= place.offset
        && anchor(file, place.offset)? == place.anchor)
}

fn anchor(file: &File, offset: u64) -> io::Result<[u8; 32]> {
    let length = offset.min(ANCHOR_BYTES);
    let mut before = vec![0; usize::try_from(length).unwrap_or_default()];
    match file.read_exact_at(&mut before, offset - length) {
        Ok(()) => Ok(sha256(&before)),
        // It was cut off at this moment.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; 32]),
        Err(error) => Err(error),
    }
}

/// Where an open file lies, when the system tells.
fn path_of(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    std::fs::read_link(link).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    const ENOUGH: usize = 1 << 20;

    struct Scene {
        dir: TempDir,
        places: Places,
    }

    impl Scene {
        fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let home = dir.path().join("home");
            std::fs::create_dir(&home).unwrap();
            Self { places: Places::of(Some(&home)), dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        /// Text, start and whether the file is another one.
        fn read(&self, path: &Path, from: From) -> (String, u64, bool) {
            let (_, read) = self.places.read(path, from, ENOUGH).unwrap();
            assert!(!read.has_more);
            (String::from_utf8(read.bytes).unwrap(), read.from, read.is_other)
        }

        fn place(&self, path: &Path, offset: u64) -> From {
            From::Place(place(&self.places.open(path).unwrap(), offset).unwrap())
        }

        fn is_refused(&self, path: &Path) -> bool {
            matches!(self.places.open(path), Err(Unusable::NotARecord))
        }
    }

    #[test]
    fn what_was_appended_is_read_once() {
        let scene = Scene::new();
        let path = scene.write("home/a.jsonl", "one\n");
        assert_eq!(scene.read(&path, From::Byte(0)), ("one\n".to_owned(), 0, false));
        let there = scene.place(&path, 4);
        assert_eq!(scene.read(&path, there), (String::new(), 4, false));
        scene.write("home/a.jsonl", "one\ntwo\n");
        assert_eq!(scene.read(&path, there), ("two\n".to_owned(), 4, false));
        let (_, piece) = scene.places.read(&path, From::Byte(0), 5).unwrap();
        assert!(piece.has_more && piece.bytes == b"one\nt");
    }

    #[test]
    fn a_cut_or_exchanged_file_begins_anew() {
        let scene = Scene::new();
        let path = scene.write("home/a.jsonl", "first\nsecond\n");
        let there = scene.place(&path, 13);
        scene.write("home/a.jsonl", "first\n");
        assert_eq!(scene.read(&path, there), ("first\n".to_owned(), 0, true), "cut");
        scene.write("home/a.jsonl", "other\nsecond\nthird\n");
        let whole = "other\nsecond\nthird\n".to_owned();
        assert_eq!(scene.read(&path, there), (whole, 0, true), "written over");
        let there = scene.place(&path, 19);
        scene.write("home/b.jsonl", "other\nsecond\nthird\nfourth\n");
        std::fs::rename(scene.path("home/b.jsonl"), &path).unwrap();
        let whole = "other\nsecond\nthird\nfourth\n".to_owned();
        assert_eq!(scene.read(&path, there), (whole, 0, true), "another file of that name");
        assert_eq!(scene.read(&path, From::Byte(400)).1, 0, "shorter than it was");
    }

    #[test]
    fn only_ordinary_files_of_the_user_are_records() {
        let scene = Scene::new();
        let outside = scene.write("etc/secret.jsonl", "x\n");
        let inside = scene.write("home/.claude/projects/p/a.jsonl", "x\n");
        assert!(scene.places.open(&inside).is_ok());
        assert!(scene.is_refused(&outside), "outside of the home");
        let link = scene.path("home/link.jsonl");
        symlink(&outside, &link).unwrap();
        assert!(scene.is_refused(&link), "a link to the outside");
        std::fs::remove_file(&link).unwrap();
        symlink(&inside, &link).unwrap();
        assert!(scene.is_refused(&link), "a link to a record");
        symlink(scene.path("etc"), scene.path("home/etc")).unwrap();
        assert!(scene.is_refused(&scene.path("home/etc/secret.jsonl")), "a directory outside");
        symlink(scene.path("home/.claude"), scene.path("home/dotfiles")).unwrap();
        assert!(scene.places.open(&scene.path("home/dotfiles/projects/p/a.jsonl")).is_ok());
        std::fs::create_dir(scene.path("home/dir.jsonl")).unwrap();
        assert!(scene.is_refused(&scene.path("home/dir.jsonl")), "a directory");
        let pipe = scene.path("home/pipe.jsonl");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        assert!(scene.is_refused(&pipe), "a pipe");
        let missing = scene.places.open(&scene.path("home/missing.jsonl"));
        assert!(matches!(missing, Err(Unusable::Missing)));
        if !rustix::process::geteuid().is_root() {
            std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o0)).unwrap();
            assert!(matches!(scene.places.open(&inside), Err(Unusable::Io(_))));
        }
    }

    #[test]
    fn paths_are_judged_by_their_looks_first() {
        let good = ["/home/a/.claude/projects/-x/1.jsonl", "/a.jsonl"];
        let bad = ["a.jsonl", "/home/../etc/a.jsonl", "/home/a", "", "/a\n.jsonl", "/etc/shadow"];
        assert!(good.into_iter().all(Places::may_hold));
        assert!(!bad.into_iter().any(Places::may_hold));
        assert!(!Places::may_hold(&format!("/{}.jsonl", "a".repeat(PATH_MAX_BYTES))));
    }
}

//! Which files are hooks, and which of them may run (daemon spec §16.1): regular, ours, writable by nobody else,
//! executable, in directories that are closed to others. Looked at when hooks are loaded, and again before each run.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use claudemesh_protocol::slug::Slug;

use super::name::{HookName, Stem};

/// `hooks.toml` in the directory of hooks.
pub(super) const SECTIONS_FILE: &str = "hooks.toml";
/// Entries looked at in one directory; beyond them something else is stored there.
const ENTRIES_MAX: usize = 4_096;

/// Bits with which somebody else could change a file.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Bits with which somebody else could do anything with a directory.
const OPEN_TO_OTHERS: u32 = 0o077;
/// Bits with which a file is a program.
const EXECUTABLE: u32 = 0o111;

/// Why a file does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// `hooks.toml` has no section for it.
    #[error("hooks.toml has no section for it")]
    NoSection,
    /// Its section does not switch it on.
    #[error("its section in hooks.toml does not say enabled = true")]
    NotEnabled,
    /// A hook of one mesh for what concerns none.
    #[error("a start is of no mesh; put it into the directory above")]
    OfNoMesh,
    /// `hooks.toml` itself cannot be used.
    #[error("hooks.toml cannot be used")]
    NoSections,
    /// It cannot be looked at.
    #[error("it cannot be read")]
    Unreadable,
    /// A directory, a device, a socket.
    #[error("it is no regular file")]
    NoFile,
    /// A symbolic link to somewhere else.
    #[error("it is a link that leaves the directory of hooks")]
    LeavesDirectory,
    /// Another user's.
    #[error("it belongs to another user")]
    OtherOwner,
    /// Group or others may write it.
    #[error("others may write it; run chmod go-w on it")]
    WritableByOthers,
    /// Not executable.
    #[error("it is not executable; run chmod u+x on it")]
    NotExecutable,
    /// A directory above it is open to others, or another user's.
    #[error("a directory above it is not for its owner alone; run chmod 700 on it")]
    OpenDirectory,
    /// Two files of one stem in one directory.
    #[error("another file there has the same name before the first dot")]
    Ambiguous,
}

/// A file called like a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HookFile {
    /// Its hook.
    pub(super) name: HookName,
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Whether it may run.
    pub(super) verdict: Result<(), Refusal>,
}

/// Files called like hooks in `root` and in its directories of meshes, in the order of their names.
///
/// # Errors
/// [`Refusal`] when `root` itself is not ours alone, with the files in it.
pub(super) fn scan(root: &Path) -> Vec<HookFile> {
    let mut files = Vec::new();
    list(root, root, None, &mut files);
    for (name, path) in entries(root) {
        // A peer cannot make a directory here; a name that is no slug is one of the user's own.
        if name.parse::<Slug>().is_ok() && path.is_dir() {
            list(root, &path, Some(&name), &mut files);
        }
    }
    let mut count: BTreeMap<HookName, usize> = BTreeMap::new();
    for file in &files {
        *count.entry(file.name.clone()).or_default() += 1;
    }
    for file in &mut files {
        if count.get(&file.name).is_some_and(|count| *count > 1) {
            file.verdict = Err(Refusal::Ambiguous);
        }
    }
    files.sort_by(|left, right| (&left.name, &left.path).cmp(&(&right.name, &right.path)));
    files
}

fn list(root: &Path, dir: &Path, mesh: Option<&str>, files: &mut Vec<HookFile>) {
    for (name, path) in entries(dir) {
        let Some(stem) = Stem::of_file(&name) else { continue };
        let name = HookName { mesh: mesh.map(str::to_owned), stem };
        files.push(HookFile { name, verdict: check(root, &path), path });
    }
}

fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(listing) = std::fs::read_dir(dir) else { return Vec::new() };
    listing
        .take(ENTRIES_MAX)
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect()
}

/// Whether the file at `path` may run as a hook of `root`.
///
/// # Errors
/// [`Refusal`].
pub(super) fn check(root: &Path, path: &Path) -> Result<(), Refusal> {
    let unreadable = |_: io::Error| Refusal::Unreadable;
    let root = root.canonicalize().map_err(unreadable)?;
    let target = path.canonicalize().map_err(unreadable)?;
    if !target.starts_with(&root) {
        return Err(Refusal::LeavesDirectory);
    }
    let file = std::fs::symlink_metadata(&target).map_err(unreadable)?;
    if !file.file_type().is_file() {
        return Err(Refusal::NoFile);
    }
    let own = rustix::process::geteuid().as_raw();
    if file.uid() != own {
        return Err(Refusal::OtherOwner);
    }
    if file.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(Refusal::WritableByOthers);
    }
    if file.mode() & EXECUTABLE == 0 {
        return Err(Refusal::NotExecutable);
    }
    // Both ways to it: that of its name, and that of what the name leads to.
    let named = path.parent().and_then(|dir| dir.canonicalize().ok()).ok_or(Refusal::Unreadable)?;
    let above = |dir: &Path| dir.ancestors().map(Path::to_owned).collect::<Vec<_>>();
    let ways = above(&named).into_iter().chain(target.parent().map(above).unwrap_or_default());
    for dir in ways.filter(|dir| dir.starts_with(&root)) {
        let meta = std::fs::symlink_metadata(&dir).map_err(unreadable)?;
        if meta.uid() != own || meta.mode() & OPEN_TO_OTHERS != 0 {
            return Err(Refusal::OpenDirectory);
        }
    }
    // Who may write there could put another directory in the place of this one.
    let daemon_dir = root.parent().ok_or(Refusal::OpenDirectory)?;
    let meta = std::fs::symlink_metadata(daemon_dir).map_err(unreadable)?;
    if meta.uid() != own || meta.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(Refusal::OpenDirectory);
    }
    Ok(())
}

/// Why `hooks.toml` does not count.
#[derive(Debug, thiserror::Error)]
pub(super) enum SectionsRefusal {
    /// It cannot be read; a symbolic link is not followed.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// It, or its directory, is another user's or can be written by others.
    #[error("hooks.toml and its directory must be writable by their owner alone")]
    NotOursAlone,
}

/// The bytes of `hooks.toml`; `None` when there is none.
///
/// # Errors
/// [`SectionsRefusal`].
pub(super) fn read_sections(root: &Path) -> Result<Option<Vec<u8>>, SectionsRefusal> {
    use crate::home::file::{self, Symlinks};
    let path = root.join(SECTIONS_FILE);
    let Some(content) = file::read(&path, Symlinks::Refuse)? else { return Ok(None) };
    let own = rustix::process::geteuid().as_raw();
    let (dir_owner, dir_mode) = file::owner_and_mode(root)?;
    let (owner, mode) = file::owner_and_mode(&path)?;
    if owner != own || dir_owner != own || (mode | dir_mode) & WRITABLE_BY_OTHERS != 0 {
        return Err(SectionsRefusal::NotOursAlone);
    }
    if content.is_open_to_others() {
        // Variables of a hook may be secrets.
        tracing::warn!(path = %path.display(), "file_perms_wide");
    }
    Ok(Some(content.bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt, symlink};

    use super::*;

    struct Place {
        _home: tempfile::TempDir,
        root: PathBuf,
    }

    fn place() -> Place {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("hooks");
        let place = Place { root, _home: home };
        make_dir(&place.root);
        place
    }

    fn make_dir(path: &Path) {
        std::fs::DirBuilder::new().mode(0o700).create(path).unwrap();
    }

    fn put(path: &Path, mode: u32) {
        std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn verdicts(root: &Path) -> Vec<(String, Result<(), Refusal>)> {
        let shown = |file: HookFile| (file.name.to_string(), file.verdict);
        scan(root).into_iter().map(shown).collect()
    }

    #[test]
    fn files_called_like_hooks_are_found_and_judged() {
        let Place { root, _home } = place();
        make_dir(&root.join("home"));
        make_dir(&root.join("not a slug"));
        put(&root.join("on-dm.sh"), 0o700);
        put(&root.join("home/on-dm"), 0o755);
        put(&root.join("not a slug/on-dm"), 0o700);
        put(&root.join("on-mention"), 0o720);
        put(&root.join("on-message.py"), 0o702);
        put(&root.join("on-startup.sh"), 0o600);
        put(&root.join("library.sh"), 0o700);
        put(&root.join("hooks.toml"), 0o600);
        make_dir(&root.join("on-reconnect"));
        put(&root.join("pre-send.sh"), 0o700);
        put(&root.join("pre-send.sh~"), 0o700);
        assert_eq!(
            verdicts(&root),
            [
                ("on-message".to_owned(), Err(Refusal::WritableByOthers)),
                ("on-dm".to_owned(), Ok(())),
                ("on-mention".to_owned(), Err(Refusal::WritableByOthers)),
                ("on-reconnect".to_owned(), Err(Refusal::NoFile)),
                ("on-startup".to_owned(), Err(Refusal::NotExecutable)),
                ("pre-send".to_owned(), Err(Refusal::Ambiguous)),
                ("pre-send".to_owned(), Err(Refusal::Ambiguous)),
                ("home/on-dm".to_owned(), Ok(())),
            ]
        );
    }

    #[test]
    fn links_stay_inside_and_directories_are_closed() {
        let Place { root, _home } = place();
        let outside = tempfile::tempdir().unwrap();
        put(&outside.path().join("x"), 0o700);
        symlink(outside.path().join("x"), root.join("on-dm")).unwrap();
        symlink("/nowhere", root.join("on-startup")).unwrap();
        make_dir(&root.join("shared"));
        put(&root.join("shared/notify"), 0o700);
        symlink("shared/notify", root.join("on-message")).unwrap();
        symlink(outside.path(), root.join("home")).unwrap();
        put(&outside.path().join("on-dm"), 0o700);
        let found: BTreeMap<_, _> = verdicts(&root).into_iter().collect();
        assert_eq!(found["on-dm"], Err(Refusal::LeavesDirectory));
        assert_eq!(found["on-startup"], Err(Refusal::Unreadable));
        assert_eq!(found["on-message"], Ok(()));
        assert_eq!(found["home/on-dm"], Err(Refusal::LeavesDirectory));
        std::fs::set_permissions(root.join("shared"), PermissionsExt::from_mode(0o750)).unwrap();
        assert_eq!(check(&root, &root.join("on-message")), Err(Refusal::OpenDirectory));
        std::fs::set_permissions(root.join("shared"), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o711)).unwrap();
        assert_eq!(check(&root, &root.join("on-message")), Err(Refusal::OpenDirectory));
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).unwrap();
        let above = root.parent().unwrap();
        std::fs::set_permissions(above, PermissionsExt::from_mode(0o770)).unwrap();
        assert_eq!(check(&root, &root.join("on-message")), Err(Refusal::OpenDirectory));
    }

    #[test]
    fn the_settings_of_hooks_are_read_from_a_file_of_ours_alone() {
        let Place { root, _home } = place();
        assert!(read_sections(&root).unwrap().is_none());
        let path = root.join("hooks.toml");
        put(&path, 0o600);
        assert!(read_sections(&root).unwrap().is_some());
        put(&path, 0o660);
        assert!(matches!(read_sections(&root), Err(SectionsRefusal::NotOursAlone)));
        put(&path, 0o600);
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o770)).unwrap();
        assert!(matches!(read_sections(&root), Err(SectionsRefusal::NotOursAlone)));
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::rename(&path, root.join("other")).unwrap();
        symlink("other", &path).unwrap();
        assert!(matches!(read_sections(&root), Err(SectionsRefusal::Unreadable(_))));
    }
}

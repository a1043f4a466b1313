//! A daemon that leaves nothing behind (daemon spec §4.1): its state lies in a private directory that goes with it, and as a
//! member that joined by invite it leaves its meshes.
//!
//! What if the process is killed? Its directory stays, with a lock that nobody holds; the next ephemeral daemon of this user
//! removes it. Its session ends with its lease. A member stays on the roster: only its key could have left for it, and that is
//! gone.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudemesh_client::http::{BrokerHttp, HttpError};
use claudemesh_crypto::random;
use claudemesh_ipc::Paths;
use claudemesh_ipc::paths::is_ephemeral_dir;
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::limits::EPHEMERAL_LEAVE_BUDGET;
use futures_util::future::join_all;

use crate::clock;
use crate::home::config::{Config, ConfigError, MeshEntry};
use crate::home::file::{self, FileLock};
use crate::mesh::Standing;

/// Name of the lock in such a directory, as in every daemon directory.
const LOCK: &str = "daemon.lock";
/// How often a directory is begun anew, when somebody takes an unfinished one for a left-over.
const TRIES: u32 = 60;
/// Pause between two tries.
const TRY_STEP: Duration = Duration::from_millis(5);

/// What an ephemeral daemon is started with. Cloning is cheap.
#[derive(Clone)]
pub struct Ephemeral {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    lock: Arc<FileLock>,
    ttl: Option<Duration>,
    /// Memberships that exist here only; `None` where the daemon is a session of the members in `config.json`.
    members: Option<Vec<MeshEntry>>,
    has_left: AtomicBool,
}

impl Ephemeral {
    /// Makes the private directory `dir`, one that [`fresh_dir`] named, and holds its lock. Directories of daemons that
    /// are dead are removed first. Blocks.
    ///
    /// # Errors
    /// The directory around it is not private to this user, or any other I/O error.
    pub fn begin(dir: &Path) -> io::Result<Self> {
        let mut last = None;
        for _ in 0..TRIES {
            match Self::try_begin(dir) {
                Ok(Some(own)) => return Ok(own),
                Ok(None) => {}
                // Others may be removing what is on the way to it, or what an earlier try had made.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                    ) =>
                {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(TRY_STEP);
        }
        Err(last.unwrap_or_else(|| io::Error::other("it does not stay")))
    }

    /// One try; `None` when without its lock it looked like a left-over, and is being removed.
    fn try_begin(dir: &Path) -> io::Result<Option<Self>> {
        let around = dir.parent().unwrap_or(dir);
        file::create_private_dir(around)?;
        must_be_private(around)?;
        sweep(around);
        DirBuilder::new().mode(file::PRIVATE_DIR).create(dir)?;
        let path = dir.join(LOCK);
        let lock = FileLock::try_take(&path)?.filter(|lock| lock.is_still_at(&path));
        Ok(lock.map(|lock| Self::holding(dir, lock)))
    }

    fn holding(dir: &Path, lock: FileLock) -> Self {
        Self {
            shared: Arc::new(Shared {
                dir: dir.to_owned(),
                lock: Arc::new(lock),
                ttl: None,
                members: None,
                has_left: AtomicBool::new(false),
            }),
        }
    }

    /// The same, ending by itself after `ttl`, and with these memberships instead of those of `config.json`. The daemon
    /// leaves them when it ends.
    #[must_use]
    pub fn with(self, ttl: Option<Duration>, members: Option<Vec<MeshEntry>>) -> Self {
        let Shared { dir, lock, .. } = &*self.shared;
        Self {
            shared: Arc::new(Shared {
                dir: dir.clone(),
                lock: Arc::clone(lock),
                ttl,
                members,
                has_left: AtomicBool::new(false),
            }),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub(crate) fn lock(&self) -> Arc<FileLock> {
        Arc::clone(&self.shared.lock)
    }

    pub(crate) fn ttl(&self) -> Option<Duration> {
        self.shared.ttl
    }

    /// As whom it connects: as the members it has for itself, or as a session of those that stay.
    pub(crate) fn standing(&self) -> Standing {
        if self.shared.members.is_some() { Standing::Member } else { Standing::Session }
    }

    /// The memberships it has for itself.
    ///
    /// # Errors
    /// Two of them have the same name.
    pub(crate) fn config(&self, path: &Path) -> Option<Result<Config, ConfigError>> {
        self.shared.members.as_ref().map(|members| Config::of_members(path, members))
    }

    /// Gives up the memberships it has for itself, once, and says in the log which of them stay.
    pub async fn leave(&self, plain: PlainHttp) {
        if self.shared.has_left.swap(true, Ordering::Relaxed) {
            return;
        }
        let members = self.shared.members.iter().flatten();
        join_all(members.map(|member| leave(member, plain))).await;
    }

    /// Removes its directory, and the one around it when it was the last. Blocks.
    ///
    /// # Errors
    /// Any I/O error; the next ephemeral daemon tries again.
    pub fn remove(self) -> io::Result<()> {
        empty(self.dir());
        // Once more, for what a task that was given up put into it meanwhile.
        let removed =
            std::fs::remove_dir_all(self.dir()).or_else(|_| {
                match std::fs::remove_dir_all(self.dir()) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                }
            });
        if let Some(around) = self.dir().parent() {
            // There is something else in it.
            let _ = std::fs::remove_dir(around);
        }
        removed
    }
}

async fn leave(member: &MeshEntry, plain: PlainHttp) {
    let MeshEntry { mesh_id, member_id, keys, slug, .. } = member;
    let leaving = async {
        let http = BrokerHttp::new(&member.broker_url, plain)?;
        http.leave(mesh_id, member_id, keys, clock::now()).await
    };
    let why = match tokio::time::timeout(EPHEMERAL_LEAVE_BUDGET, leaving).await {
        Ok(Ok(())) => return tracing::info!(mesh = slug, "mesh_left"),
        Ok(Err(error)) if is_gone(&error) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::error!(mesh = slug, member = %member_id, why, "member_left_behind");
}

/// Somebody removed the member before.
fn is_gone(error: &HttpError) -> bool {
    error.is(ErrorCode::Revoked) || error.is(ErrorCode::Unauthorized)
}

/// A directory that is not there yet, for the next ephemeral daemon of this home.
pub fn fresh_dir(paths: &Paths) -> PathBuf {
    let name = format!("{}{}", paths.ephemeral_prefix(), hex::encode(random::bytes::<8>()));
    Paths::runtime_dir().join(name)
}

/// The directories of the ephemeral daemons of this home that live. Blocks.
pub fn living(paths: &Paths) -> Vec<PathBuf> {
    let (around, prefix) = (Paths::runtime_dir(), paths.ephemeral_prefix());
    if must_be_private(&around).is_err() {
        return Vec::new();
    }
    let mut found = dirs_in(&around);
    found.retain(|dir| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(&prefix))
            && file::is_locked(&dir.join(LOCK)).unwrap_or(false)
    });
    found
}

/// Removes what daemons that are dead left behind. Best effort: what cannot be removed is in nobody's way.
fn sweep(around: &Path) {
    for dir in dirs_in(around) {
        // Whoever lives holds the lock from its directory's first moment on, or begins anew without it.
        let Ok(Some(_lock)) = FileLock::try_take(&dir.join(LOCK)) else { continue };
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => tracing::info!(dir = %dir.display(), "ephemeral_leftover_removed"),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "ephemeral_leftover_not_removed");
            }
        }
    }
}

/// Directories in there that an ephemeral daemon of this user made: no links, and nobody else's.
fn dirs_in(around: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(around) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.filter(|path| is_ephemeral_dir(path) && must_be_private(path).is_ok()).collect()
}

/// Removes everything but the lock: whoever waits for that finds the rest gone. What stays here is tried again.
fn empty(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if !path.ends_with(LOCK) {
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
    }
}

/// Refuses anything but a directory of this user that nobody else may enter; does not follow a link.
fn must_be_private(dir: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(dir)?;
    let is_ours = meta.is_dir()
        && meta.uid() == rustix::process::geteuid().as_raw()
        && meta.mode() & 0o777 == file::PRIVATE_DIR;
    if is_ours {
        return Ok(());
    }
    let reason = format!("{} is not a private directory of this user", dir.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn name(around: &Path, last: u8) -> PathBuf {
        around.join(format!("ephemeral-0123456789abcdef-00000000000000{last:02x}"))
    }

    fn private(dir: &Path) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// What a killed daemon left is removed by the next one; who lives, links, what others may enter and other names are
    /// left alone.
    #[test]
    fn only_what_dead_daemons_left_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let around = base.path().join("claudemesh");
        let living = Ephemeral::begin(&name(&around, 1)).unwrap();
        assert_eq!(file::owner_and_mode(&around).unwrap().1, 0o700);
        assert_eq!(file::owner_and_mode(living.dir()).unwrap().1, 0o700);
        let dead = Ephemeral::begin(&name(&around, 2)).unwrap();
        std::fs::write(dead.dir().join("outbox.db"), "x").unwrap();
        let dead_dir = dead.dir().to_owned();
        drop(dead);
        let elsewhere = base.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        private(&elsewhere);
        std::fs::write(elsewhere.join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, name(&around, 3)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dead_dir.join("link")).unwrap();
        let open = name(&around, 4);
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        let other = around.join("ephemeral-mine");
        std::fs::create_dir(&other).unwrap();
        private(&other);
        let next = Ephemeral::begin(&name(&around, 5)).unwrap();
        assert!(!dead_dir.exists());
        assert!(living.dir().exists() && open.exists() && other.exists());
        assert!(elsewhere.join(LOCK).exists() && name(&around, 3).exists());
        let dir = next.dir().to_owned();
        next.remove().unwrap();
        assert!(!dir.exists() && around.exists());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let around = base.path().join("claudemesh");
        std::fs::create_dir(&around).unwrap();
        std::fs::set_permissions(&around, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Ephemeral::begin(&name(&around, 1)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        private(&around);
        let link = base.path().join("link");
        std::os::unix::fs::symlink(&around, &link).unwrap();
        let error = Ephemeral::begin(&name(&link, 1)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    /// A daemon that removes left-overs and one that begins do not harm each other, however their steps fall together.
    #[test]
    fn many_may_begin_at_once() {
        let base = tempfile::tempdir().unwrap();
        let around = base.path().join("claudemesh");
        std::thread::scope(|scope| {
            for last in 0..16 {
                let dir = name(&around, last);
                scope.spawn(move || {
                    let own = Ephemeral::begin(&dir).unwrap();
                    assert!(own.lock().is_still_at(&dir.join(LOCK)));
                    own.remove().unwrap();
                    assert!(!dir.exists());
                });
            }
        });
        assert!(!around.exists());
    }
}

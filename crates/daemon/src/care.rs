//! Care of a user's local files as a whole: backup and restore, recovery, removal (daemon spec §20). Works on the files,
//! with and without a running daemon; renders nothing and asks nobody.

pub mod backup;
pub mod bundle;
mod exchange;
mod place;
pub mod recover;
pub mod restore;
pub mod wipe;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_crypto::backup::BackupError;
use claudemesh_ipc::Paths;
use claudemesh_protocol::limits::BACKUP_MAX_BYTES;

/// For a program that works on the files without a daemon: lets tests make it die in between.
pub use claudemesh_sqlite::{arm_crash_points, crash_point};

use crate::home::config::ConfigError;
use crate::home::file::{self, FileLock};

/// How often the lock is tried: who only asks whether it is taken holds it for a moment.
const LOCK_TRIES: u32 = 10;
const LOCK_STEP: Duration = Duration::from_millis(20);

/// Why something was not done. Unless a variant says otherwise, the files are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CareError {
    /// Passphrase or container (wire spec §5.14).
    #[error(transparent)]
    Container(#[from] BackupError),
    /// The document inside is not what we write.
    #[error("this cannot be restored: {0}")]
    Document(String),
    /// A newer program wrote it.
    #[error("the backup is of a newer version ({0})")]
    Newer(String),
    /// Larger than what is made and read in memory.
    #[error("a backup has at most {} MiB", BACKUP_MAX_BYTES / (1024 * 1024))]
    TooLarge,
    /// No mesh was ever joined here.
    #[error("there is nothing to back up: no mesh was joined")]
    Nothing,
    /// A daemon holds the files.
    #[error("a daemon is running")]
    DaemonRunning,
    /// The memberships of this machine cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A message database cannot be read or written.
    #[error("cannot use {}: {reason}", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl CareError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::File { path: path.to_owned(), source }
    }

    fn database(path: &Path, error: &sqlx::Error) -> Self {
        Self::Database { path: path.to_owned(), reason: error.to_string() }
    }
}

/// The daemon's files for this process alone: while it lives, no daemon starts.
pub struct Alone {
    _lock: FileLock,
}

impl Alone {
    /// Takes the daemon's lock, making its directory if there is none.
    ///
    /// # Errors
    /// [`CareError::DaemonRunning`], [`CareError::File`].
    pub async fn take(paths: &Paths) -> Result<Self, CareError> {
        for dir in [paths.root(), paths.daemon_dir()] {
            file::create_private_dir(dir).map_err(CareError::file(dir))?;
        }
        let path = paths.lock_file();
        for _ in 0..LOCK_TRIES {
            if let Some(lock) = FileLock::try_take(&path).map_err(CareError::file(&path))? {
                return Ok(Self { _lock: lock });
            }
            tokio::time::sleep(LOCK_STEP).await;
        }
        Err(CareError::DaemonRunning)
    }
}

/// True when a daemon holds the files. Changes nothing.
///
/// # Errors
/// [`CareError::File`].
pub fn is_daemon_running(paths: &Paths) -> Result<bool, CareError> {
    let path = paths.lock_file();
    file::is_locked(&path).map_err(CareError::file(&path))
}

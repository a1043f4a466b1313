//! The data directory: made private, locked by one process, and the files in it that others read (broker spec §6.2).

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use claudemesh_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use crate::secrets::{self, SecretFileError};
use crate::settings::Links;

/// Name of the lock file.
const LOCK_FILE: &str = "broker.lock";
/// Permission bits of group and others.
pub(crate) const NOT_OWNER_BITS: u32 = 0o077;

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process serves it.
    #[error("already running{} on {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Process id of the other, when it could be read.
        pid: Option<u32>,
    },
    /// It cannot be made, opened or protected.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock on a data directory; the operating system lifts it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _file: File,
}

/// Makes the directory private to its owner.
pub(crate) fn prepare(path: &Path) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & NOT_OWNER_BITS != 0 {
        tracing::warn!(path = %path.display(), "the data directory was open to others; closing it");
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

impl DataDirLock {
    /// Takes the lock, without waiting, and writes this process's id into the file.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, DataDirError> {
        let path = data_dir.join(LOCK_FILE);
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::Locked {
                    path: data_dir.to_owned(),
                    pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// `broker.json`: how programs of this user find the running broker. It is there exactly while one serves, or was
/// killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRecord {
    /// Process id.
    pub pid: u32,
    /// HTTP address for this machine.
    pub url: String,
    /// WebSocket address for this machine.
    pub ws_url: String,
    /// `ip:port` the listener stands on.
    pub listen: String,
    /// Version of the broker.
    pub version: String,
    /// ISO time of the start.
    pub started_at: String,
    /// Key that tells this broker from another one on the same port; `/health` answers the same.
    pub broker_pubkey: String,
    /// Addresses other machines can use; empty when only this one can.
    #[serde(default)]
    pub share_urls: Vec<String>,
}

impl BrokerRecord {
    pub(crate) fn new(links: &Links, started_at: Timestamp, broker_pubkey: String) -> Self {
        Self {
            pid: std::process::id(),
            url: links.local_url.clone(),
            ws_url: links.local_ws_url.clone(),
            listen: links.listen.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: started_at.to_iso(),
            broker_pubkey,
            share_urls: links.share_urls.clone(),
        }
    }

    /// Writes the file whole or not at all, readable by its owner only.
    pub(crate) fn write(&self, path: &Path) -> Result<(), SecretFileError> {
        let text = serde_json::to_string_pretty(self).map_err(|error| SecretFileError::Io {
            path: path.to_owned(),
            source: io::Error::other(error),
        })?;
        secrets::replace_secret_file(path, &text)
    }

    /// Reads the file of a data directory; `None` when there is none that makes sense.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_held_by_one() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("a/b");
        prepare(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let lock = DataDirLock::take(&dir).unwrap();
        match DataDirLock::take(&dir) {
            Err(DataDirError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(lock);
        DataDirLock::take(&dir).unwrap();
    }

    #[test]
    fn an_open_directory_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        prepare(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

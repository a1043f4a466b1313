//! Taking the daemon's state off this machine (daemon spec §20.3): `reset` keeps memberships and everything that opens
//! mail, `uninstall` keeps the memberships, and only a purge takes the keys.

use std::path::{Path, PathBuf};

use claudemesh_ipc::Paths;

use super::exchange::with_suffix;
use super::{Alone, CareError};
use crate::home::file;

/// Removes databases, session registry, topics, local token and the record of the host. Memberships, session keys, key
/// archive, settings, hooks and logs stay.
///
/// # Errors
/// [`CareError::DaemonRunning`], [`CareError::File`] with what could not be removed; doing it again goes on.
pub async fn reset(paths: &Paths) -> Result<(), CareError> {
    let _alone = Alone::take(paths).await?;
    remove_database(&paths.outbox_file())?;
    remove_database(&paths.inbox_file())?;
    let dir = paths.daemon_dir();
    for file in [
        paths.sessions_file(),
        dir.join("topics.json"),
        paths.local_token_file(),
        dir.join("host_fingerprint.json"),
        dir.join("http.port"),
        paths.socket_path_file(),
        paths.default_socket(),
        paths.spawn_failure_file(),
        paths.peer_cache_file(),
    ] {
        remove_file(&file)?;
    }
    Ok(())
}

/// Removes the daemon's directory and its socket.
///
/// # Errors
/// [`CareError::DaemonRunning`], [`CareError::File`].
pub async fn remove_daemon(paths: &Paths) -> Result<(), CareError> {
    let dir = paths.daemon_dir();
    if !dir.exists() {
        return Ok(());
    }
    let _alone = Alone::take(paths).await?;
    let socket = paths.socket().unwrap_or_else(|_| paths.default_socket());
    remove_file(&socket)?;
    // A directory that somebody else named, and in which no daemon ever ran, may hold anything.
    let is_the_daemons = paths.schema_version_file().exists() && !paths.root().starts_with(dir);
    if is_the_daemons {
        std::fs::remove_dir_all(dir).map_err(CareError::file(dir))?;
        return Ok(());
    }
    remove_database(&paths.outbox_file())?;
    remove_database(&paths.inbox_file())?;
    for file in
        [paths.sessions_file(), paths.local_token_file(), paths.pid_file(), paths.lock_file()]
    {
        remove_file(&file)?;
    }
    Ok(())
}

/// Removes memberships and session keys, and what a restore kept of them. What is removed, for the report.
///
/// # Errors
/// [`CareError::File`].
pub fn purge_keys(paths: &Paths) -> Result<Vec<PathBuf>, CareError> {
    let (config, sessions) = (paths.membership_file(), paths.sessions_dir().to_owned());
    let mut removed = Vec::new();
    if sessions.is_dir() {
        std::fs::remove_dir_all(&sessions).map_err(CareError::file(&sessions))?;
        removed.push(sessions);
    }
    let root = paths.root();
    let names = std::fs::read_dir(root).into_iter().flatten().flatten();
    let holds_keys = |name: &str| {
        name == "config.json"
            || name.starts_with("config.json.before-restore.")
            || (name.starts_with("config.json.") && file::is_temporary(name))
            || name == "join-pending.json"
    };
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if holds_keys(&name) {
            let path = root.join(name);
            remove_file(&path)?;
            removed.push(path);
        }
    }
    if config.exists() {
        remove_file(&config)?;
        removed.push(config);
    }
    Ok(removed)
}

/// Removes a database with the files beside it.
pub(super) fn remove_database(path: &Path) -> Result<(), CareError> {
    for side in ["-wal", "-shm", ""] {
        remove_file(&with_suffix(path, side))?;
    }
    Ok(())
}

pub(super) fn remove_file(path: &Path) -> Result<(), CareError> {
    file::remove(path).map_err(CareError::file(path))
}

//! The Unix socket: in its usual place, or in a short one when that path is too long (daemon spec §9.1).

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use claudemesh_ipc::Paths;
use claudemesh_ipc::paths::SOCKET_PATH_MAX_BYTES;
use rustix::fs::Mode;
use tokio::net::UnixListener;

use crate::home::file::{self, Symlinks};

/// Binds, removing a socket that an earlier run left: the lock says that nobody serves it.
pub(super) fn bind(paths: &Paths) -> Result<(UnixListener, PathBuf), (PathBuf, io::Error)> {
    let usual = paths.default_socket();
    if usual.as_os_str().len() <= SOCKET_PATH_MAX_BYTES {
        file::remove(&paths.socket_path_file())
            .and_then(|()| bind_at(&usual))
            .map(|listener| (listener, usual.clone()))
            .map_err(|error| (usual, error))
    } else {
        let short = paths.fallback_socket();
        bind_short(paths, &short)
            .map(|listener| (listener, short.clone()))
            .map_err(|error| (short, error))
    }
}

fn bind_short(paths: &Paths, short: &Path) -> io::Result<UnixListener> {
    let dir = short.parent().unwrap_or(short);
    file::create_private_dir(dir)?;
    let meta = std::fs::symlink_metadata(dir)?;
    let is_ours = meta.is_dir()
        && meta.uid() == rustix::process::geteuid().as_raw()
        && meta.mode() & 0o777 == file::PRIVATE_DIR;
    if !is_ours {
        let reason = format!("{} is not a private directory of this user", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    let listener = bind_at(short)?;
    let text = format!("{}\n", short.display());
    file::replace(&paths.socket_path_file(), text.as_bytes(), file::SECRET, Symlinks::Refuse)?;
    Ok(listener)
}

fn bind_at(path: &Path) -> io::Result<UnixListener> {
    file::remove(path)?;
    // The mode must be right before anybody can connect; a chmod afterwards would be too late.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound
}

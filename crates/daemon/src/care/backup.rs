//! Collecting what makes this user who they are: memberships, session keys, key archive, settings; on request received
//! messages and hooks (daemon spec §20.2). Works beside a running daemon, whose files are always whole.

use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::time::Duration;

use claudemesh_crypto::random;
use claudemesh_ipc::Paths;
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::limits::BACKUP_MAX_BYTES;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use zeroize::Zeroizing;

use super::CareError;
use super::bundle::Bundle;
use super::place::{self, Kind};
use crate::home::file::{self, Symlinks};

/// Files of the daemon directory that belong into every backup, when they are there.
const DAEMON_FILES: [&str; 6] = [
    place::ARCHIVE,
    place::FINGERPRINT,
    "daemon/config.toml",
    "daemon/topics.json",
    "daemon/services.json",
    "daemon/schema_version",
];
/// How long the copy of the inbox waits for a daemon that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a backup holds besides the keys and settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// Received messages.
    pub inbox: bool,
    /// Hooks and their settings.
    pub hooks: bool,
}

/// Reads the files. Reads small files on this thread.
///
/// # Errors
/// [`CareError::Nothing`] without memberships, [`CareError::Document`] when they cannot be read, [`CareError::File`], [`CareError::Database`], [`CareError::TooLarge`].
pub async fn collect(paths: &Paths, extras: Extras, now: Timestamp) -> Result<Bundle, CareError> {
    let mut bundle = Bundle::new(now);
    if !add(&mut bundle, paths, place::CONFIG)? {
        return Err(CareError::Nothing);
    }
    for path in DAEMON_FILES {
        add(&mut bundle, paths, path)?;
    }
    for name in names(paths.daemon_dir())? {
        let path = format!("daemon/{name}");
        if place::rotation_slug(&path).is_some() && place::kind_of(&path) == Some(Kind::Json) {
            add(&mut bundle, paths, &path)?;
        }
    }
    for slug in names(paths.sessions_dir())? {
        for name in names(&paths.sessions_dir().join(&slug))? {
            let path = format!("sessions/{slug}/{name}");
            // Other files there are those that somebody set aside.
            if place::kind_of(&path).is_some() {
                add(&mut bundle, paths, &path)?;
            }
        }
    }
    if extras.hooks {
        add_hooks(&mut bundle, paths, place::HOOKS)?;
    }
    if extras.inbox && paths.inbox_file().exists() {
        let bytes = inbox(paths).await?;
        bundle.add(place::INBOX, file::SECRET, bytes)?;
    }
    Ok(bundle)
}

/// Adds a file; false when it is not there.
fn add(bundle: &mut Bundle, paths: &Paths, path: &str) -> Result<bool, CareError> {
    let is_the_users =
        matches!(place::kind_of(path), Some(Kind::Config | Kind::Settings | Kind::Hook));
    let symlinks = if is_the_users { Symlinks::Follow } else { Symlinks::Refuse };
    let place = place::locate(paths, path);
    let content = file::read(&place, symlinks).map_err(CareError::file(&place))?;
    let Some(content) = content else { return Ok(false) };
    bundle.add(path, content.mode, content.bytes)?;
    Ok(true)
}

/// Adds the files below `dir`, which ends with a slash. Links are left out: what they point to may be anywhere.
fn add_hooks(bundle: &mut Bundle, paths: &Paths, dir: &str) -> Result<(), CareError> {
    let place = place::locate(paths, dir);
    for entry in entries(&place)? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type().map_err(CareError::file(&place))?;
        let path = format!("{dir}{name}");
        if place::kind_of(&path).is_none() {
            continue;
        }
        if kind.is_dir() {
            add_hooks(bundle, paths, &format!("{path}/"))?;
        } else if kind.is_file() {
            add(bundle, paths, &path)?;
        }
    }
    Ok(())
}

/// A consistent copy of the inbox, also while the daemon writes to it.
async fn inbox(paths: &Paths) -> Result<Zeroizing<Vec<u8>>, CareError> {
    let source = paths.inbox_file();
    let size = std::fs::metadata(&source).map_err(CareError::file(&source))?.len();
    if usize::try_from(size).unwrap_or(usize::MAX) > BACKUP_MAX_BYTES {
        return Err(CareError::TooLarge);
    }
    // SQLite makes the copy with the mode of the umask; in a directory of our own nobody else comes near it.
    let dir = paths.daemon_dir().join(format!(".backup-{}", hex::encode(random::bytes::<8>())));
    file::create_private_dir(&dir).map_err(CareError::file(&dir))?;
    let copied = copy_of(&source, &dir.join("inbox.db")).await;
    let removed = std::fs::remove_dir_all(&dir).map_err(CareError::file(&dir));
    let bytes = copied?;
    removed?;
    Ok(bytes)
}

async fn copy_of(source: &Path, copy: &Path) -> Result<Zeroizing<Vec<u8>>, CareError> {
    let failed = |error: sqlx::Error| CareError::database(source, &error);
    crate::storage::refuse_link(source).map_err(|error| CareError::Database {
        path: source.to_owned(),
        reason: error.to_string(),
    })?;
    let options = SqliteConnectOptions::new().filename(source).busy_timeout(BUSY_TIMEOUT);
    let mut connection = options.connect().await.map_err(failed)?;
    let copied = sqlx::query("VACUUM INTO $1")
        .bind(copy.to_string_lossy().into_owned())
        .execute(&mut connection)
        .await;
    connection.close().await.map_err(failed)?;
    copied.map_err(failed)?;
    std::fs::read(copy).map(Zeroizing::new).map_err(CareError::file(copy))
}

fn entries(dir: &Path) -> Result<Vec<DirEntry>, CareError> {
    let read = match std::fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    };
    read.map_err(CareError::file(dir))
}

/// Names in a directory, in their order.
fn names(dir: &Path) -> Result<Vec<String>, CareError> {
    let entries = entries(dir)?.into_iter();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

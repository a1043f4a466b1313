//! Putting a verified bundle in place (daemon spec §20.2).
//!
//! # Order
//! Everything new is first written beside the files it will replace, so that a full disk is noticed before anything
//! changes. Then each file is exchanged by one rename, the old one staying beside it as `<file>.before-restore.<ms>`:
//!
//! 1. when a name of a mesh would from now on mean another mesh or member: outbox, session registry and what was kept
//!    about that mesh go aside, since they speak of the old one;
//! 2. session keys, key archive, settings, hooks, inbox; the record of the host goes aside (the next start takes this
//!    machine for what it is) and the local token is made anew;
//! 3. `config.json`, which says who this user is.
//!
//! A crash before 3 leaves the old memberships with files that serve them as well, a crash after it the new ones, and
//! restoring again finishes either. A failure takes every step back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_ipc::Paths;
use claudemesh_protocol::Timestamp;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use zeroize::Zeroizing;

use super::bundle::{Entry, Verified};
use super::exchange::Exchange;
use super::place::{self, Kind};
use super::{Alone, CareError};
use crate::home::config::{Config, ConfigError, MeshEntry, UpdateError, lock_file_of};
use crate::home::file::{self, FileLock, Staged, Symlinks};
use crate::local_token;

/// How long a database is waited for that somebody looks into.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Meshes that are joined now because of it.
    pub meshes: Vec<String>,
    /// Meshes of the backup that were left alone, since they are joined here already.
    pub present: Vec<String>,
    /// Files that were written.
    pub files: usize,
    /// Where the files are that stood in their places.
    pub kept: Vec<PathBuf>,
}

/// Replaces this user's memberships, keys and settings by those of the bundle.
///
/// # Errors
/// [`CareError`]; everything is then as it was, as far as the disk allows.
pub async fn replace(
    verified: &Verified,
    paths: &Paths,
    now: Timestamp,
) -> Result<Restored, CareError> {
    let _alone = Alone::take(paths).await?;
    let config_file = paths.membership_file();
    let _lock =
        FileLock::wait(&lock_file_of(&config_file)).map_err(CareError::file(&config_file))?;
    let renamed = renamed_meshes(&config_file, verified)?;
    let mut staged = Vec::new();
    let (mut config, mut inbox) = (None, None);
    for entry in &verified.entries {
        let place = place::locate(paths, &entry.path);
        match entry.kind {
            // It names the machine the backup was made on.
            Kind::Fingerprint => {}
            Kind::Config => config = stage(&place, entry)?,
            Kind::Inbox => {
                let new = stage(&place, entry)?;
                if let Some(new) = &new {
                    check_database(new.temporary()).await?;
                }
                inbox = new;
            }
            _ => staged.extend(stage(&place, entry)?),
        }
    }
    let mut leaving = Vec::new();
    if !renamed.is_empty() {
        leaving.push(paths.outbox_file());
    }
    leaving.extend(inbox.is_some().then(|| paths.inbox_file()));
    for database in &leaving {
        write_back(database).await;
    }
    let files = staged.len() + usize::from(config.is_some()) + usize::from(inbox.is_some());
    let mut exchange = Exchange::new(now);
    let done = put_in_place(&mut exchange, paths, &renamed, staged, inbox, config);
    if let Err(error) = done {
        exchange.undo();
        return Err(error);
    }
    set_former_sessions_aside(&mut exchange, paths, &renamed, verified);
    Ok(Restored { meshes: verified.meshes(), present: Vec::new(), files, kept: exchange.finish() })
}

fn put_in_place(
    exchange: &mut Exchange,
    paths: &Paths,
    renamed: &[String],
    staged: Vec<Staged>,
    inbox: Option<Staged>,
    config: Option<Staged>,
) -> Result<(), CareError> {
    if !renamed.is_empty() {
        exchange.set_database_aside(&paths.outbox_file())?;
        let about = renamed.iter().map(|slug| paths.mesh_state_file(slug));
        for file in about.chain([paths.sessions_file()]) {
            let kept = exchange.kept_name(&file);
            exchange.set_aside(&file, kept)?;
        }
    }
    for file in staged {
        exchange.put(file)?;
    }
    if let Some(inbox) = inbox {
        exchange.set_database_aside(&paths.inbox_file())?;
        exchange.put(inbox)?;
    }
    let record = place::locate(paths, place::FINGERPRINT);
    let kept = exchange.kept_name(&record);
    exchange.set_aside(&record, kept)?;
    let token = paths.local_token_file();
    local_token::renew(&token).map_err(CareError::file(&token))?;
    config.map_or(Ok(()), |config| exchange.put(config))
}

/// Adds the meshes of the bundle that are not joined here, with their session keys and archived keys. Everything else of
/// this machine stays as it is.
///
/// # Errors
/// [`CareError`]; meshes are then as before.
pub async fn merge(
    verified: &Verified,
    paths: &Paths,
    now: Timestamp,
) -> Result<Restored, CareError> {
    let _alone = Alone::take(paths).await?;
    let config_file = paths.membership_file();
    let own = Config::read(&config_file)?;
    let is_free = |mesh: &&MeshEntry| {
        own.meshes().all(|other| other.slug != mesh.slug && other.mesh_id != mesh.mesh_id)
    };
    let (new, present): (Vec<_>, Vec<_>) = verified.config.meshes().partition(|mesh| is_free(mesh));
    let slugs = |meshes: &[&MeshEntry]| -> Vec<String> {
        meshes.iter().map(|mesh| mesh.slug.clone()).collect()
    };
    let (meshes, present) = (slugs(&new), slugs(&present));
    let mut staged = Vec::new();
    for entry in &verified.entries {
        let slug = place::session_slug(&entry.path).or_else(|| place::rotation_slug(&entry.path));
        let place = place::locate(paths, &entry.path);
        let is_wanted = slug.is_some_and(|slug| meshes.iter().any(|mesh| mesh == slug));
        if is_wanted && !place.exists() {
            staged.extend(stage(&place, entry)?);
        } else if entry.path == place::ARCHIVE {
            staged.extend(merged_archive(&place, entry, &new)?);
        }
    }
    let files = staged.len() + usize::from(!new.is_empty());
    let mut exchange = Exchange::new(now);
    let mut done = staged.into_iter().try_for_each(|file| exchange.put(file));
    if done.is_ok() && !new.is_empty() {
        let added = Config::update(&config_file, |config| {
            new.iter().try_for_each(|mesh| config.add_mesh((*mesh).clone()))
        });
        done = added.map_err(|error| match error {
            UpdateError::Config(error) | UpdateError::Refused(error) => error.into(),
        });
    }
    if let Err(error) = done {
        exchange.undo();
        return Err(error);
    }
    Ok(Restored { meshes, present, files, kept: exchange.finish() })
}

/// Names that mean one mesh and member here, and another one in the bundle. Where the memberships of this machine cannot
/// be read, every name of the bundle does.
fn renamed_meshes(config_file: &Path, verified: &Verified) -> Result<Vec<String>, CareError> {
    let own = match Config::read(config_file) {
        Ok(own) => own,
        Err(error @ (ConfigError::Newer { .. } | ConfigError::Io { .. })) => {
            return Err(error.into());
        }
        Err(_) => return Ok(verified.meshes()),
    };
    let is_other = |mesh: &&MeshEntry| {
        own.mesh(&mesh.slug).is_some_and(|own| {
            own.mesh_id != mesh.mesh_id || own.keys.public() != mesh.keys.public()
        })
    };
    Ok(verified.config.meshes().filter(is_other).map(|mesh| mesh.slug.clone()).collect())
}

/// The new content beside the file; `None` when the file says the same already.
fn stage(place: &Path, entry: &Entry) -> Result<Option<Staged>, CareError> {
    let is_the_users = matches!(entry.kind, Kind::Config | Kind::Settings | Kind::Hook);
    let symlinks = if is_the_users { Symlinks::Follow } else { Symlinks::Refuse };
    let mode = entry.kind.mode(entry.mode);
    let is_there = entry.kind != Kind::Inbox
        && file::read(place, symlinks).ok().flatten().is_some_and(|content| {
            content.mode == mode && content.bytes.as_slice() == entry.bytes.as_slice()
        });
    if is_there {
        return Ok(None);
    }
    if let Some(dir) = place.parent() {
        file::create_private_dir(dir).map_err(CareError::file(dir))?;
    }
    Staged::new(place, &entry.bytes, mode, symlinks).map(Some).map_err(CareError::file(place))
}

/// The archive of this machine with the keys that the added meshes had; `None` when there are none to add.
fn merged_archive(
    place: &Path,
    entry: &Entry,
    added: &[&MeshEntry],
) -> Result<Option<Staged>, CareError> {
    let damaged = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        CareError::Document(format!("{}: line {line}, column {column}", place.display()))
    };
    let own = file::read(place, Symlinks::Refuse).map_err(CareError::file(place))?;
    let theirs: Value = serde_json::from_slice(&entry.bytes).map_err(damaged)?;
    let Some(own) = own else {
        let is_wanted =
            !added.is_empty() && !wanted_keys(&theirs, added, &BTreeSet::new()).is_empty();
        return if is_wanted { stage(place, entry) } else { Ok(None) };
    };
    let mut own: Value = serde_json::from_slice(&own.bytes).map_err(damaged)?;
    let known: BTreeSet<String> =
        keys(&own).iter().filter_map(|key| id_of(key)).map(str::to_owned).collect();
    let new = wanted_keys(&theirs, added, &known);
    let Some(list) = own.get_mut("keys").and_then(Value::as_array_mut) else { return Ok(None) };
    if new.is_empty() {
        return Ok(None);
    }
    list.extend(new);
    let bytes = serde_json::to_vec_pretty(&own).map(Zeroizing::new).map_err(damaged)?;
    let staged = Staged::new(place, &bytes, file::SECRET, Symlinks::Refuse);
    staged.map(Some).map_err(CareError::file(place))
}

fn keys(archive: &Value) -> &[Value] {
    archive.get("keys").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn id_of(key: &Value) -> Option<&str> {
    key.get("key_id").and_then(Value::as_str)
}

fn wanted_keys(archive: &Value, added: &[&MeshEntry], known: &BTreeSet<String>) -> Vec<Value> {
    let is_wanted = |key: &&Value| {
        let mesh = key.get("mesh").and_then(Value::as_str).unwrap_or_default();
        added.iter().any(|entry| entry.slug == mesh || entry.mesh_id.as_str() == mesh)
            && id_of(key).is_some_and(|id| !known.contains(id))
    };
    keys(archive).iter().filter(is_wanted).cloned().collect()
}

/// Keys of sessions whose mesh was another one under this name. What remains undone is only untidy.
fn set_former_sessions_aside(
    exchange: &mut Exchange,
    paths: &Paths,
    renamed: &[String],
    verified: &Verified,
) {
    for slug in renamed {
        let names = std::fs::read_dir(paths.sessions_dir().join(slug)).into_iter().flatten();
        for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            let path = format!("sessions/{slug}/{name}");
            let is_former = place::kind_of(&path).is_some()
                && !verified.entries.iter().any(|entry| entry.path == path);
            if is_former {
                let file = place::locate(paths, &path);
                let kept = exchange.kept_name(&file);
                if let Err(error) = exchange.set_aside(&file, kept) {
                    tracing::warn!(%error, "session_key_not_set_aside");
                }
            }
        }
    }
}

async fn check_database(path: &Path) -> Result<(), CareError> {
    let failed = |error: sqlx::Error| CareError::database(path, &error);
    let options = SqliteConnectOptions::new().filename(path).immutable(true).read_only(true);
    let mut connection = options.connect().await.map_err(failed)?;
    let verdict =
        sqlx::query_scalar::<_, String>("PRAGMA quick_check(1)").fetch_one(&mut connection).await;
    connection.close().await.map_err(failed)?;
    match verdict.map_err(failed)?.as_str() {
        "ok" => Ok(()),
        other => Err(CareError::Document(format!("{}: {other}", place::INBOX))),
    }
}

/// Copies the write-ahead log back, so that one file is all there is. A damaged database keeps its log.
async fn write_back(path: &Path) {
    if crate::storage::refuse_link(path).is_err() || !path.exists() {
        return;
    }
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT);
    if let Ok(mut connection) = options.connect().await {
        // Whether it worked or not, log and database go aside together.
        let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
        let _ = connection.close().await;
    }
}

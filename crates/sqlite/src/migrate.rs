//! Migrations: ordered SQL texts embedded in the binary, forward only (broker spec §6.3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::MigrationError;

/// First line of a migration that releases without it can live with, so that one step back stays possible.
const COMPATIBLE_MARK: &str = "-- compatible: older releases may keep running";

/// Backups kept beside the database.
const BACKUPS_KEPT: usize = 3;

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    name: &'static str,
    sql: &'static str,
}

impl Migration {
    /// Names end in `.sql` and sort in the order of application. A text whose first line is
    /// `-- compatible: older releases may keep running` does not keep older releases from starting.
    pub const fn new(name: &'static str, sql: &'static str) -> Self {
        Self { name, sql }
    }

    /// File name, the key in `schema_migration`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The statements.
    pub const fn sql(&self) -> &'static str {
        self.sql
    }

    /// SHA-256 of the text, hexadecimal.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.sql.as_bytes()))
    }

    /// Whether releases that do not know this migration may run on a schema that has it.
    pub fn is_compatible(&self) -> bool {
        self.sql.lines().next().is_some_and(|line| line.trim_end() == COMPATIBLE_MARK)
    }
}

/// A row of `schema_migration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Hash of the text that was applied, hexadecimal.
    pub sha256: String,
    /// Whether releases that do not know it may run.
    pub is_compatible: bool,
}

/// What a migration run did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrationReport {
    /// Files applied now.
    pub applied: Vec<&'static str>,
    /// Copy made before.
    pub backup: Option<PathBuf>,
}

/// Which of the `known` migrations are not `recorded` yet. A recorded text that differs is logged and not run again.
///
/// # Errors
/// [`MigrationError::Newer`] when a recorded file is unknown and not marked compatible.
pub fn pending<'k>(
    known: &'k [Migration],
    recorded: &BTreeMap<String, Recorded>,
) -> Result<Vec<&'k Migration>, MigrationError> {
    for (name, row) in recorded {
        match known.iter().find(|migration| migration.name == name) {
            None if !row.is_compatible => {
                return Err(MigrationError::Newer { name: name.clone() });
            }
            None => tracing::warn!(name, "the database is ahead by a compatible migration"),
            Some(migration) if migration.sha256() != row.sha256 => {
                tracing::warn!(name, "a migration differs from the one applied here");
            }
            Some(_) => {}
        }
    }
    Ok(known.iter().filter(|migration| !recorded.contains_key(migration.name)).collect())
}

pub(crate) async fn run(
    connection: &mut SqliteConnection,
    path: &Path,
    known: &[Migration],
) -> Result<MigrationReport, MigrationError> {
    let mut report = MigrationReport::default();
    let is_empty: bool = sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)")
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_migration (
            filename TEXT PRIMARY KEY, sha256 TEXT NOT NULL,
            compatible INTEGER NOT NULL, applied_at INTEGER NOT NULL)",
    )
    .execute(&mut *connection)
    .await?;
    let todo = pending(known, &recorded(connection).await?)?;
    if todo.is_empty() {
        return Ok(report);
    }
    if !is_empty {
        report.backup = Some(back_up(connection, path).await?);
    }
    for migration in todo {
        if apply(connection, migration).await? {
            tracing::info!(name = migration.name, "migration applied");
            report.applied.push(migration.name);
        }
    }
    Ok(report)
}

async fn recorded(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<String, Recorded>, sqlx::Error> {
    let rows: Vec<(String, String, bool)> =
        sqlx::query_as("SELECT filename, sha256, compatible FROM schema_migration")
            .fetch_all(connection)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(name, sha256, is_compatible)| (name, Recorded { sha256, is_compatible }))
        .collect())
}

/// Applies one file in one immediate transaction; false when another process was faster.
async fn apply(
    connection: &mut SqliteConnection,
    migration: &Migration,
) -> Result<bool, MigrationError> {
    let failed = |source| MigrationError::Failed { name: migration.name.to_owned(), source };
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let is_recorded: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM schema_migration WHERE filename = $1)")
            .bind(migration.name)
            .fetch_one(&mut *tx)
            .await
            .map_err(failed)?;
    if is_recorded {
        return Ok(false);
    }
    tx.execute(sqlx::raw_sql(migration.sql)).await.map_err(failed)?;
    sqlx::query("INSERT INTO schema_migration (filename, sha256, compatible, applied_at) VALUES ($1, $2, $3, $4)")
        .bind(migration.name)
        .bind(migration.sha256())
        .bind(migration.is_compatible())
        .bind(unix_millis())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(true)
}

/// Copies the database to `<file>.backup-<milliseconds>` in one consistent snapshot and removes the oldest copies.
async fn back_up(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<PathBuf, MigrationError> {
    let prefix = backup_prefix(path);
    // The copy is made by SQLite, under this process's umask; an empty file of the right mode goes first. Another process
    // may copy in the same millisecond: the next name is as good.
    let mut stamp = unix_millis();
    let (copy, made) = loop {
        let copy = path.with_file_name(format!("{prefix}{stamp}"));
        match create_private(&copy) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => stamp += 1,
            made => break (copy, made),
        }
    };
    let failed = |source| MigrationError::Backup { path: copy.clone(), source };
    made.map_err(|error| failed(sqlx::Error::Io(error)))?;
    sqlx::query(AssertSqlSafe("VACUUM INTO $1".to_owned()))
        .bind(copy.to_string_lossy().into_owned())
        .execute(connection)
        .await
        .map_err(failed)?;
    remove_old_backups(path, &prefix);
    Ok(copy)
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map(drop)
}

fn backup_prefix(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name}.backup-")
}

fn remove_old_backups(path: &Path, prefix: &str) {
    let Some(Ok(folder)) = path.parent().map(std::fs::read_dir) else { return };
    let mut copies: Vec<PathBuf> = folder
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    // Thirteen digits until the year 2286, so that names sort by time.
    copies.sort();
    let surplus = copies.len().saturating_sub(BACKUPS_KEPT);
    for old in copies.into_iter().take(surplus) {
        if let Err(error) = std::fs::remove_file(&old) {
            tracing::warn!(path = %old.display(), %error, "cannot remove an old backup");
        }
    }
}

fn unix_millis() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

//! What can be done when a message database is damaged (daemon spec §11.6, §20.3): look, keep what can be read of the
//! outbox, begin the inbox anew, or give the queue up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_crypto::random;
use claudemesh_ipc::Paths;
use claudemesh_protocol::Timestamp;
use claudemesh_sqlite::Migration;
use futures_util::TryStreamExt as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::exchange::with_suffix;
use super::{Alone, CareError};
use crate::home::file;
use crate::{inbox, outbox, storage};

/// How long a database is waited for that the daemon is writing to.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Queued messages that are listed.
const LISTED: i64 = 1_000;

/// How a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is none: the next start makes it.
    Missing,
    /// Nothing is wrong with it.
    Whole,
    /// It is damaged; what was found.
    Damaged(String),
    /// A newer program made it.
    Newer,
}

/// A message that waits to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Its row.
    pub id: String,
    /// Slug of its mesh.
    pub mesh: String,
    /// As its sender wrote the target.
    pub to: String,
    /// When it was accepted.
    pub enqueued_at: Timestamp,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The outbox.
    pub outbox: Condition,
    /// The inbox.
    pub inbox: Condition,
    /// Messages on their way out, as far as they can be read; at most 1,000.
    pub queued: Vec<Queued>,
}

/// What became of an outbox that was salvaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Rows that were read, also of messages that were sent long ago: they keep ids from being used twice.
    pub rows: u64,
    /// Those of them that will be sent.
    pub queued: u64,
    /// Rows that were seen and could not be read. Others may be gone without a trace.
    pub unreadable: u64,
    /// Where the damaged file is now.
    pub kept: PathBuf,
}

/// Looks at both databases and changes neither. Reads all of them.
///
/// # Errors
/// [`CareError::File`].
pub async fn look(paths: &Paths) -> Result<Findings, CareError> {
    let outbox = condition(&paths.outbox_file(), outbox::MIGRATIONS).await?;
    let inbox = condition(&paths.inbox_file(), inbox::MIGRATIONS).await?;
    let queued = match outbox {
        Condition::Missing => Vec::new(),
        _ => queued(&paths.outbox_file()).await.unwrap_or_default(),
    };
    Ok(Findings { outbox, inbox, queued })
}

/// Copies every row of the outbox that can be read into a new file, which takes its place.
///
/// # Errors
/// [`CareError::DaemonRunning`], [`CareError::Database`] when nothing can be read, [`CareError::File`]; the outbox is then
/// as it was.
pub async fn salvage(paths: &Paths, now: Timestamp) -> Result<Salvaged, CareError> {
    let _alone = Alone::take(paths).await?;
    let path = paths.outbox_file();
    let dir = paths.daemon_dir().join(format!(".recover-{}", hex::encode(random::bytes::<8>())));
    file::create_private_dir(&dir).map_err(CareError::file(&dir))?;
    let rescued = rescue(&path, &dir).await;
    let result = rescued.and_then(|(new, counts)| {
        let kept = set_aside(&path, now)?;
        std::fs::rename(&new, &path).map_err(CareError::file(&path))?;
        file::sync_dir(paths.daemon_dir()).map_err(CareError::file(paths.daemon_dir()))?;
        Ok(Salvaged { kept, ..counts })
    });
    // Copies only; the damaged file itself was moved or is where it was.
    let _ = std::fs::remove_dir_all(&dir);
    result
}

/// Moves the inbox aside; the next start makes an empty one, and the broker hands out again what was not acknowledged.
/// Answers where the old one is; `None` when there was none.
///
/// # Errors
/// [`CareError::DaemonRunning`], [`CareError::File`].
pub async fn begin_inbox_anew(paths: &Paths, now: Timestamp) -> Result<Option<PathBuf>, CareError> {
    let _alone = Alone::take(paths).await?;
    let path = paths.inbox_file();
    if !path.exists() {
        return Ok(None);
    }
    set_aside(&path, now).map(Some)
}

/// Removes the outbox with everything in it.
///
/// # Errors
/// [`CareError::DaemonRunning`], [`CareError::File`].
pub async fn wipe_outbox(paths: &Paths) -> Result<(), CareError> {
    let _alone = Alone::take(paths).await?;
    super::wipe::remove_database(&paths.outbox_file())
}

/// Removes both databases and the session registry.
///
/// # Errors
/// [`CareError::DaemonRunning`], [`CareError::File`].
pub async fn wipe_all(paths: &Paths) -> Result<(), CareError> {
    let _alone = Alone::take(paths).await?;
    super::wipe::remove_database(&paths.outbox_file())?;
    super::wipe::remove_database(&paths.inbox_file())?;
    super::wipe::remove_file(&paths.sessions_file())
}

async fn condition(path: &Path, migrations: &[Migration]) -> Result<Condition, CareError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Condition::Missing);
        }
        Err(error) => return Err(CareError::file(path)(error)),
        Ok(meta) if meta.len() == 0 => return Ok(Condition::Whole),
        Ok(_) => {}
    }
    if let Err(error) = storage::refuse_link(path) {
        return Ok(Condition::Damaged(error.to_string()));
    }
    Ok(examine(path, migrations)
        .await
        .unwrap_or_else(|error| Condition::Damaged(error.to_string())))
}

async fn examine(path: &Path, migrations: &[Migration]) -> Result<Condition, sqlx::Error> {
    let mut connection = open(path).await?;
    let verdict: String =
        sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut connection).await?;
    let steps = "SELECT count(*) FROM sqlite_schema WHERE name='schema_migration'";
    let mut known = 0;
    if sqlx::query_scalar::<_, i64>(steps).fetch_one(&mut connection).await? > 0 {
        let count = "SELECT count(*) FROM schema_migration";
        known = sqlx::query_scalar::<_, i64>(count).fetch_one(&mut connection).await?;
    }
    connection.close().await?;
    Ok(match verdict.as_str() {
        "ok" if usize::try_from(known).is_ok_and(|known| known > migrations.len()) => {
            Condition::Newer
        }
        "ok" => Condition::Whole,
        _ => Condition::Damaged(verdict),
    })
}

async fn open(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).connect().await
}

async fn queued(path: &Path) -> Result<Vec<Queued>, sqlx::Error> {
    let mut connection = open(path).await?;
    let sql = "SELECT id, mesh, to_raw, enqueued_at FROM outbox NOT INDEXED \
               WHERE status IN ('pending','inflight') ORDER BY seq LIMIT $1";
    let mut found = Vec::new();
    {
        let mut rows = sqlx::query(sql).bind(LISTED).fetch(&mut connection);
        // What comes before the damage is better than nothing.
        while let Ok(Some(row)) = rows.try_next().await {
            found.push(Queued {
                id: row.try_get("id")?,
                mesh: row.try_get("mesh")?,
                to: row.try_get("to_raw")?,
                enqueued_at: Timestamp::from_millis(row.try_get("enqueued_at")?),
            });
        }
    }
    connection.close().await?;
    Ok(found)
}

/// Fills a new file in `dir` from a copy of the damaged one: SQLite may write to what it opens.
async fn rescue(path: &Path, dir: &Path) -> Result<(PathBuf, Salvaged), CareError> {
    let failed = |error: sqlx::Error| CareError::database(path, &error);
    let (copy, new) = (dir.join("damaged.db"), dir.join("outbox.db"));
    std::fs::copy(path, &copy).map_err(CareError::file(path))?;
    let log = with_suffix(path, "-wal");
    if log.exists() {
        std::fs::copy(&log, with_suffix(&copy, "-wal")).map_err(CareError::file(&log))?;
    }
    let database = storage::open(&new, outbox::MIGRATIONS, None)
        .await
        .map_err(|error| CareError::Database { path: new.clone(), reason: error.to_string() })?;
    database.close().await;
    let mut connection = open(&new).await.map_err(failed)?;
    let rescued = copy_rows(&mut connection, &copy).await;
    connection.close().await.map_err(failed)?;
    let counts = rescued.map_err(failed)?;
    Ok((new, counts))
}

async fn copy_rows(
    connection: &mut SqliteConnection,
    from: &Path,
) -> Result<Salvaged, sqlx::Error> {
    sqlx::query("ATTACH DATABASE $1 AS damaged")
        .bind(from.to_string_lossy().into_owned())
        .execute(&mut *connection)
        .await?;
    let columns = "SELECT own.name FROM pragma_table_info('outbox', 'main') AS own \
                   JOIN pragma_table_info('outbox', 'damaged') AS other USING (name)";
    let columns: Vec<String> = sqlx::query_scalar(columns).fetch_all(&mut *connection).await?;
    let columns = columns.join(", ");
    // From both ends up to the damage.
    let mut rows = numbers(connection, "ASC").await;
    rows.extend(numbers(connection, "DESC").await);
    rows.sort_unstable();
    rows.dedup();
    if columns.is_empty() || rows.is_empty() {
        return Err(sqlx::Error::RowNotFound);
    }
    let insert = format!(
        "INSERT OR IGNORE INTO main.outbox ({columns}) \
         SELECT {columns} FROM damaged.outbox NOT INDEXED WHERE seq=$1"
    );
    let mut unreadable = 0;
    let mut tx = connection.begin().await?;
    for seq in rows {
        let copied = sqlx::query(AssertSqlSafe(insert.as_str())).bind(seq).execute(&mut *tx).await;
        match copied {
            Ok(done) if done.rows_affected() == 1 => {}
            _ => unreadable += 1,
        }
    }
    tx.commit().await?;
    let mut count = async |sql: &'static str| -> Result<u64, sqlx::Error> {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut *connection).await?;
        Ok(u64::try_from(count).unwrap_or(0))
    };
    let rows = count("SELECT count(*) FROM main.outbox").await?;
    let queued = "SELECT count(*) FROM main.outbox WHERE status IN ('pending','inflight')";
    let queued = count(queued).await?;
    sqlx::query("DETACH DATABASE damaged").execute(connection).await?;
    Ok(Salvaged { rows, queued, unreadable, kept: PathBuf::new() })
}

/// Numbers of the rows in this order, until something cannot be read.
async fn numbers(connection: &mut SqliteConnection, order: &str) -> Vec<i64> {
    let sql = format!("SELECT seq FROM damaged.outbox NOT INDEXED ORDER BY seq {order}");
    let mut rows = sqlx::query_scalar(AssertSqlSafe(sql)).fetch(connection);
    let mut numbers = Vec::new();
    while let Ok(Some(number)) = rows.try_next().await {
        numbers.push(number);
    }
    numbers
}

/// Moves a database aside with its log, the log first: one that stays behind would be replayed into the next file.
fn set_aside(path: &Path, now: Timestamp) -> Result<PathBuf, CareError> {
    let kept = with_suffix(path, &format!(".corrupt-{}", now.as_millis()));
    for side in ["-wal", "-shm", ""] {
        let (from, to) = (with_suffix(path, side), with_suffix(&kept, side));
        match std::fs::rename(&from, to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CareError::file(&from)(error));
            }
            _ => {}
        }
    }
    Ok(kept)
}

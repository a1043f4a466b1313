//! The two databases of the daemon: opening with integrity check, and the errors their users branch on.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use claudemesh_protocol::Timestamp;
use claudemesh_sqlite::{Database, Migration, MigrationError, OpenError, Options, WriteError};
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Decode, Row as _, Sqlite, Type};

/// Why a read or write of outbox or inbox did not happen.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Disk, quota or page limit is used up.
    #[error("no space is left for messages on this disk")]
    Full,
    /// The database is busy or closed; the same call may succeed later.
    #[error("the message database is not available")]
    Unavailable(#[source] WriteError),
    /// A statement failed or a row cannot be read.
    #[error("the message database failed")]
    Failed(#[source] WriteError),
}

impl From<WriteError> for StorageError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Full => Self::Full,
            error @ (WriteError::Unavailable(_) | WriteError::Closed) => Self::Unavailable(error),
            error => Self::Failed(error),
        }
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        WriteError::from(error).into()
    }
}

/// An error and what caused it, in one line for the log. What a database says of a failed statement names tables and
/// columns, never values.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors print their cause themselves.
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            cause = error.source();
        }
        Ok(())
    }
}

/// Why a database could not be taken into use at start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableDatabase {
    /// It is damaged.
    #[error("the database {} is damaged: {reason}; see claudemesh daemon recover", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A newer program wrote it, or it could not be brought up to date.
    #[error("cannot use the database {}", .path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: MigrationError,
    },
    /// The file itself cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Opens a database, checks that it is whole, brings its schema up to date.
///
/// # Errors
/// [`UnusableDatabase`].
pub async fn open(
    path: &Path,
    migrations: &[Migration],
    max_pages: Option<u32>,
) -> Result<Database, UnusableDatabase> {
    refuse_link(path)?;
    let was_unclean = has_journal(path);
    let options = Options::new(path).readers(2).max_pages(max_pages);
    let db = match Database::open(options).await {
        Ok(db) => db,
        Err(OpenError::Database { path, source }) => {
            return Err(UnusableDatabase::Corrupt { path, reason: source.to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    let usable = check_and_migrate(&db, path, migrations, was_unclean).await;
    if usable.is_err() {
        db.close().await;
    }
    usable.map(|()| db)
}

async fn check_and_migrate(
    db: &Database,
    path: &Path,
    migrations: &[Migration],
    was_unclean: bool,
) -> Result<(), UnusableDatabase> {
    let corrupt = |reason: String| UnusableDatabase::Corrupt { path: path.to_owned(), reason };
    // Only an unclean end can have left indexes and rows apart, and the full check reads every page.
    let check = if was_unclean { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
    let verdict: String = sqlx::query_scalar(check)
        .fetch_one(db.reader())
        .await
        .map_err(|error| corrupt(error.to_string()))?;
    if verdict != "ok" {
        return Err(corrupt(verdict));
    }
    db.migrate(migrations)
        .await
        .map_err(|source| UnusableDatabase::Schema { path: path.to_owned(), source })?;
    Ok(())
}

/// The mark of an unclean end: SQLite removes the write-ahead log when its last user closes it in order.
fn has_journal(path: &Path) -> bool {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-wal");
    std::fs::metadata(journal).is_ok_and(|meta| meta.len() > 0)
}

/// SQLite follows links; a link in place of a file that only we write is somebody's trick (daemon spec §2).
pub(crate) fn refuse_link(path: &Path) -> Result<(), OpenError> {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    if is_link {
        let source = std::io::Error::from(rustix::io::Errno::LOOP);
        return Err(OpenError::File { path: path.to_owned(), source });
    }
    Ok(())
}

/// Column access without naming the row's lifetime and index types each time.
pub(crate) trait Columns {
    /// The value of a column.
    fn column<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(
        &'r self,
        name: &'static str,
    ) -> Result<T, sqlx::Error>;

    /// A time column.
    fn time(&self, name: &'static str) -> Result<Timestamp, sqlx::Error> {
        self.column(name).map(Timestamp::from_millis)
    }

    /// A time column that may be NULL.
    fn time_option(&self, name: &'static str) -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(self.column::<Option<i64>>(name)?.map(Timestamp::from_millis))
    }

    /// A text column that is parsed.
    fn parsed<T>(&self, name: &'static str) -> Result<T, sqlx::Error>
    where
        T: std::str::FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.column::<&str>(name)?.parse().map_err(|error| decode_error(name, error))
    }

    /// A text column that may be NULL and is parsed otherwise.
    fn parsed_option<T>(&self, name: &'static str) -> Result<Option<T>, sqlx::Error>
    where
        T: std::str::FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let text: Option<&str> = self.column(name)?;
        text.map(|text| text.parse().map_err(|error| decode_error(name, error))).transpose()
    }

    /// An integer column that is not negative.
    fn unsigned<T: TryFrom<i64>>(&self, name: &'static str) -> Result<T, sqlx::Error> {
        let value: i64 = self.column(name)?;
        T::try_from(value).map_err(|_| decode_error(name, std::fmt::Error))
    }
}

impl Columns for SqliteRow
where
    &'static str: ColumnIndex<SqliteRow>,
{
    fn column<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(
        &'r self,
        name: &'static str,
    ) -> Result<T, sqlx::Error> {
        self.try_get(name)
    }
}

pub(crate) fn decode_error(
    column: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(source) }
}

/// Bytes of the pages in use; pages that deletion freed are used again before the file grows.
pub(crate) async fn used_bytes(db: &Database) -> Result<u64, StorageError> {
    let sql = "SELECT (pages.page_count - free.freelist_count) * size.page_size \
               FROM pragma_page_count AS pages, pragma_freelist_count AS free, pragma_page_size AS size";
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(db.reader()).await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_log_names_the_cause_of_a_failed_statement() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("a.db"), &[], None).await.unwrap();
        let failed = sqlx::query("SELECT 1 FROM nowhere").fetch_all(db.reader()).await;
        let error = StorageError::from(failed.unwrap_err());
        assert_eq!(error.to_string(), "the message database failed");
        assert!(
            Causes(&error).to_string().contains("no such table: nowhere"),
            "{}",
            Causes(&error)
        );
        db.close().await;
    }
}

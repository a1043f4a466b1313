//! What can go wrong, in the terms a caller branches on.

use std::path::PathBuf;
use std::sync::Arc;

/// SQLite result codes (the lowest byte of the extended code).
mod code {
    pub(super) const BUSY: u32 = 5;
    pub(super) const LOCKED: u32 = 6;
    pub(super) const FULL: u32 = 13;
}

/// Why a write did not happen. Nothing of it is in the database.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// No space is left on the disk, in the quota or under the page limit.
    #[error("the database has no space left")]
    Full,
    /// Another process holds the database, or the disk failed; trying again later may succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The database has been closed.
    #[error("the database is closed")]
    Closed,
    /// The job panicked; its changes are undone and everyone else's stand.
    #[error("a write job panicked")]
    Panicked,
    /// A statement was refused: constraint, syntax, or damage.
    #[error("database error")]
    Database(#[source] Arc<sqlx::Error>),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        if is_busy(&error) {
            return Self::Unavailable(Arc::from("another process holds it"));
        }
        if primary_code(&error) == Some(code::FULL) {
            return Self::Full;
        }
        match error {
            sqlx::Error::PoolClosed => Self::Closed,
            sqlx::Error::PoolTimedOut => {
                Self::Unavailable(Arc::from("no connection became free in time"))
            }
            sqlx::Error::Io(io) => Self::Unavailable(Arc::from(io.to_string())),
            sqlx::Error::WorkerCrashed => {
                Self::Unavailable(Arc::from("the connection's thread ended"))
            }
            other => Self::Database(Arc::new(other)),
        }
    }
}

/// True when another connection holds what a statement needs.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(code::BUSY | code::LOCKED))
}

/// The lowest byte of SQLite's extended result code.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let sqlx::Error::Database(database) = error else { return None };
    database.code()?.parse::<u32>().ok().map(|code| code & 0xff)
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be made or read.
    #[error("cannot open the database file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite refused it.
    #[error("cannot open the database {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

/// Why the schema could not be brought up to date; it is as it was before the file that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// The database was written by a newer release.
    #[error(
        "the database has migration {name}, which this release does not know\nhint: run the newer release, or restore the backup it made"
    )]
    Newer {
        /// The unknown file.
        name: String,
    },
    /// A file did not apply.
    #[error("migration {name} failed")]
    Failed {
        /// The file.
        name: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// No backup could be made, so nothing was tried.
    #[error("cannot back the database up to {path}")]
    Backup {
        /// The copy.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Another process is migrating and did not finish in time.
    #[error("another process holds the migration lock")]
    Locked,
    /// The database could not be asked.
    #[error("cannot read the state of the schema")]
    Database(#[from] sqlx::Error),
}

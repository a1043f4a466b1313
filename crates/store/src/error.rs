//! What can go wrong between the broker and its database. Outcomes a caller branches on in normal operation
//! (a slug is taken, an invite is used up) are values of their own, not errors.

use std::borrow::Cow;
use std::sync::Arc;

use claudemesh_sqlite::{MigrationError, WriteError};

/// Why a store operation did not happen. In every case nothing of it was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database cannot be reached, is too busy, or did not answer in time; trying again later may succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(Cow<'static, str>),
    /// No space is left (disk, quota or page limit); succeeds again once there is space.
    #[error("the database has no space left")]
    Full,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// A uniqueness rule refused a write that the caller cannot have expected, such as a repeated random id.
    #[error("conflict: {0}")]
    Conflict(Cow<'static, str>),
    /// A stored value cannot be read back as what it should be.
    #[error("corrupt value in {what}")]
    Corrupt {
        /// Table and column.
        what: Cow<'static, str>,
    },
    /// The schema could not be brought up to date; the broker must not serve.
    #[error("migration failed: {0}")]
    Migration(#[source] MigrationError),
    /// Anything else the database said.
    #[error("database error")]
    Database(#[source] Arc<sqlx::Error>),
}

/// Result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// A stored value of `what` (`table.column`) makes no sense.
    pub(crate) fn corrupt(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    /// True when the same operation may succeed later without anybody changing it.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full)
    }
}

/// SQLSTATE classes and codes of PostgreSQL.
mod sqlstate {
    /// No space left on the server's disk.
    pub(super) const DISK_FULL: &str = "53100";
    /// Connection exceptions, insufficient resources, operator intervention (shutdown, time-out).
    pub(super) const UNAVAILABLE: [&str; 3] = ["08", "53", "57"];
    /// Serialization failure and deadlock.
    pub(super) const RETRY: &str = "40";
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(database) = &error {
            let code = database.code().unwrap_or_default();
            if database.is_unique_violation() {
                return Self::Conflict(
                    database.constraint().unwrap_or("a unique key").to_owned().into(),
                );
            }
            if code == sqlstate::DISK_FULL {
                return Self::Full;
            }
            // SQLite's codes are numbers of one to four digits; a SQLSTATE has five characters.
            let is_sqlstate = code.len() == 5;
            let class = code.get(..2).unwrap_or_default();
            if is_sqlstate && (sqlstate::UNAVAILABLE.contains(&class) || class == sqlstate::RETRY) {
                return Self::Unavailable(format!("the server answered {code}").into());
            }
            if is_sqlstate {
                return Self::Database(Arc::new(error));
            }
        }
        match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
                Self::Unavailable("the connection failed".into())
            }
            other => WriteError::from(other).into(),
        }
    }
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Full => Self::Full,
            WriteError::Closed => Self::Closed,
            WriteError::Database(source) => Self::Database(source),
            other => Self::Unavailable(other.to_string().into()),
        }
    }
}

//! Opening, migrating and closing the store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use claudemesh_sqlite::{Database, Durability, ReadConnection, Recorded};
use futures_util::future::BoxFuture;

use crate::engine::pool::{Held, Patience, Pool};
use crate::engine::{self, Conn};
use crate::message::Numbers;
use crate::{Result, StoreError};

/// How long a health check waits for the database.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the state lives.
#[derive(Clone)]
pub enum StoreLocation {
    /// A SQLite file.
    Sqlite(SqliteLocation),
    /// A PostgreSQL database.
    Postgres(PostgresLocation),
}

/// A SQLite file and how it is opened.
#[derive(Debug, Clone)]
pub struct SqliteLocation {
    /// The file; made with mode 0600 when missing, its folder must exist.
    pub path: PathBuf,
    /// Read connections.
    pub readers: u32,
    /// Largest size in pages of 4 KiB; `None` is without limit. Tests of a full disk use it.
    pub max_pages: Option<u32>,
}

impl SqliteLocation {
    /// A file with four readers and no page limit.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readers: 4, max_pages: None }
    }
}

/// A PostgreSQL database and how it is reached. No `Debug`: the URL may carry a password.
#[derive(Clone)]
pub struct PostgresLocation {
    /// `postgres://…`.
    pub url: String,
    /// Connections at most.
    pub max_connections: u32,
}

/// The broker's durable state. Cloning is cheap; all clones share the pools.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    numbers: Arc<OnceLock<Numbers>>,
}

#[derive(Clone)]
enum Engine {
    Sqlite(Database),
    Postgres(Pool),
}

impl Store {
    /// Connects without touching the schema. SQLite: makes the file when missing. PostgreSQL: one attempt, the caller
    /// repeats it.
    pub async fn open(location: &StoreLocation) -> Result<Self> {
        let engine = match location {
            StoreLocation::Sqlite(location) => {
                Engine::Sqlite(engine::sqlite::open(location).await?)
            }
            StoreLocation::Postgres(location) => {
                Engine::Postgres(engine::postgres::connect(location).await?)
            }
        };
        Ok(Self { engine, numbers: Arc::default() })
    }

    /// Brings the schema up to date under a lock (broker spec §6.3). Nothing else may be called before.
    pub async fn migrate(&self) -> Result<()> {
        match &self.engine {
            Engine::Sqlite(db) => db
                .migrate(engine::sqlite::MIGRATIONS)
                .await
                .map(drop)
                .map_err(StoreError::Migration),
            Engine::Postgres(pool) => engine::postgres::migrate(pool).await,
        }
    }

    /// Names of embedded migrations that the database does not have yet, in order.
    ///
    /// # Errors
    /// [`StoreError::Migration`] when the database is of a newer release.
    pub async fn pending_migrations(&self) -> Result<Vec<&'static str>> {
        let (known, is_known) = match &self.engine {
            Engine::Sqlite(_) => {
                let sql = "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'schema_migration'";
                (engine::sqlite::MIGRATIONS, sql)
            }
            Engine::Postgres(_) => {
                let sql = "SELECT COUNT(*) FROM pg_tables WHERE tablename = 'schema_migration'
                           AND schemaname = ANY (current_schemas(false))";
                (engine::postgres::MIGRATIONS, sql)
            }
        };
        let mut reader = self.reader().await?;
        let mut conn = reader.conn();
        let mut recorded = BTreeMap::new();
        if conn.number(is_known, &[]).await? > 0 {
            let sql =
                "SELECT filename, sha256, CASE WHEN compatible THEN 1 ELSE 0 END AS is_compatible
                       FROM schema_migration";
            for row in conn.all(sql, &[]).await? {
                // PostgreSQL answers this expression in four bytes, which no column of ours has.
                let is_compatible = row.get::<i32>("is_compatible")? == 1;
                recorded.insert(
                    row.get("filename")?,
                    Recorded { sha256: row.get("sha256")?, is_compatible },
                );
            }
        }
        let pending =
            claudemesh_sqlite::pending(known, &recorded).map_err(StoreError::Migration)?;
        Ok(pending.iter().map(|migration| migration.name()).collect())
    }

    /// Opens and migrates.
    pub async fn open_migrated(location: &StoreLocation) -> Result<Self> {
        let store = Self::open(location).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Asks the database for a sign of life, within five seconds; for health checks.
    pub async fn ping(&self) -> Result<()> {
        let ask =
            async { self.reader().await?.conn().number("SELECT CAST(1 AS BIGINT)", &[]).await };
        match tokio::time::timeout(PING_TIMEOUT, ask).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(StoreError::Unavailable("no answer in time".into())),
        }
    }

    /// Waits for writes under way, then closes all connections. Later calls answer [`StoreError::Closed`].
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(db) => db.close().await,
            Engine::Postgres(pool) => pool.close().await,
        }
    }

    /// `"sqlite"` or `"postgres"`, for logs and health answers.
    pub fn engine_name(&self) -> &'static str {
        match &self.engine {
            Engine::Sqlite(_) => "sqlite",
            Engine::Postgres(_) => "postgres",
        }
    }

    /// The SQLite database below, when that is the engine.
    pub fn sqlite(&self) -> Option<&Database> {
        match &self.engine {
            Engine::Sqlite(db) => Some(db),
            Engine::Postgres(_) => None,
        }
    }

    /// Row numbers, once they are given out from memory.
    pub(crate) fn numbers(&self) -> &Arc<OnceLock<Numbers>> {
        &self.numbers
    }

    /// Runs `work` in a transaction and answers after the commit; an error rolls all of it back.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        self.write_with(Durability::Full, work).await
    }

    /// Like [`Store::write`]; [`Durability::Relaxed`] is for what repairs itself after a power failure: a lost claim is
    /// a row still held, a lost acknowledgement is one more push that the receiver knows already.
    pub(crate) async fn write_with<T, F>(&self, durability: Durability, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        match &self.engine {
            Engine::Sqlite(db) => {
                db.writer().write_with(durability, move |conn| work(Conn::Sqlite(conn))).await
            }
            Engine::Postgres(pool) => write_within(pool, Patience::Request, durability, work).await,
        }
    }

    /// Like [`Store::write`] for what cleans up and may take long.
    pub(crate) async fn write_upkeep<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        match &self.engine {
            Engine::Sqlite(_) => self.write(work).await,
            Engine::Postgres(pool) => {
                write_within(pool, Patience::Upkeep, Durability::Full, work).await
            }
        }
    }

    /// A connection for reading.
    pub(crate) async fn reader(&self) -> Result<Reader> {
        Ok(match &self.engine {
            Engine::Sqlite(db) => Reader::Sqlite(db.reader().acquire().await?),
            Engine::Postgres(pool) => Reader::Postgres(pool.acquire(Patience::Request).await?),
        })
    }

    /// A connection for reading much.
    pub(crate) async fn upkeep_reader(&self) -> Result<Reader> {
        match &self.engine {
            Engine::Sqlite(_) => self.reader().await,
            Engine::Postgres(pool) => Ok(Reader::Postgres(pool.acquire(Patience::Upkeep).await?)),
        }
    }
}

/// One transaction on PostgreSQL.
async fn write_within<T, F>(
    pool: &Pool,
    patience: Patience,
    durability: Durability,
    work: F,
) -> Result<T>
where
    F: for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    let mut held = pool.acquire(patience).await?;
    held.begin(durability == Durability::Relaxed).await?;
    match work(Conn::Postgres(&mut held)).await {
        Ok(result) => {
            held.commit().await?;
            Ok(result)
        }
        Err(error) => {
            held.roll_back().await;
            Err(error)
        }
    }
}

/// A pooled connection, given back when dropped.
pub(crate) enum Reader {
    Sqlite(ReadConnection),
    Postgres(Held),
}

impl Reader {
    pub(crate) fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(conn) => Conn::Sqlite(conn),
            Self::Postgres(conn) => Conn::Postgres(conn),
        }
    }
}

//! The read connections of a database: a pool that is asked like a connection.

use std::fmt;
use std::ops::{Deref, DerefMut};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    Sqlite, SqliteConnection, SqlitePool, SqliteQueryResult, SqliteRow, SqliteStatement,
    SqliteTypeInfo,
};
use sqlx::{Either, Execute, Executor, SqlStr};

#[cfg(feature = "simulation")]
use crate::simulation::{SimulatedConnection, SimulatedReaders};

/// Connections that refuse to write. A reference to it runs queries; cloning is cheap.
#[derive(Clone)]
pub struct Reader {
    pool: SqlitePool,
    #[cfg(feature = "simulation")]
    simulated: Option<SimulatedReaders>,
}

impl Reader {
    #[cfg(not(feature = "simulation"))]
    pub(crate) const fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    #[cfg(feature = "simulation")]
    pub(crate) const fn new(pool: SqlitePool, simulated: Option<SimulatedReaders>) -> Self {
        Self { pool, simulated }
    }

    /// A connection of one's own, given back when dropped.
    ///
    /// # Errors
    /// None became free in time, or the database is closed.
    pub async fn acquire(&self) -> Result<ReadConnection, sqlx::Error> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return Ok(ReadConnection(Held::Simulated(simulated.acquire().await?)));
        }
        Ok(ReadConnection(Held::Pooled(self.pool.acquire().await?)))
    }

    pub(crate) async fn close(&self) {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            simulated.close();
        }
        self.pool.close().await;
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// A read connection, given back when dropped.
pub struct ReadConnection(Held);

enum Held {
    Pooled(PoolConnection<Sqlite>),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedConnection),
}

impl Deref for ReadConnection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match &self.0 {
            Held::Pooled(connection) => connection,
            #[cfg(feature = "simulation")]
            Held::Simulated(connection) => connection,
        }
    }
}

impl DerefMut for ReadConnection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match &mut self.0 {
            Held::Pooled(connection) => connection,
            #[cfg(feature = "simulation")]
            Held::Simulated(connection) => connection,
        }
    }
}

impl<'p> Executor<'p> for &'_ Reader {
    type Database = Sqlite;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<SqliteQueryResult, SqliteRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.fetch_many(query);
        }
        self.pool.fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<SqliteRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.fetch_optional(query);
        }
        self.pool.fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, Result<SqliteStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}

//! A database file: one writing connection, a pool of reading ones, and the pragmas both need.

use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

use crate::migrate::{self, Migration, MigrationReport};
use crate::reader::Reader;
use crate::{BatchWriter, JobFuture, MigrationError, OpenError, WriteError, error, settle};

/// How long a statement waits for another process that holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two attempts to open a busy file.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How long a reader waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages in the write-ahead log before a commit also copies it back (4 KiB each); larger logs make the copy rarer and
/// let it write each page once.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Bytes the log file may keep after a copy.
const LOG_KEEP_BYTES: u32 = 32 * 1024 * 1024;

/// Page cache of the writing connection, in KiB.
const WRITER_CACHE_KIB: u32 = 8 * 1024;

/// Page cache of one reading connection, in KiB. Small, because each keeps its own and the kernel keeps the pages too.
const READER_CACHE_KIB: u32 = 2 * 1024;

/// How to open a database.
#[derive(Debug, Clone)]
pub struct Options {
    path: PathBuf,
    readers: u32,
    max_pages: Option<u32>,
}

impl Options {
    /// This file, four readers, no limit of size.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readers: 4, max_pages: None }
    }

    /// Read connections at most; they are opened when first needed.
    #[must_use]
    pub fn readers(mut self, count: u32) -> Self {
        self.readers = count.max(1);
        self
    }

    /// Largest size of the file in pages of 4 KiB; a write beyond answers [`WriteError::Full`].
    #[must_use]
    pub fn max_pages(mut self, pages: Option<u32>) -> Self {
        self.max_pages = pages;
        self
    }

    fn connect_options(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
            .pragma("journal_size_limit", LOG_KEEP_BYTES.to_string())
            .pragma("temp_store", "memory");
        #[cfg(feature = "simulation")]
        let options = if crate::simulation::is_active() {
            options.pragma("wal_autocheckpoint", "0")
        } else {
            options
        };
        match self.max_pages {
            Some(pages) => options.pragma("max_page_count", pages.to_string()),
            None => options,
        }
    }
}

/// An open database. Cloning is cheap; all clones share the connections. Whoever opened it calls [`Database::close`].
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    writer: BatchWriter,
    reader: Reader,
}

impl Database {
    /// Opens the file, making it with mode 0600 when it is missing; its folder must exist.
    ///
    /// # Errors
    /// [`OpenError::File`] when the file cannot be made, [`OpenError::Database`] when SQLite refuses it.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let path = options.path.clone();
        create_private(&path).map_err(|source| OpenError::File { path: path.clone(), source })?;
        let connect = options.connect_options();
        let refused = |source| OpenError::Database { path: path.clone(), source };
        let connection = settle(connect_patiently(&connect)).await.map_err(refused)?;
        let reads = connect
            .clone()
            .pragma("cache_size", format!("-{READER_CACHE_KIB}"))
            .pragma("query_only", "on");
        let pool = SqlitePoolOptions::new()
            .max_connections(options.readers)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(reads.clone());
        #[cfg(feature = "simulation")]
        let reader = {
            let readers =
                |disk| crate::simulation::SimulatedReaders::new(disk, path.clone(), reads);
            Reader::new(pool, crate::simulation::disk().map(readers))
        };
        #[cfg(not(feature = "simulation"))]
        let reader = Reader::new(pool);
        let writer = BatchWriter::start(connection, connect, &path);
        Ok(Self { shared: Arc::new(Shared { options, writer, reader }) })
    }

    /// Applies pending migrations in order, each in its own transaction; makes a backup beside the file first when the
    /// database is not empty (the newest three are kept). Safe when two processes do it at once.
    pub async fn migrate(&self, known: &[Migration]) -> Result<MigrationReport, MigrationError> {
        let options = &self.shared.options;
        settle(async {
            let mut connection = connect_to(&options.connect_options()).await?;
            let report = migrate::run(&mut connection, &options.path, known).await?;
            connection.close().await?;
            #[cfg(feature = "simulation")]
            if let Some(disk) = crate::simulation::disk() {
                disk.committed(&options.path, crate::Durability::Full);
            }
            Ok(report)
        })
        .await
    }

    /// The connections for reading. They refuse to write.
    pub fn reader(&self) -> &Reader {
        &self.shared.reader
    }

    /// The writer, see [`BatchWriter::write`].
    pub fn writer(&self) -> &BatchWriter {
        &self.shared.writer
    }

    /// Short for [`BatchWriter::write`].
    pub async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> JobFuture<'c, T, E> + Send + 'static,
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        self.shared.writer.write(job).await
    }

    /// Copies what stands in the write-ahead log back into the file, on a connection of its own and as far as nobody has to
    /// wait: what is copied here no commit has to copy. For whoever writes much in the background.
    ///
    /// # Errors
    /// The connection cannot be opened, or the copy failed; nothing is lost then.
    pub async fn copy_log_back(&self) -> Result<(), WriteError> {
        #[cfg(feature = "simulation")]
        if crate::simulation::is_active() {
            return Ok(());
        }
        let options = self.shared.options.connect_options();
        let copied = settle(async {
            let mut connection = connect_to(&options).await?;
            sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut connection).await?;
            connection.close().await
        });
        Ok(copied.await?)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.options.path
    }

    /// Finishes the writes already submitted, then closes every connection.
    pub async fn close(&self) {
        self.shared.writer.close().await;
        self.shared.reader.close().await;
    }
}

/// Opens one connection.
pub(crate) async fn connect_to(
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, sqlx::Error> {
    use sqlx::ConnectOptions as _;
    options.connect().await
}

/// Opens the first connection. SQLite answers "busy" at once, without its own patience, while another process switches
/// the same new file to the write-ahead log.
async fn connect_patiently(
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, sqlx::Error> {
    let deadline = tokio::time::Instant::now() + BUSY_TIMEOUT;
    loop {
        match connect_to(options).await {
            Err(error) if error::is_busy(&error) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Makes the file unless it is there, readable by its owner only; SQLite gives its side files the same mode.
fn create_private(path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

//! Databases inside a simulation (cargo feature `simulation`, never in a release): statements run to their end on the
//! calling thread, so that neither virtual time nor another task moves meanwhile, and a [`Disk`] decides how long a
//! commit takes and learns what a power failure could still undo.
//!
//! The write-ahead log is never copied back while a database is open: it only grows, and "what is synced" is one length
//! of that file.

use std::cell::RefCell;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteConnection, SqliteQueryResult, SqliteRow};
use sqlx::{Connection as _, Either, Execute, Executor as _};

use crate::Durability;
use crate::database::connect_to;

/// The disk below the databases that this thread opens.
pub trait Disk: Send + Sync + 'static {
    /// A batch of writes is about to run and commit. The disk of a dead machine never answers.
    fn before_commit<'d>(&'d self, file: &'d Path, durability: Durability) -> BoxFuture<'d, ()>;

    /// True when nothing more fits: the batch that was announced is refused.
    fn is_full(&self, file: &Path) -> bool;

    /// The batch is committed, as far as the process is concerned; with [`Durability::Full`], everything in the log so
    /// far is synced.
    fn committed(&self, file: &Path, durability: Durability);

    /// The commit is done, nobody was told yet.
    fn before_answer<'d>(&'d self, file: &'d Path) -> BoxFuture<'d, ()>;

    /// Somebody is about to read.
    fn before_read<'d>(&'d self, file: &'d Path) -> BoxFuture<'d, ()>;

    /// The database is closed: its log is copied back and synced.
    fn closed(&self, file: &Path);
}

thread_local! {
    static DISK: RefCell<Option<Arc<dyn Disk>>> = const { RefCell::new(None) };
}

/// Puts `disk` below every database that this thread opens until the guard is dropped.
#[must_use = "dropping the guard takes the disk away"]
pub fn install(disk: Arc<dyn Disk>) -> Installed {
    DISK.with_borrow_mut(|slot| *slot = Some(disk));
    Installed(())
}

/// Takes the disk away when dropped.
pub struct Installed(());

impl Drop for Installed {
    fn drop(&mut self) {
        DISK.with_borrow_mut(Option::take);
    }
}

/// The disk of this thread, inside a simulation.
pub(crate) fn disk() -> Option<Arc<dyn Disk>> {
    DISK.with_borrow(Clone::clone)
}

/// Whether this thread simulates.
pub(crate) fn is_active() -> bool {
    DISK.with_borrow(Option::is_some)
}

/// Runs a future of the database to its end. What it waits for happens on the database's own thread.
pub fn drive<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    // The runtime's budget would have it wait for the scheduler, which waits for us.
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Read connections without a pool: a pool answers when its own tasks have run.
#[derive(Clone)]
pub(crate) struct SimulatedReaders(Arc<Readers>);

struct Readers {
    disk: Arc<dyn Disk>,
    file: PathBuf,
    options: SqliteConnectOptions,
    free: Mutex<Vec<SqliteConnection>>,
}

impl SimulatedReaders {
    pub(crate) fn new(disk: Arc<dyn Disk>, file: PathBuf, options: SqliteConnectOptions) -> Self {
        Self(Arc::new(Readers { disk, file, options, free: Mutex::default() }))
    }

    pub(crate) async fn acquire(&self) -> Result<SimulatedConnection, sqlx::Error> {
        self.0.disk.before_read(&self.0.file).await;
        let free = self.0.free.lock().pop();
        let connection = match free {
            Some(connection) => connection,
            None => drive(connect_to(&self.0.options))?,
        };
        Ok(SimulatedConnection { connection: Held::Out(connection), home: Arc::clone(&self.0) })
    }

    pub(crate) fn fetch_many<'e, 'q: 'e, E>(
        &self,
        query: E,
    ) -> BoxStream<'e, Result<Either<SqliteQueryResult, SqliteRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Sqlite>,
    {
        let this = self.clone();
        let all = async move {
            let mut connection = this.acquire().await?;
            let answers: Vec<_> = drive(connection.fetch_many(query).collect());
            Ok::<_, sqlx::Error>(stream::iter(answers))
        };
        Box::pin(stream::once(all).try_flatten())
    }

    pub(crate) fn fetch_optional<'e, 'q: 'e, E>(
        &self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<SqliteRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Sqlite>,
    {
        let this = self.clone();
        Box::pin(async move {
            let mut connection = this.acquire().await?;
            drive(connection.fetch_optional(query))
        })
    }

    pub(crate) fn close(&self) {
        let free = std::mem::take(&mut *self.0.free.lock());
        for connection in free {
            if let Err(error) = drive(connection.close()) {
                tracing::warn!(%error, "a read connection did not close cleanly");
            }
        }
        self.0.disk.closed(&self.0.file);
    }
}

/// A read connection of a simulation.
pub(crate) struct SimulatedConnection {
    connection: Held,
    home: Arc<Readers>,
}

enum Held {
    Out(SqliteConnection),
    Back,
}

impl Deref for SimulatedConnection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        match &self.connection {
            Held::Out(connection) => connection,
            Held::Back => unreachable!("only dropping gives the connection back"),
        }
    }
}

impl DerefMut for SimulatedConnection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        match &mut self.connection {
            Held::Out(connection) => connection,
            Held::Back => unreachable!("only dropping gives the connection back"),
        }
    }
}

impl Drop for SimulatedConnection {
    fn drop(&mut self) {
        if let Held::Out(connection) = std::mem::replace(&mut self.connection, Held::Back) {
            self.home.free.lock().push(connection);
        }
    }
}

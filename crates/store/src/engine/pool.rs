//! Connections to PostgreSQL, every use of which ends in time.
//!
//! A network that swallows packets answers nothing and refuses nothing: a statement on an open connection would wait for
//! ever, and so would whoever wants a connection next. So each operation has one deadline on this side, from asking for
//! a connection to its last answer, and a connection that missed it, or whose statement somebody stopped waiting for, is
//! closed and never used again. What the server may still do about such a statement, its own time limits end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claudemesh_protocol::limits::{
    DB_ACQUIRE_LIMIT, DB_IDLE_MAX, DB_LIFETIME_MAX, DB_OPERATION_LIMIT, DB_TRUSTED_IDLE,
    DB_UPKEEP_LIMIT,
};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSeverity};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};

use crate::{Result, StoreError};

/// How long a connection may take to say goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// How long an operation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Somebody waits for the answer.
    Request,
    /// Cleaning up and starting, which may look at a whole table.
    Upkeep,
}

impl Patience {
    const fn limit(self) -> Duration {
        match self {
            Self::Request => DB_OPERATION_LIMIT,
            Self::Upkeep => DB_UPKEEP_LIMIT,
        }
    }
}

/// A bounded number of connections, which are kept for whoever comes next.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    options: PgConnectOptions,
    max: u32,
    /// One for each connection that may be open and in use.
    permits: Arc<Semaphore>,
    /// The newest is last and used first.
    idle: parking_lot::Mutex<Vec<Idle>>,
    is_closed: AtomicBool,
}

struct Open {
    connection: PgConnection,
    since: Instant,
}

struct Idle {
    open: Open,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(options: PgConnectOptions, max_connections: u32) -> Self {
        let max = max_connections.max(1);
        Self(Arc::new(Shared {
            options,
            max,
            permits: Arc::new(Semaphore::new(max as usize)),
            idle: parking_lot::Mutex::default(),
            is_closed: AtomicBool::new(false),
        }))
    }

    /// A connection that no one else uses and that has no part in the bound.
    pub(crate) async fn connect_alone(&self) -> Result<PgConnection> {
        let connecting = timeout(DB_ACQUIRE_LIMIT, self.0.options.connect());
        Ok(connecting.await.map_err(|_| no_answer())??)
    }

    /// A connection for one operation, whose time runs from now on.
    pub(crate) async fn acquire(&self, patience: Patience) -> Result<Held> {
        let deadline = Instant::now() + patience.limit();
        let acquiring = timeout(DB_ACQUIRE_LIMIT, self.acquire_until(deadline));
        acquiring.await.map_err(|_| no_answer())?
    }

    async fn acquire_until(&self, deadline: Instant) -> Result<Held> {
        let shared = &self.0;
        let permit = Arc::clone(&shared.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        if shared.is_closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let held = |open| Held {
            open: Some(open),
            is_settled: true,
            is_in_transaction: false,
            deadline,
            shared: Arc::clone(shared),
            _permit: permit,
        };
        let kept = shared.idle.lock().pop();
        if let Some(mut kept) = kept {
            if kept.since.elapsed() < DB_TRUSTED_IDLE {
                return Ok(held(kept.open));
            }
            // The others are kept until it is known whether this one lives.
            let mut suspects = Suspects { shared, is_alive: false };
            if matches!(
                timeout(DB_ACQUIRE_LIMIT / 2, kept.open.connection.ping()).await,
                Ok(Ok(()))
            ) {
                suspects.is_alive = true;
                return Ok(held(kept.open));
            }
        }
        let connection = shared.options.connect().await?;
        Ok(held(Open { connection, since: Instant::now() }))
    }

    /// Waits for operations under way, each of which ends in time, and closes every connection.
    pub(crate) async fn close(&self) {
        let shared = &self.0;
        shared.is_closed.store(true, Ordering::Release);
        // Never closed before, so that this waits for all.
        let _all = shared.permits.acquire_many(shared.max).await;
        shared.permits.close();
        let idle = std::mem::take(&mut *shared.idle.lock());
        for kept in idle {
            let _ = timeout(GOODBYE_LIMIT, kept.open.connection.close()).await;
        }
    }
}

/// Closes all kept connections unless the one that was asked is alive: the same server and the same way lie behind them.
struct Suspects<'a> {
    shared: &'a Shared,
    is_alive: bool,
}

impl Drop for Suspects<'_> {
    fn drop(&mut self) {
        if !self.is_alive {
            self.shared.forget_idle();
        }
    }
}

impl Shared {
    fn forget_idle(&self) {
        // Closing a socket needs no answer; that of a dead one would not come.
        let forgotten = std::mem::take(&mut *self.idle.lock());
        drop(forgotten);
    }

    fn keep(&self, open: Open) {
        let now = Instant::now();
        if self.is_closed.load(Ordering::Acquire) || now - open.since > DB_LIFETIME_MAX {
            return;
        }
        let mut idle = self.idle.lock();
        idle.push(Idle { open, since: now });
        // The bottom of the pile is used when many come at once, or never.
        let fresh = idle.partition_point(|kept| now - kept.since > DB_IDLE_MAX);
        idle.drain(..fresh);
    }
}

/// A connection in use by one operation.
pub(crate) struct Held {
    open: Option<Open>,
    /// Every statement so far was answered.
    is_settled: bool,
    is_in_transaction: bool,
    deadline: Instant,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    /// When its time is over.
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The connection, for a statement whose outcome goes to [`Held::settle`].
    pub(crate) fn begin_statement(&mut self) -> Result<&mut PgConnection> {
        self.is_settled = false;
        self.open.as_mut().map(|open| &mut open.connection).ok_or(StoreError::Closed)
    }

    /// What came of a statement that was waited for until the deadline.
    pub(crate) fn settle<T>(
        &mut self,
        outcome: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T> {
        match outcome {
            Ok(outcome) => {
                self.is_settled = outcome.as_ref().err().is_none_or(is_about_the_statement);
                outcome.map_err(StoreError::from)
            }
            Err(_) => Err(no_answer()),
        }
    }

    async fn say(&mut self, sql: &'static str) -> Result<()> {
        let deadline = self.deadline;
        let connection = self.begin_statement()?;
        let outcome = timeout_at(deadline, connection.execute(sql)).await;
        self.settle(outcome).map(drop)
    }

    /// Begins the transaction of this operation; without [`Held::commit`] nothing of it is stored.
    pub(crate) async fn begin(&mut self, is_relaxed: bool) -> Result<()> {
        self.is_in_transaction = true;
        self.say("BEGIN").await?;
        if is_relaxed {
            self.say("SET LOCAL synchronous_commit = off").await?;
        }
        Ok(())
    }

    /// Commits. When no answer comes, the transaction may have been committed all the same.
    pub(crate) async fn commit(&mut self) -> Result<()> {
        self.say("COMMIT").await?;
        self.is_in_transaction = false;
        Ok(())
    }

    /// Undoes the transaction; a connection that cannot say so is closed, which undoes it too.
    pub(crate) async fn roll_back(&mut self) {
        if self.is_settled && self.say("ROLLBACK").await.is_ok() {
            self.is_in_transaction = false;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        if !self.is_settled {
            drop(open);
            self.shared.forget_idle();
        } else if !self.is_in_transaction {
            self.shared.keep(open);
        }
    }
}

/// False when the connection itself is broken, or the server ends it.
fn is_about_the_statement(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| {
                !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
            })
        }
        _ => false,
    }
}

fn no_answer() -> StoreError {
    StoreError::Unavailable("no answer in time".into())
}

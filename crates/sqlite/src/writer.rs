//! The batching writer: one task owns the only writing connection, takes everything that has queued up, runs it in one
//! transaction, commits once (one fsync), and only then answers all.

use std::panic::AssertUnwindSafe;
use std::path::Path;
#[cfg(feature = "simulation")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::crash::{crash_point, refusal_point};
use crate::database::connect_to;
use crate::{WriteError, settle};

/// Jobs that may wait; a submitter waits for room when there are more.
const QUEUE_JOBS: usize = 1_024;

/// Jobs that share one commit at most, so that nobody waits behind an endless batch.
const BATCH_JOBS: usize = 256;

/// How long a submitter waits for room in the queue before it is told to try later.
const QUEUE_WAIT: Duration = Duration::from_secs(10);

/// What an answered write survives. The end of the process undoes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power failure: the answer comes after the fsync.
    Full,
    /// A power failure may undo the newest of these, in order, never one that a [`Durability::Full`] write followed.
    /// For what repairs itself, such as a claim that runs out.
    Relaxed,
}

/// What a job does with the connection.
pub type JobFuture<'c, T, E> = BoxFuture<'c, Result<T, E>>;

/// Handle of the writer. Cloning is cheap.
#[derive(Clone)]
pub struct BatchWriter {
    jobs: mpsc::Sender<Box<dyn Job>>,
    stop: CancellationToken,
    task: TaskTracker,
}

impl BatchWriter {
    /// Starts the task on a connection; `reconnect` opens another when that one is beyond repair.
    pub(crate) fn start(
        connection: SqliteConnection,
        reconnect: SqliteConnectOptions,
        file: &Path,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS);
        let stop = CancellationToken::new();
        let task = TaskTracker::new();
        let writer = WriterTask {
            queue,
            reconnect,
            connection: Some((connection, Durability::Full)),
            disk: DiskBelow::new(file),
        };
        task.spawn(writer.run(stop.clone()));
        task.close();
        Self { jobs, stop, task }
    }

    /// Runs `job` in a transaction shared with others and answers after the commit. An error of the job undoes the job
    /// alone. The job must not begin, commit or roll back; it should do nothing but SQL, since everyone waits for it.
    ///
    /// # Errors
    /// The job's own error, or a [`WriteError`] when the shared commit failed; then nothing of the job is in the
    /// database.
    ///
    /// # Cancel safety
    /// A job that was queued runs even when the caller no longer waits for it.
    pub async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> JobFuture<'c, T, E> + Send + 'static,
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        self.write_with(Durability::Full, job).await
    }

    /// Like [`BatchWriter::write`], choosing what a power failure may undo. A batch in which nobody asks for
    /// [`Durability::Full`] commits without waiting for the disk.
    ///
    /// # Errors
    /// As for [`BatchWriter::write`].
    ///
    /// # Cancel safety
    /// A job that was queued runs even when the caller no longer waits for it.
    pub async fn write_with<T, E, F>(&self, durability: Durability, job: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> JobFuture<'c, T, E> + Send + 'static,
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let queued = Box::new(QueuedJob { job, durability, answer });
        // Writes begun in an order by one task are queued in that order: `send` alone may make the first of them wait for
        // the runtime though there is room, and let the others pass.
        let sent = match self.jobs.try_send(queued) {
            Err(mpsc::error::TrySendError::Full(queued)) => {
                self.jobs.send_timeout(queued, QUEUE_WAIT).await
            }
            Err(mpsc::error::TrySendError::Closed(queued)) => {
                Err(mpsc::error::SendTimeoutError::Closed(queued))
            }
            Ok(()) => Ok(()),
        };
        match sent {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(WriteError::Unavailable(Arc::from("too many writes wait")).into());
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(WriteError::Closed.into()),
        }
        answered.await.unwrap_or_else(|_| Err(WriteError::Closed.into()))
    }

    /// Jobs that wait for the writer now, for gauges; stale as soon as it is read.
    pub fn queued_jobs(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    /// Refuses new jobs, finishes queued ones, closes the connection.
    pub async fn close(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

/// A job in the queue, its types erased.
trait Job: Send {
    fn run(self: Box<Self>, connection: &mut SqliteConnection) -> BoxFuture<'_, Box<dyn Outcome>>;

    fn durability(&self) -> Durability;

    /// Answers without having run.
    fn refuse(self: Box<Self>, error: WriteError);
}

/// Result of a job that has run and waits for the commit.
trait Outcome: Send {
    fn is_ok(&self) -> bool;

    /// Tells the submitter; a success becomes the error when the commit failed.
    fn answer(self: Box<Self>, commit: Result<(), WriteError>);
}

struct QueuedJob<F, T, E> {
    job: F,
    durability: Durability,
    answer: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Job for QueuedJob<F, T, E>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> JobFuture<'c, T, E> + Send + 'static,
    T: Send + 'static,
    E: From<WriteError> + Send + 'static,
{
    fn run(self: Box<Self>, connection: &mut SqliteConnection) -> BoxFuture<'_, Box<dyn Outcome>> {
        Box::pin(async move {
            let Self { job, answer, .. } = *self;
            let running = AssertUnwindSafe(async move { job(connection).await }).catch_unwind();
            let result = running.await.unwrap_or_else(|_| Err(WriteError::Panicked.into()));
            Box::new(FinishedJob { result, answer }) as Box<dyn Outcome>
        })
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn refuse(self: Box<Self>, error: WriteError) {
        // A submitter that has gone away needs no answer.
        let _ = self.answer.send(Err(error.into()));
    }
}

struct FinishedJob<T, E> {
    result: Result<T, E>,
    answer: oneshot::Sender<Result<T, E>>,
}

impl<T, E> Outcome for FinishedJob<T, E>
where
    T: Send,
    E: From<WriteError> + Send,
{
    fn is_ok(&self) -> bool {
        self.result.is_ok()
    }

    fn answer(self: Box<Self>, commit: Result<(), WriteError>) {
        let result = match (self.result, commit) {
            (Ok(_), Err(error)) => Err(error.into()),
            (result, _) => result,
        };
        // A submitter that has gone away needs no answer.
        let _ = self.answer.send(result);
    }
}

struct WriterTask {
    queue: mpsc::Receiver<Box<dyn Job>>,
    reconnect: SqliteConnectOptions,
    /// With the durability it is set to.
    connection: Option<(SqliteConnection, Durability)>,
    disk: DiskBelow,
}

impl WriterTask {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            // Closing the queue refuses new jobs; those already in it are still received, then `None`.
            let next = tokio::select! {
                biased;
                job = self.queue.recv() => job,
                () = stop.cancelled(), if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
            };
            let Some(first) = next else { break };
            let mut batch = vec![first];
            while batch.len() < BATCH_JOBS {
                let Ok(job) = self.queue.try_recv() else { break };
                batch.push(job);
            }
            self.process(batch).await;
        }
        if let Some((connection, _)) = self.connection.take() {
            use sqlx::Connection as _;
            if let Err(error) = settle(connection.close()).await {
                tracing::warn!(%error, "the database did not close cleanly");
            }
        }
    }

    async fn process(&mut self, batch: Vec<Box<dyn Job>>) {
        let (mut connection, current) = match self.connection.take() {
            Some(open) => open,
            None => match settle(connect_to(&self.reconnect)).await {
                Ok(connection) => (connection, Durability::Full),
                Err(error) => return refuse_all(batch, &error.into()),
            },
        };
        let is_relaxed = batch.iter().all(|job| job.durability() == Durability::Relaxed);
        let wanted = if is_relaxed { Durability::Relaxed } else { Durability::Full };
        let begin = begin_sql((wanted != current).then_some(wanted));
        self.disk.before_commit(wanted).await;
        if self.disk.is_full() {
            self.connection = Some((connection, wanted));
            return refuse_all(batch, &WriteError::Full);
        }
        let ran = settle(run_batch(&mut connection, begin, batch)).await;
        if ran.commit.is_ok() {
            self.disk.committed(wanted);
            self.disk.before_answer().await;
        }
        if ran.health == Health::Sound {
            self.connection = Some((connection, wanted));
        }
        crash_point("commit.after_fsync_before_reply");
        ran.answer();
    }
}

/// Opens a transaction, after setting how long its commit waits when that changes; one text, because each statement is
/// a hand-over to the database's thread and back. In write-ahead mode `FULL` waits for the disk at each commit and
/// `NORMAL` only when the log is copied back; the next `FULL` commit carries earlier ones to the disk with it.
const fn begin_sql(change_to: Option<Durability>) -> &'static str {
    match change_to {
        None => "BEGIN IMMEDIATE",
        Some(Durability::Full) => "PRAGMA synchronous = FULL; BEGIN IMMEDIATE",
        Some(Durability::Relaxed) => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
    }
}

/// Whether a connection can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Sound,
    Broken,
}

/// A batch whose transaction has ended.
struct Ran {
    health: Health,
    commit: Result<(), WriteError>,
    finished: Vec<Box<dyn Outcome>>,
    /// Jobs whose turn did not come because the commit failed before.
    left: Vec<Box<dyn Job>>,
}

impl Ran {
    fn answer(self) {
        for outcome in self.finished {
            outcome.answer(self.commit.clone());
        }
        if let Err(error) = self.commit {
            refuse_all(self.left, &error);
        }
    }
}

/// The disk of a simulation; nothing otherwise.
struct DiskBelow {
    #[cfg(feature = "simulation")]
    simulated: Option<(Arc<dyn crate::simulation::Disk>, PathBuf)>,
}

#[cfg(feature = "simulation")]
impl DiskBelow {
    fn new(file: &Path) -> Self {
        Self { simulated: crate::simulation::disk().map(|disk| (disk, file.to_owned())) }
    }

    async fn before_commit(&self, durability: Durability) {
        if let Some((disk, file)) = &self.simulated {
            disk.before_commit(file, durability).await;
        }
    }

    fn is_full(&self) -> bool {
        self.simulated.as_ref().is_some_and(|(disk, file)| disk.is_full(file))
    }

    fn committed(&self, durability: Durability) {
        if let Some((disk, file)) = &self.simulated {
            disk.committed(file, durability);
        }
    }

    async fn before_answer(&self) {
        if let Some((disk, file)) = &self.simulated {
            disk.before_answer(file).await;
        }
    }
}

#[cfg(not(feature = "simulation"))]
#[expect(clippy::unused_async, clippy::unused_self, reason = "the real disk needs no telling")]
impl DiskBelow {
    const fn new(_file: &Path) -> Self {
        Self {}
    }

    async fn before_commit(&self, _durability: Durability) {}

    const fn is_full(&self) -> bool {
        false
    }

    const fn committed(&self, _durability: Durability) {}

    async fn before_answer(&self) {}
}

fn refuse_all(batch: Vec<Box<dyn Job>>, error: &WriteError) {
    for job in batch {
        job.refuse(error.clone());
    }
}

/// Runs the jobs in one transaction. The answers are given by the caller.
async fn run_batch(
    connection: &mut SqliteConnection,
    begin: &'static str,
    batch: Vec<Box<dyn Job>>,
) -> Ran {
    if let Err(error) = sqlx::query(begin).execute(&mut *connection).await {
        // An unfinished transaction here means that the last rollback did not take.
        let commit = Err(error.into());
        return Ran { health: Health::Broken, commit, finished: Vec::new(), left: batch };
    }
    let is_alone = batch.len() == 1;
    let mut finished = Vec::with_capacity(batch.len());
    let mut jobs = batch.into_iter();
    let mut failure = None;
    for job in jobs.by_ref() {
        // A job that is alone needs no savepoint: its failure rolls the whole transaction back.
        let ran = if is_alone {
            let outcome = job.run(connection).await;
            let verdict = if outcome.is_ok() { Ok(()) } else { Err(WriteError::Closed) };
            (outcome, verdict)
        } else {
            match run_in_savepoint(connection, job).await {
                Ok(ran) => ran,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        };
        let (outcome, verdict) = ran;
        finished.push(outcome);
        if let Err(error) = verdict {
            failure = Some(error);
            break;
        }
    }
    let commit = match failure {
        Some(error) => Err(error),
        None => commit(connection).await,
    };
    let health = if commit.is_err() { roll_back(connection).await } else { Health::Sound };
    Ran { health, commit, finished, left: jobs.collect() }
}

/// Runs one job so that its failure undoes it alone. The inner result is an error when the whole transaction is lost:
/// SQLite ends it by itself on a full disk or an I/O error.
async fn run_in_savepoint(
    connection: &mut SqliteConnection,
    job: Box<dyn Job>,
) -> Result<(Box<dyn Outcome>, Result<(), WriteError>), WriteError> {
    if let Err(error) = sqlx::query("SAVEPOINT job").execute(&mut *connection).await {
        let error = WriteError::from(error);
        job.refuse(error.clone());
        return Err(error);
    }
    let outcome = job.run(connection).await;
    let verdict = if outcome.is_ok() {
        sqlx::query("RELEASE job").execute(&mut *connection).await.map(drop)
    } else {
        match sqlx::query("ROLLBACK TO job").execute(&mut *connection).await {
            Ok(_) => sqlx::query("RELEASE job").execute(&mut *connection).await.map(drop),
            Err(error) => Err(error),
        }
    };
    let verdict = verdict.map_err(|error| match WriteError::from(error) {
        // "no such savepoint": the cause was reported to the job; the others only know that it did not work.
        WriteError::Database(_) => WriteError::Full,
        other => other,
    });
    Ok((outcome, verdict))
}

async fn commit(connection: &mut SqliteConnection) -> Result<(), WriteError> {
    crash_point("commit.before_fsync");
    if refusal_point("commit.refuse") {
        return Err(WriteError::Unavailable(Arc::from("refused by a test")));
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

async fn roll_back(connection: &mut SqliteConnection) -> Health {
    match sqlx::query("ROLLBACK").execute(connection).await {
        Ok(_) => Health::Sound,
        // SQLite had already rolled back by itself: "cannot rollback - no transaction is active".
        Err(sqlx::Error::Database(error)) if error.message().contains("no transaction") => {
            Health::Sound
        }
        Err(error) => {
            tracing::warn!(%error, "rollback failed, opening another connection");
            Health::Broken
        }
    }
}

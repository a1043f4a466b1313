//! The durable queue of messages on their way to a broker (daemon spec §11). A row is on disk before the sender hears
//! of it; it leaves only by the broker's answer, its age, or an operator.

mod claim;
mod import;
pub mod list;
pub mod operator;
mod receipts;
mod row;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use claudemesh_ipc::api::{BrokerAnswer, OutboxItem};
use claudemesh_protocol::{PublicKey, Timestamp};
use claudemesh_sqlite::{Database, Migration};
use parking_lot::Mutex;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::Notify;

pub use claim::ClaimFrom;
pub(crate) use claim::RETRY_HORIZON;
pub use receipts::Recorded;
pub use row::{Done, ExistingRow, NewRow, OutboundRow, SealedBody};

use crate::storage::{self, Causes, Columns as _, StorageError, UnusableDatabase};

/// Schema steps.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("0001_outbox.sql", include_str!("outbox/schema.sql")),
    Migration::new("0002_answer.sql", include_str!("outbox/answer.sql")),
    Migration::new("0003_sealed_by.sql", include_str!("outbox/sealed_by.sql")),
];

/// Wait before a row that was in flight at a crash is sent again (daemon spec §11.6).
const RECOVERY_DELAY: Duration = Duration::from_millis(500);

/// Answer of [`Outbox::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The row is on disk.
    Inserted,
    /// A row of this id was there; nothing changed.
    Existing(Box<ExistingRow>),
}

/// How many rows of a mesh are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Waiting.
    pub pending: u64,
    /// Written, unanswered.
    pub inflight: u64,
    /// Given up.
    pub dead: u64,
}

/// The outbox. Cloning is cheap.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

struct Shared {
    db: Database,
    /// Rows pending or in flight, so that no accept has to count them.
    open_rows: AtomicI64,
    wakers: Mutex<HashMap<String, Arc<Notify>>>,
    /// The last write found no space.
    has_no_space: AtomicBool,
}

impl Outbox {
    /// Opens the database and puts what was in flight at a crash back into the queue.
    ///
    /// # Errors
    /// [`UnusableDatabase`].
    pub async fn open(
        path: &Path,
        max_pages: Option<u32>,
        now: Timestamp,
    ) -> Result<Self, UnusableDatabase> {
        storage::refuse_link(path)?;
        let aside = claudemesh_sqlite::settle(import::set_aside(path)).await;
        aside.map_err(|error| UnusableDatabase::Corrupt {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let db = storage::open(path, MIGRATIONS, max_pages).await?;
        let shared = Shared {
            db,
            open_rows: AtomicI64::new(0),
            wakers: Mutex::default(),
            has_no_space: AtomicBool::new(false),
        };
        let outbox = Self { shared: Arc::new(shared) };
        if let Err(error) = outbox.recover(now).await {
            outbox.close().await;
            return Err(UnusableDatabase::Corrupt {
                path: path.to_owned(),
                reason: Causes(&error).to_string(),
            });
        }
        Ok(outbox)
    }

    async fn recover(&self, now: Timestamp) -> Result<(), StorageError> {
        import::run(&self.shared.db).await?;
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM outbox WHERE status IN ('pending','inflight')",
        )
        .fetch_one(self.shared.db.reader())
        .await?;
        self.shared.open_rows.store(waiting, Ordering::Relaxed);
        let next_attempt_at = now.plus(RECOVERY_DELAY).as_millis();
        let recovered = self
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "UPDATE outbox SET status='pending', attempts=attempts+1, \
                               next_attempt_at=$1 WHERE status='inflight'";
                    let done = sqlx::query(sql).bind(next_attempt_at).execute(conn).await?;
                    Ok(done.rows_affected())
                })
            })
            .await;
        match recovered {
            Ok(0) => Ok(()),
            Ok(rows) => {
                tracing::info!(rows, "outbox_recovered");
                Ok(())
            }
            // A full disk must not keep the daemon from starting: reading, and draining, are what makes room.
            Err(StorageError::Full) => {
                tracing::warn!("outbox_recovery_postponed: no space is left");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The row of an id, for phase 2 of the accept algorithm.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn find(&self, client_message_id: &str) -> Result<Option<ExistingRow>, StorageError> {
        let row = sqlx::query(FIND)
            .bind(client_message_id)
            .fetch_optional(self.shared.db.reader())
            .await?;
        Ok(row.as_ref().map(row::existing).transpose()?)
    }

    /// Inserts unless the id is taken; answers after the commit (daemon spec §10.4 step 4).
    ///
    /// # Errors
    /// [`StorageError`]; the id is then not used up.
    pub async fn accept(&self, new: NewRow) -> Result<Accepted, StorageError> {
        let mesh = new.mesh.clone();
        claudemesh_sqlite::crash_point("accept.before_commit");
        let accepted = self.write(move |conn| Box::pin(insert(conn, new))).await?;
        claudemesh_sqlite::crash_point("accept.after_commit_before_reply");
        if accepted == Accepted::Inserted {
            self.joined_the_queue();
            self.wake(&mesh).notify_one();
        }
        Ok(accepted)
    }

    /// The broker has it: the row is done.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn done(&self, id: &str, done: Done, now: Timestamp) -> Result<(), StorageError> {
        let id = id.to_owned();
        let changed = self.write(move |conn| Box::pin(finish(conn, id, done, now))).await?;
        self.left_the_queue(changed);
        Ok(())
    }

    /// A transient failure: back into the queue until `next_attempt_at`, one attempt more.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn retry(
        &self,
        id: &str,
        next_attempt_at: Timestamp,
        code: &str,
        text: &str,
    ) -> Result<(), StorageError> {
        let (id, code, text) = (id.to_owned(), code.to_owned(), text.to_owned());
        let sql = "UPDATE outbox SET status='pending', attempts=attempts+1, next_attempt_at=$2, \
                   last_error_code=$3, last_error=$4 WHERE id=$1 AND status='inflight' RETURNING mesh";
        let at = next_attempt_at.as_millis();
        let mesh: Option<String> = self
            .write(move |conn| {
                Box::pin(async move {
                    let query = sqlx::query_scalar(sql).bind(id).bind(at).bind(code).bind(text);
                    Ok(query.fetch_optional(conn).await?)
                })
            })
            .await?;
        self.wake_option(mesh.as_deref());
        Ok(())
    }

    /// Rows that were claimed and not written, because the connection went away: back without counting an attempt.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn release(&self, ids: &[String]) -> Result<(), StorageError> {
        let ids = serde_json::to_string(ids).unwrap_or_default();
        let sql = "UPDATE outbox SET status='pending' \
                   WHERE status='inflight' AND id IN (SELECT value FROM json_each($1)) RETURNING mesh";
        let meshes: Vec<String> = self
            .write(move |conn| {
                Box::pin(
                    async move { Ok(sqlx::query_scalar(sql).bind(ids).fetch_all(conn).await?) },
                )
            })
            .await?;
        for mesh in meshes {
            self.wake(&mesh).notify_one();
        }
        Ok(())
    }

    /// Another sealed form of the same message, asked for by the broker: back into the queue at once.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn reseal(
        &self,
        id: &str,
        body: SealedBody,
        code: &str,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let (id, code) = (id.to_owned(), code.to_owned());
        let sql = "UPDATE outbox SET status='pending', attempts=attempts+1, next_attempt_at=$2, nonce=$3, \
                   ciphertext=$4, body_version=$5, content_key=$6, key_epoch=$7, last_error_code=$8, sealed_by=$9 \
                   WHERE id=$1 AND status='inflight' RETURNING mesh";
        let mesh: Option<String> = self
            .write(move |conn| {
                Box::pin(async move {
                    let query = sqlx::query_scalar(sql)
                        .bind(id)
                        .bind(now.as_millis())
                        .bind(body.nonce)
                        .bind(body.ciphertext)
                        .bind(i64::from(body.body_version))
                        .bind(body.content_key.as_deref().map(Vec::as_slice).map(<[u8]>::to_vec))
                        .bind(body.key_epoch.map(i64::from))
                        .bind(code)
                        .bind(body.sealed_by.map(PublicKey::to_hex));
                    Ok(query.fetch_optional(conn).await?)
                })
            })
            .await?;
        self.wake_option(mesh.as_deref());
        Ok(())
    }

    /// The same direct message, sealed by the key that its sender has now; it stays in flight. The id and the fingerprint stay,
    /// so that a broker that has the older form knows it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn rekeyed(&self, id: &str, body: &SealedBody) -> Result<(), StorageError> {
        let sql = "UPDATE outbox SET nonce=$2, ciphertext=$3, sealed_by=$4 \
                   WHERE id=$1 AND status='inflight'";
        let (id, body) = (id.to_owned(), body.clone());
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(sql)
                    .bind(id)
                    .bind(body.nonce)
                    .bind(body.ciphertext)
                    .bind(body.sealed_by.map(PublicKey::to_hex))
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The connection of a sender is open again: what failed because the last one broke, or died without a word, waits no
    /// longer. The connection itself has waited, and what the broker answered keeps its time.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn reconnected(
        &self,
        mesh: &str,
        sender: Option<PublicKey>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let sql = "UPDATE outbox SET next_attempt_at=$3 WHERE mesh=$1 AND status='pending' \
                   AND next_attempt_at>$3 AND sender_session_pubkey IS $2 \
                   AND last_error_code IN ('broker_disconnected','ack_timeout')";
        let (slug, sender) = (mesh.to_owned(), sender.map(PublicKey::to_hex));
        let due = self
            .write(move |conn| {
                Box::pin(async move {
                    let query = sqlx::query(sql).bind(slug).bind(sender).bind(now.as_millis());
                    Ok(query.execute(conn).await?.rows_affected())
                })
            })
            .await?;
        if due > 0 {
            self.wake(mesh).notify_one();
        }
        Ok(())
    }

    /// A permanent failure. Answers the row, for the event.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn dead(
        &self,
        id: &str,
        code: &str,
        text: &str,
    ) -> Result<Option<OutboxItem>, StorageError> {
        let mut rows =
            self.kill("id=$3 AND status IN ('pending','inflight')", id, code, text).await?;
        Ok(rows.pop())
    }

    /// Gives up the waiting rows of a mesh whose time has passed; they are never sent afterwards.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn expire(
        &self,
        mesh: &str,
        now: Timestamp,
    ) -> Result<Vec<OutboxItem>, StorageError> {
        let condition = format!("mesh=$3 AND status='pending' AND expires_at<={}", now.as_millis());
        self.kill(&condition, mesh, "max_age_exceeded", "not delivered within its time").await
    }

    /// Gives up everything of a mesh that was left (daemon spec §1.3).
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn mesh_left(&self, mesh: &str) -> Result<Vec<OutboxItem>, StorageError> {
        let condition = "mesh=$3 AND status IN ('pending','inflight')";
        self.kill(condition, mesh, "mesh_left", "this mesh was left").await
    }

    /// The sessions that have waiting rows in a mesh.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn waiting_senders(&self, mesh: &str) -> Result<Vec<PublicKey>, StorageError> {
        let sql = "SELECT DISTINCT sender_session_pubkey FROM outbox WHERE mesh=$1 \
                   AND status IN ('pending','inflight') AND sender_session_pubkey IS NOT NULL";
        let rows = sqlx::query(sql).bind(mesh).fetch_all(self.shared.db.reader()).await?;
        Ok(rows.iter().map(|row| row.parsed("sender_session_pubkey")).collect::<Result<_, _>>()?)
    }

    /// Gives up the waiting rows of a session that cannot come back (daemon spec §11.3).
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn dead_sender(
        &self,
        mesh: &str,
        key: &PublicKey,
        code: &str,
        text: &str,
    ) -> Result<Vec<OutboxItem>, StorageError> {
        // A key in hexadecimal needs no quoting.
        let condition =
            format!("mesh=$3 AND status='pending' AND sender_session_pubkey='{}'", key.to_hex());
        self.kill(&condition, mesh, code, text).await
    }

    async fn kill(
        &self,
        condition: &str,
        subject: &str,
        code: &str,
        text: &str,
    ) -> Result<Vec<OutboxItem>, StorageError> {
        let sql = format!(
            "UPDATE outbox SET status='dead', last_error_code=$1, last_error=$2 WHERE {condition} \
             RETURNING {}",
            row::ITEM_COLUMNS
        );
        let (subject, code, text) = (subject.to_owned(), code.to_owned(), text.to_owned());
        let rows = self
            .write(move |conn| {
                Box::pin(async move {
                    let query =
                        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(code).bind(text).bind(subject);
                    let rows = query.fetch_all(conn).await?;
                    Ok(rows.iter().map(row::item).collect::<Result<Vec<_>, _>>()?)
                })
            })
            .await?;
        self.left_the_queue(rows.len() as u64);
        Ok(rows)
    }

    /// Rows of a mesh by state, for health.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn counts(&self, mesh: &str) -> Result<Counts, StorageError> {
        let sql = "SELECT status, count(*) AS n FROM outbox \
                   WHERE mesh=$1 AND status IN ('pending','inflight','dead') GROUP BY status";
        let mut counts = Counts::default();
        for row in sqlx::query(sql).bind(mesh).fetch_all(self.shared.db.reader()).await? {
            let rows: u64 = row.unsigned("n")?;
            match row.column::<&str>("status")? {
                "pending" => counts.pending = rows,
                "inflight" => counts.inflight = rows,
                _ => counts.dead = rows,
            }
        }
        Ok(counts)
    }

    /// When the oldest waiting row of a mesh was accepted.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn oldest_pending(&self, mesh: &str) -> Result<Option<Timestamp>, StorageError> {
        let sql = "SELECT min(enqueued_at) FROM outbox WHERE mesh=$1 AND status='pending'";
        let oldest: Option<i64> =
            sqlx::query_scalar(sql).bind(mesh).fetch_one(self.shared.db.reader()).await?;
        Ok(oldest.map(Timestamp::from_millis))
    }

    /// Rows pending or in flight, over all meshes.
    pub fn open_rows(&self) -> u64 {
        u64::try_from(self.shared.open_rows.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The last write, of whatever kind, found no space.
    pub fn has_no_space(&self) -> bool {
        self.shared.has_no_space.load(Ordering::Relaxed)
    }

    /// Notified once for every commit that made a row of the mesh wait.
    pub fn wake(&self, mesh: &str) -> Arc<Notify> {
        Arc::clone(self.shared.wakers.lock().entry(mesh.to_owned()).or_default())
    }

    /// The database, for size measurements.
    pub fn database(&self) -> &Database {
        &self.shared.db
    }

    /// Finishes what was submitted and closes the database.
    pub async fn close(&self) {
        self.shared.db.close().await;
    }

    async fn write<T, F>(&self, job: F) -> Result<T, StorageError>
    where
        F: for<'c> FnOnce(
                &'c mut SqliteConnection,
            ) -> claudemesh_sqlite::JobFuture<'c, T, StorageError>
            + Send
            + 'static,
        T: Send + 'static,
    {
        let written = self.shared.db.write(job).await;
        let has_no_space = matches!(written, Err(StorageError::Full));
        if has_no_space || written.is_ok() {
            self.shared.has_no_space.store(has_no_space, Ordering::Relaxed);
        }
        written
    }

    fn joined_the_queue(&self) {
        self.shared.open_rows.fetch_add(1, Ordering::Relaxed);
    }

    fn left_the_queue(&self, rows: u64) {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        self.shared.open_rows.fetch_sub(rows, Ordering::Relaxed);
    }

    fn wake_option(&self, mesh: Option<&str>) {
        if let Some(mesh) = mesh {
            self.wake(mesh).notify_one();
        }
    }
}

const FIND: &str = "SELECT status, request_fingerprint, mesh, to_raw, destination_kind, target_spec, \
                    sender_session_pubkey, broker_message_id, history_id, reply_to_id, last_error \
                    FROM outbox WHERE client_message_id=$1";

async fn finish(
    conn: &mut SqliteConnection,
    id: String,
    done: Done,
    now: Timestamp,
) -> Result<u64, StorageError> {
    receipts::settle(conn, &id, done.broker_message_id.as_deref()).await?;
    let answer = (done.answer != BrokerAnswer::default())
        .then(|| serde_json::to_string(&done.answer).unwrap_or_default());
    let sql = "UPDATE outbox SET status='done', delivered_at=$2, broker_message_id=$3, \
               history_id=$4, transport=$5, answer=$6, attempts=attempts+1, last_error=NULL, \
               last_error_code=NULL WHERE id=$1 AND status='inflight'";
    let ran = sqlx::query(sql)
        .bind(id)
        .bind(now.as_millis())
        .bind(done.broker_message_id)
        .bind(done.history_id)
        .bind(done.transport)
        .bind(answer)
        .execute(conn)
        .await?;
    Ok(ran.rows_affected())
}

async fn insert(conn: &mut SqliteConnection, new: NewRow) -> Result<Accepted, StorageError> {
    let found = sqlx::query(FIND).bind(&new.client_message_id).fetch_optional(&mut *conn).await?;
    if let Some(row) = found {
        return Ok(Accepted::Existing(Box::new(row::existing(&row)?)));
    }
    insert_row(conn, &crate::ids::next(), &new).await?;
    Ok(Accepted::Inserted)
}

async fn insert_row(
    conn: &mut SqliteConnection,
    id: &str,
    new: &NewRow,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO outbox (id, client_message_id, request_fingerprint, mesh, to_raw, \
               destination_kind, target_spec, channel, priority, payload, meta, reply_to_id, mentions, \
               nonce, ciphertext, body_version, content_key, key_epoch, sender_session_pubkey, hops, \
               enqueued_at, expires_at, next_attempt_at, status, sealed_by) \
               VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,\
               $21,'pending',$23)";
    let mentions = (!new.mentions.is_empty())
        .then(|| serde_json::to_string(&new.mentions).unwrap_or_default());
    let content_key: Option<&[u8]> = new.body.content_key.as_deref().map(Vec::as_slice);
    sqlx::query(sql)
        .bind(id)
        .bind(&new.client_message_id)
        .bind(new.fingerprint.as_bytes().as_slice())
        .bind(&new.mesh)
        .bind(&new.to_raw)
        .bind(new.destination_kind.as_str())
        .bind(new.target_spec.to_string())
        .bind(new.channel)
        .bind(new.priority.as_str())
        .bind(new.payload.as_slice())
        .bind(&new.meta)
        .bind(&new.reply_to_id)
        .bind(mentions)
        .bind(&new.body.nonce)
        .bind(&new.body.ciphertext)
        .bind(i64::from(new.body.body_version))
        .bind(content_key)
        .bind(new.body.key_epoch.map(i64::from))
        .bind(new.sender_session_pubkey.map(PublicKey::to_hex))
        .bind(i64::from(new.hops))
        .bind(new.enqueued_at.as_millis())
        .bind(new.expires_at.as_millis())
        .bind(new.body.sealed_by.map(PublicKey::to_hex))
        .execute(conn)
        .await?;
    Ok(())
}

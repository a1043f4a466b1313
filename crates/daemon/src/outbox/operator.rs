//! What an operator can do about rows: put one back into the queue under a new id, drop one, take the text out of old
//! ones (daemon spec §11.7, §11.8). Rows are never deleted.

use std::time::Duration;

use claudemesh_ipc::api::{OutboxItem, RowStatus};
use claudemesh_protocol::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::{NewRow, OutboundRow, Outbox, insert_row, row};
use crate::storage::StorageError;

/// Age at which a row that is done loses its text (daemon spec §11.7).
pub const COMPACT_AFTER: Duration = Duration::from_hours(30 * 24);
/// Rows compacted in one transaction, so that no sender waits long for the writer.
const COMPACT_ROWS: i64 = 500;

/// Why a row was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untouched {
    /// There is no such row.
    NoSuchRow,
    /// It is on its way to the broker.
    InFlight,
    /// It is done or aborted.
    Finished(RowStatus),
    /// The id for the new message is used.
    IdTaken,
}

/// Whether a row in flight may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// No: its answer may come.
    Kept,
    /// Yes: the operator says so, and the message may arrive twice.
    Replaced,
}

/// What compaction freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Rows.
    pub rows: u64,
    /// Bytes of texts and ciphertexts.
    pub bytes: u64,
}

impl Outbox {
    /// One row with everything that is needed to send it anew; `id` is its row id.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn stored(&self, id: &str) -> Result<Option<(RowStatus, OutboundRow)>, StorageError> {
        let found = sqlx::query("SELECT * FROM outbox WHERE id=$1")
            .bind(id)
            .fetch_optional(self.shared.db.reader())
            .await?;
        let read = |found: &_| Ok::<_, sqlx::Error>((row::status(found)?, row::outbound(found)?));
        Ok(found.as_ref().map(read).transpose()?)
    }

    /// The ids of the rows that took each other's place, of which `id` is one, oldest first.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn chain(&self, id: &str) -> Result<Vec<String>, StorageError> {
        // `UNION`, not `UNION ALL`: whatever stands in the rows, it ends.
        let sql = "WITH RECURSIVE chain(id) AS ( \
                     SELECT $1 \
                     UNION SELECT outbox.superseded_by FROM chain JOIN outbox ON outbox.id=chain.id \
                       WHERE outbox.superseded_by IS NOT NULL \
                     UNION SELECT outbox.id FROM chain JOIN outbox \
                       ON outbox.status='aborted' AND outbox.superseded_by=chain.id \
                   ) SELECT outbox.id FROM chain JOIN outbox ON outbox.id=chain.id ORDER BY outbox.seq";
        Ok(sqlx::query_scalar(sql).bind(id).fetch_all(self.shared.db.reader()).await?)
    }

    /// Replaces a row that is pending or dead by `new`: the old one is aborted, the new one waits, in one transaction.
    /// Answers the id of the new row after the commit.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn requeue(
        &self,
        id: &str,
        in_flight: InFlight,
        aborted_by: &str,
        new: NewRow,
    ) -> Result<Result<String, Untouched>, StorageError> {
        let (id, aborted_by) = (id.to_owned(), aborted_by.to_owned());
        let mesh = new.mesh.clone();
        let replaced =
            self.write(move |conn| Box::pin(replace(conn, id, in_flight, aborted_by, new))).await?;
        Ok(replaced.map(|(new_id, was_open)| {
            if !was_open {
                self.joined_the_queue();
            }
            self.wake(&mesh).notify_one();
            new_id
        }))
    }

    /// Gives up a row that is pending or dead for good, without successor. Answers it after the commit.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn drop_row(
        &self,
        id: &str,
        now: Timestamp,
    ) -> Result<Result<OutboxItem, Untouched>, StorageError> {
        let id = id.to_owned();
        let dropped = self.write(move |conn| Box::pin(abort(conn, id, now))).await?;
        Ok(dropped.map(|(item, was_open)| {
            if was_open {
                self.left_the_queue(1);
            }
            self.wake(&item.mesh).notify_one();
            item
        }))
    }

    /// Gives up everything of a mesh that waits: another machine has the same rows, and sends them. Answers how many.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn abort_mesh(
        &self,
        mesh: &str,
        by: &str,
        now: Timestamp,
    ) -> Result<u64, StorageError> {
        let sql = "UPDATE outbox SET status='aborted', aborted_at=$3, aborted_by=$2 \
                   WHERE mesh=$1 AND status IN ('pending','inflight')";
        let (mesh, by) = (mesh.to_owned(), by.to_owned());
        let aborted = self
            .write(move |conn| {
                Box::pin(async move {
                    let query = sqlx::query(sql).bind(mesh).bind(by).bind(now.as_millis());
                    Ok(query.execute(conn).await?.rows_affected())
                })
            })
            .await?;
        self.left_the_queue(aborted);
        Ok(aborted)
    }

    /// Takes the text out of rows that have been done for `older_than`; what proves that an id was used stays for ever.
    ///
    /// # Errors
    /// [`StorageError`]; what was compacted before it stays so.
    pub async fn compact(
        &self,
        older_than: Duration,
        now: Timestamp,
    ) -> Result<Compacted, StorageError> {
        let before = now.minus(older_than).as_millis();
        let mut total = Compacted::default();
        loop {
            let part = self.write(move |conn| Box::pin(compact_some(conn, before))).await?;
            total.rows += part.rows;
            total.bytes += part.bytes;
            if part.rows == 0 {
                return Ok(total);
            }
            claudemesh_sqlite::crash_point("prune.mid");
        }
    }
}

async fn status_of(
    conn: &mut SqliteConnection,
    id: &str,
) -> Result<Option<RowStatus>, StorageError> {
    let found =
        sqlx::query("SELECT status FROM outbox WHERE id=$1").bind(id).fetch_optional(conn).await?;
    Ok(found.as_ref().map(row::status).transpose()?)
}

fn judged(status: Option<RowStatus>, in_flight: InFlight) -> Result<RowStatus, Untouched> {
    match status {
        None => Err(Untouched::NoSuchRow),
        Some(RowStatus::Inflight) if in_flight == InFlight::Kept => Err(Untouched::InFlight),
        Some(status @ (RowStatus::Done | RowStatus::Aborted)) => Err(Untouched::Finished(status)),
        Some(status) => Ok(status),
    }
}

type Replaced = Result<(String, bool), Untouched>;

async fn replace(
    conn: &mut SqliteConnection,
    id: String,
    in_flight: InFlight,
    aborted_by: String,
    new: NewRow,
) -> Result<Replaced, StorageError> {
    let status = match judged(status_of(conn, &id).await?, in_flight) {
        Ok(status) => status,
        Err(untouched) => return Ok(Err(untouched)),
    };
    let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE client_message_id=$1")
        .bind(&new.client_message_id)
        .fetch_one(&mut *conn)
        .await?;
    if taken > 0 {
        return Ok(Err(Untouched::IdTaken));
    }
    let new_id = crate::ids::next();
    let sql = "UPDATE outbox SET status='aborted', aborted_at=$2, aborted_by=$3, superseded_by=$4 \
               WHERE id=$1";
    sqlx::query(sql)
        .bind(&id)
        .bind(new.enqueued_at.as_millis())
        .bind(aborted_by)
        .bind(&new_id)
        .execute(&mut *conn)
        .await?;
    claudemesh_sqlite::crash_point("requeue.mid_tx");
    insert_row(conn, &new_id, &new).await?;
    Ok(Ok((new_id, is_open(status))))
}

async fn abort(
    conn: &mut SqliteConnection,
    id: String,
    now: Timestamp,
) -> Result<Result<(OutboxItem, bool), Untouched>, StorageError> {
    let status = match judged(status_of(conn, &id).await?, InFlight::Kept) {
        Ok(status) => status,
        Err(untouched) => return Ok(Err(untouched)),
    };
    let sql = format!(
        "UPDATE outbox SET status='aborted', aborted_at=$2, aborted_by='operator' WHERE id=$1 \
         RETURNING {}",
        row::ITEM_COLUMNS
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(id)
        .bind(now.as_millis())
        .fetch_one(conn)
        .await?;
    Ok(Ok((row::item(&row)?, is_open(status))))
}

async fn compact_some(conn: &mut SqliteConnection, before: i64) -> Result<Compacted, StorageError> {
    let sql = "SELECT seq, length(payload) + length(ciphertext) + coalesce(length(meta), 0) \
                 + coalesce(length(content_key), 0) AS bytes FROM outbox \
               WHERE status='done' AND ciphertext<>'' AND delivered_at<$1 \
               ORDER BY delivered_at, seq LIMIT $2";
    let rows = sqlx::query(sql).bind(before).bind(COMPACT_ROWS).fetch_all(&mut *conn).await?;
    let mut part = Compacted::default();
    for row in &rows {
        let bytes: i64 = row.try_get("bytes")?;
        part.rows += 1;
        part.bytes += u64::try_from(bytes).unwrap_or(0);
        let sql = "UPDATE outbox SET payload=x'', ciphertext='', meta=NULL, content_key=NULL \
                   WHERE seq=$1";
        sqlx::query(sql).bind(row.try_get::<i64, _>("seq")?).execute(&mut *conn).await?;
    }
    Ok(part)
}

const fn is_open(status: RowStatus) -> bool {
    matches!(status, RowStatus::Pending | RowStatus::Inflight)
}

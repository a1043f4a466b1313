//! What agents' own records prove about messages, and how far those records were read: in one transaction, so that no
//! death parts the one from the other (daemon spec §10.7, agents spec §1.8).

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::wire::ReceiptState;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{Inbox, SessionScope, Subject};
use crate::storage::{Columns as _, StorageError, decode_error};

/// How often a message is handed to one session at most: a record whose way of telling has changed shows nothing, however
/// often it is tried.
const HANDINGS_MAX: i64 = 3;
/// Messages that are handed again at once.
const TAKEN_BACK_MAX: i64 = 20;
/// Records of sessions that may be read on.
const RECORDS_MAX: i64 = 10_000;

/// The rows of a message with this id, and its copies to other own keys. Frames show the id of the row, or the broker's;
/// where there is none, the sender's.
const ROWS_OF: &str = "SELECT o.seq FROM inbox i CROSS JOIN inbox o \
    ON o.client_message_id=i.client_message_id AND +o.mesh=i.mesh AND +o.sender_pubkey=i.sender_pubkey \
    WHERE i.seq IN (SELECT seq FROM inbox WHERE id=$2 UNION ALL SELECT seq FROM inbox WHERE broker_message_id=$2 \
    UNION ALL SELECT seq FROM inbox WHERE client_message_id=$2 AND broker_message_id IS NULL)";

/// Binds the parameters of [`LOST`].
macro_rules! bind_lost {
    ($query:expr, $session:expr, $before:expr, $entered:expr) => {
        $query
            .bind($session.session_id.clone())
            .bind($before.as_millis())
            .bind(HANDINGS_MAX)
            .bind($session.mesh.clone())
            .bind($session.key.map(claudemesh_protocol::PublicKey::to_hex).unwrap_or_default())
            .bind($session.member_key.to_hex())
            .bind($entered)
    };
}

/// What a record shows about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Id as the frame shows it.
    pub id: String,
    /// [`ReceiptState::InContext`] or [`ReceiptState::TurnEnded`].
    pub state: ReceiptState,
    /// Where that stands, for people.
    pub evidence: String,
}

/// What is proved about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// Mesh slug; empty unless it is news.
    pub mesh: String,
    /// What the receipt is about; `None` for a message without a broker id.
    pub subject: Option<Subject>,
    /// What is proved.
    pub state: ReceiptState,
    /// The way it took to this session.
    pub path: String,
    /// Where that stands.
    pub evidence: String,
    /// No session had proved it before.
    pub is_news: bool,
}

/// A place in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// Device of the file.
    pub device: u64,
    /// Number of the file on it.
    pub inode: u64,
    /// Bytes before the place.
    pub offset: u64,
    /// SHA-256 of the last of them.
    pub anchor: [u8; 32],
}

/// How far the record of a session was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRead {
    /// UUID of the agent session.
    pub session_id: String,
    /// Where the record lies.
    pub path: String,
    /// The agent's word for its form.
    pub format: String,
    /// Up to where.
    pub place: RecordPlace,
    /// When.
    pub read_at: Timestamp,
}

impl Inbox {
    /// Notes what the record of a session shows, and how far it was read: after this, what a restart says is the same.
    /// Answers what is proved of which rows, and what was said of messages that this session was never handed.
    ///
    /// # Errors
    /// [`StorageError`]; nothing is noted then.
    pub async fn prove(
        &self,
        session_id: &str,
        proofs: Vec<Proof>,
        read: Option<RecordRead>,
        now: Timestamp,
    ) -> Result<(Vec<Proved>, Vec<Proof>), StorageError> {
        let session_id = session_id.to_owned();
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let (mut proved, mut unknown) = (Vec::new(), Vec::new());
                    for proof in proofs {
                        if !prove(conn, &session_id, &proof, now, &mut proved).await? {
                            unknown.push(proof);
                        }
                    }
                    if let Some(read) = read {
                        note_read(conn, read).await?;
                    }
                    Ok((proved, unknown))
                })
            })
            .await
    }

    /// How far records were read, of each session the one that was read last.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn records(&self) -> Result<Vec<RecordRead>, StorageError> {
        // The columns beside a maximum are those of its row.
        let sql = "SELECT session_id, path, format, device, inode, read_offset, anchor, max(read_at) AS read_at \
                   FROM inbox_record GROUP BY session_id ORDER BY 8 DESC LIMIT $1";
        let rows = sqlx::query(sql).bind(RECORDS_MAX).fetch_all(self.db.reader()).await?;
        Ok(rows.iter().map(record).collect::<Result<_, _>>()?)
    }

    /// How far this record of a session was read.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn record(
        &self,
        session_id: &str,
        path: &str,
    ) -> Result<Option<RecordRead>, StorageError> {
        let sql = "SELECT * FROM inbox_record WHERE session_id=$1 AND path=$2";
        let row =
            sqlx::query(sql).bind(session_id).bind(path).fetch_optional(self.db.reader()).await?;
        Ok(row.as_ref().map(record).transpose()?)
    }

    /// Forgets records that nobody has read since then.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn forget_records(&self, before: Timestamp) -> Result<(), StorageError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM inbox_record WHERE read_at<$1)";
        let are_there = sqlx::query_scalar(sql).bind(before.as_millis());
        let are_there: bool = are_there.fetch_one(self.db.reader()).await?;
        if !are_there {
            return Ok(());
        }
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "DELETE FROM inbox_record WHERE read_at<$1";
                    sqlx::query(sql).bind(before.as_millis()).execute(conn).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Ids of the messages that are before the agent of this session in a turn that goes on.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn open_turn(&self, session_id: &str) -> Result<Vec<String>, StorageError> {
        let sql = "SELECT i.id FROM inbox_evidence e JOIN inbox i ON i.seq=e.inbox_seq \
                   WHERE e.session_id=$1 AND e.context_at IS NOT NULL AND e.turn_ended_at IS NULL \
                   ORDER BY i.seq DESC LIMIT 1000";
        Ok(sqlx::query_scalar(sql).bind(session_id).fetch_all(self.db.reader()).await?)
    }

    /// True when the session was handed anything before that time.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn was_handed(
        &self,
        session_id: &str,
        before: Timestamp,
    ) -> Result<bool, StorageError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM inbox_evidence WHERE session_id=$1 AND handed_at<$2 \
                   AND context_at IS NULL) \
                   OR EXISTS (SELECT 1 FROM inbox_evidence WHERE session_id=$1 AND context_at IS NOT NULL \
                   AND turn_ended_at IS NULL)";
        let found = sqlx::query_scalar(sql).bind(session_id).bind(before.as_millis());
        Ok(found.fetch_one(self.db.reader()).await?)
    }

    /// True when something that a hook took before that time is not in context.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn may_be_lost(
        &self,
        session: &SessionScope,
        before: Timestamp,
    ) -> Result<bool, StorageError> {
        let sql = format!("SELECT EXISTS ({LOST})");
        let found = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
        let found = bind_lost!(found, session, before, "[]");
        Ok(found.fetch_one(self.db.reader()).await?)
    }

    /// What a hook took before that time, and what is not in context nor in `entered`, waits for the session again: the
    /// hook died between our answer and its own. Answers how many.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn take_back(
        &self,
        session: &SessionScope,
        before: Timestamp,
        entered: Vec<String>,
    ) -> Result<usize, StorageError> {
        let session = session.clone();
        let taken = self
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let entered = serde_json::to_string(&entered).unwrap_or_default();
                    let sql = format!("{LOST} ORDER BY e.inbox_seq LIMIT {TAKEN_BACK_MAX}");
                    let lost = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
                    let lost = bind_lost!(lost, session, before, entered);
                    let lost: Vec<i64> = lost.fetch_all(&mut *conn).await?;
                    if !lost.is_empty() {
                        unsee(conn, &session.session_id, &lost).await?;
                    }
                    Ok::<_, StorageError>(lost.len())
                })
            })
            .await?;
        if taken > 0 {
            self.events.touch();
        }
        Ok(taken)
    }
}

/// Rows that a hook took and that did not arrive. The session still has them as seen: what waits already waits.
const LOST: &str = "SELECT e.inbox_seq FROM inbox_evidence e JOIN inbox i ON i.seq=e.inbox_seq \
    LEFT JOIN inbox_session s ON s.inbox_seq=e.inbox_seq AND s.session_id=e.session_id \
    WHERE e.session_id=$1 AND e.context_at IS NULL AND e.handed_at<$2 AND e.handed_path LIKE 'hook:%' \
    AND e.handings<$3 AND i.mesh=$4 AND i.recipient_pubkey IN ($5, $6) AND i.answered_at IS NULL \
    AND CASE WHEN i.recipient_kind='session' THEN i.seen_at ELSE s.seen_at END IS NOT NULL \
    AND NOT EXISTS (SELECT 1 FROM json_each($7) WHERE value IN (i.id, i.broker_message_id, i.client_message_id))";

/// False when this session was never handed the message.
async fn prove(
    conn: &mut SqliteConnection,
    session_id: &str,
    proof: &Proof,
    now: Timestamp,
    proved: &mut Vec<Proved>,
) -> Result<bool, StorageError> {
    let column = match proof.state {
        ReceiptState::TurnEnded => "turn_ended_at",
        _ => "context_at",
    };
    let sql = format!(
        "UPDATE inbox_evidence SET turn_ended_at=CASE WHEN $5 THEN coalesce(turn_ended_at, $3) \
         ELSE turn_ended_at END, context_at=coalesce(context_at, $3), evidence=coalesce(evidence, $4) \
         WHERE session_id=$1 AND inbox_seq IN ({ROWS_OF}) RETURNING inbox_seq, handed_path, evidence"
    );
    let handed = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(session_id)
        .bind(&proof.id)
        .bind(now.as_millis())
        .bind(&proof.evidence)
        .bind(proof.state == ReceiptState::TurnEnded)
        .fetch_all(&mut *conn)
        .await?;
    // The first session's word counts, about each row once.
    let sql = format!(
        "UPDATE inbox SET {column}=$2, evidence=$3 WHERE seq=$1 AND {column} IS NULL \
         AND decrypt NOT IN ('failed','no_key') \
         RETURNING mesh, broker_message_id, client_message_id, recipient_pubkey, recipient_kind"
    );
    for row in &handed {
        let evidence: String = row.column("evidence")?;
        let first = sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
            .bind(row.column::<i64>("inbox_seq")?)
            .bind(now.as_millis())
            .bind(&evidence)
            .fetch_optional(&mut *conn)
            .await?;
        proved.push(Proved {
            mesh: first.as_ref().map_or(Ok(String::new()), |first| first.column("mesh"))?,
            subject: first.as_ref().map(Subject::of).transpose()?.flatten(),
            state: proof.state,
            path: row.column("handed_path")?,
            evidence,
            is_news: first.is_some(),
        });
    }
    Ok(!handed.is_empty())
}

async fn note_read(conn: &mut SqliteConnection, read: RecordRead) -> Result<(), StorageError> {
    let sql = "INSERT INTO inbox_record (session_id, path, format, device, inode, read_offset, anchor, read_at) \
               VALUES ($1,$2,$3,$4,$5,$6,$7,$8) ON CONFLICT (session_id, path) DO UPDATE SET \
               format=excluded.format, device=excluded.device, inode=excluded.inode, \
               read_offset=excluded.read_offset, anchor=excluded.anchor, read_at=excluded.read_at";
    let RecordRead { session_id, path, format, place, read_at } = read;
    sqlx::query(sql)
        .bind(session_id)
        .bind(path)
        .bind(format)
        // Numbers of 64 bits, whatever their sign.
        .bind(place.device.cast_signed())
        .bind(place.inode.cast_signed())
        .bind(place.offset.cast_signed())
        .bind(place.anchor.to_vec())
        .bind(read_at.as_millis())
        .execute(conn)
        .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<RecordRead, sqlx::Error> {
    let number = |column| Ok::<_, sqlx::Error>(row.column::<i64>(column)?.cast_unsigned());
    let anchor: Vec<u8> = row.column("anchor")?;
    let place = RecordPlace {
        device: number("device")?,
        inode: number("inode")?,
        offset: number("read_offset")?,
        anchor: anchor
            .try_into()
            .map_err(|_| decode_error("anchor", std::io::Error::other("it has another length")))?,
    };
    Ok(RecordRead {
        session_id: row.column("session_id")?,
        path: row.column("path")?,
        format: row.column("format")?,
        place,
        read_at: row.time("read_at")?,
    })
}

/// Rows wait for the session again, as if it had not seen them; whoever else has keeps them.
async fn unsee(
    conn: &mut SqliteConnection,
    session_id: &str,
    rows: &[i64],
) -> Result<(), StorageError> {
    let rows = serde_json::to_string(rows).unwrap_or_default();
    let own = "UPDATE inbox_session SET seen_at=NULL, handed_at=NULL \
               WHERE session_id=$1 AND inbox_seq IN (SELECT value FROM json_each($2))";
    sqlx::query(own).bind(session_id).bind(&rows).execute(&mut *conn).await?;
    // What was read before this session had it, stays read.
    let row = "UPDATE inbox SET \
               seen_at=(SELECT min(o.seen_at) FROM inbox_session o WHERE o.inbox_seq=inbox.seq), \
               pushed_at=(SELECT min(o.handed_at) FROM inbox_session o WHERE o.inbox_seq=inbox.seq) \
               WHERE seq IN (SELECT value FROM json_each($2)) AND seen_at>=(SELECT e.handed_at \
               FROM inbox_evidence e WHERE e.inbox_seq=inbox.seq AND e.session_id=$1)";
    sqlx::query(row).bind(session_id).bind(&rows).execute(conn).await?;
    Ok(())
}

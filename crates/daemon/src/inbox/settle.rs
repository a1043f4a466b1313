//! Replies settle a message, and a session that ends leaves what it was never handed to its member (daemon spec §13.2).
//! `+mesh` keeps SQLite from walking a whole mesh where another column finds the row.

use claudemesh_ipc::api::{InboxItem, RecipientKind};
use claudemesh_protocol::{PublicKey, Timestamp};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{Inbox, row};
use crate::storage::{Columns as _, StorageError};

/// Rows of an ended session that one commit moves.
const MOVE_ROWS: i64 = 500;
/// Messages whose state is told again after a start, for each own key.
const RESTATED_MAX: i64 = 2_000;

/// What a receipt is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The broker's id.
    pub broker_message_id: String,
    /// The sender's id.
    pub client_message_id: String,
    /// Own key it was delivered to.
    pub recipient: PublicKey,
    /// Kind of that key.
    pub kind: RecipientKind,
}

impl Subject {
    /// Of a message that is listed; `None` for one without a broker id or own key.
    pub(crate) fn of_item(item: &InboxItem) -> Option<Self> {
        Some(Self {
            broker_message_id: item.broker_message_id.clone()?,
            client_message_id: item.client_message_id.clone(),
            recipient: item.recipient_pubkey?,
            kind: item.recipient_kind?,
        })
    }

    /// `None` for a message without a broker id.
    pub(super) fn of(row: &SqliteRow) -> Result<Option<Self>, sqlx::Error> {
        let Some(broker_message_id) = row.column::<Option<String>>("broker_message_id")? else {
            return Ok(None);
        };
        Ok(Some(Self {
            broker_message_id,
            client_message_id: row.column("client_message_id")?,
            recipient: row.parsed("recipient_pubkey")?,
            kind: row::kind(row)?,
        }))
    }
}

/// Who replied first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answerer {
    /// A session of this daemon.
    Session {
        /// UUID of the agent session.
        id: String,
        /// Its name.
        name: String,
    },
    /// The person, without a session.
    Person,
    /// Somebody on another device of the member, by name when known.
    OtherDevice(Option<String>),
}

/// How far a message had come when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Stored.
    Stored,
    /// It does not open.
    Unreadable,
    /// Given to a session, this way.
    Handed(String),
    /// An agent's own record shows it before the model.
    InContext {
        /// The way it took to the first session.
        path: String,
        /// What shows it.
        evidence: Option<String>,
    },
    /// And that the turn is over.
    TurnEnded {
        /// The way it took to the first session.
        path: String,
        /// What shows it.
        evidence: Option<String>,
    },
    /// The broker has a reply to it, of the session with this name.
    Answered(Option<String>),
}

impl Inbox {
    /// A reply names a message: the first one settles it. `id` is the broker's id of it, or the sender's where the broker
    /// gave none. False when there is no such message, or it was settled before.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn settle(
        &self,
        mesh: &str,
        id: &str,
        by: Answerer,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let (mesh, id) = (mesh.to_owned(), id.to_owned());
        let (session, name) = match by {
            Answerer::Session { id, name } => (Some(id), Some(name)),
            Answerer::Person => (Some(String::new()), None),
            Answerer::OtherDevice(name) => (None, name),
        };
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "UPDATE inbox SET answered_at=$1, answered_session=$2, answered_by=$3 \
                               WHERE seq IN (SELECT seq FROM inbox WHERE broker_message_id=$4 AND +mesh=$5 \
                               UNION ALL SELECT seq FROM inbox WHERE client_message_id=$4 AND +mesh=$5 \
                               AND broker_message_id IS NULL) AND answered_at IS NULL";
                    let ran = sqlx::query(sql)
                        .bind(now.as_millis())
                        .bind(session)
                        .bind(name)
                        .bind(id)
                        .bind(mesh)
                        .execute(conn)
                        .await?;
                    Ok(ran.rows_affected() > 0)
                })
            })
            .await
    }

    /// The broker has a reply of ours to the message with this broker id: the messages, and who replied.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn reply_accepted(
        &self,
        mesh: &str,
        id: &str,
        now: Timestamp,
    ) -> Result<Vec<(Subject, Option<String>)>, StorageError> {
        let (mesh, id) = (mesh.to_owned(), id.to_owned());
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "UPDATE inbox SET reply_accepted_at=$1 WHERE broker_message_id=$2 AND +mesh=$3 \
                               AND answered_session IS NOT NULL AND reply_accepted_at IS NULL \
                               RETURNING broker_message_id, client_message_id, recipient_pubkey, \
                               recipient_kind, answered_by";
                    let rows = sqlx::query(sql)
                        .bind(now.as_millis())
                        .bind(id)
                        .bind(mesh)
                        .fetch_all(conn)
                        .await?;
                    let mut answered = Vec::new();
                    for row in &rows {
                        if let Some(subject) = Subject::of(row)? {
                            answered.push((subject, row.column("answered_by")?));
                        }
                    }
                    Ok(answered)
                })
            })
            .await
    }

    /// A session has ended: the direct messages it was never handed become its member's, addressed to it, and are
    /// announced to the sessions that live. Answers them.
    ///
    /// # Errors
    /// [`StorageError`]; what was moved before it stays moved.
    pub async fn session_gone(
        &self,
        mesh: &str,
        session: PublicKey,
        member: PublicKey,
    ) -> Result<Vec<InboxItem>, StorageError> {
        let mut moved = Vec::new();
        loop {
            let mesh = mesh.to_owned();
            let step: Vec<Moved> =
                self.db.write(move |conn| Box::pin(move_rows(conn, mesh, session, member))).await?;
            if step.is_empty() {
                return Ok(moved);
            }
            for Moved { seq, told, mut item } in step {
                item.held = self.announce(&item, seq, told.as_deref(), &[]);
                moved.push(item);
            }
        }
    }

    /// A sender is proved after all: its messages say so from now on.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn prove_sender(
        &self,
        mesh: &str,
        sender: PublicKey,
        member: PublicKey,
        name: &str,
    ) -> Result<(), StorageError> {
        let (mesh, name) = (mesh.to_owned(), name.to_owned());
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let sql = "UPDATE inbox SET sender_verified=1, sender_member_pubkey=$1, sender_name=$2 \
                               WHERE sender_pubkey=$3 AND +mesh=$4 AND sender_verified=0";
                    sqlx::query(sql)
                        .bind(member.to_hex())
                        .bind(name)
                        .bind(sender.to_hex())
                        .bind(mesh)
                        .execute(conn)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Keys of senders that were not proved, of messages received since then.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn unproved_senders(
        &self,
        mesh: &str,
        since: Timestamp,
    ) -> Result<Vec<PublicKey>, StorageError> {
        let sql = "SELECT DISTINCT sender_pubkey FROM inbox WHERE received_at>=$1 AND +mesh=$2 \
                   AND sender_verified=0";
        let rows =
            sqlx::query(sql).bind(since.as_millis()).bind(mesh).fetch_all(self.db.reader()).await?;
        Ok(rows.iter().map(|row| row.parsed("sender_pubkey")).collect::<Result<_, _>>()?)
    }

    /// Own session keys of a mesh with direct messages that no session was handed.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn unhanded_sessions(&self, mesh: &str) -> Result<Vec<PublicKey>, StorageError> {
        let sql = "SELECT DISTINCT recipient_pubkey FROM inbox WHERE +mesh=$1 AND seen_at IS NULL \
                   AND pushed_at IS NULL AND recipient_kind='session' AND channel='dm'";
        let rows = sqlx::query(sql).bind(mesh).fetch_all(self.db.reader()).await?;
        Ok(rows.iter().map(|row| row.parsed("recipient_pubkey")).collect::<Result<_, _>>()?)
    }

    /// How far the messages to one own key have come that were received since then; newest first, bounded.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn standings(
        &self,
        mesh: &str,
        key: PublicKey,
        since: Timestamp,
    ) -> Result<Vec<(Subject, Standing)>, StorageError> {
        let sql = "SELECT broker_message_id, client_message_id, recipient_pubkey, recipient_kind, decrypt, \
                   handed_at, handed_path, context_at, turn_ended_at, evidence, reply_accepted_at, answered_by \
                   FROM inbox \
                   WHERE recipient_pubkey=$1 AND received_at>=$2 AND mesh=$3 ORDER BY received_at DESC LIMIT $4";
        let rows = sqlx::query(sql)
            .bind(key.to_hex())
            .bind(since.as_millis())
            .bind(mesh)
            .bind(RESTATED_MAX)
            .fetch_all(self.db.reader())
            .await?;
        let mut standings = Vec::new();
        for row in &rows {
            if let Some(subject) = Subject::of(row)? {
                standings.push((subject, standing(row)?));
            }
        }
        Ok(standings)
    }
}

fn standing(row: &SqliteRow) -> Result<Standing, sqlx::Error> {
    if matches!(row.column("decrypt")?, "failed" | "no_key") {
        return Ok(Standing::Unreadable);
    }
    if row.column::<Option<i64>>("reply_accepted_at")?.is_some() {
        return Ok(Standing::Answered(row.column("answered_by")?));
    }
    let is_set = |column| Ok::<_, sqlx::Error>(row.column::<Option<i64>>(column)?.is_some());
    let path = row.column::<Option<String>>("handed_path")?.unwrap_or_default();
    Ok(if is_set("turn_ended_at")? {
        Standing::TurnEnded { path, evidence: row.column("evidence")? }
    } else if is_set("context_at")? {
        Standing::InContext { path, evidence: row.column("evidence")? }
    } else if is_set("handed_at")? {
        Standing::Handed(path)
    } else {
        Standing::Stored
    })
}

/// A row that has become its member's.
struct Moved {
    seq: i64,
    /// The session that it was told to before.
    told: Option<String>,
    item: InboxItem,
}

async fn move_rows(
    conn: &mut SqliteConnection,
    mesh: String,
    session: PublicKey,
    member: PublicKey,
) -> Result<Vec<Moved>, StorageError> {
    // A message that the member has already stays where it is; it is shown once either way.
    let sql = "UPDATE inbox SET recipient_pubkey=$1, recipient_kind='member', \
               addressed_to=coalesce(addressed_to, $2) WHERE seq IN (SELECT i.seq FROM inbox i \
               WHERE i.mesh=$3 AND i.recipient_pubkey=$2 AND i.recipient_kind='session' AND i.channel='dm' \
               AND i.seen_at IS NULL AND i.pushed_at IS NULL AND NOT EXISTS (SELECT 1 FROM inbox o \
               WHERE o.mesh=i.mesh AND o.recipient_pubkey=$1 AND o.sender_pubkey=i.sender_pubkey \
               AND (o.client_message_id=i.client_message_id OR o.broker_message_id=i.broker_message_id)) \
               ORDER BY i.seq LIMIT $4) \
               RETURNING *, seen_at AS shown_seen_at, pushed_at AS shown_pushed_at, 0 AS shown_elsewhere, \
               0 AS shown_given";
    let rows = sqlx::query(sql)
        .bind(member.to_hex())
        .bind(session.to_hex())
        .bind(mesh)
        .bind(MOVE_ROWS)
        .fetch_all(conn)
        .await?;
    let moved = |row| -> Result<Moved, sqlx::Error> {
        let (seq, item) = row::numbered(row)?;
        Ok(Moved { seq, told: row.column("told_session")?, item })
    };
    let mut moved = rows.iter().map(moved).collect::<Result<Vec<_>, _>>()?;
    moved.sort_by_key(|moved| moved.seq);
    Ok(moved)
}

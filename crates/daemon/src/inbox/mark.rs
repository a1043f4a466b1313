//! Read state and deletion, within the caller's scope (daemon spec §13.4, §13.5).

use std::collections::BTreeSet;

use claudemesh_protocol::Timestamp;
use claudemesh_sqlite::Durability;
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Sqlite};

use super::list::push_session_scope;
use super::{Inbox, Scope, SessionScope, Subject};
use crate::storage::{Columns as _, StorageError};

/// What is recorded about messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// They were put before an agent, and so read; else they were only read.
    pub is_pushed: bool,
    /// The way they took to a session.
    pub path: String,
}

impl Stamp {
    /// They were read.
    pub fn seen() -> Self {
        Self { is_pushed: false, path: "inbox".to_owned() }
    }

    /// They were put before an agent.
    pub fn pushed() -> Self {
        Self { is_pushed: true, path: "channel".to_owned() }
    }
}

/// What a stamp changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marked {
    /// Messages the caller had not seen before.
    pub unseen: u64,
    /// Those of them that a session now has, for the receipt.
    pub handed: Vec<Subject>,
}

/// Messages that one caller alone puts before a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    /// Their ids.
    pub ids: BTreeSet<String>,
    /// Those of them that a session now has, for the receipt.
    pub handed: Vec<Subject>,
}

impl Inbox {
    /// Marks messages as seen. Ids outside the scope are passed over.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn mark(
        &self,
        scope: &Scope,
        ids: &[String],
        stamp: Stamp,
        now: Timestamp,
    ) -> Result<Marked, StorageError> {
        if ids.is_empty() {
            return Ok(Marked::default());
        }
        let (scope, ids) = (scope.clone(), serde_json::to_string(ids).unwrap_or_default());
        let marked = self.db.write(move |conn| Box::pin(mark(conn, scope, ids, stamp, now))).await;
        self.events.touch();
        marked
    }

    /// Marks messages that somebody is about to put before a session, and answers which of them are his to put there: two
    /// that come at once get each of them once. On record when it answers; a power failure may undo it, and then they wait
    /// again.
    ///
    /// # Errors
    /// [`StorageError`]; nothing is taken then.
    pub(crate) async fn take(
        &self,
        session: &SessionScope,
        ids: &[String],
        path: String,
        now: Timestamp,
    ) -> Result<Taken, StorageError> {
        let (session, ids) = (session.clone(), serde_json::to_string(ids).unwrap_or_default());
        let stamp = Stamp { is_pushed: true, path };
        // The agent waits, and not for the disk.
        let taken = self.db.writer().write_with(Durability::Relaxed, move |conn| {
            Box::pin(take(conn, session, ids, stamp, now))
        });
        let taken = taken.await;
        self.events.touch();
        taken
    }

    /// Removes messages of the caller's scope: of one mesh, received before a time, or both, or all.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn flush(
        &self,
        scope: &Scope,
        mesh: Option<&str>,
        before: Option<Timestamp>,
    ) -> Result<u64, StorageError> {
        let mut condition = scoped(scope);
        if let Some(mesh) = mesh {
            condition.push(" AND i.mesh=").push_bind(mesh.to_owned());
        }
        if let Some(before) = before {
            condition.push(" AND i.received_at<").push_bind(before.as_millis());
        }
        self.delete(condition).await
    }

    /// Removes one message of the caller's scope; false when there is none of that id.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn delete_one(&self, scope: &Scope, id: &str) -> Result<bool, StorageError> {
        let mut condition = scoped(scope);
        condition.push(" AND i.id=").push_bind(id.to_owned());
        Ok(self.delete(condition).await? > 0)
    }

    async fn delete(&self, condition: QueryBuilder<Sqlite>) -> Result<u64, StorageError> {
        let deleted = self.db.write(move |conn| {
            Box::pin(async move {
                let mut query = condition;
                query.push(")");
                Ok(query.build().execute(conn).await?.rows_affected())
            })
        });
        let deleted = deleted.await;
        self.events.touch();
        deleted
    }
}

/// `DELETE FROM inbox WHERE seq IN (SELECT … WHERE <scope>`, parenthesis left open.
fn scoped(scope: &Scope) -> QueryBuilder<Sqlite> {
    let mut query =
        QueryBuilder::new("DELETE FROM inbox WHERE seq IN (SELECT i.seq FROM inbox i WHERE ");
    match scope {
        Scope::Everything => {
            query.push("1=1");
        }
        Scope::Session(session) => push_session_scope(&mut query, session),
    }
    query
}

async fn mark(
    conn: &mut SqliteConnection,
    scope: Scope,
    ids: String,
    stamp: Stamp,
    now: Timestamp,
) -> Result<Marked, StorageError> {
    match scope {
        Scope::Everything => {
            let rows = mark_rows(conn, None, &ids, &stamp, now).await?;
            Ok(Marked { unseen: rows.len() as u64, handed: Vec::new() })
        }
        Scope::Session(session) => {
            let (rows, handed) = mark_all_of(conn, &session, &ids, &stamp, now).await?;
            Ok(Marked { unseen: rows.len() as u64, handed })
        }
    }
}

/// Marks messages of a session, under whichever key they came; answers the rows it had not seen, and what the receipts are
/// about.
async fn mark_all_of(
    conn: &mut SqliteConnection,
    session: &SessionScope,
    ids: &str,
    stamp: &Stamp,
    now: Timestamp,
) -> Result<(Vec<i64>, Vec<Subject>), StorageError> {
    let ids = with_twins(conn, ids).await?;
    // The session's own record comes first: the row's `seen_at` may be that of a sibling.
    let mut rows = mark_for_session(conn, session, &ids, stamp, now).await?;
    let stamped = mark_rows(conn, Some(session), &ids, stamp, now).await?;
    // Member rows of a session are counted by its own records.
    rows.extend(stamped.iter().filter(|row| !row.is_member).map(|row| row.seq));
    let handed = hand(conn, &session.session_id, &rows, stamp, now).await?;
    Ok((rows, handed))
}

async fn take(
    conn: &mut SqliteConnection,
    session: SessionScope,
    ids: String,
    stamp: Stamp,
    now: Timestamp,
) -> Result<Taken, StorageError> {
    let (rows, handed) = mark_all_of(conn, &session, &ids, &stamp, now).await?;
    let rows = serde_json::to_string(&rows).unwrap_or_default();
    let sql = "SELECT id FROM inbox WHERE seq IN (SELECT value FROM json_each($1))";
    let ids: Vec<String> = sqlx::query_scalar(sql).bind(rows).fetch_all(conn).await?;
    Ok(Taken { ids: ids.into_iter().collect(), handed })
}

/// The rows and their copies to other own keys: what was shown under one key was shown.
async fn with_twins(conn: &mut SqliteConnection, ids: &str) -> Result<String, StorageError> {
    let sql = "SELECT value FROM json_each($1) UNION SELECT o.id FROM inbox i CROSS JOIN inbox o \
               ON o.client_message_id=i.client_message_id AND +o.mesh=i.mesh \
               AND +o.sender_pubkey=i.sender_pubkey WHERE i.id IN (SELECT value FROM json_each($1))";
    let all: Vec<String> = sqlx::query_scalar(sql).bind(ids).fetch_all(conn).await?;
    Ok(serde_json::to_string(&all).unwrap_or_default())
}

/// Records what one session has of messages to the member; answers the rows it had not seen.
async fn mark_for_session(
    conn: &mut SqliteConnection,
    session: &SessionScope,
    ids: &str,
    stamp: &Stamp,
    now: Timestamp,
) -> Result<Vec<i64>, StorageError> {
    let pushed = stamp.is_pushed.then(|| now.as_millis());
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO inbox_session (inbox_seq, session_id, seen_at, handed_at) SELECT i.seq,",
    );
    query.push_bind(session.session_id.clone()).push(",").push_bind(now.as_millis());
    query.push(",").push_bind(pushed).push(" FROM inbox i WHERE ");
    push_session_scope(&mut query, session);
    query.push(" AND i.recipient_kind='member' AND i.id IN (SELECT value FROM json_each(");
    query.push_bind(ids.to_owned()).push(")) AND (i.seen_at IS NULL OR i.received_at>=");
    query.push_bind(session.registered_at.as_millis());
    query.push(
        ") ON CONFLICT (inbox_seq, session_id) DO UPDATE SET \
         seen_at=coalesce(inbox_session.seen_at, excluded.seen_at), \
         handed_at=coalesce(inbox_session.handed_at, excluded.handed_at) \
         WHERE inbox_session.seen_at IS NULL RETURNING inbox_seq",
    );
    Ok(query.build_query_scalar().fetch_all(conn).await?)
}

struct Stamped {
    seq: i64,
    is_member: bool,
}

/// Stamps the rows themselves; answers those nobody had seen.
async fn mark_rows(
    conn: &mut SqliteConnection,
    session: Option<&SessionScope>,
    ids: &str,
    stamp: &Stamp,
    now: Timestamp,
) -> Result<Vec<Stamped>, StorageError> {
    let pushed = stamp.is_pushed.then(|| now.as_millis());
    let mut query = QueryBuilder::<Sqlite>::new("UPDATE inbox AS i SET seen_at=");
    query.push_bind(now.as_millis());
    query.push(", pushed_at=coalesce(i.pushed_at,").push_bind(pushed).push(") WHERE ");
    match session {
        None => {
            query.push("1=1");
        }
        Some(session) => push_session_scope(&mut query, session),
    }
    query.push(" AND i.seen_at IS NULL AND i.id IN (SELECT value FROM json_each(");
    query.push_bind(ids.to_owned()).push(")) RETURNING seq, recipient_kind='member' AS is_member");
    let rows = query.build().fetch_all(conn).await?;
    rows.iter()
        .map(|row| Ok(Stamped { seq: row.column("seq")?, is_member: row.column("is_member")? }))
        .collect()
}

/// Notes the way to this session, and the first one to any; answers what the receipts are about.
async fn hand(
    conn: &mut SqliteConnection,
    session_id: &str,
    rows: &[i64],
    stamp: &Stamp,
    now: Timestamp,
) -> Result<Vec<Subject>, StorageError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "INSERT INTO inbox_evidence (inbox_seq, session_id, handed_at, handed_path) \
               SELECT seq, $1, $2, $3 FROM inbox \
               WHERE seq IN (SELECT value FROM json_each($4)) AND decrypt NOT IN ('failed','no_key') \
               ON CONFLICT (inbox_seq, session_id) DO UPDATE SET handed_at=excluded.handed_at, \
               handed_path=excluded.handed_path, handings=inbox_evidence.handings+1";
    sqlx::query(sql)
        .bind(session_id)
        .bind(now.as_millis())
        .bind(&stamp.path)
        .bind(serde_json::to_string(rows).unwrap_or_default())
        .execute(&mut *conn)
        .await?;
    let sql = "UPDATE inbox SET handed_at=coalesce(handed_at, $1), handed_path=coalesce(handed_path, $2) \
               WHERE seq IN (SELECT value FROM json_each($3)) AND decrypt NOT IN ('failed','no_key') \
               RETURNING broker_message_id, client_message_id, recipient_pubkey, recipient_kind";
    let found = sqlx::query(sql)
        .bind(now.as_millis())
        .bind(&stamp.path)
        .bind(serde_json::to_string(rows).unwrap_or_default())
        .fetch_all(conn)
        .await?;
    let subjects = found.iter().map(Subject::of).collect::<Result<Vec<_>, _>>()?;
    Ok(subjects.into_iter().flatten().collect())
}

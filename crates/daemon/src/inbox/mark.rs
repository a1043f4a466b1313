//! Read state and deletion, within the caller's scope (daemon spec §13.4, §13.5).

use claudemesh_protocol::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Sqlite};

use super::list::push_session_scope;
use super::{Inbox, Scope};
use crate::storage::StorageError;

/// What is recorded about messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// They were read.
    Seen,
    /// They were put before an agent, and so read.
    Pushed,
}

impl Inbox {
    /// Marks messages as seen; answers how many the caller had not seen before. Ids outside the scope are passed over.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn mark(
        &self,
        scope: &Scope,
        ids: &[String],
        stamp: Stamp,
        now: Timestamp,
    ) -> Result<u64, StorageError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let (scope, ids) = (scope.clone(), serde_json::to_string(ids).unwrap_or_default());
        self.db.write(move |conn| Box::pin(mark(conn, scope, ids, stamp, now))).await
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
        self.db
            .write(move |conn| {
                Box::pin(async move {
                    let mut query = condition;
                    query.push(")");
                    Ok(query.build().execute(conn).await?.rows_affected())
                })
            })
            .await
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
) -> Result<u64, StorageError> {
    let pushed = (stamp == Stamp::Pushed).then(|| now.as_millis());
    let mut unseen = 0;
    if let Scope::Session(session) = &scope {
        // The session's own record comes first: the row's `seen_at` may be that of a sibling.
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO inbox_session (inbox_seq, session_id, seen_at, handed_at) SELECT i.seq,",
        );
        query.push_bind(session.session_id.clone()).push(",").push_bind(now.as_millis());
        query.push(",").push_bind(pushed).push(" FROM inbox i WHERE ");
        push_session_scope(&mut query, session);
        query.push(" AND i.recipient_kind='member' AND i.id IN (SELECT value FROM json_each(");
        query.push_bind(ids.clone()).push(")) AND (i.seen_at IS NULL OR i.received_at>=");
        query.push_bind(session.registered_at.as_millis());
        query.push(
            ") ON CONFLICT (inbox_seq, session_id) DO UPDATE SET \
             seen_at=coalesce(inbox_session.seen_at, excluded.seen_at), \
             handed_at=coalesce(inbox_session.handed_at, excluded.handed_at) \
             WHERE inbox_session.seen_at IS NULL",
        );
        unseen += query.build().execute(&mut *conn).await?.rows_affected();
    }
    let mut query = QueryBuilder::<Sqlite>::new("UPDATE inbox AS i SET seen_at=");
    query.push_bind(now.as_millis());
    query.push(", pushed_at=coalesce(i.pushed_at,").push_bind(pushed).push(") WHERE ");
    match &scope {
        Scope::Everything => {
            query.push("1=1");
        }
        Scope::Session(session) => push_session_scope(&mut query, session),
    }
    query.push(" AND i.seen_at IS NULL AND i.id IN (SELECT value FROM json_each(");
    query.push_bind(ids).push(")) RETURNING recipient_kind");
    let kinds: Vec<String> = query.build_query_scalar().fetch_all(conn).await?;
    // Member rows of a session are counted by its own records.
    unseen += match scope {
        Scope::Everything => kinds.len() as u64,
        Scope::Session(_) => kinds.iter().filter(|kind| *kind == "session").count() as u64,
    };
    Ok(unseen)
}

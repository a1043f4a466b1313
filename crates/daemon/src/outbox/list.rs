//! Looking into the outbox: pages, single rows, rows by a prefix of their id.

use claudemesh_ipc::api::{OutboxItem, OutboxPage, RowStatus};
use claudemesh_protocol::limits::ID_PREFIX_MIN_CHARS;
use sqlx::{QueryBuilder, Sqlite};

use super::{Outbox, row};
use crate::storage::{Columns as _, StorageError};

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFilter {
    /// Only this state.
    pub status: Option<RowStatus>,
    /// Only this mesh.
    pub mesh: Option<String>,
    /// Rows of a page.
    pub limit: u32,
    /// Only rows older than this.
    pub before_seq: Option<i64>,
}

impl Outbox {
    /// One page, newest first.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn list(&self, filter: &ListFilter) -> Result<OutboxPage, StorageError> {
        let mut query: QueryBuilder<Sqlite> =
            QueryBuilder::new(format!("SELECT {} FROM outbox WHERE 1=1", row::ITEM_COLUMNS));
        if let Some(status) = filter.status {
            query.push(" AND status=").push_bind(status.as_str());
        }
        if let Some(mesh) = &filter.mesh {
            query.push(" AND mesh=").push_bind(mesh);
        }
        if let Some(seq) = filter.before_seq {
            query.push(" AND seq<").push_bind(seq);
        }
        query.push(" ORDER BY seq DESC LIMIT ").push_bind(i64::from(filter.limit) + 1);
        let mut rows = query.build().fetch_all(self.shared.db.reader()).await?;
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = match rows.last() {
            Some(last) if has_more => Some(last.column::<i64>("seq")?.to_string()),
            _ => None,
        };
        let items = rows.iter().map(row::item).collect::<Result<_, _>>()?;
        Ok(OutboxPage { items, next_cursor })
    }

    /// The rows whose row id, client id or broker id is `id`, or begins with it when it has 8 characters or more; at
    /// most two, which is enough to see that a prefix is ambiguous.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn by_id(&self, id: &str) -> Result<Vec<OutboxItem>, StorageError> {
        let columns = row::ITEM_COLUMNS;
        let exact = format!(
            "SELECT {columns} FROM outbox WHERE id=$1 OR client_message_id=$1 OR broker_message_id=$1 LIMIT 2"
        );
        let reader = self.shared.db.reader();
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(exact)).bind(id).fetch_all(reader).await?;
        if rows.is_empty() && id.chars().count() >= ID_PREFIX_MIN_CHARS {
            // A range, which an index can answer; LIKE would take `_` in an id for a wildcard.
            let prefix = format!(
                "SELECT {columns} FROM outbox WHERE (id>=$1 AND id<$2) \
                 OR (client_message_id>=$1 AND client_message_id<$2) \
                 OR (broker_message_id>=$1 AND broker_message_id<$2) LIMIT 2"
            );
            rows = sqlx::query(sqlx::AssertSqlSafe(prefix))
                .bind(id)
                .bind(format!("{id}{}", char::MAX))
                .fetch_all(reader)
                .await?;
        }
        Ok(rows.iter().map(row::item).collect::<Result<_, _>>()?)
    }
}

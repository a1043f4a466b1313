//! Full-text search over sender, topic and text (daemon spec §13.6). The index is kept by triggers; rows that were there
//! before it are added in the background, in small steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use claudemesh_ipc::api::inbox::Found;
use claudemesh_sqlite::{Database, Durability};
use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Sqlite};
use tokio_util::sync::CancellationToken;

use super::fit::Fit;
use super::list::{push_session_scope, push_shown};
use super::{Inbox, InboxSettings, Scope, row};
use crate::storage::{Causes, Columns as _, StorageError};

/// Rows added to the index by one commit.
const STEP_ROWS: i64 = 500;
/// Characters of a snippet.
const SNIPPET_MAX_CHARS: usize = 160;
/// Words of a snippet before it is cut to [`SNIPPET_MAX_CHARS`].
const SNIPPET_WORDS: u32 = 24;

/// The table and its triggers. A row is in the index when it is not above `done`, or above `start`: the rest is still to
/// be added, and must not be removed from an index that never had it.
const CREATE: &[&str] = &[
    "CREATE TABLE inbox_fts_state (id INTEGER PRIMARY KEY CHECK (id=1), start INTEGER NOT NULL, done INTEGER NOT NULL)",
    "INSERT INTO inbox_fts_state (id, start, done) SELECT 1, coalesce(max(seq), 0), 0 FROM inbox",
    "CREATE VIRTUAL TABLE inbox_fts USING fts5(sender_name, topic, body, content='inbox', content_rowid='seq', \
     tokenize='unicode61 remove_diacritics 2')",
    "CREATE TRIGGER inbox_fts_insert AFTER INSERT ON inbox WHEN new.seq > (SELECT start FROM inbox_fts_state) \
     OR new.seq <= (SELECT done FROM inbox_fts_state) BEGIN \
     INSERT INTO inbox_fts(rowid, sender_name, topic, body) VALUES (new.seq, new.sender_name, new.topic, new.body); END",
    "CREATE TRIGGER inbox_fts_delete AFTER DELETE ON inbox WHEN old.seq > (SELECT start FROM inbox_fts_state) \
     OR old.seq <= (SELECT done FROM inbox_fts_state) BEGIN \
     INSERT INTO inbox_fts(inbox_fts, rowid, sender_name, topic, body) \
     VALUES ('delete', old.seq, old.sender_name, old.topic, old.body); END",
    "CREATE TRIGGER inbox_fts_update AFTER UPDATE OF sender_name, topic, body ON inbox \
     WHEN old.seq > (SELECT start FROM inbox_fts_state) OR old.seq <= (SELECT done FROM inbox_fts_state) BEGIN \
     INSERT INTO inbox_fts(inbox_fts, rowid, sender_name, topic, body) \
     VALUES ('delete', old.seq, old.sender_name, old.topic, old.body); \
     INSERT INTO inbox_fts(rowid, sender_name, topic, body) VALUES (new.seq, new.sender_name, new.topic, new.body); END",
];

const DROP: &[&str] = &[
    "DROP TRIGGER IF EXISTS inbox_fts_insert",
    "DROP TRIGGER IF EXISTS inbox_fts_delete",
    "DROP TRIGGER IF EXISTS inbox_fts_update",
    "DROP TABLE IF EXISTS inbox_fts",
    "DROP TABLE IF EXISTS inbox_fts_state",
];

/// Whether there is an index.
pub(super) struct Index {
    is_there: AtomicBool,
}

/// What to search for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchFilter {
    /// An FTS5 expression; a text that is none is searched for as a phrase.
    pub text: String,
    /// Mesh slug.
    pub mesh: Option<String>,
    /// Only what is older than the end of an earlier page.
    pub after: Option<i64>,
    /// Items of a page.
    pub limit: u32,
}

/// One page.
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    /// Newest first.
    pub items: Vec<Found>,
    /// Start of the next page.
    pub next: Option<i64>,
}

impl Index {
    /// Makes or removes the index, as the settings want it, and adds in the background what it lacks. Without an index
    /// everything but the search works.
    pub(super) async fn prepare(db: &Database, settings: &InboxSettings) -> Arc<Self> {
        let wanted = settings.is_searchable;
        let prepared: Result<(), StorageError> =
            db.write(move |conn| Box::pin(prepare(conn, wanted))).await;
        let is_there = match prepared {
            Ok(()) => wanted,
            Err(error) => {
                tracing::error!(error = %Causes(&error), "inbox_index_not_made");
                false
            }
        };
        let index = Arc::new(Self { is_there: AtomicBool::new(is_there) });
        if is_there {
            let (db, shutdown) = (db.clone(), settings.shutdown.clone());
            settings.tasks.spawn(async move { fill(&db, &shutdown).await });
        }
        index
    }
}

async fn prepare(conn: &mut SqliteConnection, is_wanted: bool) -> Result<(), StorageError> {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type='table' AND name='inbox_fts_state'";
    let is_there = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *conn).await? > 0;
    let statements = match (is_wanted, is_there) {
        (true, false) => CREATE,
        (false, true) => DROP,
        _ => return Ok(()),
    };
    for statement in statements {
        sqlx::query(*statement).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn fill(db: &Database, shutdown: &CancellationToken) {
    let mut added = 0;
    loop {
        let step = db.writer().write_with(Durability::Relaxed, |conn| Box::pin(fill_step(conn)));
        let step: Result<Option<u64>, StorageError> = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            step = step => step,
        };
        match step {
            Ok(Some(rows)) => added += rows,
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "inbox_index_incomplete");
                return;
            }
        }
        // Arrivals come first.
        tokio::task::yield_now().await;
    }
    if added > 0 {
        tracing::info!(rows = added, "inbox_indexed");
    }
}

/// Adds the next rows; `None` when none are missing.
async fn fill_step(conn: &mut SqliteConnection) -> Result<Option<u64>, StorageError> {
    let sql = "SELECT max(seq) FROM (SELECT seq FROM inbox WHERE seq > (SELECT done FROM inbox_fts_state) \
               AND seq <= (SELECT start FROM inbox_fts_state) ORDER BY seq LIMIT $1)";
    let last: Option<i64> = sqlx::query_scalar(sql).bind(STEP_ROWS).fetch_one(&mut *conn).await?;
    let Some(last) = last else {
        // Nothing is left below `start`; from here on everything counts as indexed.
        let sql = "UPDATE inbox_fts_state SET done=start WHERE done<start";
        sqlx::query(sql).execute(conn).await?;
        return Ok(None);
    };
    let sql = "INSERT INTO inbox_fts(rowid, sender_name, topic, body) SELECT seq, sender_name, topic, body \
               FROM inbox WHERE seq > (SELECT done FROM inbox_fts_state) AND seq <= $1";
    let ran = sqlx::query(sql).bind(last).execute(&mut *conn).await?;
    sqlx::query("UPDATE inbox_fts_state SET done=$1").bind(last).execute(conn).await?;
    Ok(Some(ran.rows_affected()))
}

impl Inbox {
    /// False when the settings want no index, or none could be made.
    pub fn is_searchable(&self) -> bool {
        self.index.is_there.load(Ordering::Relaxed)
    }

    /// Finds messages of the caller's scope, newest first; a page holds what one answer does.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn search(
        &self,
        scope: &Scope,
        filter: &SearchFilter,
    ) -> Result<Findings, StorageError> {
        match self.matching(scope, filter, &filter.text).await {
            Ok(found) => Ok(found),
            // Most likely no FTS5 expression; a database that fails, fails again.
            Err(_) => self.matching(scope, filter, &phrase(&filter.text)).await,
        }
    }

    async fn matching(
        &self,
        scope: &Scope,
        filter: &SearchFilter,
        expression: &str,
    ) -> Result<Findings, StorageError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT i.*");
        query.push(format!(
            ", snippet(inbox_fts, -1, '[', ']', '…', {SNIPPET_WORDS}) AS found_snippet, \
             bm25(inbox_fts) AS found_rank"
        ));
        // The index leads: it gives the newest matches without looking at the rest.
        push_shown(&mut query, scope, "inbox_fts CROSS JOIN inbox i ON i.seq=inbox_fts.rowid");
        query.push(" WHERE inbox_fts MATCH ");
        query.push_bind(expression.to_owned());
        if let Scope::Session(session) = scope {
            query.push(" AND ");
            push_session_scope(&mut query, session);
        }
        if let Some(mesh) = &filter.mesh {
            query.push(" AND i.mesh=").push_bind(mesh.clone());
        }
        if let Some(after) = filter.after {
            query.push(" AND inbox_fts.rowid<").push_bind(after);
        }
        query.push(" ORDER BY inbox_fts.rowid DESC LIMIT ").push_bind(i64::from(filter.limit) + 1);
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let (mut items, mut fit, mut last) = (Vec::new(), Fit::default(), None);
        let mut rows = query.build().fetch(self.db.reader());
        while let Some(row) = rows.try_next().await? {
            let snippet: String = row.column("found_snippet")?;
            let snippet = snippet.chars().take(SNIPPET_MAX_CHARS).collect();
            let item = Found { item: row::item(&row)?, snippet, rank: row.column("found_rank")? };
            if items.len() == limit || !fit.takes(&item) {
                return Ok(Findings { items, next: last });
            }
            last = Some(row.column("seq")?);
            items.push(item);
        }
        Ok(Findings { items, next: None })
    }
}

/// The text as one quoted phrase.
fn phrase(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\"").replace('\0', " "))
}

//! Behaviour of the batching writer, of migrations and of crash points, on real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod crash;
mod migration;
mod writer;

use std::path::Path;

use claudemesh_sqlite::{Database, Migration, Options, WriteError};

/// One table; a comment fills it quickly.
const NOTE: &[Migration] = &[Migration::new(
    "0001_note.sql",
    "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);",
)];

async fn open(path: &Path) -> Database {
    let db = Database::open(Options::new(path)).await.unwrap();
    db.migrate(NOTE).await.unwrap();
    db
}

/// Inserts a note in a job of its own.
async fn insert(db: &Database, text: impl Into<String>) -> Result<(), WriteError> {
    let text = text.into();
    db.write(move |conn| {
        Box::pin(async move {
            sqlx::query("INSERT INTO note (text) VALUES ($1)").bind(text).execute(conn).await?;
            Ok(())
        })
    })
    .await
}

async fn count(db: &Database) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM note").fetch_one(db.reader()).await.unwrap()
}

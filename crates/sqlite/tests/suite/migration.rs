//! Migrations: once each, in order, all or nothing, with a backup.

use std::path::{Path, PathBuf};

use claudemesh_sqlite::{Database, Migration, MigrationError, Options};

use super::{NOTE, count, insert, open};

const SECOND: Migration = Migration::new("0002_tag.sql", "CREATE TABLE tag (name TEXT);");
const BROKEN: Migration =
    Migration::new("0002_broken.sql", "CREATE TABLE half (x INTEGER);\nCREATE TABL oops;");

fn backups(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".backup-"))
        .collect()
}

async fn has_table(db: &Database, name: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = $1)")
        .bind(name)
        .fetch_one(db.reader())
        .await
        .unwrap()
}

#[tokio::test]
async fn each_file_is_applied_once_with_a_backup_before_later_ones() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let db = Database::open(Options::new(&path)).await.unwrap();
    let report = db.migrate(NOTE).await.unwrap();
    assert_eq!(
        (report.applied, report.backup),
        (vec!["0001_note.sql"], None),
        "nothing to back up"
    );
    insert(&db, "kept").await.unwrap();
    assert!(db.migrate(NOTE).await.unwrap().applied.is_empty());
    let report = db.migrate(&[NOTE[0], SECOND]).await.unwrap();
    assert_eq!(report.applied, ["0002_tag.sql"]);
    db.close().await;
    let copy = open(&report.backup.unwrap()).await;
    assert_eq!(count(&copy).await, 1);
    assert!(!has_table(&copy, "tag").await);
    copy.close().await;
}

/// MIG-2.
#[tokio::test]
async fn a_failing_file_leaves_the_schema_as_it_was_and_a_backup() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("t.db")).await;
    let error = db.migrate(&[NOTE[0], BROKEN]).await.unwrap_err();
    assert!(matches!(error, MigrationError::Failed { name, .. } if name == "0002_broken.sql"));
    assert!(!has_table(&db, "half").await);
    assert_eq!(backups(directory.path()).len(), 1);
    insert(&db, "still works").await.unwrap();
    db.close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_unless_marked_compatible() {
    const COMPATIBLE: Migration = Migration::new(
        "0003_index.sql",
        "-- compatible: older releases may keep running\nCREATE INDEX note_text ON note (text);",
    );
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("t.db")).await;
    db.migrate(&[NOTE[0], COMPATIBLE]).await.unwrap();
    db.migrate(NOTE).await.unwrap();
    db.migrate(&[NOTE[0], SECOND, COMPATIBLE]).await.unwrap();
    let error = db.migrate(NOTE).await.unwrap_err();
    assert!(matches!(error, MigrationError::Newer { name } if name == "0002_tag.sql"));
    db.close().await;
}

#[tokio::test]
async fn three_backups_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("t.db")).await;
    let names = ["0002.sql", "0003.sql", "0004.sql", "0005.sql", "0006.sql"];
    let mut known = NOTE.to_vec();
    for name in names {
        known.push(Migration::new(name, "CREATE TABLE IF NOT EXISTS other (x INTEGER);"));
        db.migrate(&known).await.unwrap();
    }
    assert_eq!(backups(directory.path()).len(), 3);
    db.close().await;
}

/// MIG-1.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_at_once_apply_each_file_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let path = path.clone();
        starts.spawn(async move {
            let db = Database::open(Options::new(path)).await.unwrap();
            let report = db.migrate(&[NOTE[0], SECOND]).await.unwrap();
            db.close().await;
            report.applied.len()
        });
    }
    assert_eq!(starts.join_all().await.iter().sum::<usize>(), 2);
}

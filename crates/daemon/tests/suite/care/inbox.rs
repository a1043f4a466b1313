//! Received messages in a backup: a copy that is whole while the daemon writes.

use claudemesh_daemon::care::{backup::Extras, restore};
use claudemesh_protocol::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _};

use super::home::{furnished, restorable, tree};

async fn rows(path: &std::path::Path) -> i64 {
    let mut connection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    let count = sqlx::query_scalar("SELECT count(*) FROM letter").fetch_one(&mut connection).await;
    connection.close().await.unwrap();
    count.unwrap()
}

#[tokio::test]
async fn a_copy_holds_what_stands_in_the_log_only() {
    let (old, new) = (furnished(), furnished());
    let options = |home: &crate::local::world::Home| {
        SqliteConnectOptions::new()
            .filename(home.paths.inbox_file())
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
    };
    // A connection that stays open keeps the log from being copied back.
    let mut writer = options(&old).connect().await.unwrap();
    for sql in ["CREATE TABLE letter (text TEXT)", "INSERT INTO letter VALUES ('one'), ('two')"] {
        sqlx::query(sql).execute(&mut writer).await.unwrap();
    }
    let verified = restorable(&old, Extras { inbox: true, hooks: false }).await;
    writer.close().await.unwrap();
    assert!(!tree(&old).keys().any(|path| path.contains(".backup-")), "the copy is gone");
    // The inbox that is there goes with its log, and nothing of it comes into the new one.
    let mut other = options(&new).connect().await.unwrap();
    sqlx::query("CREATE TABLE stranger (text TEXT)").execute(&mut other).await.unwrap();
    let now = Timestamp::from_millis(7);
    restore::replace(&verified, &new.paths, now).await.unwrap();
    other.close().await.unwrap();
    assert_eq!(rows(&new.paths.inbox_file()).await, 2);
    let kept = new.paths.daemon_dir().join("inbox.db.before-restore.7");
    let mut kept = SqliteConnectOptions::new().filename(kept).connect().await.unwrap();
    sqlx::query("SELECT text FROM stranger").fetch_all(&mut kept).await.unwrap();
    kept.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_inbox_is_never_put_in_place() {
    let (old, new) = (furnished(), furnished());
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.extend([7; 5000]);
    std::fs::write(old.paths.inbox_file(), &bytes).unwrap();
    let refused = claudemesh_daemon::care::backup::collect(
        &old.paths,
        Extras { inbox: true, hooks: false },
        Timestamp::from_millis(7),
    );
    assert!(refused.await.is_err());
    assert!(!tree(&new).contains_key("daemon/inbox.db"));
}

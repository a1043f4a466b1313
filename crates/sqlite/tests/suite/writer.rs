//! Group commit: jobs share commits, fail alone, and share the fate of a commit that fails.

use std::path::Path;

use claudemesh_sqlite::{Database, Durability, Options, WriteError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{NOTE, count, insert, open};

/// Holds the writer inside a job until told to go on, so that what is submitted meanwhile forms one batch.
async fn occupy(db: &Database) -> (JoinSet<()>, oneshot::Sender<()>) {
    let (entered_tx, entered_rx) = oneshot::channel();
    let (go_tx, go_rx) = oneshot::channel::<()>();
    let db = db.clone();
    let mut occupied = JoinSet::new();
    occupied.spawn(async move {
        db.write(move |_| {
            Box::pin(async move {
                entered_tx.send(()).unwrap();
                go_rx.await.unwrap();
                Ok::<_, WriteError>(())
            })
        })
        .await
        .unwrap();
    });
    entered_rx.await.unwrap();
    (occupied, go_tx)
}

/// Commits in the write-ahead log: frames whose header gives the size of the database after a commit (bytes 4 to 8).
fn commits_in_log(database: &Path) -> usize {
    const LOG_HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    let bytes = std::fs::read(log).unwrap();
    // Frames of an earlier round of the log, which is written from its start again, have another salt.
    let (header, frames) = bytes.split_at(LOG_HEADER);
    frames
        .chunks_exact(FRAME)
        .filter(|frame| frame[8..16] == header[16..24] && frame[4..8] != [0; 4])
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_share_one_commit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let db = open(&path).await;
    insert(&db, "first").await.unwrap();
    let before = commits_in_log(&path);
    let (occupied, go) = occupy(&db).await;
    let mut jobs = JoinSet::new();
    for turn in 0..200 {
        let db = db.clone();
        jobs.spawn(async move { insert(&db, format!("note {turn}")).await });
    }
    // Every job stands in the queue once each task has run up to its answer.
    while db.writer().queued_jobs() < 200 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    for outcome in jobs.join_all().await {
        outcome.unwrap();
    }
    occupied.join_all().await;
    assert_eq!(count(&db).await, 201);
    assert_eq!(
        commits_in_log(&path) - before,
        1,
        "the empty job changes nothing, the rest is one commit"
    );
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_is_undone_alone() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("t.db")).await;
    let (occupied, go) = occupy(&db).await;
    let mut jobs = JoinSet::new();
    for turn in 0..30 {
        let db = db.clone();
        jobs.spawn(async move {
            let text = format!("note {turn}");
            let outcome = db
                .write(move |conn| {
                    Box::pin(async move {
                        let sql = "INSERT INTO note (text) VALUES ($1)";
                        sqlx::query(sql).bind(text.clone()).execute(&mut *conn).await?;
                        if turn % 3 == 0 {
                            // Breaks the unique rule after a row of its own was written.
                            sqlx::query(sql).bind(text).execute(conn).await?;
                        }
                        assert!(turn % 5 != 1, "a job may even panic");
                        Ok::<_, WriteError>(())
                    })
                })
                .await;
            (turn, outcome)
        });
    }
    while db.writer().queued_jobs() < 30 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    let mut expected = 0;
    for (turn, outcome) in jobs.join_all().await {
        match outcome {
            Err(WriteError::Database(_)) => assert_eq!(turn % 3, 0),
            Err(WriteError::Panicked) => assert_eq!(turn % 5, 1),
            Err(other) => panic!("{other:?}"),
            Ok(()) => expected += 1,
        }
    }
    occupied.join_all().await;
    assert_eq!(count(&db).await, expected);
    assert_eq!(expected, 16);
    insert(&db, "afterwards").await.unwrap();
    db.close().await;
}

#[tokio::test]
async fn a_lone_job_that_fails_leaves_nothing_and_the_writer_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("t.db")).await;
    insert(&db, "one").await.unwrap();
    assert!(matches!(insert(&db, "one").await, Err(WriteError::Database(_))));
    insert(&db, "two").await.unwrap();
    assert_eq!(count(&db).await, 2);
    db.close().await;
}

/// OPS-5.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_answers_everybody_full_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let db = Database::open(Options::new(&path).max_pages(Some(64))).await.unwrap();
    db.migrate(NOTE).await.unwrap();
    let large = |turn: usize| format!("{turn:09}{}", "x".repeat(3_000));
    let mut stored = 0;
    while insert(&db, large(stored)).await.is_ok() {
        stored += 1;
        assert!(stored < 1_000, "the page limit must be reached");
    }
    let before = count(&db).await;
    let (occupied, go) = occupy(&db).await;
    let mut jobs = JoinSet::new();
    for turn in 0..20 {
        let db = db.clone();
        jobs.spawn(async move { insert(&db, format!("{}{turn}", large(turn))).await });
    }
    while db.writer().queued_jobs() < 20 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    let outcomes = jobs.join_all().await;
    occupied.join_all().await;
    let accepted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(WriteError::Full))));
    assert_eq!(
        count(&db).await,
        before + i64::try_from(accepted).unwrap(),
        "what was refused left nothing"
    );
    // Space returns.
    db.write(|conn| {
        Box::pin(async move {
            sqlx::query("DELETE FROM note WHERE id % 2 = 0").execute(conn).await?;
            Ok::<_, WriteError>(())
        })
    })
    .await
    .unwrap();
    insert(&db, large(9_999)).await.unwrap();
    db.close().await;
}

#[tokio::test]
async fn closing_finishes_what_was_submitted_and_refuses_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let db = open(&path).await;
    let mut jobs = JoinSet::new();
    for turn in 0..50 {
        let db = db.clone();
        jobs.spawn(async move { insert(&db, format!("note {turn}")).await });
    }
    tokio::task::yield_now().await;
    db.close().await;
    let outcomes = jobs.join_all().await;
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(WriteError::Closed))));
    assert!(matches!(insert(&db, "late").await, Err(WriteError::Closed)));
    let db = open(&path).await;
    assert_eq!(count(&db).await, i64::try_from(stored).unwrap());
    db.close().await;
}

#[tokio::test]
async fn readers_cannot_write_and_do_not_see_the_uncommitted() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("t.db")).await;
    let refused = sqlx::query("INSERT INTO note (text) VALUES ('x')").execute(db.reader()).await;
    assert!(refused.is_err());
    let reader = db.reader().clone();
    let seen: i64 = db
        .write(move |conn| {
            Box::pin(async move {
                sqlx::query("INSERT INTO note (text) VALUES ('x')").execute(conn).await?;
                let mut reading = reader.acquire().await?;
                let sql = "SELECT COUNT(*) FROM note";
                Ok::<_, WriteError>(sqlx::query_scalar(sql).fetch_one(&mut *reading).await?)
            })
        })
        .await
        .unwrap();
    assert_eq!(seen, 0);
    assert_eq!(count(&db).await, 1);
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_and_durable_jobs_may_share_a_batch_or_take_turns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let db = open(&path).await;
    let mut jobs = JoinSet::new();
    for turn in 0..100 {
        let db = db.clone();
        let durability = if turn % 3 == 0 { Durability::Full } else { Durability::Relaxed };
        jobs.spawn(async move {
            db.writer()
                .write_with(durability, move |conn| {
                    Box::pin(async move {
                        sqlx::query("INSERT INTO note (text) VALUES ($1)")
                            .bind(format!("note {turn}"))
                            .execute(&mut *conn)
                            .await?;
                        let mode: i64 =
                            sqlx::query_scalar("PRAGMA synchronous").fetch_one(conn).await?;
                        Ok::<_, WriteError>((durability, mode))
                    })
                })
                .await
        });
    }
    for outcome in jobs.join_all().await {
        // 2 is FULL, 1 is NORMAL; a relaxed job beside a durable one is as durable.
        let (durability, mode) = outcome.unwrap();
        assert!(mode == 2 || (mode == 1 && durability == Durability::Relaxed));
    }
    db.close().await;
    let db = open(&path).await;
    assert_eq!(count(&db).await, 100);
    db.close().await;
}

//! The process dies at a crash point; what was acknowledged is there afterwards.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use super::{count, insert, open};

/// Environment variable by which the test binary, run again as a child, finds its database.
const CHILD: &str = "CLAUDEMESH_SQLITE_TEST_CHILD";

/// Signal number of an abort.
const SIGABRT: i32 = 6;

/// The child: four tasks insert as fast as they can and print what was acknowledged, until a crash point ends all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn child_inserts_until_it_dies() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    claudemesh_sqlite::arm_crash_points();
    let db = open(Path::new(&path)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let db = db.clone();
        tasks.spawn(async move {
            for turn in 0..1_000 {
                let text = format!("note {task} {turn}");
                insert(&db, text.clone()).await.unwrap();
                writeln!(std::io::stderr(), "acknowledged {text}").unwrap();
            }
        });
    }
    tasks.join_all().await;
}

async fn check(points: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_inserts_until_it_dies", "--nocapture"])
        .env(CHILD, &path)
        .env("FAILPOINTS", points)
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(SIGABRT), "the child must die at its crash point");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let acknowledged: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("acknowledged ")).collect();
    assert!(!acknowledged.is_empty());
    let db = open(&path).await;
    for note in &acknowledged {
        let is_there: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM note WHERE text = $1)")
                .bind(*note)
                .fetch_one(db.reader())
                .await
                .unwrap();
        assert!(is_there, "acknowledged and lost: {note}");
    }
    // At most the commit under way, one job of each task, is there without having been acknowledged.
    let surplus = count(&db).await - i64::try_from(acknowledged.len()).unwrap();
    assert!((0..=4).contains(&surplus), "{surplus}");
    db.close().await;
}

#[tokio::test]
async fn dying_before_the_commit_loses_nothing_acknowledged() {
    check("commit.before_fsync=40*off->return").await;
}

#[tokio::test]
async fn dying_between_commit_and_answer_loses_nothing_acknowledged() {
    check("commit.after_fsync_before_reply=40*off->return").await;
}

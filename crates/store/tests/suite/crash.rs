//! What only SQLite can show in a test: the process dying at a chosen point, and a full disk.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use claudemesh_protocol::MeshId;
use claudemesh_store::{
    CleanupAges, DeliveryOutcome, SqliteLocation, Store, StoreError, StoreLocation,
};

use crate::fixture::{World, accept, after, client_message, message, send, to_member};

/// Environment variable by which the test binary, run again as a child, finds the database to work on.
const CHILD: &str = "CLAUDEMESH_STORE_TEST_CHILD";

/// Signal number of an abort.
const SIGABRT: i32 = 6;

async fn open(path: &Path, max_pages: Option<u32>) -> Store {
    let location = StoreLocation::Sqlite(SqliteLocation { max_pages, ..SqliteLocation::new(path) });
    Store::open_migrated(&location).await.unwrap()
}

/// The child: sends message after message and prints each number once it is acknowledged, until a crash point ends it.
#[tokio::test]
async fn child_sends_until_it_dies() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    claudemesh_sqlite::arm_crash_points();
    let store = open(Path::new(&path), None).await;
    let world = World::new(&store).await;
    for turn in 0..100 {
        let mut sent = world.message();
        sent.client_message = Some(client_message(&format!("cm-{turn}"), 1));
        send(&store, sent).await;
        writeln!(std::io::stderr(), "acknowledged {turn} in {}", world.mesh.id).unwrap();
    }
}

/// Runs the child with a crash point armed; answers the mesh and how many sends it saw acknowledged.
fn run_child(path: &Path, points: &str) -> (MeshId, usize) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_sends_until_it_dies", "--nocapture"])
        .env(CHILD, path)
        .env("FAILPOINTS", points)
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(SIGABRT), "the child must die at its crash point");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let acknowledged: Vec<&str> =
        text.lines().filter(|line| line.starts_with("acknowledged")).collect();
    let mesh = acknowledged.last().unwrap().rsplit(' ').next().unwrap();
    (MeshId::new(mesh), acknowledged.len())
}

/// How many sends stand in the database, each checked to be whole.
async fn stored(store: &Store, mesh: &MeshId) -> usize {
    let mut count = 0;
    while store.lookup_dedupe(mesh, &format!("cm-{count}")).await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(store.orphaned_dedupe_rows().await.unwrap(), 0, "no dedupe row without message");
    assert_eq!(store.backlog_total().await.unwrap().held, count as u64);
    count
}

/// IDM-3.
#[tokio::test]
async fn a_crash_between_dedupe_and_message_leaves_neither() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    let (mesh, acknowledged) = run_child(&path, "store.after_dedupe_before_message=20*off->return");
    let store = open(&path, None).await;
    assert_eq!((acknowledged, stored(&store, &mesh).await), (20, 20));
    store.close().await;
}

/// SND-5.
#[tokio::test]
async fn a_crash_before_the_commit_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    let (mesh, acknowledged) = run_child(&path, "commit.before_fsync=20*off->return");
    let store = open(&path, None).await;
    assert_eq!(stored(&store, &mesh).await, acknowledged);
    store.close().await;
}

/// SND-5.
#[tokio::test]
async fn a_crash_before_the_answer_keeps_the_message_and_the_retry_is_a_duplicate() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    let (mesh, acknowledged) = run_child(&path, "commit.after_fsync_before_reply=20*off->return");
    let store = open(&path, None).await;
    assert_eq!(stored(&store, &mesh).await, acknowledged + 1);
    let roster = store.roster(&mesh).await.unwrap();
    let last = store.lookup_dedupe(&mesh, &format!("cm-{acknowledged}")).await.unwrap().unwrap();
    let sender = roster
        .iter()
        .find(|entry| Some(&entry.member.id) == last.sender_member_id.as_ref())
        .unwrap();
    let mut retry = message(&mesh, &sender.member, vec![to_member(&sender.member)]);
    retry.client_message = Some(client_message(&format!("cm-{acknowledged}"), 1));
    let outcome = store.commit(vec![accept(retry)]).await.unwrap().remove(0);
    assert!(matches!(outcome, DeliveryOutcome::Duplicate(_)), "{outcome:?}");
    store.close().await;
}

/// OPS-5.
#[tokio::test]
async fn a_full_disk_refuses_whole_batches_and_recovers_with_space() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.db");
    let store = open(&path, Some(160)).await;
    let world = World::new(&store).await;
    let batch = || {
        let large = || {
            let mut sent = world.message();
            sent.ciphertext = "x".repeat(8_000).into();
            accept(sent)
        };
        vec![large(), large()]
    };
    let mut accepted = 0_u64;
    let refused = loop {
        match store.commit(batch()).await {
            Ok(_) => accepted += 2,
            Err(error) => break error,
        }
        assert!(accepted < 1_000, "the page limit must be reached");
    };
    assert!(matches!(refused, StoreError::Full), "{refused:?}");
    assert!(refused.is_transient());
    assert_eq!(store.backlog_total().await.unwrap().held, accepted, "nothing of it was written");
    assert!(matches!(store.commit(batch()).await, Err(StoreError::Full)));
    // Reading goes on, and so does what needs no room.
    let late = after(8 * 24 * 3600);
    let ages = CleanupAges { settled_before: late, any_before: late, expired_before: late };
    assert_eq!(store.cleanup_messages(ages).await.unwrap(), accepted);
    assert!(store.commit(batch()).await.is_ok(), "service resumes when space returns");
    assert_eq!(store.backlog_total().await.unwrap().held, 2);
    store.close().await;
}

//! PostgreSQL behind a network that swallows everything: no operation waits for ever, and none spoils the next one.

use std::time::{Duration, Instant};

use claudemesh_protocol::limits::{DB_ACQUIRE_LIMIT, DB_OPERATION_LIMIT, DB_TRUSTED_IDLE};
use claudemesh_store::{PostgresLocation, Result, Store, StoreError, StoreLocation};
use claudemesh_testkit::postgres::{self, TestDatabase};
use claudemesh_testkit::way::Way;

use crate::fixture;

/// Connections of the pool; fewer than the operations that lose theirs.
const CONNECTIONS: u32 = 2;

/// What a busy machine adds.
const SLACK: Duration = Duration::from_millis(1_500);

async fn on_a_way() -> Option<(TestDatabase, Way, Store)> {
    if postgres::is_skipped() {
        return None;
    }
    let database = postgres::database().await.unwrap();
    let way = Way::to(&database.url()).await.unwrap();
    let location =
        StoreLocation::Postgres(PostgresLocation { url: way.url(), max_connections: CONNECTIONS });
    let store = Store::open_migrated(&location).await.unwrap();
    Some((database, way, store))
}

fn is_unavailable<T>(outcome: &Result<T>) -> bool {
    matches!(outcome, Err(error @ StoreError::Unavailable(_)) if error.is_transient())
}

/// G-2.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operation_without_an_answer_ends_in_time_and_costs_the_pool_nothing() {
    let Some((_database, way, store)) = on_a_way().await else { return };
    let user = fixture::user(&store).await;
    for _ in 0..3 {
        // A connection that was just used is trusted: this statement is swallowed.
        way.go_silent();
        let asked = Instant::now();
        let (read, written, third, fourth) = tokio::join!(
            store.user(&user.id),
            store.commit(vec![]),
            store.ping(),
            store.user(&user.id),
        );
        assert!(is_unavailable(&read), "{read:?}");
        assert!(written.is_ok() || is_unavailable(&written), "{written:?}");
        assert!(is_unavailable(&third) && is_unavailable(&fourth), "{third:?} {fourth:?}");
        let took = asked.elapsed();
        assert!(took < DB_OPERATION_LIMIT + SLACK, "{took:?}");
        way.recover();
        let asked = Instant::now();
        assert_eq!(store.user(&user.id).await.unwrap().unwrap().id, user.id);
        assert!(asked.elapsed() < DB_ACQUIRE_LIMIT, "{:?}", asked.elapsed());
    }
    store.close().await;
}

/// G-2: the whole transaction or nothing, and the next one is not in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_gets_no_answer_leaves_nothing_half_written() {
    let Some((_database, way, store)) = on_a_way().await else { return };
    let owner = fixture::user(&store).await;
    way.go_silent();
    let lost = store.create_mesh(fixture::new_mesh(&owner.id, "lost")).await;
    assert!(is_unavailable(&lost), "{lost:?}");
    way.recover();
    let kept = fixture::new_mesh(&owner.id, "kept");
    let id = kept.id.clone();
    store.create_mesh(kept).await.unwrap();
    assert!(store.mesh(&id).await.unwrap().is_some());
    assert_eq!(store.roster(&id).await.unwrap().len(), 1);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_whose_statement_nobody_waits_for_is_not_used_again() {
    let Some((_database, way, store)) = on_a_way().await else { return };
    let user = fixture::user(&store).await;
    way.go_silent();
    for _ in 0..2 * CONNECTIONS {
        let given_up = tokio::time::timeout(Duration::from_millis(50), store.user(&user.id)).await;
        assert!(given_up.is_err());
    }
    way.recover();
    let asked = Instant::now();
    assert_eq!(store.user(&user.id).await.unwrap().unwrap().id, user.id);
    assert!(asked.elapsed() < DB_ACQUIRE_LIMIT, "{:?}", asked.elapsed());
    store.close().await;
}

/// What was kept from before the silence is asked for a sign of life before it is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kept_connection_that_died_while_resting_costs_no_operation() {
    let Some((_database, way, store)) = on_a_way().await else { return };
    let user = fixture::user(&store).await;
    tokio::time::sleep(DB_TRUSTED_IDLE + SLACK / 10).await;
    way.go_silent();
    let (read, ()) = tokio::join!(store.user(&user.id), async {
        // The question is swallowed; the connection that replaces the one that was asked gets through.
        tokio::time::sleep(DB_ACQUIRE_LIMIT / 10).await;
        way.recover();
    });
    assert!(read.unwrap().is_some());
    store.close().await;
}

/// Closing waits for operations under way, and those end in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_behind_a_silent_network_ends_in_time() {
    let Some((_database, way, store)) = on_a_way().await else { return };
    let user = fixture::user(&store).await;
    way.go_silent();
    let asked = Instant::now();
    let (read, ()) = tokio::join!(store.user(&user.id), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        store.close().await;
    });
    assert!(is_unavailable(&read), "{read:?}");
    assert!(asked.elapsed() < DB_OPERATION_LIMIT + SLACK, "{:?}", asked.elapsed());
    assert!(matches!(store.user(&user.id).await, Err(StoreError::Closed)));
}

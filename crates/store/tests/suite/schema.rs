//! Migrations through the store.

use std::os::unix::fs::PermissionsExt as _;

use claudemesh_store::{PostgresLocation, Store, StoreError, StoreLocation};

use crate::fixture::{Fixture, World, on_both_engines};

on_both_engines!(
    migrating_again_changes_nothing,
    replicas_that_start_at_once_all_get_ready,
    a_store_answers_until_it_is_closed,
);

async fn migrating_again_changes_nothing(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    fixture.store.migrate().await.unwrap();
    assert!(fixture.store.pending_migrations().await.unwrap().is_empty());
    assert_eq!(fixture.store.roster(&world.mesh.id).await.unwrap().len(), 3);
}

/// MIG-1.
async fn replicas_that_start_at_once_all_get_ready(fixture: &Fixture) {
    let mut empty_database = None;
    let location = match &fixture.location {
        StoreLocation::Sqlite(location) => {
            let mut location = location.clone();
            location.path.set_extension("second");
            StoreLocation::Sqlite(location)
        }
        StoreLocation::Postgres(location) => {
            let database = claudemesh_testkit::postgres::database().await.unwrap();
            let url = empty_database.insert(database).url();
            StoreLocation::Postgres(PostgresLocation { url, ..location.clone() })
        }
    };
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let location = location.clone();
        starts.spawn(async move {
            let store = Store::open(&location).await.unwrap();
            store.migrate().await.unwrap();
            let pending = store.pending_migrations().await.unwrap();
            store.close().await;
            pending.len()
        });
    }
    assert_eq!(starts.join_all().await, [0, 0, 0]);
}

async fn a_store_answers_until_it_is_closed(fixture: &Fixture) {
    let store = fixture.reopened().await;
    store.ping().await.unwrap();
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Closed)));
    assert!(matches!(store.purge_dedupe(crate::fixture::NOW).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn the_database_file_is_readable_by_its_owner_only() {
    let fixture = Fixture::sqlite().await;
    let StoreLocation::Sqlite(location) = &fixture.location else { panic!("not SQLite") };
    for entry in std::fs::read_dir(location.path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn an_unreachable_server_is_unavailable() {
    let location = StoreLocation::Postgres(PostgresLocation {
        url: "postgres://nobody@127.0.0.1:1/none".to_owned(),
        max_connections: 1,
    });
    let error = Store::open(&location).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(error.is_transient());
}

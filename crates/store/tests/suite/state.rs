//! The shared state of a mesh.

use claudemesh_protocol::MeshId;
use claudemesh_protocol::limits::STATE_KEYS_MAX;
use claudemesh_store::{StateEntries, StateEntry, StateWritten, Store, WriteState};

use crate::fixture::{Fixture, NOW, World, after, on_both_engines};

on_both_engines!(
    each_write_counts_and_a_removed_key_begins_again,
    a_write_with_another_version_changes_nothing,
    of_two_writers_with_one_version_one_wins,
    of_many_that_make_a_key_one_does,
    keys_are_listed_by_their_bytes_and_prefixes_are_literal,
    a_list_that_is_too_long_is_not_read,
    a_mesh_has_its_own_keys_and_so_many,
);

fn write(world: &World, key: &str, value: Option<&str>, if_version: Option<u64>) -> WriteState {
    WriteState {
        mesh_id: world.mesh.id.clone(),
        key: key.to_owned(),
        value: value.map(str::to_owned),
        if_version,
        by: world.alice.id.clone(),
        by_name: "Alice".to_owned(),
        at: NOW,
    }
}

async fn keys(store: &Store, mesh: &MeshId, prefix: &str) -> Vec<String> {
    match store.state_entries(mesh, prefix, u64::MAX).await.unwrap() {
        StateEntries::All(entries) => entries.into_iter().map(|entry| entry.key).collect(),
        other @ StateEntries::TooLong { .. } => panic!("{other:?}"),
    }
}

async fn each_write_counts_and_a_removed_key_begins_again(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let set = |value, if_version| store.write_state(write(&world, "k", value, if_version));
    assert_eq!(set(None, None).await.unwrap(), StateWritten::Absent);
    assert_eq!(set(None, Some(0)).await.unwrap(), StateWritten::Absent);
    assert_eq!(set(Some("1"), None).await.unwrap(), StateWritten::Set { version: 1 });
    assert_eq!(set(Some("1"), None).await.unwrap(), StateWritten::Set { version: 2 });
    let other = WriteState {
        by: world.bob.id.clone(),
        by_name: "Bob".to_owned(),
        at: after(5),
        ..write(&world, "k", Some(r#"{"a":"é"}"#), Some(2))
    };
    assert_eq!(store.write_state(other).await.unwrap(), StateWritten::Set { version: 3 });
    let stored = store.reopened_entry(fixture, &world.mesh.id, "k").await;
    let expected = StateEntry {
        key: "k".to_owned(),
        value: r#"{"a":"é"}"#.to_owned(),
        version: 3,
        updated_by: world.bob.id.clone(),
        updated_by_name: "Bob".to_owned(),
        updated_at: after(5),
    };
    assert_eq!(stored, Some(expected));
    assert_eq!(set(None, None).await.unwrap(), StateWritten::Removed);
    assert_eq!(store.state_entry(&world.mesh.id, "k").await.unwrap(), None);
    assert_eq!(set(Some("1"), Some(0)).await.unwrap(), StateWritten::Set { version: 1 });
}

trait Reopened {
    async fn reopened_entry(
        &self,
        fixture: &Fixture,
        mesh: &MeshId,
        key: &str,
    ) -> Option<StateEntry>;
}

impl Reopened for Store {
    /// What another connection to the same database reads.
    async fn reopened_entry(
        &self,
        fixture: &Fixture,
        mesh: &MeshId,
        key: &str,
    ) -> Option<StateEntry> {
        let other = fixture.reopened().await;
        let entry = other.state_entry(mesh, key).await.unwrap();
        other.close().await;
        entry
    }
}

async fn a_write_with_another_version_changes_nothing(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let set = |value, if_version| store.write_state(write(&world, "k", value, if_version));
    for version in [1, 7, u64::MAX] {
        let written = set(Some("1"), Some(version)).await.unwrap();
        assert_eq!(written, StateWritten::Conflict { version: 0 });
        let removed = set(None, Some(version)).await.unwrap();
        assert_eq!(removed, StateWritten::Conflict { version: 0 });
    }
    set(Some("1"), None).await.unwrap();
    for version in [0, 2, u64::MAX] {
        for value in [Some("2"), None] {
            let written = set(value, Some(version)).await.unwrap();
            assert_eq!(written, StateWritten::Conflict { version: 1 });
        }
    }
    let entry = store.state_entry(&world.mesh.id, "k").await.unwrap().unwrap();
    assert_eq!((entry.value.as_str(), entry.version), ("1", 1));
    assert_eq!(set(None, Some(1)).await.unwrap(), StateWritten::Removed);
}

/// STA-2.
async fn of_two_writers_with_one_version_one_wins(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    store.write_state(write(&world, "k", Some("0"), None)).await.unwrap();
    for version in 1..=20 {
        let (one, two) = tokio::join!(
            store.write_state(write(&world, "k", Some("1"), Some(version))),
            store.write_state(write(&world, "k", Some("2"), Some(version))),
        );
        let outcomes = [one.unwrap(), two.unwrap()];
        assert!(outcomes.contains(&StateWritten::Set { version: version + 1 }), "{outcomes:?}");
        assert!(
            outcomes.contains(&StateWritten::Conflict { version: version + 1 }),
            "{outcomes:?}"
        );
    }
}

async fn of_many_that_make_a_key_one_does(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    for round in 0..5 {
        let key = format!("k{round}");
        let makers = (0..8).map(|_| store.write_state(write(&world, &key, Some("1"), Some(0))));
        let outcomes: Vec<_> =
            futures_util::future::join_all(makers).await.into_iter().map(Result::unwrap).collect();
        let made = outcomes.iter().filter(|one| **one == StateWritten::Set { version: 1 }).count();
        assert_eq!(made, 1, "{outcomes:?}");
        let adders = (0..8).map(|_| store.write_state(write(&world, &key, Some("2"), None)));
        for outcome in futures_util::future::join_all(adders).await {
            assert!(matches!(outcome.unwrap(), StateWritten::Set { version: 2.. }));
        }
        let entry = store.state_entry(&world.mesh.id, &key).await.unwrap().unwrap();
        assert_eq!(entry.version, 9);
    }
}

async fn keys_are_listed_by_their_bytes_and_prefixes_are_literal(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    // In the order of their bytes, which is no dictionary's.
    let sorted = ["%", "A", "Z", "_", "a", "a%b", "a_b", "aXb", "ab", "z", "\u{e9}", "\u{10000}"];
    let mut sorted = sorted.map(str::to_owned);
    sorted.sort_unstable();
    for key in sorted.iter().rev() {
        store.write_state(write(&world, key, Some("1"), None)).await.unwrap();
    }
    let mesh = &world.mesh.id;
    assert_eq!(keys(store, mesh, "").await, sorted);
    assert_eq!(store.state_keys(mesh).await.unwrap(), sorted);
    assert_eq!(keys(store, mesh, "a").await, ["a", "a%b", "aXb", "a_b", "ab"]);
    assert_eq!(keys(store, mesh, "a%").await, ["a%b"]);
    assert_eq!(keys(store, mesh, "a_").await, ["a_b"]);
    assert_eq!(keys(store, mesh, "\u{e9}").await, ["\u{e9}"]);
    assert!(keys(store, mesh, "b").await.is_empty());
}

async fn a_list_that_is_too_long_is_not_read(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    for (key, value) in [("a1", "12345"), ("a2", "12345"), ("b", "1")] {
        store.write_state(write(&world, key, Some(value), None)).await.unwrap();
    }
    let list = |prefix, max| store.state_entries(&world.mesh.id, prefix, max);
    // Keys, values and "Alice" twice.
    let bytes = 2 * (2 + 5 + 5);
    assert_eq!(list("a", bytes - 1).await.unwrap(), StateEntries::TooLong { bytes });
    assert!(matches!(list("a", bytes).await.unwrap(), StateEntries::All(two) if two.len() == 2));
    store.write_state(write(&world, "a2", Some("1"), None)).await.unwrap();
    assert!(matches!(list("a", bytes - 4).await.unwrap(), StateEntries::All(_)));
}

/// G-3 for keys of the shared state.
async fn a_mesh_has_its_own_keys_and_so_many(fixture: &Fixture) {
    let store = &fixture.store;
    let (world, other) = (World::new(store).await, World::named(store, "beta").await);
    let mesh = world.mesh.id.as_str();
    fixture
        .by_hand(&format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {STATE_KEYS_MAX})
             INSERT INTO mesh_state (mesh_id, key, value, bytes, version, updated_by, updated_by_name, updated_at)
             SELECT '{mesh}', 'k' || n, '1', 3, 1, 'm', '', 0 FROM numbers"
        ))
        .await;
    let set = |world, key| store.write_state(write(world, key, Some("2"), None));
    assert_eq!(set(&world, "one more").await.unwrap(), StateWritten::Full);
    assert_eq!(set(&world, "k0").await.unwrap(), StateWritten::Set { version: 2 });
    assert_eq!(set(&other, "k0").await.unwrap(), StateWritten::Set { version: 1 });
    store.write_state(write(&world, "k1", None, None)).await.unwrap();
    assert_eq!(set(&world, "one more").await.unwrap(), StateWritten::Set { version: 1 });
    assert_eq!(keys(store, &other.mesh.id, "").await, ["k0"]);
}

//! Removing old messages.

use claudemesh_store::{CleanupAges, ClientMessage, DeliveryWrite, MessageLookup};

use crate::fixture::{Fixture, World, accept, after, client_message, on_both_engines, send};

on_both_engines!(
    settled_messages_go_early_and_open_ones_late,
    concurrent_cleanups_remove_nothing_twice,
    concurrent_sweeps_expire_each_row_once,
    remembered_ids_go_when_their_time_is_over_and_orphans_stay,
);

/// Just past the end of a message of the fixture.
const END: u64 = 7 * 24 * 3600 + 1;

async fn settled_messages_go_early_and_open_ones_late(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (settled, open) = (world.message(), world.message());
    let seqs = send(store, settled.clone()).await;
    send(store, open).await;
    store.commit(vec![DeliveryWrite::Ack { deliveries: seqs, at: after(1) }]).await.unwrap();
    let clean = |settled, any, expired| {
        store.cleanup_messages(CleanupAges {
            settled_before: after(settled),
            any_before: after(any),
            expired_before: after(expired),
        })
    };
    assert_eq!(clean(0, 0, 0).await.unwrap(), 0, "not old enough");
    assert_eq!(clean(1, 0, 0).await.unwrap(), 1);
    let id = settled.message_id.as_str();
    let gone = store.message_status(&world.mesh.id, id, None).await.unwrap();
    assert_eq!(gone, MessageLookup::NotFound);
    let end = 7 * 24 * 3600;
    assert_eq!(clean(10, 10, end).await.unwrap(), 0, "it may still be delivered");
    assert_eq!(clean(10, 10, end + 1).await.unwrap(), 1);
    assert_eq!(store.backlog_total().await.unwrap().held, 0);
}

/// EXP-2.
async fn concurrent_cleanups_remove_nothing_twice(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let writes = (0..300)
        .map(|turn| {
            let mut sent = world.message();
            sent.client_message = Some(client_message(&format!("cm-{turn}"), 1));
            accept(sent)
        })
        .collect();
    fixture.store.commit(writes).await.unwrap();
    let ages =
        CleanupAges { settled_before: after(1), any_before: after(1), expired_before: after(END) };
    let mut sweeps = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = fixture.store.clone();
        sweeps.spawn(async move { store.cleanup_messages(ages).await.unwrap() });
    }
    assert_eq!(sweeps.join_all().await.iter().sum::<u64>(), 300);
    assert_eq!(fixture.store.orphaned_dedupe_rows().await.unwrap(), 0);
}

/// EXP-2.
async fn concurrent_sweeps_expire_each_row_once(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let writes = (0..300).map(|_| accept(world.message())).collect();
    fixture.store.commit(writes).await.unwrap();
    let mut sweeps = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = fixture.store.clone();
        sweeps.spawn(async move {
            let mut rows = 0;
            loop {
                let expired = store.expire(after(END), 50).await.unwrap();
                let step: u64 = expired.iter().map(|one| one.rows).sum();
                let told: usize = expired.iter().map(|one| one.told.len()).sum();
                assert_eq!(step, told as u64, "each row has its sender");
                rows += step;
                if step == 0 {
                    return rows;
                }
            }
        });
    }
    assert_eq!(sweeps.join_all().await.iter().sum::<u64>(), 300);
    assert!(fixture.store.expire(after(END), 50).await.unwrap().is_empty());
}

/// IDM-4.
async fn remembered_ids_go_when_their_time_is_over_and_orphans_stay(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    for (id, until) in [("short", Some(after(10))), ("long", Some(after(END))), ("ever", None)] {
        let mut sent = world.message();
        sent.client_message =
            Some(ClientMessage { remember_until: until, ..client_message(id, 1) });
        send(store, sent).await;
    }
    let known = async |id: &str| store.lookup_dedupe(&world.mesh.id, id).await.unwrap();
    assert_eq!(store.purge_dedupe(after(9)).await.unwrap(), 0);
    assert_eq!(store.purge_dedupe(after(10)).await.unwrap(), 1);
    assert_eq!(known("short").await, None);
    let ages = CleanupAges {
        settled_before: after(END),
        any_before: after(END),
        expired_before: after(END),
    };
    assert_eq!(store.cleanup_messages(ages).await.unwrap(), 3);
    assert!(!known("long").await.unwrap().history_available);
    assert!(!known("ever").await.unwrap().history_available);
    assert_eq!(store.orphaned_dedupe_rows().await.unwrap(), 0);
    assert_eq!(store.purge_dedupe(after(10 * END)).await.unwrap(), 1);
    assert!(known("ever").await.is_some(), "permanent");
}

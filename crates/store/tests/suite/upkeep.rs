//! Removing old messages.

use claudemesh_store::{CleanupAges, DeliveryWrite, MessageLookup};

use crate::fixture::{Fixture, World, accept, after, client_message, on_both_engines, send};

on_both_engines!(
    settled_messages_go_early_and_open_ones_late,
    concurrent_cleanups_remove_nothing_twice,
);

async fn settled_messages_go_early_and_open_ones_late(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (settled, open) = (world.message(), world.message());
    let seqs = send(store, settled.clone()).await;
    send(store, open).await;
    store.commit(vec![DeliveryWrite::Ack { deliveries: seqs, at: after(1) }]).await.unwrap();
    let clean = |settled, any| {
        store.cleanup_messages(CleanupAges {
            settled_before: after(settled),
            any_before: after(any),
        })
    };
    assert_eq!(clean(0, 0).await.unwrap(), 0, "not old enough");
    assert_eq!(clean(1, 0).await.unwrap(), 1);
    let id = settled.message_id.as_str();
    let gone = store.message_status(&world.mesh.id, id, None).await.unwrap();
    assert_eq!(gone, MessageLookup::NotFound);
    assert_eq!(clean(10, 10).await.unwrap(), 1);
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
    let ages = CleanupAges { settled_before: after(1), any_before: after(1) };
    let mut sweeps = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = fixture.store.clone();
        sweeps.spawn(async move { store.cleanup_messages(ages).await.unwrap() });
    }
    assert_eq!(sweeps.join_all().await.iter().sum::<u64>(), 300);
    assert_eq!(fixture.store.orphaned_dedupe_rows().await.unwrap(), 0);
}

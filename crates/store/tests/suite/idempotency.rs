//! Client message ids: one send is accepted, repeats are told so, other uses refused.

use claudemesh_store::{CleanupAges, DeliveryOutcome};

use crate::fixture::{
    Fixture, NOW, World, accept, after, claim_of, client_message, on_both_engines, send,
};

on_both_engines!(
    a_hundred_concurrent_sends_of_one_id_are_accepted_once,
    a_batch_with_one_id_twice_accepts_it_once,
    another_fingerprint_or_sender_conflicts_and_writes_nothing,
    ids_of_other_meshes_do_not_collide,
    a_duplicate_of_a_removed_message_says_so,
    an_id_is_free_again_after_its_time,
);

/// IDM-1.
async fn a_hundred_concurrent_sends_of_one_id_are_accepted_once(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = fixture.store.clone();
        let messages: Vec<_> = (0..25)
            .map(|_| {
                let mut sent = world.message();
                sent.client_message = Some(client_message("same", 1));
                sent
            })
            .collect();
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            for message in messages {
                let id = message.message_id.clone();
                outcomes.push((id, store.commit(vec![accept(message)]).await.unwrap().remove(0)));
            }
            outcomes
        });
    }
    let outcomes: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let accepted: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, DeliveryOutcome::Accepted { .. }))
        .collect();
    assert_eq!(accepted.len(), 1);
    let duplicates = outcomes
        .iter()
        .filter(|(_, outcome)| match outcome {
            DeliveryOutcome::Duplicate(dedupe) => {
                dedupe.message_id == accepted[0].0
                    && dedupe.first_seen_at == NOW
                    && dedupe.history_available
            }
            _ => false,
        })
        .count();
    assert_eq!(duplicates, 99);
    let claim = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1));
    assert_eq!(fixture.store.claim(claim).await.unwrap().len(), 1, "one delivery row");
    assert_eq!(fixture.store.orphaned_dedupe_rows().await.unwrap(), 0);
}

async fn a_batch_with_one_id_twice_accepts_it_once(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let sends = |fingerprints: &[u8]| {
        let write = |fingerprint: &u8| {
            let mut sent = world.message();
            sent.client_message = Some(client_message("twice", *fingerprint));
            accept(sent)
        };
        fingerprints.iter().map(write).collect::<Vec<_>>()
    };
    let mut batch = sends(&[1, 1, 2]);
    batch.push(accept(world.message()));
    let outcomes = fixture.store.commit(batch).await.unwrap();
    assert!(matches!(outcomes[0], DeliveryOutcome::Accepted { .. }));
    assert!(matches!(outcomes[1], DeliveryOutcome::Duplicate(_)));
    assert!(matches!(outcomes[2], DeliveryOutcome::Conflict(_)));
    assert!(matches!(outcomes[3], DeliveryOutcome::Accepted { .. }), "no id, no dedupe");
}

/// IDM-2.
async fn another_fingerprint_or_sender_conflicts_and_writes_nothing(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mut first = world.message();
    first.client_message = Some(client_message("cm", 0xab));
    send(store, first.clone()).await;
    let mut other_body = world.message();
    other_body.client_message = Some(client_message("cm", 0xcd));
    let mut other_sender = world.message();
    other_sender.client_message = Some(client_message("cm", 0xab));
    other_sender.sender_member_id = Some(world.bob.id.clone());
    let outcomes = store.commit(vec![accept(other_body), accept(other_sender)]).await.unwrap();
    for outcome in outcomes {
        let DeliveryOutcome::Conflict(dedupe) = outcome else { panic!("{outcome:?}") };
        assert_eq!(dedupe.fingerprint_prefix(), "abababababababab");
        assert_eq!(dedupe.message_id, first.message_id);
    }
    let found = store.lookup_dedupe(&world.mesh.id, "cm").await.unwrap().unwrap();
    assert!(found.is_same_send(Some(&world.alice.id), &[0xab; 32]));
    assert!(!found.is_same_send(None, &[0xab; 32]));
    assert_eq!(store.backlog_total().await.unwrap().held, 1);
}

async fn ids_of_other_meshes_do_not_collide(fixture: &Fixture) {
    let store = &fixture.store;
    let (alpha, beta) = (World::named(store, "alpha").await, World::named(store, "beta").await);
    for world in [&alpha, &beta] {
        let mut sent = world.message();
        sent.client_message = Some(client_message("cm", 1));
        assert_eq!(send(store, sent).await.len(), 1);
    }
    assert_eq!(store.lookup_dedupe(&beta.mesh.id, "other").await.unwrap(), None);
}

/// IDM-4.
async fn a_duplicate_of_a_removed_message_says_so(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mut sent = world.message();
    sent.client_message = Some(client_message("cm", 1));
    send(store, sent.clone()).await;
    let late = after(8 * 24 * 3600);
    let ages = CleanupAges { settled_before: late, any_before: late, expired_before: late };
    assert_eq!(store.cleanup_messages(ages).await.unwrap(), 1);
    let mut again = world.message();
    again.client_message = Some(client_message("cm", 1));
    let outcome = store.commit(vec![accept(again)]).await.unwrap().remove(0);
    let DeliveryOutcome::Duplicate(dedupe) = outcome else { panic!("{outcome:?}") };
    assert_eq!((dedupe.message_id, dedupe.history_available), (sent.message_id, false));
    assert_eq!(store.backlog_total().await.unwrap().held, 0, "not delivered again");
}

async fn an_id_is_free_again_after_its_time(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mut sent = world.message();
    sent.client_message = Some(client_message("cm", 1));
    send(store, sent).await;
    let year = 365 * 24 * 3600;
    assert_eq!(store.purge_dedupe(after(year - 1)).await.unwrap(), 0);
    assert_eq!(store.purge_dedupe(after(year)).await.unwrap(), 1);
    let mut again = world.message();
    again.client_message = Some(client_message("cm", 2));
    send(store, again).await;
}

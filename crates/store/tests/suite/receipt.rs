//! How far deliveries came: what is kept, what is not, and who is told (broker spec §3.7).

use std::sync::Arc;

use claudemesh_protocol::limits::RECEIPTS_PER_ROW;
use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{MessageId, PublicKey};
use claudemesh_store::{
    AssertedBy, CleanupAges, DeliveryOutcome, DeliveryReceipt, DeliveryState, DeliveryStatus,
    DeliveryWrite, MessageLookup, NewMessage, NewReceipt, Receipted, Reroute, Store,
};

use crate::fixture::{
    Fixture, World, accept, after, claim_of, client_message, fresh_key, message, on_both_engines,
    send, to_member, to_session,
};

on_both_engines!(
    a_receipt_is_kept_with_everything_it_says,
    only_higher_ranks_count_and_what_is_higher_ends_a_side_state,
    a_side_state_changes_with_its_reason_and_not_with_an_older_time,
    a_receipt_for_another_delivery_mesh_or_member_is_unknown,
    a_row_takes_a_bounded_number_of_changes_and_still_the_ladder,
    a_batch_applies_receipts_in_their_order_after_the_accepts,
    a_rerouted_row_starts_anew_for_the_member_key,
    a_gone_session_leaves_what_was_delivered_to_its_member,
    what_has_expired_takes_no_receipt_and_names_its_sender,
    senders_of_held_rows_are_found,
    receipts_go_with_their_message,
    replicas_raise_a_delivery_once,
    a_delivery_under_a_former_key_is_found_by_the_new_one,
);

fn receipt(world: &World, sent: &NewMessage, state: ReceiptState) -> NewReceipt {
    NewReceipt {
        mesh_id: world.mesh.id.clone(),
        message_id: sent.message_id.clone(),
        client_message_id: Arc::from(""),
        recipient_key: sent.deliveries[0].recipient_key,
        former_keys: Arc::default(),
        member_id: world.bob.id.clone(),
        member_key: world.bob.pubkey.unwrap(),
        state,
        asserted_by: AssertedBy::RecipientDaemon,
        path: None,
        evidence: None,
        reason: None,
        at: after(5),
    }
}

fn write(receipt: NewReceipt) -> DeliveryWrite {
    DeliveryWrite::Receipt(Box::new(receipt))
}

async fn say(store: &Store, receipt: NewReceipt) -> Receipted {
    match store.commit(vec![write(receipt)]).await.unwrap().remove(0) {
        DeliveryOutcome::Receipted(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

async fn row(store: &Store, world: &World, sent: &NewMessage) -> DeliveryStatus {
    let id = sent.message_id.as_str();
    match store.message_status(&world.mesh.id, id, None).await.unwrap() {
        MessageLookup::Found(status) => status.deliveries.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn kept(store: &Store, world: &World, sent: &NewMessage) -> DeliveryReceipt {
    row(store, world, sent).await.receipt.unwrap()
}

async fn shown(store: &Store, world: &World, sent: &NewMessage) -> ReceiptState {
    kept(store, world, sent).await.progress.shown()
}

async fn a_receipt_is_kept_with_everything_it_says(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mut sent = world.message();
    sent.client_message = Some(client_message("c", 1));
    sent.sender_session_key = Some(fresh_key());
    let seqs = send(store, sent.clone()).await;
    assert_eq!(row(store, &world, &sent).await.receipt, None);
    let full = NewReceipt {
        client_message_id: Arc::from("c"),
        asserted_by: AssertedBy::AgentRecord,
        path: Some(Arc::from("channel")),
        evidence: Some(Arc::from("é \"quoted\" \\")),
        reason: Some(Arc::from("r")),
        ..receipt(&world, &sent, ReceiptState::InContext)
    };
    let Receipted::Stored(told) = say(store, full).await else { panic!("not stored") };
    assert_eq!(told.seq, seqs[0]);
    assert_eq!(told.message_id, sent.message_id);
    assert_eq!(told.client_message_id.as_deref(), Some("c"));
    assert_eq!(told.sender_member_id.as_ref(), Some(&world.alice.id));
    assert_eq!(told.sender_session_key, sent.sender_session_key);
    assert_eq!(told.recipient_key, sent.deliveries[0].recipient_key);
    let kept = kept(store, &world, &sent).await;
    assert_eq!(kept.progress.ladder, ReceiptState::InContext);
    assert_eq!((kept.since, kept.asserted_by), (after(5), AssertedBy::AgentRecord));
    assert_eq!(kept.path.as_deref(), Some("channel"));
    assert_eq!(kept.evidence.as_deref(), Some("é \"quoted\" \\"));
    assert_eq!(kept.reason.as_deref(), Some("r"));
}

/// What was handed over before its recipient changed its key takes receipts about the new one, of that member alone.
async fn a_delivery_under_a_former_key_is_found_by_the_new_one(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let sent = world.message();
    send(store, sent.clone()).await;
    let old = sent.deliveries[0].recipient_key;
    let by_new =
        NewReceipt { recipient_key: fresh_key(), ..receipt(&world, &sent, ReceiptState::OnDevice) };
    assert_eq!(say(store, by_new.clone()).await, Receipted::Unknown);
    let former_keys = Arc::from([fresh_key(), old]);
    let by_new = NewReceipt { former_keys, ..by_new };
    let by_another = NewReceipt { member_id: world.alice.id.clone(), ..by_new.clone() };
    assert_eq!(say(store, by_another).await, Receipted::Unknown);
    let Receipted::Stored(told) = say(store, by_new).await else { panic!("not stored") };
    assert_eq!(told.recipient_key, old);
    assert_eq!(shown(store, &world, &sent).await, ReceiptState::OnDevice);
}

/// MST-3.
async fn only_higher_ranks_count_and_what_is_higher_ends_a_side_state(fixture: &Fixture) {
    use ReceiptState::{Answered, Handed, Held, InContext, OnDevice, Refused};
    let store = &fixture.store;
    let world = World::new(store).await;
    let sent = world.message();
    send(store, sent.clone()).await;
    for (state, counts, is_shown) in [
        (OnDevice, true, OnDevice),
        (Held, true, Held),
        (OnDevice, false, Held),
        (Handed, true, Handed),
        (InContext, true, InContext),
        (Handed, false, InContext),
        (Held, false, InContext),
        (Refused, false, InContext),
        (Answered, true, Answered),
    ] {
        let outcome = say(store, receipt(&world, &sent, state)).await;
        assert_eq!(matches!(outcome, Receipted::Stored(_)), counts, "{state}: {outcome:?}");
        assert_eq!(shown(store, &world, &sent).await, is_shown, "{state}");
    }
    let refused = world.message();
    send(store, refused.clone()).await;
    say(store, receipt(&world, &refused, Refused)).await;
    let late = say(store, receipt(&world, &refused, Answered)).await;
    assert_eq!((late, shown(store, &world, &refused).await), (Receipted::Unchanged, Refused));
}

async fn a_side_state_changes_with_its_reason_and_not_with_an_older_time(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let sent = world.message();
    send(store, sent.clone()).await;
    let held = |reason: &str, seconds| NewReceipt {
        reason: Some(Arc::from(reason)),
        at: after(seconds),
        ..receipt(&world, &sent, ReceiptState::Held)
    };
    assert!(matches!(say(store, held("busy", 5)).await, Receipted::Stored(_)));
    assert_eq!(say(store, held("busy", 6)).await, Receipted::Unchanged);
    assert!(matches!(say(store, held("dialog", 7)).await, Receipted::Stored(_)));
    assert_eq!(say(store, held("busy", 6)).await, Receipted::Unchanged, "a replay");
    let kept = kept(store, &world, &sent).await;
    assert_eq!((kept.reason.as_deref(), kept.since), (Some("dialog"), after(7)));
}

/// MST-4.
async fn a_receipt_for_another_delivery_mesh_or_member_is_unknown(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let other = World::named(store, "beta").await;
    let mut sent = world.message();
    sent.client_message = Some(client_message("c", 1));
    send(store, sent.clone()).await;
    let good = NewReceipt {
        client_message_id: Arc::from("c"),
        ..receipt(&world, &sent, ReceiptState::OnDevice)
    };
    for bad in [
        NewReceipt { mesh_id: other.mesh.id.clone(), ..good.clone() },
        NewReceipt { message_id: MessageId::new("nope"), ..good.clone() },
        NewReceipt { recipient_key: world.alice.pubkey.unwrap(), ..good.clone() },
        NewReceipt { member_id: world.alice.id.clone(), ..good.clone() },
        NewReceipt { client_message_id: Arc::from("d"), ..good.clone() },
        NewReceipt { client_message_id: Arc::from(""), ..good.clone() },
    ] {
        assert_eq!(say(store, bad.clone()).await, Receipted::Unknown, "{bad:?}");
    }
    assert_eq!(row(store, &world, &sent).await.receipt, None);
    assert!(matches!(say(store, good).await, Receipted::Stored(_)));
}

async fn a_row_takes_a_bounded_number_of_changes_and_still_the_ladder(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let sent = world.message();
    send(store, sent.clone()).await;
    let mut stored = 0;
    for turn in 0..50 {
        let state = [ReceiptState::Held, ReceiptState::Deferred][turn % 2];
        match say(store, receipt(&world, &sent, state)).await {
            Receipted::Stored(_) => stored += 1,
            // Every second one repeats what stands there.
            outcome => assert!(matches!(outcome, Receipted::Full | Receipted::Unchanged)),
        }
    }
    for state in &ReceiptState::ALL[1..6] {
        let outcome = say(store, receipt(&world, &sent, *state)).await;
        assert!(matches!(outcome, Receipted::Stored(_)), "{state}: {outcome:?}");
        stored += 1;
    }
    assert_eq!(stored, RECEIPTS_PER_ROW);
    assert_eq!(shown(store, &world, &sent).await, ReceiptState::Answered);
}

async fn a_batch_applies_receipts_in_their_order_after_the_accepts(fixture: &Fixture) {
    use ReceiptState::{Handed, OnDevice};
    let store = &fixture.store;
    let world = World::new(store).await;
    let (one, two) = (world.message(), world.message());
    let batch = vec![
        write(receipt(&world, &one, OnDevice)),
        write(receipt(&world, &two, Handed)),
        accept(one.clone()),
        write(receipt(&world, &one, Handed)),
        write(receipt(&world, &one, OnDevice)),
        accept(two.clone()),
        write(receipt(&world, &world.message(), Handed)),
    ];
    let outcomes = store.commit(batch).await.unwrap();
    let said: Vec<bool> = [0, 1, 3, 4, 6]
        .map(|index| matches!(&outcomes[index], DeliveryOutcome::Receipted(Receipted::Stored(_))))
        .into();
    assert_eq!(said, [true, true, true, false, false]);
    assert_eq!(shown(store, &world, &one).await, Handed);
    assert_eq!(shown(store, &world, &two).await, Handed);
}

fn reroute(world: &World, session_key: PublicKey) -> Reroute {
    Reroute {
        mesh_id: world.mesh.id.clone(),
        session_key,
        member_key: world.bob.pubkey.unwrap(),
        member_id: world.bob.id.clone(),
        at: after(9),
    }
}

async fn a_rerouted_row_starts_anew_for_the_member_key(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let session = fresh_key();
    let member_key = world.bob.pubkey.unwrap();
    let sent = message(&world.mesh.id, &world.alice, vec![to_session(&world.bob, session)]);
    send(store, sent.clone()).await;
    say(store, receipt(&world, &sent, ReceiptState::Handed)).await;
    let outcome = store
        .commit(vec![DeliveryWrite::Reroute(reroute(&world, session))])
        .await
        .unwrap()
        .remove(0);
    let DeliveryOutcome::Rerouted(moved) = outcome else { panic!("{outcome:?}") };
    assert_eq!((moved.moved, moved.told.len()), (1, 1));
    assert_eq!(moved.told[0].recipient_key, session);
    assert_eq!(moved.told[0].message_id, sent.message_id);
    let kept = kept(store, &world, &sent).await;
    assert_eq!(kept.progress.ladder, ReceiptState::Accepted);
    assert_eq!(kept.progress.side, Some(ReceiptState::Rerouted));
    assert_eq!((kept.since, kept.asserted_by), (after(9), AssertedBy::Broker));
    assert_eq!(kept.path, Some(member_key.to_hex()));
    assert_eq!(kept.reason.as_deref(), Some("session_ended"));
    let old = receipt(&world, &sent, ReceiptState::Answered);
    assert_eq!(say(store, old.clone()).await, Receipted::Unknown, "the old key has no row");
    let new = NewReceipt { recipient_key: member_key, state: ReceiptState::OnDevice, ..old };
    assert!(matches!(say(store, new).await, Receipted::Stored(_)));
    assert_eq!(shown(store, &world, &sent).await, ReceiptState::OnDevice);
}

async fn a_gone_session_leaves_what_was_delivered_to_its_member(fixture: &Fixture) {
    use ReceiptState::{Handed, OnDevice, SessionGone};
    let store = &fixture.store;
    let world = World::new(store).await;
    let session = fresh_key();
    let member_key = world.bob.pubkey.unwrap();
    let twice = vec![to_session(&world.bob, session), to_member(&world.bob)];
    for (deliveries, moves) in [(vec![to_session(&world.bob, session)], true), (twice, false)] {
        let sent = message(&world.mesh.id, &world.alice, deliveries);
        let seqs = send(store, sent.clone()).await;
        let ack = DeliveryWrite::Ack { deliveries: vec![seqs[0]], at: after(1) };
        store.commit(vec![ack]).await.unwrap();
        for state in [OnDevice, Handed, SessionGone] {
            let outcome = say(store, receipt(&world, &sent, state)).await;
            assert!(matches!(outcome, Receipted::Stored(_)), "{outcome:?}");
        }
        let row = row(store, &world, &sent).await;
        let kept = row.receipt.clone().unwrap();
        assert_eq!(row.state, DeliveryState::Delivered, "its daemon has it: nothing is pushed");
        assert_eq!(kept.progress.side, Some(SessionGone));
        if moves {
            assert_eq!(kept.progress.ladder, ReceiptState::Accepted);
            assert_eq!((row.recipient_key, row.rerouted_from), (member_key, Some(session)));
            let late = receipt(&world, &sent, ReceiptState::Answered);
            assert_eq!(say(store, late.clone()).await, Receipted::Unknown);
            let moved = NewReceipt { recipient_key: member_key, ..late };
            assert!(matches!(say(store, moved).await, Receipted::Stored(_)));
        } else {
            assert_eq!(kept.progress.ladder, Handed);
            assert_eq!((row.recipient_key, row.rerouted_from), (session, None));
        }
    }
    // What is still open is the broker's to move.
    let open = message(&world.mesh.id, &world.alice, vec![to_session(&world.bob, session)]);
    send(store, open.clone()).await;
    say(store, receipt(&world, &open, SessionGone)).await;
    let row = row(store, &world, &open).await;
    assert_eq!((row.recipient_key, row.state), (session, DeliveryState::Held));
}

async fn what_has_expired_takes_no_receipt_and_names_its_sender(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mut sent = world.message();
    sent.expires_at = after(5);
    sent.client_message = Some(client_message("c", 1));
    send(store, sent.clone()).await;
    let expired = store.expire(after(5), 10).await.unwrap();
    assert_eq!(expired[0].told.len(), 1);
    assert_eq!(expired[0].told[0].message_id, sent.message_id);
    assert_eq!(expired[0].told[0].client_message_id.as_deref(), Some("c"));
    let late = NewReceipt {
        client_message_id: Arc::from("c"),
        ..receipt(&world, &sent, ReceiptState::OnDevice)
    };
    assert_eq!(say(store, late).await, Receipted::Unchanged);
}

async fn senders_of_held_rows_are_found(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (one, two) = (world.message(), world.message());
    let mut seqs = send(store, one.clone()).await;
    let claimed =
        store.claim(claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1))).await.unwrap();
    assert_eq!(claimed.len(), 1);
    seqs.extend(send(store, two.clone()).await);
    let told = store.senders_of_held(&seqs).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].message_id, two.message_id);
    assert!(store.senders_of_held(&[]).await.unwrap().is_empty());
}

async fn receipts_go_with_their_message(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let sent = world.message();
    send(store, sent.clone()).await;
    say(store, receipt(&world, &sent, ReceiptState::OnDevice)).await;
    let late = after(8 * 24 * 3600);
    let ages = CleanupAges { settled_before: late, any_before: late, expired_before: late };
    assert_eq!(store.cleanup_messages(ages).await.unwrap(), 1);
    let late = receipt(&world, &sent, ReceiptState::Handed);
    assert_eq!(say(store, late).await, Receipted::Unknown);
}

/// Two writers at once: the same step counts for one of them.
async fn replicas_raise_a_delivery_once(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let sent = world.message();
    send(&fixture.store, sent.clone()).await;
    let mut replicas = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, receipt) =
            (fixture.store.clone(), receipt(&world, &sent, ReceiptState::OnDevice));
        replicas.spawn(async move { say(&store, receipt).await });
    }
    let outcomes = replicas.join_all().await;
    let stored = outcomes.iter().filter(|outcome| matches!(outcome, Receipted::Stored(_))).count();
    assert_eq!(stored, 1, "{outcomes:?}");
}

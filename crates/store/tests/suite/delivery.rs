//! Accepting, claiming, acknowledging, releasing, moving and expiring deliveries.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::{MessageId, Priority};
use claudemesh_store::{
    AckById, Backlog, BacklogTotal, ClaimId, DeliveryOutcome, DeliverySeq, DeliveryState,
    DeliveryWrite, InitialState, MessageLookup, MessageRef, ReleasedRow, Reroute, Rerouted,
    Revocation, RevokeKind,
};

use crate::fixture::{
    Fixture, NOW, World, accept, after, claim_of, client_message, fresh, fresh_key, holder, member,
    message, on_both_engines, send, to_member, to_session,
};

on_both_engines!(
    a_message_comes_out_as_it_went_in,
    claims_come_in_order_by_urgency_and_up_to_the_limit,
    an_unacknowledged_row_comes_back_with_doubling_leases,
    concurrent_claims_get_disjoint_rows,
    a_claim_nobody_knows_of_goes_back,
    rows_born_claimed_or_delivered_are_not_held,
    an_ack_counts_once_and_only_for_own_keys,
    an_ack_of_a_session_leaves_the_copy_of_its_member,
    an_ack_may_stand_beside_its_accept,
    a_released_row_counts_its_attempt_when_it_was_written,
    a_copy_is_read_without_touching_the_claim,
    rows_may_be_numbered_before_they_are_written,
    a_commit_announces_what_is_new,
    rows_of_an_ended_session_move_once,
    messages_of_a_revoked_sender_stay_behind,
    an_expired_row_is_never_delivered,
    backlogs_count_open_rows,
    status_by_id_prefix_and_sender,
    a_broadcast_takes_the_same_statements_as_a_direct_message,
);

async fn a_message_comes_out_as_it_went_in(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let session = fresh_key();
    let mut delivery = to_session(&world.bob, session);
    delivery.wrapped_key = Some(Arc::from("{\"to\":\"x\"}"));
    delivery.rerouted_from = Some(fresh_key());
    let mut sent = message(&world.mesh.id, &world.alice, vec![delivery.clone()]);
    sent.sender_session_key = Some(fresh_key());
    sent.target_spec = "@ops/core".parse().unwrap();
    sent.priority = Priority::Now;
    sent.body_version = 2;
    sent.reply_to = Some(Arc::from("earlier"));
    sent.mentions = Some(Arc::from("[\"bob\"]"));
    sent.hops = 3;
    sent.key_epoch = Some(4);
    sent.client_message = Some(client_message("cm-1", 1));
    sent.fingerprint = Some([0x5a; 32]);
    send(store, sent.clone()).await;
    let claimed = store.claim(claim_of(&world.mesh.id, session, after(1))).await.unwrap();
    let got = &claimed[0];
    assert_eq!(got.recipient_key, session);
    assert_eq!(got.recipient_member_id, world.bob.id);
    assert_eq!(got.recipient_kind, delivery.recipient_kind);
    assert_eq!(got.rerouted_from, delivery.rerouted_from);
    assert_eq!(got.wrapped_key, delivery.wrapped_key);
    assert_eq!((got.attempt, got.until), (1, after(31)));
    let got = &got.message;
    assert_eq!(got.message_id, sent.message_id);
    assert_eq!(got.sender_member_id, sent.sender_member_id);
    assert_eq!(got.sender_session_key, sent.sender_session_key);
    assert_eq!(got.sender_kind, sent.sender_kind);
    assert_eq!(got.target_spec, sent.target_spec);
    assert_eq!(got.priority, sent.priority);
    assert_eq!((&got.nonce, &got.ciphertext), (&sent.nonce, &sent.ciphertext));
    assert_eq!((got.body_version, got.hops, got.key_epoch), (2, 3, Some(4)));
    assert_eq!((&got.reply_to, &got.mentions), (&sent.reply_to, &sent.mentions));
    assert_eq!(got.client_message_id.as_deref(), Some("cm-1"));
    assert_eq!(got.fingerprint, Some([0x5a; 32]));
    assert_eq!((got.created_at, got.expires_at), (sent.created_at, sent.expires_at));
}

async fn claims_come_in_order_by_urgency_and_up_to_the_limit(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = world.bob.pubkey.unwrap();
    let mut expected = vec![Vec::new(); 3];
    for turn in 0..30 {
        let class = turn % 3;
        let mut sent = world.message();
        sent.priority = [Priority::Now, Priority::Next, Priority::Low][class];
        expected[class].push(sent.message_id.clone());
        send(store, sent).await;
    }
    let ids = |rows: &[claudemesh_store::ClaimedDelivery]| -> Vec<MessageId> {
        rows.iter().map(|row| row.message.message_id.clone()).collect()
    };
    let mut claim = claim_of(&world.mesh.id, key, after(1));
    claim.limit = 4;
    claim.least_priority = Priority::Now;
    assert_eq!(ids(&store.claim(claim.clone()).await.unwrap()), expected[0][..4]);
    claim.limit = 100;
    assert_eq!(ids(&store.claim(claim.clone()).await.unwrap()), expected[0][4..]);
    assert!(store.claim(claim.clone()).await.unwrap().is_empty());
    claim.least_priority = Priority::Low;
    let rest = ids(&store.claim(claim).await.unwrap());
    assert_eq!(rest, [expected[1].clone(), expected[2].clone()].concat());
}

async fn a_claim_nobody_knows_of_goes_back(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    for _ in 0..3 {
        send(store, world.message()).await;
    }
    let mut claim = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1));
    let rows = store.claim(claim.clone()).await.unwrap();
    let recipients = store.release_unknown_claims(vec![rows[0].seq]).await.unwrap();
    assert_eq!(recipients.len(), 1);
    claim.now = after(2);
    let again = store.claim(claim).await.unwrap();
    let told: Vec<_> = again.iter().map(|row| (row.seq, row.attempt)).collect();
    assert_eq!(told, [(rows[1].seq, 1), (rows[2].seq, 1)]);
    assert_eq!(
        store.release_unknown_claims(rows.iter().map(|row| row.seq).collect()).await.unwrap(),
        []
    );
}

/// DLV-1.
async fn an_unacknowledged_row_comes_back_with_doubling_leases(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = world.bob.pubkey.unwrap();
    send(store, world.message()).await;
    let mut now = after(1);
    for (attempt, lease) in (1..).zip([30, 60, 120, 240, 480, 600, 600]) {
        let rows = store.claim(claim_of(&world.mesh.id, key, now)).await.unwrap();
        assert_eq!((rows.len(), rows[0].attempt), (1, attempt));
        let until = now.plus(Duration::from_secs(lease));
        assert_eq!(rows[0].until, until);
        assert_eq!(store.next_due().await.unwrap(), Some(until));
        let early = until.minus(Duration::from_millis(1));
        assert!(store.claim(claim_of(&world.mesh.id, key, early)).await.unwrap().is_empty());
        assert!(store.release_expired_claims(early).await.unwrap().is_empty());
        now = until;
        if attempt % 2 == 0 {
            let woken = store.release_expired_claims(now).await.unwrap();
            assert_eq!(woken.len(), 1);
            assert_eq!(woken[0].recipient_key, key);
        }
    }
}

async fn concurrent_claims_get_disjoint_rows(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let writes = (0..200).map(|_| accept(world.message())).collect();
    fixture.store.commit(writes).await.unwrap();
    let mut claims = tokio::task::JoinSet::new();
    for turn in 0..8 {
        let store = fixture.store.clone();
        let mut claim = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1));
        claim.limit = 40;
        claim.by = holder(&format!("p{turn}"));
        claims.spawn(async move { store.claim(claim).await.unwrap() });
    }
    let rows: Vec<_> = claims.join_all().await.into_iter().flatten().map(|row| row.seq).collect();
    let distinct: HashSet<_> = rows.iter().collect();
    assert_eq!(distinct.len(), rows.len());
    let mut rest = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1));
    rest.limit = 1000;
    assert_eq!(rows.len() + fixture.store.claim(rest).await.unwrap().len(), 200);
}

async fn rows_born_claimed_or_delivered_are_not_held(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = world.bob.pubkey.unwrap();
    let mut claimed = to_member(&world.bob);
    claimed.state = InitialState::Claimed { by: holder("p"), until: after(30) };
    let mut delivered = to_member(&world.bob);
    delivered.state = InitialState::Delivered { at: NOW };
    send(store, message(&world.mesh.id, &world.alice, vec![claimed])).await;
    let done = message(&world.mesh.id, &world.alice, vec![delivered]);
    let done_id = done.message_id.clone();
    send(store, done).await;
    assert!(store.claim(claim_of(&world.mesh.id, key, after(29))).await.unwrap().is_empty());
    let rows = store.claim(claim_of(&world.mesh.id, key, after(30))).await.unwrap();
    assert_eq!((rows.len(), rows[0].attempt), (1, 2));
    let MessageLookup::Found(status) =
        store.message_status(&world.mesh.id, done_id.as_str(), None).await.unwrap()
    else {
        panic!("not found")
    };
    assert_eq!(status.deliveries[0].state, DeliveryState::Delivered);
    assert_eq!(status.deliveries[0].delivered_at, Some(NOW));
}

/// DLV-6.
async fn an_ack_counts_once_and_only_for_own_keys(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let carol = member(store, &world.mesh.id).await;
    let deliveries = vec![to_member(&world.bob), to_member(&carol)];
    let mut sent = message(&world.mesh.id, &world.alice, deliveries);
    sent.client_message = Some(client_message("cm-1", 1));
    let seqs = send(store, sent.clone()).await;
    let ack = |key, message| {
        DeliveryWrite::AckById(AckById {
            mesh_id: world.mesh.id.clone(),
            recipient_keys: vec![key],
            message,
            at: after(1),
        })
    };
    let by_client = MessageRef::Client(Arc::from("cm-1"));
    let by_broker = MessageRef::Broker(sent.message_id.clone());
    let unknown = MessageRef::Broker(MessageId::new(fresh()));
    let outcomes = store
        .commit(vec![
            ack(fresh_key(), by_broker.clone()),
            ack(world.bob.pubkey.unwrap(), unknown),
            ack(world.bob.pubkey.unwrap(), by_client.clone()),
            ack(world.bob.pubkey.unwrap(), by_broker.clone()),
        ])
        .await
        .unwrap();
    let acked = |deliveries| DeliveryOutcome::Acked { deliveries };
    assert_eq!(outcomes, [acked(vec![]), acked(vec![]), acked(vec![seqs[0]]), acked(vec![])]);
    let ack_seq = DeliveryWrite::Ack { deliveries: seqs.clone(), at: after(2) };
    let outcomes = store.commit(vec![ack_seq.clone(), ack_seq]).await.unwrap();
    assert_eq!(outcomes, [acked(vec![seqs[1]]), acked(vec![])]);
    let other = World::named(store, "beta").await;
    let foreign = DeliveryWrite::AckById(AckById {
        mesh_id: other.mesh.id.clone(),
        recipient_keys: vec![world.bob.pubkey.unwrap()],
        message: by_broker,
        at: after(1),
    });
    assert_eq!(store.commit(vec![foreign]).await.unwrap(), [acked(vec![])]);
    assert_eq!(store.next_due().await.unwrap(), None, "nothing is open any more");
}

/// DLV-6: a session acknowledges its own copy of a broadcast, and the member's only where it has none.
async fn an_ack_of_a_session_leaves_the_copy_of_its_member(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let session = fresh_key();
    let ack = |message: &claudemesh_store::NewMessage| {
        DeliveryWrite::AckById(AckById {
            mesh_id: world.mesh.id.clone(),
            recipient_keys: vec![session, world.bob.pubkey.unwrap()],
            message: MessageRef::Broker(message.message_id.clone()),
            at: after(1),
        })
    };
    let copies = vec![to_member(&world.bob), to_session(&world.bob, session)];
    let broadcast = message(&world.mesh.id, &world.alice, copies);
    let seqs = send(store, broadcast.clone()).await;
    let direct = world.message();
    let direct_seqs = send(store, direct.clone()).await;
    let acks = vec![ack(&broadcast), ack(&broadcast), ack(&direct)];
    let outcomes = store.commit(acks).await.unwrap();
    let acked = |deliveries| DeliveryOutcome::Acked { deliveries };
    assert_eq!(outcomes, [acked(vec![seqs[1]]), acked(vec![]), acked(direct_seqs)]);
}

/// DLV-9.
async fn an_ack_may_stand_beside_its_accept(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let sent = world.message();
    let ack = DeliveryWrite::AckById(AckById {
        mesh_id: world.mesh.id.clone(),
        recipient_keys: vec![world.bob.pubkey.unwrap()],
        message: MessageRef::Broker(sent.message_id.clone()),
        at: after(1),
    });
    let outcomes = store.commit(vec![ack, accept(sent)]).await.unwrap();
    let DeliveryOutcome::Accepted { deliveries } = &outcomes[1] else { panic!("not accepted") };
    assert_eq!(outcomes[0], DeliveryOutcome::Acked { deliveries: deliveries.clone() });
    let claim = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(2));
    assert!(store.claim(claim).await.unwrap().is_empty());
}

async fn a_released_row_counts_its_attempt_when_it_was_written(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = world.bob.pubkey.unwrap();
    let seqs = send(store, world.message()).await;
    let release = |recipient_key, was_written| DeliveryWrite::Release {
        rows: vec![ReleasedRow { seq: seqs[0], recipient_key, was_written }],
    };
    let nothing = store.commit(vec![release(key, false)]).await.unwrap();
    assert_eq!(nothing, [DeliveryOutcome::Released { rows: 0 }]);
    for (was_written, attempts) in [(false, [1, 1]), (true, [1, 2])] {
        for attempt in attempts {
            let rows = store.claim(claim_of(&world.mesh.id, key, after(1))).await.unwrap();
            assert_eq!((rows[0].seq, rows[0].attempt), (seqs[0], attempt), "{was_written}");
            let foreign = store.commit(vec![release(fresh_key(), true)]).await.unwrap();
            assert_eq!(foreign, [DeliveryOutcome::Released { rows: 0 }], "a moved row stays");
            let released = store.commit(vec![release(key, was_written)]).await.unwrap();
            assert_eq!(released, [DeliveryOutcome::Released { rows: 1 }]);
        }
    }
}

async fn a_copy_is_read_without_touching_the_claim(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = world.bob.pubkey.unwrap();
    let seqs = send(store, world.message()).await;
    let claimed = store.claim(claim_of(&world.mesh.id, key, after(1))).await.unwrap();
    let copies = store.copies(&seqs, after(2)).await.unwrap();
    assert_eq!((&copies[0].row, copies[0].is_held), (&claimed[0], false));
    store
        .commit(vec![DeliveryWrite::Ack { deliveries: seqs.clone(), at: after(2) }])
        .await
        .unwrap();
    let late = store.copies(&seqs, after(3)).await.unwrap();
    assert!(!late[0].is_held, "delivered elsewhere, still to be had");
    assert_eq!(late[0].row.message, claimed[0].message);
    assert!(
        store.copies(&seqs, after(8 * 24 * 3600)).await.unwrap().is_empty(),
        "its time is over"
    );
    assert!(store.copies(&[], after(2)).await.unwrap().is_empty());
}

/// Only SQLite numbers rows itself; on PostgreSQL the call says no and everything else is the same.
async fn rows_may_be_numbered_before_they_are_written(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let before = send(store, world.message()).await[0];
    let is_numbering = store.number_rows().await.unwrap();
    assert_eq!(is_numbering, store.engine_name() == "sqlite");
    assert_eq!(store.number_rows().await.unwrap(), is_numbering, "a second call changes nothing");
    let given = store.next_delivery_seq();
    assert_eq!(given, is_numbering.then_some(DeliverySeq(before.0 + 1)));
    let mut numbered = world.message();
    numbered.deliveries[0].seq = given;
    let unnumbered = send(store, world.message()).await[0];
    let seq = send(store, numbered).await[0];
    assert!(unnumbered > before && seq > before && seq != unnumbered);
    assert!(given.is_none_or(|given| given == seq));
    let rows =
        store.claim(claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1))).await.unwrap();
    assert_eq!(rows.len(), 3);
}

/// DLV-9: what is new is known while the transaction is open, and what is known is not announced.
async fn a_commit_announces_what_is_new(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let named = |id: &str, fingerprint: u8| {
        let mut sent = world.message();
        sent.client_message = Some(client_message(id, fingerprint));
        sent
    };
    send(store, named("stored", 1)).await;
    let batch = vec![
        accept(named("stored", 1)),
        accept(world.message()),
        DeliveryWrite::Ack { deliveries: Vec::new(), at: after(1) },
        accept(named("twice", 1)),
        accept(named("twice", 1)),
        accept(named("twice", 2)),
    ];
    let (announce, announced) = tokio::sync::oneshot::channel();
    let outcomes = store.commit_announcing(batch, announce).await.unwrap();
    assert_eq!(announced.await.unwrap(), [1, 3]);
    assert!(matches!(outcomes[0], DeliveryOutcome::Duplicate(_)), "{outcomes:?}");
    assert!(matches!(outcomes[4], DeliveryOutcome::Duplicate(_)), "{outcomes:?}");
    assert!(matches!(outcomes[5], DeliveryOutcome::Conflict(_)), "{outcomes:?}");
}

async fn rows_of_an_ended_session_move_once(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (first, second) = (fresh_key(), fresh_key());
    let deliveries = vec![to_session(&world.bob, first), to_session(&world.bob, second)];
    send(store, message(&world.mesh.id, &world.alice, deliveries)).await;
    let member_key = world.bob.pubkey.unwrap();
    let reroute = |session_key| {
        DeliveryWrite::Reroute(Reroute {
            at: after(2),
            mesh_id: world.mesh.id.clone(),
            session_key,
            member_key,
            member_id: world.bob.id.clone(),
        })
    };
    let outcomes =
        store.commit(vec![reroute(first), reroute(second), reroute(first)]).await.unwrap();
    let moved: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            DeliveryOutcome::Rerouted(Rerouted { moved, merged, told }) => {
                (*moved, *merged, told.len())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(moved, [(1, 0, 1), (0, 1, 0), (0, 0, 0)]);
    let rows = store.claim(claim_of(&world.mesh.id, member_key, after(1))).await.unwrap();
    assert_eq!(rows.len(), 1, "the member gets the broadcast once");
    assert_eq!(rows[0].rerouted_from, Some(first));
}

/// DLV-7.
async fn messages_of_a_revoked_sender_stay_behind(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    send(store, world.message()).await;
    let mut from_broker = world.message();
    from_broker.sender_member_id = None;
    let kept = from_broker.message_id.clone();
    send(store, from_broker).await;
    let ban = Revocation { at: NOW, kind: RevokeKind::Ban, by: None };
    store.revoke_member(&world.mesh.id, &world.alice.id, ban).await.unwrap();
    let claim = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1));
    let rows = store.claim(claim).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].message.message_id, kept);
}

/// EXP-1.
async fn an_expired_row_is_never_delivered(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let key = world.bob.pubkey.unwrap();
    for _ in 0..3 {
        let mut sent = world.message();
        sent.expires_at = after(5);
        send(store, sent).await;
    }
    send(store, world.message()).await;
    assert_eq!(store.next_due().await.unwrap(), Some(after(5)));
    assert!(store.expire(after(4), 10).await.unwrap().is_empty());
    let rows = store.claim(claim_of(&world.mesh.id, key, after(5))).await.unwrap();
    assert_eq!(rows.len(), 1, "past its time even before the sweep");
    let expired = store.expire(after(5), 2).await.unwrap();
    assert_eq!((expired.len(), expired[0].rows), (1, 2));
    assert_eq!(expired[0].recipient.recipient_key, key);
    assert_eq!(expired[0].recipient_member_id, world.bob.id);
    assert_eq!(store.expire(after(5), 2).await.unwrap()[0].rows, 1);
    assert!(store.expire(after(5), 2).await.unwrap().is_empty());
}

async fn backlogs_count_open_rows(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let other = World::named(store, "beta").await;
    for _ in 0..3 {
        send(store, world.message()).await;
    }
    send(store, other.message()).await;
    let mut claim = claim_of(&world.mesh.id, world.bob.pubkey.unwrap(), after(1));
    claim.limit = 1;
    let claimed = store.claim(claim.clone()).await.unwrap();
    let of = |held, claimed| Backlog {
        recipient_key: world.bob.pubkey.unwrap(),
        recipient_member_id: world.bob.id.clone(),
        held,
        claimed,
    };
    assert_eq!(store.backlog(&world.mesh.id).await.unwrap(), [of(2, 1)]);
    let total = store.backlog_total().await.unwrap();
    assert_eq!(total, BacklogTotal { held: 3, claimed: 1 });
    let held = store.recipients_with_held_rows().await.unwrap();
    assert_eq!(held.len(), 2);
    let ack = DeliveryWrite::Ack { deliveries: vec![claimed[0].seq], at: after(2) };
    store.commit(vec![ack]).await.unwrap();
    assert_eq!(store.backlog(&world.mesh.id).await.unwrap(), [of(2, 0)]);
}

/// MST-1, MST-2.
async fn status_by_id_prefix_and_sender(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mut sent = world.message();
    sent.message_id = MessageId::new("AbcdefghZZ0123456789012345678901");
    let mut similar = world.message();
    similar.message_id = MessageId::new("AbcdefghzZ0123456789012345678901");
    similar.sender_member_id = Some(world.bob.id.clone());
    let seqs = send(store, sent.clone()).await;
    send(store, similar).await;
    store.commit(vec![DeliveryWrite::Ack { deliveries: seqs, at: after(3) }]).await.unwrap();
    let ask = |text: &'static str, sender| store.message_status(&world.mesh.id, text, sender);
    let MessageLookup::Found(status) = ask("AbcdefghZ", None).await.unwrap() else {
        panic!("not found")
    };
    assert_eq!(status.message_id, sent.message_id);
    assert_eq!(status.sender_member_id.as_ref(), Some(&world.alice.id));
    assert_eq!(status.deliveries.len(), 1);
    assert_eq!(status.deliveries[0].state, DeliveryState::Delivered);
    assert_eq!(status.deliveries[0].delivered_at, Some(after(3)));
    assert_eq!(ask("Abcdefgh", None).await.unwrap(), MessageLookup::Ambiguous);
    let own = ask("Abcdefgh", Some(&world.alice.id)).await.unwrap();
    assert!(matches!(own, MessageLookup::Found(_)));
    assert_eq!(ask("abcdefgh", None).await.unwrap(), MessageLookup::NotFound);
    let stranger = ask("AbcdefghZZ0123456789012345678901", Some(&world.owner.id)).await.unwrap();
    assert_eq!(stranger, MessageLookup::NotFound);
    let beta = World::named(store, "beta").await;
    let foreign = store.message_status(&beta.mesh.id, "AbcdefghZ", None).await.unwrap();
    assert_eq!(foreign, MessageLookup::NotFound);
}

async fn a_broadcast_takes_the_same_statements_as_a_direct_message(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let keys: Vec<_> = (0..500).map(|_| fresh_key()).collect();
    let to_all = |keys: &[claudemesh_protocol::PublicKey]| {
        keys.iter().map(|key| to_session(&world.bob, *key)).collect::<Vec<_>>()
    };
    let writes = vec![
        accept(message(&world.mesh.id, &world.alice, to_all(&keys))),
        accept(message(&world.mesh.id, &world.alice, vec![])),
        accept(message(&world.mesh.id, &world.alice, to_all(&keys[..2]))),
    ];
    let outcomes = store.commit(writes).await.unwrap();
    let seqs: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            DeliveryOutcome::Accepted { deliveries } => deliveries.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!([seqs[0].len(), seqs[1].len(), seqs[2].len()], [500, 0, 2]);
    // Numbers answer to the deliveries in their order.
    let claim = claudemesh_store::Claim {
        by: ClaimId::new("x"),
        ..claim_of(&world.mesh.id, keys[1], after(1))
    };
    let rows = store.claim(claim).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [seqs[0][1], seqs[2][1]]);
}

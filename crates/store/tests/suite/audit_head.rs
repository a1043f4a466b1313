//! Signed heads of the audit log: whatever disappears from the end of a chain is noticed.

use std::time::Duration;

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::audit::{Entry, Head, link};
use claudemesh_protocol::limits::{AUDIT_HEAD_PERIOD, AUDIT_HEADS_KEPT};
use claudemesh_protocol::{MeshId, Timestamp};
use claudemesh_store::{AuditFault, AuditHead, AuditTail, Store};

use crate::audit::{append, numbered};
use crate::fixture::{Fixture, NOW, World, after, on_both_engines};

on_both_engines!(
    what_is_gone_from_the_end_is_found,
    a_rewritten_chain_is_found,
    a_changed_head_is_found,
    a_chain_that_was_cut_is_never_signed_again,
    two_nodes_keep_one_head,
    a_log_is_due_once_an_hour_and_only_when_it_has_grown,
    heads_are_bounded,
);

/// What a broker does in a round; true when its head was kept.
async fn sign(store: &Store, mesh: &MeshId, key: &KeyPair, at: Timestamp) -> bool {
    let tail = store.audit_tail(mesh).await.unwrap();
    keep(store, mesh, key, at, tail).await
}

async fn keep(store: &Store, mesh: &MeshId, key: &KeyPair, at: Timestamp, tail: AuditTail) -> bool {
    let AuditTail::Unsigned { after, entry, entries, hash } = tail else { panic!("{tail:?}") };
    let signature = Head { mesh, entry, entries, hash: &hash, at }.sign(key).unwrap().to_hex();
    let broker_pubkey = key.public().to_hex();
    let head = AuditHead { entry, entries, hash, signed_at: at, broker_pubkey, signature };
    store.keep_audit_head(mesh, head, after).await.unwrap()
}

async fn grow(store: &Store, mesh: &MeshId, count: u32) {
    append(store, (0..count).map(|number| numbered(mesh, number)).collect()).await;
}

/// Numbers of the entries, oldest first.
async fn numbers(store: &Store, mesh: &MeshId) -> Vec<i64> {
    let page = store.audit_entries(mesh, None, 500, 0).await.unwrap();
    page.entries.iter().rev().map(|entry| entry.id).collect()
}

async fn fault(store: &Store, mesh: &MeshId, key: &KeyPair) -> Option<(i64, AuditFault)> {
    let verdict = store.verify_audit(mesh, key.public()).await.unwrap();
    assert_eq!(verdict.broken_at.is_some(), verdict.fault.is_some());
    verdict.broken_at.zip(verdict.fault)
}

/// AUD-2: the last row, the last rows, all rows; also when the log goes on afterwards.
async fn what_is_gone_from_the_end_is_found(fixture: &Fixture) {
    let store = &fixture.store;
    let key = KeyPair::generate();
    for (round, gone) in [1, 3, 4, 20].into_iter().enumerate() {
        for goes_on in [false, true] {
            let world = World::named(store, &format!("mesh-{round}-{goes_on}")).await;
            let mesh = &world.mesh.id;
            grow(store, mesh, 3).await;
            assert!(sign(store, mesh, &key, NOW).await);
            let first_head = *numbers(store, mesh).await.last().unwrap();
            grow(store, mesh, 3).await;
            assert!(sign(store, mesh, &key, after(3600)).await);
            let all = numbers(store, mesh).await;
            let last = *all.last().unwrap();
            assert_eq!(fault(store, mesh, &key).await, None);
            let from = all[all.len().saturating_sub(gone)];
            let sql = format!("DELETE FROM audit_log WHERE mesh_id = '{mesh}' AND id >= {from}");
            fixture.by_hand(&sql).await;
            if goes_on {
                grow(store, mesh, 10).await;
            }
            // The earliest of the signed entries that are gone.
            let expected = if from <= first_head { first_head } else { last };
            let found = fault(store, mesh, &key).await;
            assert_eq!(found, Some((expected, AuditFault::Gone)), "{gone} {goes_on}");
        }
    }
    // What nobody has signed yet can go unnoticed: that is the hour.
    let world = World::named(store, "unsigned").await;
    let mesh = &world.mesh.id;
    grow(store, mesh, 3).await;
    assert!(sign(store, mesh, &key, NOW).await);
    let signed = *numbers(store, mesh).await.last().unwrap();
    grow(store, mesh, 3).await;
    fixture
        .by_hand(&format!("DELETE FROM audit_log WHERE mesh_id = '{mesh}' AND id > {signed}"))
        .await;
    assert_eq!(fault(store, mesh, &key).await, None);
    let verdict = store.verify_audit(mesh, key.public()).await.unwrap();
    let head = verdict.head.unwrap();
    assert_eq!((head.entry, head.entries, head.signed_at), (signed, verdict.entries, NOW));
    assert!(head.is_signed_by(mesh, key.public()));
}

/// Somebody who knows how the chain is made writes one that fits in itself.
async fn a_rewritten_chain_is_found(fixture: &Fixture) {
    let store = &fixture.store;
    let key = KeyPair::generate();
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    grow(store, mesh, 3).await;
    assert!(sign(store, mesh, &key, NOW).await);
    let page = store.audit_entries(mesh, None, 2, 0).await.unwrap();
    let (last, before) = (&page.entries[0], &page.entries[1]);
    let forged = Entry {
        mesh,
        event: &last.event,
        actor: None,
        payload: "{\"n\":77}",
        created_at: last.created_at,
    };
    let hash = link(Some(&before.hash), &forged);
    let sql = format!(
        "UPDATE audit_log SET payload = '{{\"n\":77}}', hash = '{hash}' WHERE id = {}",
        last.id
    );
    fixture.by_hand(&sql).await;
    assert_eq!(fault(store, mesh, &key).await, Some((last.id, AuditFault::Gone)));
    grow(store, mesh, 2).await;
    assert_eq!(fault(store, mesh, &key).await, Some((last.id, AuditFault::Gone)));
}

async fn a_changed_head_is_found(fixture: &Fixture) {
    let store = &fixture.store;
    let (key, other) = (KeyPair::generate(), KeyPair::generate());
    for (round, change) in [
        "signed_at = signed_at + 1",
        "entries = entries + 1",
        "signature = 'no signature'",
        "broker_pubkey = 'no key'",
        "entry_id = entry_id - 1",
        "hash = 'x'",
    ]
    .into_iter()
    .enumerate()
    {
        let world = World::named(store, &format!("mesh-{round}")).await;
        let mesh = &world.mesh.id;
        grow(store, mesh, 3).await;
        assert!(sign(store, mesh, &key, NOW).await);
        let last = *numbers(store, mesh).await.last().unwrap();
        // Only by this broker, whoever else signs well.
        assert_eq!(fault(store, mesh, &other).await, Some((last, AuditFault::Forged)));
        let sql = format!("UPDATE audit_head SET {change} WHERE mesh_id = '{mesh}'");
        fixture.by_hand(&sql).await;
        let found = fault(store, mesh, &key).await;
        let (at, why) = match change {
            "entry_id = entry_id - 1" => (last - 1, AuditFault::Gone),
            "hash = 'x'" => (last, AuditFault::Gone),
            _ => (last, AuditFault::Forged),
        };
        assert_eq!(found, Some((at, why)), "{change}");
    }
}

/// Otherwise somebody would wait until the heads that show it are forgotten.
async fn a_chain_that_was_cut_is_never_signed_again(fixture: &Fixture) {
    let store = &fixture.store;
    let key = KeyPair::generate();
    for (slug, damage, why) in [
        ("cut", "DELETE FROM audit_log WHERE mesh_id = $M AND id = $H", AuditFault::Gone),
        (
            "changed",
            "UPDATE audit_log SET payload = '{}' WHERE mesh_id = $M AND id > $H",
            AuditFault::Changed,
        ),
    ] {
        let world = World::named(store, slug).await;
        let mesh = &world.mesh.id;
        grow(store, mesh, 3).await;
        assert!(sign(store, mesh, &key, NOW).await);
        let signed = *numbers(store, mesh).await.last().unwrap();
        grow(store, mesh, 1).await;
        let next = *numbers(store, mesh).await.last().unwrap();
        let tail = store.audit_tail(mesh).await.unwrap();
        let sql = damage.replace("$M", &format!("'{mesh}'")).replace("$H", &signed.to_string());
        fixture.by_hand(&sql).await;
        let at = if why == AuditFault::Gone { signed } else { next };
        let broken = AuditTail::Broken { at, fault: why };
        assert_eq!(store.audit_tail(mesh).await.unwrap(), broken);
        grow(store, mesh, 1).await;
        assert_eq!(store.audit_tail(mesh).await.unwrap(), broken);
        // What was judged before the damage is still kept: its entry stands, unless it is the one.
        let AuditTail::Unsigned { hash, .. } = &tail else { panic!("{tail:?}") };
        let gone = AuditHead {
            entry: next + 1_000,
            entries: 1,
            hash: hash.clone(),
            signed_at: after(3600),
            broker_pubkey: String::new(),
            signature: String::new(),
        };
        assert!(!store.keep_audit_head(mesh, gone, signed).await.unwrap());
    }
}

async fn two_nodes_keep_one_head(fixture: &Fixture) {
    let store = &fixture.store;
    let other = fixture.reopened().await;
    let key = KeyPair::generate();
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    for round in 0..5 {
        grow(store, mesh, 3).await;
        // Both have looked, one has seen more than the other.
        let one = store.audit_tail(mesh).await.unwrap();
        grow(&other, mesh, 3).await;
        let two = other.audit_tail(mesh).await.unwrap();
        let at = after(3600 * (round + 1));
        let (first, second) =
            tokio::join!(keep(store, mesh, &key, at, one), keep(&other, mesh, &key, at, two));
        assert!(first != second, "exactly one: {first} {second}");
        assert_eq!(fault(store, mesh, &key).await, None);
        assert!(store.unsigned_audit_meshes(at).await.unwrap().is_empty());
        // Who had seen before that the log was due, and looks only now, is too late.
        grow(&other, mesh, 1).await;
        let moment = at.plus(Duration::from_millis(1));
        assert!(!sign(&other, mesh, &key, moment).await, "twice in an hour");
    }
    other.close().await;
}

async fn a_log_is_due_once_an_hour_and_only_when_it_has_grown(fixture: &Fixture) {
    let store = &fixture.store;
    let key = KeyPair::generate();
    let (world, quiet) = (World::new(store).await, World::named(store, "beta").await);
    let mesh = &world.mesh.id;
    let due = async |at: Timestamp| store.unsigned_audit_meshes(at).await.unwrap().contains(mesh);
    assert!(due(NOW).await, "never signed");
    assert!(sign(store, mesh, &key, NOW).await);
    assert!(!due(after(7200)).await, "nothing new");
    assert_eq!(store.audit_tail(mesh).await.unwrap(), AuditTail::Signed);
    grow(store, mesh, 1).await;
    assert!(!due(after(3599)).await);
    assert!(due(after(3600)).await);
    // The clock of the other broker may be ahead; one that was set back prolongs nothing.
    assert!(!due(NOW.minus(AUDIT_HEAD_PERIOD).plus(Duration::from_secs(1))).await);
    assert!(due(NOW.minus(AUDIT_HEAD_PERIOD)).await);
    let others = store.unsigned_audit_meshes(NOW).await.unwrap();
    assert!(others.contains(&quiet.mesh.id));
}

async fn heads_are_bounded(fixture: &Fixture) {
    let store = &fixture.store;
    let key = KeyPair::generate();
    let (world, other) = (World::new(store).await, World::named(store, "beta").await);
    let (mesh, beta) = (&world.mesh.id, &other.mesh.id);
    assert!(sign(store, beta, &key, NOW).await);
    let mut signed = Vec::new();
    for round in 0..u64::from(AUDIT_HEADS_KEPT) + 2 {
        grow(store, mesh, 1).await;
        assert!(sign(store, mesh, &key, after(3600 * round)).await);
        signed.push(store.audit_head(mesh).await.unwrap().unwrap().entry);
    }
    assert_eq!(fault(store, mesh, &key).await, None);
    fixture.by_hand(&format!("DELETE FROM audit_log WHERE mesh_id = '{mesh}'")).await;
    // Of the two oldest nothing is known any more.
    assert_eq!(fault(store, mesh, &key).await, Some((signed[2], AuditFault::Gone)));
    assert!(store.audit_head(beta).await.unwrap().is_some(), "another mesh keeps its own");
}

//! The audit log.

use claudemesh_crypto::audit::{Entry, link};
use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::{MemberId, MeshId, PublicKey, Timestamp};
use claudemesh_store::{
    AuditPayload, AuditValue, AuditVerdict, ClaimInvite, NewAuditEntry, NewIdentity, Revocation,
    RevokeKind, Store,
};

use crate::fixture::{Fixture, NOW, World, after, fresh_key, invite, new_member, on_both_engines};

on_both_engines!(
    a_hundred_entries_of_two_nodes_are_one_chain,
    any_change_is_found_at_its_row,
    entries_are_read_newest_first_by_type_and_page,
    a_payload_is_stored_in_its_canonical_text,
    joining_and_inviting_leave_entries_in_their_own_transactions,
);

/// The broker's key, where nothing was signed.
pub const BROKER: PublicKey = PublicKey::from_bytes([9; 32]);

fn entry(mesh: &MeshId, event: AuditEvent, payload: AuditPayload) -> NewAuditEntry {
    NewAuditEntry { mesh_id: mesh.clone(), event, actor: None, payload, at: NOW }
}

pub fn numbered(mesh: &MeshId, number: u32) -> NewAuditEntry {
    entry(mesh, AuditEvent::StateSet, AuditPayload::new().with("n", number))
}

pub async fn append(store: &Store, entries: Vec<NewAuditEntry>) {
    let mesh = entries[0].mesh_id.clone();
    store.append_audit_entries(&mesh, entries).await.unwrap();
}

/// AUD-1, the store's part.
async fn a_hundred_entries_of_two_nodes_are_one_chain(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let (mesh, other) = (world.mesh.id.clone(), fixture.reopened().await);
    let before = fixture.store.verify_audit(&mesh, BROKER).await.unwrap().entries;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let store = if number % 2 == 0 { fixture.store.clone() } else { other.clone() };
        let entry = numbered(&mesh, number);
        tasks.spawn(async move { append(&store, vec![entry]).await });
    }
    tasks.join_all().await;
    let verdict = fixture.store.verify_audit(&mesh, BROKER).await.unwrap();
    assert_eq!(verdict, AuditVerdict { entries: before + 100, ..AuditVerdict::default() });
    let page = other.audit_entries(&mesh, Some("state_set"), 500, 0).await.unwrap();
    let mut numbers: Vec<String> = page.entries.into_iter().map(|entry| entry.payload).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((numbers.len(), page.total), (100, 100));
    other.close().await;
}

/// AUD-2, the store's part: each column that is hashed, a removed row, a row in between.
async fn any_change_is_found_at_its_row(fixture: &Fixture) {
    let store = &fixture.store;
    let changes = [
        "UPDATE audit_log SET payload = '{\"n\":8}' WHERE payload = '{\"n\":1007}'",
        "UPDATE audit_log SET event_type = 'state_deleted' WHERE payload = '{\"n\":1007}'",
        "UPDATE audit_log SET actor_member_id = 'someone' WHERE payload = '{\"n\":1007}'",
        "UPDATE audit_log SET created_at = created_at + 1 WHERE payload = '{\"n\":1007}'",
        "UPDATE audit_log SET prev_hash = 'genesis' WHERE payload = '{\"n\":1007}'",
        "UPDATE audit_log SET hash = prev_hash WHERE payload = '{\"n\":1007}'",
        "DELETE FROM audit_log WHERE payload = '{\"n\":1006}'",
    ];
    for (round, sql) in changes.into_iter().enumerate() {
        let world = World::named(store, &format!("mesh-{round}")).await;
        let mesh = &world.mesh.id;
        let first = store.verify_audit(mesh, BROKER).await.unwrap().entries;
        // More than one batch of a verification, and the change in the second.
        append(store, (0..1_020).map(|number| numbered(mesh, number)).collect()).await;
        let page = store.audit_entries(mesh, Some("state_set"), 13, 0).await.unwrap();
        let victim = &page.entries[12];
        assert_eq!(victim.payload, r#"{"n":1007}"#);
        assert_eq!(store.verify_audit(mesh, BROKER).await.unwrap().broken_at, None);
        fixture.by_hand(sql).await;
        let verdict = store.verify_audit(mesh, BROKER).await.unwrap();
        assert_eq!(verdict.broken_at, Some(victim.id), "{sql}");
        let gone = u64::from(sql.starts_with("DELETE"));
        assert_eq!(verdict.entries, first + 1_008 - gone, "{sql}");
        fixture.by_hand("DELETE FROM audit_log").await;
        assert_eq!(store.verify_audit(mesh, BROKER).await.unwrap(), AuditVerdict::default());
    }
}

async fn entries_are_read_newest_first_by_type_and_page(fixture: &Fixture) {
    let store = &fixture.store;
    let (world, other) = (World::new(store).await, World::named(store, "beta").await);
    let mesh = &world.mesh.id;
    let all = store.audit_entries(mesh, None, 500, 0).await.unwrap().total;
    append(store, (0..5).map(|number| numbered(mesh, number)).collect()).await;
    append(store, vec![entry(mesh, AuditEvent::StateDeleted, AuditPayload::new())]).await;
    append(store, vec![numbered(&other.mesh.id, 77)]).await;
    let read = async |event, limit, offset| {
        let page = store.audit_entries(mesh, event, limit, offset).await.unwrap();
        let payloads: Vec<String> = page.entries.into_iter().map(|entry| entry.payload).collect();
        (payloads, page.total)
    };
    let n = |number: u32| format!(r#"{{"n":{number}}}"#);
    assert_eq!(read(Some("state_set"), 2, 0).await, (vec![n(4), n(3)], 5));
    assert_eq!(read(Some("state_set"), 2, 3).await, (vec![n(1), n(0)], 5));
    assert_eq!(read(Some("state_set"), 2, u64::MAX).await, (vec![], 5));
    assert_eq!(read(None, 2, 0).await, (vec!["{}".to_owned(), n(4)], all + 6));
    assert_eq!(read(Some("peer_left"), 2, 0).await, (vec![], 0));
}

/// V:audit_chain says how the text looks; here it survives the database.
async fn a_payload_is_stored_in_its_canonical_text(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    let map: AuditValue = [("b".to_owned(), true), ("a".to_owned(), false)].into_iter().collect();
    let payload = AuditPayload::new()
        .with("z", "\u{1}\"é\u{1f600}")
        .with("absent", None::<u32>)
        .with("list", vec!["x", "y"])
        .with("when", Timestamp::from_millis(0))
        .with("map", map);
    let before = store.audit_entries(mesh, None, 1, 0).await.unwrap().entries.remove(0);
    append(store, vec![entry(mesh, AuditEvent::StateSet, payload)]).await;
    let stored = store.audit_entries(mesh, None, 1, 0).await.unwrap().entries.remove(0);
    let text = "{\"list\":[\"x\",\"y\"],\"map\":{\"a\":false,\"b\":true},\
                \"when\":\"1970-01-01T00:00:00.000Z\",\"z\":\"\\u0001\\\"é\u{1f600}\"}";
    assert_eq!(stored.payload, text);
    let hashed = Entry { mesh, event: "state_set", actor: None, payload: text, created_at: NOW };
    assert_eq!(stored.hash, link(Some(&before.hash), &hashed));
    assert_eq!(store.verify_audit(mesh, BROKER).await.unwrap().broken_at, None);
}

async fn joining_and_inviting_leave_entries_in_their_own_transactions(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (mesh, owner) = (&world.mesh.id, &world.owner.id);
    let joiner = fresh_key();
    let used = invite(store, &world, 2).await;
    let code = match &used.form {
        claudemesh_store::InviteForm::Code { code, .. } => code.clone(),
        claudemesh_store::InviteForm::Token { .. } => panic!("a token"),
    };
    let claim = |identity| store.claim_invite(&used.id, new_member(mesh, identity), NOW);
    let ClaimInvite::Joined(member) = claim(NewIdentity::Key(joiner)).await.unwrap() else {
        panic!("not joined")
    };
    // A repeat, one use too many and a second revocation leave nothing.
    claim(NewIdentity::Key(joiner)).await.unwrap();
    let ClaimInvite::Joined(unbound) =
        claim(NewIdentity::Unbound { until: after(900) }).await.unwrap()
    else {
        panic!("not joined")
    };
    assert_eq!(claim(NewIdentity::Key(fresh_key())).await.unwrap(), ClaimInvite::Exhausted);
    let (late, later) = (fresh_key(), fresh_key());
    store.bind_member(mesh, &unbound.id, &late, NOW).await.unwrap();
    store.bind_member(mesh, &unbound.id, &later, NOW).await.unwrap();
    for _ in 0..2 {
        store.revoke_invite(mesh, &code, owner, NOW).await.unwrap();
        let leave = Revocation { at: NOW, kind: RevokeKind::Leave, by: Some(member.id.clone()) };
        store.revoke_member(mesh, &member.id, leave).await.unwrap();
    }
    let page = store.audit_entries(mesh, None, 500, 0).await.unwrap();
    let told: Vec<(String, Option<&str>)> = page
        .entries
        .iter()
        .rev()
        .map(|entry| (entry.event.clone(), entry.actor.as_ref().map(MemberId::as_str)))
        .collect();
    let (owner, alice, bob) =
        (world.owner.id.as_str(), world.alice.id.as_str(), world.bob.id.as_str());
    let (member, unbound) = (member.id.as_str(), unbound.id.as_str());
    let expected = [
        ("mesh_created", owner),
        ("member_joined", alice),
        ("member_joined", bob),
        ("invite_created", owner),
        ("invite_claimed", member),
        ("member_joined", member),
        ("invite_claimed", unbound),
        ("member_joined", unbound),
        ("invite_revoked", owner),
        ("member_left", member),
    ];
    assert_eq!(told, expected.map(|(event, actor)| (event.to_owned(), Some(actor))));
    let all = page.entries.iter().map(|entry| entry.payload.as_str()).collect::<String>();
    assert!(!all.contains(&code), "an invite's code is a secret");
    assert!(all.contains(&joiner.to_hex()) && all.contains(&late.to_hex()));
    assert_eq!(store.verify_audit(mesh, BROKER).await.unwrap().broken_at, None);
}

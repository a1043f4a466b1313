//! Bans, key rotation, edits of members, and the numbered events of a mesh.

use std::collections::BTreeMap;

use claudemesh_protocol::SignatureBytes;
use claudemesh_protocol::permission::Grant;
use claudemesh_protocol::status::MemberRole;
use claudemesh_store::{
    ClaimInvite, DeliveryOutcome, DeliveryWrite, EditMember, MemberChange, MergeGrants, Missed,
    NewBan, NewIdentity, RotateKey, Rotation, RotationProof,
};

use crate::fixture::{
    self, Fixture, NOW, World, after, claim_of, fresh_key, message, new_member, on_both_engines,
    send, to_member,
};

on_both_engines!(
    a_ban_drops_what_is_held_and_is_listed_with_who_and_why,
    what_a_banned_sender_has_in_the_same_commit_is_dropped,
    what_a_crash_left_of_a_banned_sender_is_dropped,
    who_is_unbanned_comes_back_without_its_grants,
    a_rotated_key_is_former_and_takes_its_blocks_along,
    a_key_is_a_members_once,
    events_are_counted_and_found_by_number_and_time,
    an_edit_changes_what_it_names_and_no_taken_name,
);

fn ban(world: &World) -> NewBan {
    NewBan {
        mesh_id: world.mesh.id.clone(),
        member_id: world.bob.id.clone(),
        by: world.owner.id.clone(),
        reason: Some("lost laptop".to_owned()),
        at: after(1),
    }
}

async fn audited(fixture: &Fixture, world: &World, event: &str) -> u64 {
    let store = &fixture.store;
    assert_eq!(
        store.verify_audit(&world.mesh.id, crate::audit::BROKER).await.unwrap().broken_at,
        None
    );
    store.audit_entries(&world.mesh.id, Some(event), 10, 0).await.unwrap().total
}

async fn a_ban_drops_what_is_held_and_is_listed_with_who_and_why(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    let from_bob = message(mesh, &world.bob, vec![to_member(&world.alice)]);
    let dropped = send(store, from_bob).await;
    let from_owner = message(mesh, &world.owner, vec![to_member(&world.alice)]);
    let kept = send(store, from_owner).await;
    let banned = store.ban_member(ban(&world)).await.unwrap().unwrap();
    assert_eq!(banned.dropped.iter().map(|row| row.seq).collect::<Vec<_>>(), dropped);
    assert_eq!(banned.dropped[0].recipient_member_id, world.alice.id);
    assert_eq!((banned.event.seq, banned.event.event.as_str()), (1, "member_revoked"));
    assert_eq!(banned.event.data["pubkey"], world.bob.pubkey.unwrap().to_hex());
    let claim = claim_of(mesh, world.alice.pubkey.unwrap(), after(2));
    let left: Vec<_> = store.claim(claim).await.unwrap().iter().map(|row| row.seq).collect();
    assert_eq!(left, kept);
    assert!(store.ban_member(ban(&world)).await.unwrap().is_none(), "it is banned already");
    let bans = store.bans(mesh).await.unwrap();
    assert_eq!(bans.len(), 1);
    assert_eq!(bans[0].reason.as_deref(), Some("lost laptop"));
    assert_eq!(bans[0].by.as_ref(), Some(&world.owner.display_name));
    assert_eq!((bans[0].key, bans[0].at), (world.bob.pubkey.unwrap(), after(1)));
    assert_eq!(audited(fixture, &world, "member_banned").await, 1);
}

async fn what_a_banned_sender_has_in_the_same_commit_is_dropped(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mesh_id = world.mesh.id.clone();
    let earlier = send(store, message(&mesh_id, &world.bob, vec![to_member(&world.owner)])).await;
    let sent = fixture::accept(message(&mesh_id, &world.bob, vec![to_member(&world.alice)]));
    let other = fixture::accept(message(&mesh_id, &world.owner, vec![to_member(&world.alice)]));
    let drop_from = DeliveryWrite::DropFrom { mesh_id, sender: world.bob.id.clone() };
    let answers = store.commit(vec![drop_from, sent, other]).await.unwrap();
    let [DeliveryOutcome::Dropped(rows), DeliveryOutcome::Accepted { deliveries }, _] = &*answers
    else {
        panic!("{answers:?}")
    };
    let mut dropped: Vec<_> = rows.iter().map(|row| row.seq).collect();
    dropped.sort_unstable();
    assert_eq!(dropped, [earlier.as_slice(), deliveries].concat());
    let total = store.backlog_total().await.unwrap();
    assert_eq!((total.held, total.claimed), (1, 0), "the owner's");
}

async fn what_a_crash_left_of_a_banned_sender_is_dropped(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    store.ban_member(ban(&world)).await.unwrap().unwrap();
    // Accepted before the ban, committed after it.
    for sender in [&world.bob, &world.owner] {
        send(store, message(mesh, sender, vec![to_member(&world.alice)])).await;
    }
    assert_eq!(store.drop_messages_of_banned().await.unwrap(), 1);
    assert_eq!(store.drop_messages_of_banned().await.unwrap(), 0);
    assert_eq!(store.backlog_total().await.unwrap().held, 1);
}

async fn who_is_unbanned_comes_back_without_its_grants(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (mesh, bob, owner) = (&world.mesh.id, &world.bob.id, &world.owner.id);
    let grants = BTreeMap::from([(world.alice.pubkey.unwrap(), Some(vec![Grant::Dm]))]);
    store.merge_grants(mesh, bob, grants, NOW).await.unwrap();
    assert!(store.unban_member(mesh, bob, owner, NOW).await.unwrap().is_none());
    store.ban_member(ban(&world)).await.unwrap().unwrap();
    let key = world.bob.pubkey.unwrap();
    let mut heir = new_member(mesh, NewIdentity::Key(fresh_key()));
    heir.display_name.clone_from(&world.bob.display_name);
    store.add_members(vec![heir]).await.unwrap();
    let back = store.unban_member(mesh, bob, owner, after(2)).await.unwrap().unwrap();
    assert!(back.revoked.is_none() && back.grants.is_empty());
    assert_ne!(back.display_name, world.bob.display_name, "somebody else has that name now");
    assert!(store.revoked_keys(mesh, &[key]).await.unwrap().is_empty());
    assert!(store.bans(mesh).await.unwrap().is_empty());
    assert_eq!(audited(fixture, &world, "member_unbanned").await, 1);
}

fn rotation(world: &World, new: claudemesh_protocol::PublicKey) -> Rotation {
    Rotation {
        mesh_id: world.mesh.id.clone(),
        member_id: world.bob.id.clone(),
        old: world.bob.pubkey.unwrap(),
        new,
        proof: RotationProof {
            signed_at: after(9),
            by_old: SignatureBytes::from_bytes([1; 64]),
            by_new: SignatureBytes::from_bytes([2; 64]),
        },
        at: after(10),
    }
}

/// ROT-1.
async fn a_rotated_key_is_former_and_takes_its_blocks_along(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (mesh, old, new) = (&world.mesh.id, world.bob.pubkey.unwrap(), fresh_key());
    let block = BTreeMap::from([(old, Some(vec![]))]);
    store.merge_grants(mesh, &world.alice.id, block, NOW).await.unwrap();
    let RotateKey::Rotated(event) = store.rotate_key(rotation(&world, new)).await.unwrap() else {
        panic!("refused")
    };
    assert_eq!(event.event, "member_keypair_rotated");
    assert_eq!(event.data["newPubkey"], new.to_hex());
    assert!(store.member_by_key(mesh, &old).await.unwrap().is_none());
    assert_eq!(store.member_by_key(mesh, &new).await.unwrap().unwrap().id, world.bob.id);
    let roster = store.roster(mesh).await.unwrap();
    let bob = roster.iter().find(|entry| entry.member.id == world.bob.id).unwrap();
    assert_eq!(bob.former_keys.len(), 1);
    assert_eq!(bob.former_keys[0].valid_until, after(10 + 7 * 24 * 3600));
    assert_eq!(bob.former_keys[0].proof, Some(rotation(&world, new).proof));
    assert_eq!((bob.key_at(after(10)), bob.key_at(after(11))), (Some(old), Some(new)));
    let alice = store.member(mesh, &world.alice.id).await.unwrap().unwrap();
    assert_eq!(alice.grants, BTreeMap::from([(new, vec![])]));
    assert_eq!(store.rotate_key(rotation(&world, fresh_key())).await.unwrap(), RotateKey::NotFound);
    let invite = fixture::invite(store, &world, 1).await;
    let join = new_member(mesh, NewIdentity::Key(old));
    let joined = store.claim_invite(&invite.id, join, after(11)).await.unwrap();
    assert!(matches!(joined, ClaimInvite::Banned), "a former key joins nothing: {joined:?}");
    assert_eq!(audited(fixture, &world, "member_keypair_rotated").await, 1);
}

async fn a_key_is_a_members_once(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let theirs = world.alice.pubkey.unwrap();
    assert_eq!(store.rotate_key(rotation(&world, theirs)).await.unwrap(), RotateKey::KeyTaken);
    assert!(
        store.member_by_key(&world.mesh.id, &world.bob.pubkey.unwrap()).await.unwrap().is_some()
    );
    assert_eq!(audited(fixture, &world, "member_keypair_rotated").await, 0);
}

/// EV-3.
async fn events_are_counted_and_found_by_number_and_time(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    store.ban_member(ban(&world)).await.unwrap().unwrap();
    let settings = world.mesh.settings.clone();
    store.set_mesh_settings(mesh, settings, vec!["openData"], None, after(20)).await.unwrap();
    let found = async |missed| {
        let events = store.mesh_events(mesh, missed).await.unwrap();
        events.into_iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!(found(Missed::After(0)).await, [1, 2]);
    assert_eq!(found(Missed::After(1)).await, [2]);
    assert_eq!(found(Missed::After(2)).await, Vec::<u64>::new());
    assert_eq!(found(Missed::Since(after(1))).await, [1, 2]);
    assert_eq!(found(Missed::Since(after(2))).await, [2]);
    let read = store.mesh(mesh).await.unwrap().unwrap();
    assert_eq!((read.event_seq, read.last_event_at), (2, Some(after(20))));
}

async fn an_edit_changes_what_it_names_and_no_taken_name(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let (mesh, id, by) = (&world.mesh.id, &world.bob.id, Some(&world.owner.id));
    let wish = |name: &str| MemberChange {
        display_name: Some(name.to_owned()),
        role: Some(MemberRole::Admin),
        ..MemberChange::default()
    };
    let taken = world.alice.display_name.to_uppercase();
    let refused = store.edit_member(mesh, id, wish(&taken), by, NOW).await.unwrap();
    assert_eq!(refused, EditMember::NameTaken);
    let EditMember::Edited(edited) =
        store.edit_member(mesh, id, wish("Robert"), by, NOW).await.unwrap()
    else {
        panic!("refused")
    };
    assert_eq!((edited.display_name.as_str(), edited.role), ("Robert", MemberRole::Admin));
    assert_eq!(store.member(mesh, id).await.unwrap().unwrap(), edited);
    assert_eq!(audited(fixture, &world, "member_role_changed").await, 1);
    assert_eq!(audited(fixture, &world, "member_profile_changed").await, 1);
    store.ban_member(ban(&world)).await.unwrap().unwrap();
    let gone = store.edit_member(mesh, id, wish("Bobby"), by, NOW).await.unwrap();
    assert_eq!(gone, EditMember::NotFound);
    let merged = store.merge_grants(mesh, id, BTreeMap::new(), NOW).await.unwrap();
    assert_eq!(merged, MergeGrants::NotFound);
}

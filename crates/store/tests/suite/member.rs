//! Members: identity, roster, grants, permissions, revocation.

use std::collections::BTreeMap;

use claudemesh_protocol::Group;
use claudemesh_protocol::limits::GRANTS_MAX;
use claudemesh_protocol::permission::{Grant, Permission};
use claudemesh_protocol::wire::presence::{SetProfile, Stats};
use claudemesh_store::{
    AddMember, BindMember, MergeGrants, NewIdentity, PeerState, PermissionOverrides, Revocation,
    RevokeKind,
};

use crate::fixture::{Fixture, NOW, World, after, fresh_key, new_member, on_both_engines};

on_both_engines!(
    concurrent_joins_with_one_key_make_one_row,
    the_roster_shows_bound_live_members_with_their_last_groups,
    an_unbound_member_is_bound_once_and_in_time,
    grants_merge_and_reset,
    permissions_merge_and_read_back,
    a_ban_is_permanent_and_leaving_is_not,
    members_of_other_meshes_are_not_found,
    last_seen_never_moves_back,
);

/// D-2.
async fn concurrent_joins_with_one_key_make_one_row(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let key = fresh_key();
    let mut joins = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, join) =
            (fixture.store.clone(), new_member(&world.mesh.id, NewIdentity::Key(key)));
        joins.spawn(async move { store.add_members(vec![join]).await.unwrap().remove(0) });
    }
    let answers = joins.join_all().await;
    let added = answers.iter().filter(|answer| matches!(answer, AddMember::Added(_))).count();
    assert_eq!(added, 1);
    let ids: std::collections::BTreeSet<_> = answers
        .iter()
        .map(|answer| match answer {
            AddMember::Added(member) | AddMember::Exists(member) => member.id.clone(),
        })
        .collect();
    assert_eq!(ids.len(), 1);
}

async fn the_roster_shows_bound_live_members_with_their_last_groups(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let unbound = new_member(&world.mesh.id, NewIdentity::Unbound { until: after(900) });
    store.add_members(vec![unbound]).await.unwrap();
    let ops = vec![Group::parse_lenient("ops:lead").unwrap()];
    let state = PeerState {
        mesh_id: world.mesh.id.clone(),
        member_id: world.alice.id.clone(),
        session_pubkey: None,
        groups: ops.clone(),
        profile: SetProfile::default(),
        is_visible: true,
        last_summary: None,
        last_display_name: None,
        stats: Stats::default(),
        last_seen_at: NOW,
    };
    store.save_peer_states(vec![state]).await.unwrap();
    let gone = Revocation { at: NOW, kind: RevokeKind::Leave, by: None };
    assert!(store.revoke_member(&world.mesh.id, &world.bob.id, gone).await.unwrap());
    let roster = store.roster(&world.mesh.id).await.unwrap();
    let seen: Vec<_> =
        roster.iter().map(|entry| (&entry.member.id, entry.last_groups.clone())).collect();
    assert_eq!(seen.len(), 2);
    assert!(seen.contains(&(&world.owner.id, None)));
    assert!(seen.contains(&(&world.alice.id, Some(ops))));
    let groups = vec![Group::parse_lenient("dev").unwrap()];
    let member =
        store.set_default_groups(&world.mesh.id, &world.alice.id, groups.clone()).await.unwrap();
    assert_eq!(member.unwrap().default_groups, groups);
}

async fn an_unbound_member_is_bound_once_and_in_time(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    let unbound = new_member(mesh, NewIdentity::Unbound { until: after(900) });
    let id = unbound.id.clone();
    store.add_members(vec![unbound]).await.unwrap();
    let taken = world.alice.pubkey.unwrap();
    assert_eq!(store.bind_member(mesh, &id, &taken, NOW).await.unwrap(), BindMember::KeyTaken);
    let key = fresh_key();
    assert_eq!(store.bind_member(mesh, &id, &key, after(901)).await.unwrap(), BindMember::NotFound);
    let BindMember::Bound(member) = store.bind_member(mesh, &id, &key, after(899)).await.unwrap()
    else {
        panic!("not bound")
    };
    assert_eq!((member.pubkey, member.bind_until), (Some(key), None));
    let again = store.bind_member(mesh, &id, &fresh_key(), after(899)).await.unwrap();
    assert_eq!(again, BindMember::NotFound);
    assert_eq!(store.purge_unbound_members(after(2000)).await.unwrap(), 0);
}

/// GRN-2.
async fn grants_merge_and_reset(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let (first, second) = (fresh_key(), fresh_key());
    let merge = |changes: BTreeMap<_, _>| {
        fixture.store.merge_grants(&world.mesh.id, &world.alice.id, changes, NOW)
    };
    merge(BTreeMap::from([(first, Some(vec![])), (second, Some(vec![Grant::Dm, Grant::Read]))]))
        .await
        .unwrap();
    let left = BTreeMap::from([(second, vec![Grant::Dm, Grant::Read])]);
    let reset = merge(BTreeMap::from([(first, None)])).await.unwrap();
    assert_eq!(reset, MergeGrants::Merged(left));
    let blocked = merge(BTreeMap::from([(first, Some(vec![]))])).await.unwrap();
    assert!(matches!(blocked, MergeGrants::Merged(grants) if grants[&first].is_empty()));
    let many = (0..GRANTS_MAX).map(|_| (fresh_key(), Some(vec![]))).collect();
    assert_eq!(merge(many).await.unwrap(), MergeGrants::TooMany);
}

async fn permissions_merge_and_read_back(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    assert!(world.alice.permissions.is_empty());
    let steps = [
        (Permission::Send, Some(false), vec![(Permission::Send, false)]),
        (
            Permission::Invite,
            Some(true),
            vec![(Permission::Send, false), (Permission::Invite, true)],
        ),
        (Permission::Send, None, vec![(Permission::Invite, true)]),
    ];
    for (permission, may, expected) in steps {
        let (mesh, alice, owner) = (&world.mesh.id, &world.alice.id, &world.owner.id);
        let change = BTreeMap::from([(permission, may)]);
        let member = store.merge_permissions(mesh, alice, change, owner, NOW).await.unwrap();
        let expected: PermissionOverrides = expected.into_iter().collect();
        assert_eq!(member.unwrap().permissions, expected);
        let read = store.member(mesh, alice).await.unwrap().unwrap();
        assert_eq!(read.permissions, expected);
    }
}

async fn a_ban_is_permanent_and_leaving_is_not(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let mesh = &world.mesh.id;
    let ban = Revocation { at: NOW, kind: RevokeKind::Ban, by: Some(world.owner.id.clone()) };
    assert!(store.revoke_member(mesh, &world.alice.id, ban.clone()).await.unwrap());
    assert!(!store.revoke_member(mesh, &world.alice.id, ban.clone()).await.unwrap());
    let leave = Revocation { at: NOW, kind: RevokeKind::Leave, by: None };
    assert!(store.revoke_member(mesh, &world.bob.id, leave).await.unwrap());
    let keys = [world.alice.pubkey.unwrap(), world.bob.pubkey.unwrap(), fresh_key()];
    assert_eq!(store.revoked_keys(mesh, &keys).await.unwrap(), vec![keys[0]]);
    let member = store.member_by_key(mesh, &keys[0]).await.unwrap().unwrap();
    assert_eq!(member.revoked, Some(ban));
    let changed = store.set_default_groups(mesh, &world.alice.id, vec![]).await.unwrap();
    assert_eq!(changed, None);
}

/// G-3.
async fn members_of_other_meshes_are_not_found(fixture: &Fixture) {
    let store = &fixture.store;
    let alpha = World::named(store, "alpha").await;
    let beta = World::named(store, "beta").await;
    let (mesh, foreign) = (&alpha.mesh.id, &beta.alice);
    assert_eq!(store.member(mesh, &foreign.id).await.unwrap(), None);
    assert_eq!(store.member_by_key(mesh, &foreign.pubkey.unwrap()).await.unwrap(), None);
    let gone = Revocation { at: NOW, kind: RevokeKind::Ban, by: None };
    assert!(!store.revoke_member(mesh, &foreign.id, gone).await.unwrap());
    assert_eq!(store.member(&beta.mesh.id, &foreign.id).await.unwrap().as_ref(), Some(foreign));
}

async fn last_seen_never_moves_back(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let ids = vec![world.alice.id.clone(), world.bob.id.clone()];
    store.touch_members(ids.clone(), after(60)).await.unwrap();
    store.touch_members(ids, after(30)).await.unwrap();
    let member = store.member(&world.mesh.id, &world.alice.id).await.unwrap().unwrap();
    assert_eq!(member.last_seen_at, Some(after(60)));
}

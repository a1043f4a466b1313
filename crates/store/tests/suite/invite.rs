//! Invites and their claims.

use claudemesh_protocol::{Group, InviteId};
use claudemesh_store::{
    ClaimInvite, CreateInvite, InviteForm, InvitePreset, NewIdentity, NewInvite, NewMember,
    Revocation, RevokeKind, Store,
};

use crate::fixture::{
    Fixture, NOW, World, after, fresh, fresh_key, invite, new_member, on_both_engines,
};

on_both_engines!(
    fifty_claims_of_ten_uses_make_ten_members,
    claiming_again_consumes_nothing,
    one_key_joins_once_by_two_invites_at_once,
    one_name_goes_to_one_member_by_two_invites_at_once,
    refusals_come_in_the_documented_order,
    a_banned_key_is_refused_and_a_leaver_joins_again,
    an_unbound_claim_that_is_never_used_gives_its_use_back,
    invites_read_back_and_codes_are_unique,
);

fn code(invite: &claudemesh_store::Invite) -> String {
    match &invite.form {
        InviteForm::Code { code, .. } => code.clone(),
        InviteForm::Token { token } => token.clone(),
    }
}

async fn used(store: &Store, code: &str) -> u32 {
    store.invite_by_code(code).await.unwrap().unwrap().used_count
}

/// D-3.
async fn fifty_claims_of_ten_uses_make_ten_members(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let invite = invite(&fixture.store, &world, 10).await;
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (store, id) = (fixture.store.clone(), invite.id.clone());
        let member = new_member(&world.mesh.id, NewIdentity::Key(fresh_key()));
        claims.spawn(async move { store.claim_invite(&id, member, NOW).await.unwrap() });
    }
    let answers = claims.join_all().await;
    let joined = answers.iter().filter(|answer| matches!(answer, ClaimInvite::Joined(_))).count();
    let exhausted = answers.iter().filter(|answer| **answer == ClaimInvite::Exhausted).count();
    assert_eq!((joined, exhausted), (10, 40));
    assert_eq!(fixture.store.roster(&world.mesh.id).await.unwrap().len(), 3 + 10);
    assert_eq!(used(&fixture.store, &code(&invite)).await, 10);
}

/// INV-1.
async fn claiming_again_consumes_nothing(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let invite = invite(store, &world, 1).await;
    let (first, second) = (fresh_key(), fresh_key());
    let claim = |key| {
        store.claim_invite(&invite.id, new_member(&world.mesh.id, NewIdentity::Key(key)), NOW)
    };
    let ClaimInvite::Joined(member) = claim(first).await.unwrap() else { panic!("not joined") };
    assert_eq!(claim(second).await.unwrap(), ClaimInvite::Exhausted);
    assert_eq!(claim(first).await.unwrap(), ClaimInvite::AlreadyMember(member));
    assert_eq!(used(store, &code(&invite)).await, 1);
}

/// Ruling 51: letter case makes no difference, and neither does the moment.
async fn one_name_goes_to_one_member_by_two_invites_at_once(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let invites =
        [invite(&fixture.store, &world, 5).await, invite(&fixture.store, &world, 5).await];
    let mut claims = tokio::task::JoinSet::new();
    for turn in 0..10 {
        let (store, id) = (fixture.store.clone(), invites[turn % 2].id.clone());
        let name = if turn < 5 { "Zoe" } else { "ZOE" };
        let member = NewMember {
            display_name: name.to_owned(),
            ..new_member(&world.mesh.id, NewIdentity::Key(fresh_key()))
        };
        claims.spawn(async move { store.claim_invite(&id, member, NOW).await.unwrap() });
    }
    let mut names: Vec<String> = claims
        .join_all()
        .await
        .into_iter()
        .map(|answer| match answer {
            ClaimInvite::Joined(member) => member.display_name.to_lowercase(),
            other => panic!("{other:?}"),
        })
        .collect();
    names.sort_unstable();
    let mut expected: Vec<String> = (2..=10).map(|number| format!("zoe-{number}")).collect();
    expected.push("zoe".to_owned());
    expected.sort_unstable();
    assert_eq!(names, expected);
}

/// D-2.
async fn one_key_joins_once_by_two_invites_at_once(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let invites =
        [invite(&fixture.store, &world, 5).await, invite(&fixture.store, &world, 5).await];
    let key = fresh_key();
    let mut claims = tokio::task::JoinSet::new();
    for turn in 0..10 {
        let (store, id) = (fixture.store.clone(), invites[turn % 2].id.clone());
        let member = new_member(&world.mesh.id, NewIdentity::Key(key));
        claims.spawn(async move { store.claim_invite(&id, member, NOW).await.unwrap() });
    }
    let answers = claims.join_all().await;
    let joined = answers.iter().filter(|answer| matches!(answer, ClaimInvite::Joined(_))).count();
    let known =
        answers.iter().filter(|answer| matches!(answer, ClaimInvite::AlreadyMember(_))).count();
    assert_eq!((joined, known), (1, 9));
    let uses = used(&fixture.store, &code(&invites[0])).await
        + used(&fixture.store, &code(&invites[1])).await;
    assert_eq!(uses, 1);
}

async fn refusals_come_in_the_documented_order(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let invite = invite(store, &world, 1).await;
    let mesh = &world.mesh.id;
    let claim =
        |now| store.claim_invite(&invite.id, new_member(mesh, NewIdentity::Key(fresh_key())), now);
    let unknown = InviteId::new(fresh());
    let member = new_member(mesh, NewIdentity::Key(fresh_key()));
    let answer = store.claim_invite(&unknown, member, NOW).await.unwrap();
    assert_eq!(answer, ClaimInvite::NotFound);
    store.archive_mesh(mesh, NOW).await.unwrap();
    assert_eq!(claim(NOW).await.unwrap(), ClaimInvite::MeshArchived);
    assert_eq!(claim(after(3600)).await.unwrap(), ClaimInvite::Expired);
    let owner = &world.alice.id;
    let revoked = store.revoke_invite(mesh, &code(&invite), owner, NOW).await.unwrap().unwrap();
    assert_eq!(revoked.revoked_at, Some(NOW));
    let again = store.revoke_invite(mesh, &code(&invite), owner, after(5)).await.unwrap().unwrap();
    assert_eq!(again.revoked_at, Some(NOW));
    assert_eq!(claim(after(3600)).await.unwrap(), ClaimInvite::Revoked);
    assert_eq!(used(store, &code(&invite)).await, 0);
}

async fn a_banned_key_is_refused_and_a_leaver_joins_again(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let invite = invite(store, &world, 5).await;
    let mesh = &world.mesh.id;
    let claim = |key| store.claim_invite(&invite.id, new_member(mesh, NewIdentity::Key(key)), NOW);
    let ban = Revocation { at: NOW, kind: RevokeKind::Ban, by: None };
    store.revoke_member(mesh, &world.alice.id, ban).await.unwrap();
    assert_eq!(claim(world.alice.pubkey.unwrap()).await.unwrap(), ClaimInvite::Banned);
    assert_eq!(used(store, &code(&invite)).await, 0);
    let leave = Revocation { at: NOW, kind: RevokeKind::Leave, by: None };
    store.revoke_member(mesh, &world.bob.id, leave).await.unwrap();
    let ClaimInvite::Joined(back) = claim(world.bob.pubkey.unwrap()).await.unwrap() else {
        panic!("not joined")
    };
    assert_eq!((back.id, back.revoked), (world.bob.id.clone(), None));
    assert_eq!(used(store, &code(&invite)).await, 1);
}

/// INV-8.
async fn an_unbound_claim_that_is_never_used_gives_its_use_back(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let invite = invite(store, &world, 1).await;
    let unbound = new_member(&world.mesh.id, NewIdentity::Unbound { until: after(900) });
    let id = unbound.id.clone();
    let answer = store.claim_invite(&invite.id, unbound, NOW).await.unwrap();
    assert!(matches!(answer, ClaimInvite::Joined(_)));
    assert_eq!(store.roster(&world.mesh.id).await.unwrap().len(), 3);
    assert_eq!(store.purge_unbound_members(after(899)).await.unwrap(), 0);
    assert_eq!(used(store, &code(&invite)).await, 1);
    assert_eq!(store.purge_unbound_members(after(900)).await.unwrap(), 1);
    assert_eq!(used(store, &code(&invite)).await, 0);
    assert_eq!(store.member(&world.mesh.id, &id).await.unwrap(), None);
}

async fn invites_read_back_and_codes_are_unique(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let first = invite(store, &world, 3).await;
    let preset = InvitePreset {
        role_tag: Some("ops".to_owned()),
        groups: Some(vec![Group::parse_lenient("ops").unwrap()]),
        ..InvitePreset::default()
    };
    let token = NewInvite {
        id: InviteId::new(fresh()),
        mesh_id: world.mesh.id.clone(),
        form: InviteForm::Token { token: "old-token".to_owned() },
        role: first.role,
        preset: preset.clone(),
        max_uses: 1,
        expires_at: after(60),
        created_by: world.mesh.owner_user_id.clone(),
        created_by_member: Some(world.alice.id.clone()),
        created_at: after(1),
    };
    store.create_invite(token.clone()).await.unwrap();
    let found = store.invite_by_token("old-token").await.unwrap().unwrap();
    assert_eq!(found.preset, preset);
    assert_eq!(store.invite_by_code("old-token").await.unwrap(), None);
    let twin = NewInvite { id: InviteId::new(fresh()), ..token };
    assert_eq!(store.create_invite(twin).await.unwrap(), CreateInvite::CodeTaken);
    assert_eq!(store.invites(&world.mesh.id).await.unwrap(), vec![found, first.clone()]);
    assert_eq!(store.invite_by_code(&code(&first)).await.unwrap(), Some(first));
}

//! Meshes and their slugs.

use claudemesh_protocol::status::{GroupEncryption, MemberRole};
use claudemesh_store::{ClonePolicy, CreateMesh, DedupeRetention, MeshSettings};

use crate::fixture::{self, Fixture, NOW, World, after, new_mesh, on_both_engines};

on_both_engines!(
    a_slug_belongs_to_one_live_mesh,
    of_concurrent_meshes_with_one_slug_exactly_one_is_made,
    a_user_sees_own_and_joined_meshes_with_counts,
    settings_read_back_as_they_were_set,
    secrets_stay_apart_from_the_mesh,
);

/// D-1.
async fn a_slug_belongs_to_one_live_mesh(fixture: &Fixture) {
    let store = &fixture.store;
    let world = World::new(store).await;
    let user = fixture::user(store).await;
    let second = new_mesh(&user.id, "alpha");
    let second_id = second.id.clone();
    assert_eq!(store.create_mesh(second.clone()).await.unwrap(), CreateMesh::SlugTaken);
    assert_eq!(store.mesh(&second_id).await.unwrap(), None);
    assert!(store.archive_mesh(&world.mesh.id, after(1)).await.unwrap());
    assert!(!store.archive_mesh(&world.mesh.id, after(2)).await.unwrap());
    assert!(matches!(store.create_mesh(second).await.unwrap(), CreateMesh::Created { .. }));
    let found = store.mesh_by_slug(&world.mesh.slug).await.unwrap().unwrap();
    assert_eq!(found.id, second_id);
    let archived = store.mesh(&world.mesh.id).await.unwrap().unwrap();
    assert_eq!(archived.archived_at, Some(after(1)));
}

async fn of_concurrent_meshes_with_one_slug_exactly_one_is_made(fixture: &Fixture) {
    let user = fixture::user(&fixture.store).await;
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (store, mesh) = (fixture.store.clone(), new_mesh(&user.id, "race"));
        attempts.spawn(async move { store.create_mesh(mesh).await.unwrap() });
    }
    let answers = attempts.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer != CreateMesh::SlugTaken).count(), 1);
    assert_eq!(fixture.store.meshes_of_user(&user.id).await.unwrap().len(), 1);
}

async fn a_user_sees_own_and_joined_meshes_with_counts(fixture: &Fixture) {
    let store = &fixture.store;
    let alpha = World::named(store, "alpha").await;
    let beta = World::named(store, "beta").await;
    let owner = &alpha.mesh.owner_user_id;
    let mut joins = fixture::new_member(
        &beta.mesh.id,
        claudemesh_store::NewIdentity::Key(fixture::fresh_key()),
    );
    joins.user_id = Some(owner.clone());
    store.add_members(vec![joins]).await.unwrap();
    let meshes = store.meshes_of_user(owner).await.unwrap();
    let seen: Vec<_> = meshes
        .iter()
        .map(|entry| (entry.mesh.slug.as_str(), entry.role, entry.member_count))
        .collect();
    assert_eq!(seen.len(), 2);
    assert!(seen.contains(&("alpha", MemberRole::Admin, 3)));
    assert!(seen.contains(&("beta", MemberRole::Member, 4)));
    assert!(
        meshes.iter().all(|entry| entry.member.as_ref().unwrap().user_id.as_ref() == Some(owner))
    );
    store.archive_mesh(&beta.mesh.id, after(1)).await.unwrap();
    assert_eq!(store.meshes_of_user(owner).await.unwrap().len(), 1);
}

async fn settings_read_back_as_they_were_set(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    assert_eq!(world.mesh.settings, MeshSettings::default());
    let mut settings = MeshSettings {
        clone_policy: ClonePolicy::AllowConcurrent,
        dedupe: DedupeRetention::Permanent,
        group_encryption: GroupEncryption::Preferred,
        open_data: false,
        show_paths: true,
        retention_days: Some(3),
        max_peers: Some(7),
        ..MeshSettings::default()
    };
    settings.self_editable.groups = false;
    let what = vec!["groupEncryption"];
    let by = Some(&world.owner.id);
    let changed =
        fixture.store.set_mesh_settings(&world.mesh.id, settings.clone(), what, by, NOW).await;
    let (mesh, event) = changed.unwrap().unwrap();
    assert_eq!((mesh.settings, mesh.event_seq), (settings, 1));
    assert_eq!((event.seq, event.event.as_str()), (1, "mesh_state_update"));
}

async fn secrets_stay_apart_from_the_mesh(fixture: &Fixture) {
    let world = World::new(&fixture.store).await;
    let secrets = fixture.store.mesh_secrets(&world.mesh.id).await.unwrap().unwrap();
    assert_eq!(secrets.root_key.as_str(), "cm9vdA");
    assert_eq!(secrets.owner_secret_key.unwrap().as_str(), "c2VjcmV0");
    assert!(!format!("{:?}", world.mesh).contains("cm9vdA"));
}

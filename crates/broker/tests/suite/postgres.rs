//! What must hold on a server's PostgreSQL as it does on SQLite: the races and the keys.

use std::sync::Arc;

use claudemesh_broker::{StartOptions, start};
use claudemesh_crypto::at_rest::AtRestKey;
use serde_json::json;

use crate::world::{Answer, World};
use crate::{claims, meshes};

/// INV-1.
#[tokio::test]
async fn one_use_goes_to_one_of_two() {
    let Some(world) = World::on_postgres().await else { return };
    claims::one_use_goes_to_one(&world).await;
}

/// D-3.
#[tokio::test]
async fn fifty_claims_of_ten_uses_make_ten_members() {
    let Some(world) = World::on_postgres().await else { return };
    claims::fifty_claims(&world).await;
}

/// D-2.
#[tokio::test]
async fn the_same_key_twice_at_once_is_one_member() {
    let Some(world) = World::on_postgres().await else { return };
    claims::same_key_twice(&world).await;
}

/// D-1.
#[tokio::test]
async fn a_taken_slug_is_refused_with_a_free_one() {
    let Some(world) = World::on_postgres().await else { return };
    meshes::taken_slug(&world).await;
}

/// OPS-2.
#[tokio::test]
async fn another_key_is_refused() {
    let Some(mut world) = World::on_postgres().await else { return };
    let host = world.with_invite(json!({})).await;
    world.stop().await;
    let mut settings = world.settings.clone();
    settings.encryption_key = Some(Arc::new(AtRestKey::generate()));
    let Err(error) = start(StartOptions::new(settings)).await else { panic!("the broker started") };
    assert_eq!(error.exit_code(), 78);
    world.resume().await;
    world.get_as(&host.token, "/cli/meshes").await.ok();
}

/// OPS-6 on two replicas: one code of each, one account.
#[tokio::test]
async fn two_replicas_make_one_first_account() {
    let Some(world) = World::on_postgres().await else { return };
    let other_dir = tempfile::tempdir().unwrap();
    let mut settings = world.settings.clone();
    settings.data_dir = other_dir.path().to_owned();
    let other = start(StartOptions::new(settings.clone())).await.unwrap();
    let other_code = std::fs::read_to_string(settings.setup_code_path()).unwrap();
    let ask = |base: &str, code: String| {
        let body = json!({ "setup_code": code, "display_name": "Ana" });
        Answer::of(world.http.post(format!("{base}/cli/setup")).json(&body))
    };
    let (first, second) = tokio::join!(
        ask(world.broker().http_url(), world.setup_code()),
        ask(other.http_url(), other_code)
    );
    let made = [&first, &second].iter().filter(|answer| answer.status.is_success()).count();
    assert_eq!(made, 1, "{first:?} {second:?}");
    other.shutdown().await;
}

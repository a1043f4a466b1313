//! Making and listing meshes.

use claudemesh_crypto::KeyPair;
use serde_json::json;

use crate::world::World;

/// MSH-1.
#[tokio::test]
async fn a_mesh_without_owner_key_is_refused_and_nothing_is_made() {
    let world = World::start().await;
    let token = world.sign_up().await;
    for body in [
        json!({ "name": "Alpha" }),
        json!({ "name": "Alpha", "pubkey": "AB" }),
        json!({ "name": "Alpha", "pubkey": 5 }),
    ] {
        let refused =
            world.post_as(&token, "/cli/mesh/create", &body).await.refused(400, "malformed");
        assert_eq!(refused["field"], "pubkey");
    }
    let meshes = world.get_as(&token, "/cli/meshes").await.ok();
    assert_eq!(meshes["meshes"].as_array().unwrap().len(), 0);
}

/// MSH-2.
#[tokio::test]
async fn equal_names_get_numbered_slugs() {
    let world = World::start().await;
    let token = world.sign_up().await;
    for slug in ["alpha", "alpha-2", "alpha-3"] {
        let (mesh, _) = world.create_mesh(&token, "Alpha").await;
        assert_eq!((&mesh["slug"], &mesh["name"]), (&slug.into(), &"Alpha".into()));
    }
}

/// D-1.
#[tokio::test]
async fn a_taken_slug_is_refused_with_a_free_one() {
    taken_slug(&World::start().await).await;
}

pub async fn taken_slug(world: &World) {
    let token = world.sign_up().await;
    let (mesh, _) = world.create_mesh(&token, "Alpha").await;
    let body = |slug: &str| json!({ "name": "Other", "slug": slug, "pubkey": KeyPair::generate().public().to_hex() });
    let refused =
        world.post_as(&token, "/cli/mesh/create", &body("alpha")).await.refused(409, "slug_taken");
    assert_eq!(refused["suggestion"], "alpha-2");
    let upper =
        world.post_as(&token, "/cli/mesh/create", &body("ALPHA")).await.refused(400, "malformed");
    assert_eq!(upper["field"], "slug");
    let id = claudemesh_protocol::MeshId::new(mesh["id"].as_str().unwrap());
    let broker = world.broker().broker();
    assert!(broker.store().archive_mesh(&id, broker.now()).await.unwrap());
    world.post_as(&token, "/cli/mesh/create", &body("alpha")).await.ok();
}

#[tokio::test]
async fn the_same_request_again_gives_the_same_mesh() {
    let world = World::start().await;
    let token = world.sign_up().await;
    let body =
        json!({ "name": "Home", "slug": "home", "pubkey": KeyPair::generate().public().to_hex() });
    let first = world.post_as(&token, "/cli/mesh/create", &body).await.ok();
    let again = world.post_as(&token, "/cli/mesh/create", &body).await.ok();
    assert_eq!(first, again);
}

#[tokio::test]
async fn a_mesh_is_listed_for_its_account_with_where_to_reach_it() {
    let world = World::start().await;
    let token = world.sign_up().await;
    let (mesh, _) = world.create_mesh(&token, "Alpha").await;
    let listed = world.get_as(&token, "/cli/meshes").await.ok();
    let entry = &listed["meshes"][0];
    assert_eq!(entry["id"], mesh["id"]);
    assert_eq!((&entry["is_owner"], &entry["role"]), (&true.into(), &"admin".into()));
    assert_eq!((&entry["member_count"], &entry["active_peers"]), (&1.into(), &0.into()));
    assert_eq!(entry["broker_url"], world.broker().ws_url());
    world.get("/cli/meshes").await.refused(401, "missing_bearer_token");
}

#[tokio::test]
async fn names_are_checked_at_their_edges() {
    let world = World::start().await;
    let token = world.sign_up().await;
    let create = |name: String| {
        let body = json!({ "name": name, "pubkey": KeyPair::generate().public().to_hex() });
        let (world, token) = (&world, &token);
        async move { world.post_as(token, "/cli/mesh/create", &body).await }
    };
    create("ab".to_owned()).await.ok();
    create("x".repeat(80)).await.ok();
    for name in ["a".to_owned(), "x".repeat(81), "a\u{202e}b".to_owned(), " ".repeat(5)] {
        create(name).await.refused(400, "malformed");
    }
}

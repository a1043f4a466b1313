//! Members made without invites.

use claudemesh_broker::provision;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_store::MeshSettings;
use serde_json::json;

use crate::world::World;

fn request(members: usize, url: &str) -> provision::Request {
    provision::Request {
        slug: "load".parse().unwrap(),
        members,
        url: url.to_owned(),
        settings: MeshSettings::default(),
    }
}

#[tokio::test]
async fn provisioned_members_say_hello_and_more_can_follow() {
    let world = World::start().await;
    let key = read_key(&world);
    let broker = world.broker().broker();
    let made = provision::members(
        broker.store(),
        &key,
        &request(3, world.broker().ws_url()),
        broker.now(),
    )
    .await
    .unwrap();
    let more = provision::members(
        broker.store(),
        &key,
        &request(2, world.broker().ws_url()),
        broker.now(),
    )
    .await
    .unwrap();
    assert_eq!((made.members.len(), more.members.len()), (3, 2));
    assert_eq!(made.mesh_id, more.mesh_id);
    for member in made.members.iter().chain(&more.members) {
        let pair = KeyPair::from_hex(&member.secret_key).unwrap();
        assert_eq!(pair.public().to_hex(), member.pubkey);
        let hello = world.hello(made.mesh_id.as_str(), member.member_id.as_str(), &pair).await;
        assert_eq!(hello["type"], "hello_ack", "{hello}");
    }
    let file = serde_json::to_value(&made).unwrap();
    assert_eq!(file["members"][0]["secret_key"].as_str().unwrap().len(), 128);
}

#[tokio::test]
async fn a_provisioned_server_still_offers_its_first_account() {
    let world = World::start().await;
    let broker = world.broker().broker();
    provision::members(broker.store(), &read_key(&world), &request(1, "ws://x/ws"), broker.now())
        .await
        .unwrap();
    let body = json!({ "setup_code": world.setup_code(), "display_name": "Ana" });
    world.post("/cli/setup", &body).await.ok();
}

#[tokio::test]
async fn none_and_too_many_are_refused() {
    let world = World::start().await;
    let broker = world.broker().broker();
    for count in [0, provision::MEMBERS_MAX + 1] {
        let refused = provision::members(
            broker.store(),
            &read_key(&world),
            &request(count, "ws://x/ws"),
            broker.now(),
        )
        .await;
        assert!(matches!(refused, Err(provision::ProvisionError::Count)));
    }
}

fn read_key(world: &World) -> AtRestKey {
    let text = std::fs::read_to_string(world.data_dir().join("secret.key")).unwrap();
    AtRestKey::from_hex(text.trim()).unwrap()
}

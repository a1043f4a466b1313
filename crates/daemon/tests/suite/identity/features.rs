//! What is asked of a broker, and what follows when it lacks it (daemon spec §18).

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::Running;
use claudemesh_ipc::api::identity::TrustBrokerRequest;
use claudemesh_ipc::api::{MeshHealth, MeshStatus};
use claudemesh_protocol::MemberId;
use serde_json::{Value, json};

use crate::local::world::{Home, code, letter};
use crate::mesh::fake_broker::{FakeBroker, Peer, modern_features, serving};
use crate::mesh::node::{World, entry, until};

async fn mesh_of(running: &Running, slug: &str) -> MeshHealth {
    let meshes = running.client().health().await.unwrap().meshes;
    meshes.into_iter().find(|mesh| mesh.slug == slug).unwrap()
}

async fn is_disabled(running: &Running, slug: &str, kind: &str) -> bool {
    let mesh = mesh_of(running, slug).await;
    mesh.status == MeshStatus::Disabled && mesh.disabled_reason.as_deref() == Some(kind)
}

async fn opened(running: &Running, slug: &str) {
    until("the mesh is open", async || mesh_of(running, slug).await.status == MeshStatus::Open)
        .await;
}

/// Joins the mesh of a scripted broker under a name of its own.
fn join(home: &Home, broker: &FakeBroker, slug: &str) {
    let keys = KeyPair::generate();
    let mut entry = entry(&broker.mesh, &MemberId::new("me"), keys, &broker.url());
    slug.clone_into(&mut entry.slug);
    home.join_as(entry);
}

/// The code and the word of the close that follows.
async fn refusal(peer: &mut Peer) -> (Value, Value) {
    loop {
        let frame = peer.next().await;
        if frame.get("close").is_some() {
            let reason: Value = serde_json::from_str(frame["reason"].as_str().unwrap()).unwrap();
            return (frame["close"].clone(), reason["kind"].clone());
        }
    }
}

/// Daemon spec §18 Accept 2: wrong parameters: closed with 4010 and the documented kind; other meshes are unaffected.
/// §18 Accept 3: a broker that was upgraded opens immediately on reload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lacks_something_disables_its_mesh_alone_until_it_has_it() {
    let world = World::new(2).await;
    let broker = FakeBroker::new(vec![]).await;
    let home = Home::new();
    home.join_as(world.entry(0));
    join(&home, &broker, "old");
    let running = home.start().await;
    let mut short = modern_features();
    short["client_message_id_dedupe"]["params"]["dedupe_retention_days"] = json!(2);
    let mut windowed = modern_features();
    windowed["client_message_id_dedupe"]["params"]["mode"] = json!("windowed");
    let mut without = modern_features();
    without.as_object_mut().unwrap().remove("concurrent_connection_policy");
    for (features, kind) in [
        (short, "feature_param_below_floor"),
        (windowed, "feature_param_invalid"),
        (without, "feature_unavailable"),
    ] {
        let mut peer = broker.accept(features).await;
        assert_eq!(refusal(&mut peer).await, (json!(4010), json!(kind)));
        drop(peer);
        until(kind, async || is_disabled(&running, "old", kind).await).await;
        opened(&running, crate::mesh::node::SLUG).await;
        running.client().reload().await.unwrap();
    }
    let mut peer = broker.accept(modern_features()).await;
    let upgraded = opened(&running, "old");
    serving(&mut peer, upgraded).await;
    let mut letter = letter(&world.key(1).to_hex(), "meanwhile");
    letter.mesh = Some(crate::mesh::node::SLUG.to_owned());
    running.client().send(&letter).await.unwrap();
    running.shutdown().await;
}

/// Daemon spec §18 Accept 2: a broker without `features` is open as legacy at once; with `features.strict` it is disabled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_states_nothing_is_used_unless_we_are_strict() {
    let broker = FakeBroker::new(vec![]).await;
    let home = Home::new();
    join(&home, &broker, "old");
    let running = home.start().await;
    let mut peer = broker.accept(Value::Null).await;
    serving(&mut peer, opened(&running, "old")).await;
    drop(peer);
    running.shutdown().await;
    home.settings("[features]\nstrict = true\n");
    let running = home.start().await;
    let mut peer = broker.accept(Value::Null).await;
    assert_eq!(refusal(&mut peer).await, (json!(4010), json!("feature_unavailable")));
    until("disabled", async || is_disabled(&running, "old", "feature_unavailable").await).await;
    running.shutdown().await;
}

/// Daemon spec §17.4: the broker's key is pinned on first use; another one is a flag of health until it is trusted, and
/// messages flow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_of_the_broker_is_told_until_it_is_trusted() {
    let mut broker = FakeBroker::new(vec![]).await;
    let home = Home::new();
    join(&home, &broker, "old");
    let running = home.start().await;
    let client = running.client();
    let keys = [KeyPair::generate().public(), KeyPair::generate().public()];
    let ask = |trust| TrustBrokerRequest { mesh: "old".to_owned(), trust };
    for key in [keys[0], keys[1], keys[1]] {
        broker.key = Some(key);
        let mut peer = broker.accept(modern_features()).await;
        let is_other = key != keys[0];
        serving(&mut peer, async {
            opened(&running, "old").await;
            let is_told = async || mesh_of(&running, "old").await.broker_key_changed == is_other;
            until("health says so", is_told).await;
        })
        .await;
        peer.close(1000, "disconnected").await;
    }
    let changed = client.trust_broker(&ask(None)).await.unwrap();
    assert_eq!((changed.broker_pubkey, changed.trusted), (keys[1], false));
    assert_eq!(changed.old_prefix, keys[0].short(16));
    assert_eq!(code(client.trust_broker(&ask(Some(keys[0]))).await), "not_found");
    assert!(client.trust_broker(&ask(Some(keys[1]))).await.unwrap().trusted);
    assert!(!mesh_of(&running, "old").await.broker_key_changed);
    assert_eq!(code(client.trust_broker(&ask(None)).await), "not_found");
    running.shutdown().await;
}

/// Daemon spec §18.1: `features.require` names what a mesh is not used without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_settings_require_is_asked_for() {
    let broker = FakeBroker::new(vec![]).await;
    let home = Home::new();
    join(&home, &broker, "old");
    home.settings("[features]\nrequire = [\"envelope_v2\"]\n");
    let running = home.start().await;
    let mut peer = broker.accept(modern_features()).await;
    assert_eq!(refusal(&mut peer).await, (json!(4010), json!("feature_unavailable")));
    running.shutdown().await;
}

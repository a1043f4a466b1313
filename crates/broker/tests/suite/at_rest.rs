//! Secrets on disk and in logs.

use std::io::Write;
use std::sync::Arc;

use claudemesh_broker::logging;
use claudemesh_broker::settings::LogFormat;
use claudemesh_crypto::KeyPair;
use parking_lot::Mutex;
use serde_json::json;

use crate::world::{Joiner, World};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// D-4, OPS-6 and the part of LOG-1 that HTTP can show: neither the database files nor the log at its most talkative
/// hold a token, a setup code, an invite code (log only), a root key or a secret key.
#[tokio::test]
async fn no_secret_is_readable_on_disk_or_in_the_log() {
    let lines = Lines::default();
    let sink = lines.clone();
    let (subscriber, _) = logging::subscriber("trace", LogFormat::Json, move || sink.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let mut world = World::start().await;
    let setup_code = world.setup_code();
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let joiner = Joiner::new();
    let answer = world.claim(&host.code, &joiner).await.ok();
    let root_key = joiner.open(&answer).unwrap();
    world
        .hello(
            answer["mesh_id"].as_str().unwrap(),
            answer["member_id"].as_str().unwrap(),
            &joiner.member,
        )
        .await;
    world.get(&format!("/api/public/invites/{}", host.code)).await.ok();
    world.get(&format!("/i/{}", host.code)).await;
    world
        .post("/cli/setup", &json!({ "setup_code": setup_code, "display_name": "x" }))
        .await
        .refused(409, "setup_done");
    world
        .get_as("cm_session_planted-but-wrong", "/cli/me")
        .await
        .refused(401, "invalid_or_revoked_token");
    world.stop().await;
    let secret_key = std::fs::read_to_string(world.data_dir().join("secret.key")).unwrap();

    let log = lines.0.lock().clone();
    assert!(contains(&log, b"\"msg\":\"broker ready\""), "the log was captured");
    assert!(contains(&log, b"setup-code"), "the path is logged");
    let secrets = [
        ("setup code", setup_code.as_str()),
        ("session token", &host.token),
        ("wrong token", "planted-but-wrong"),
        ("encryption key", &secret_key),
        ("root key", &root_key.to_b64url()),
        ("member secret", &joiner.member.to_hex()[..64]),
    ];
    for (what, secret) in secrets {
        assert!(!contains(&log, secret.as_bytes()), "{what} stands in the log");
    }
    assert!(!contains(&log, host.code.as_bytes()), "the invite code stands in the log");

    for entry in std::fs::read_dir(world.data_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "key") || path.is_dir() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for (what, secret) in secrets {
            assert!(!contains(&bytes, secret.as_bytes()), "{what} stands in {}", path.display());
        }
        assert!(
            !contains(&bytes, &hex::decode(&secret_key).unwrap()),
            "raw key in {}",
            path.display()
        );
    }
}

/// D-4: the stored owner key is not the plain one.
#[tokio::test]
async fn the_owner_key_is_stored_sealed() {
    let world = World::start().await;
    let token = world.sign_up().await;
    let (mesh, _) = world.create_mesh(&token, "Alpha").await;
    let id = claudemesh_protocol::MeshId::new(mesh["id"].as_str().unwrap());
    let secrets = world.broker().broker().store().mesh_secrets(&id).await.unwrap().unwrap();
    assert!(KeyPair::from_hex(secrets.owner_secret_key.unwrap().as_str()).is_err());
}

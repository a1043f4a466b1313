//! Secrets on disk and in logs.

use std::io::Write;
use std::sync::Arc;

use claudemesh_broker::logging;
use claudemesh_broker::settings::LogFormat;
use claudemesh_crypto::at_rest::{AtRestKey, Binding};
use claudemesh_crypto::{KeyPair, direct};
use claudemesh_protocol::encoding::b64;
use claudemesh_protocol::{MemberId, MeshId};
use parking_lot::Mutex;
use serde_json::json;

use crate::peers::{Person, Session};
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

/// A text nobody else writes, in the bodies of messages.
const BODY_MARKER: &str = "marker-in-a-message-body-5c1d9e";

/// What must not be found, by name.
type Secrets<'a> = Vec<(&'static str, &'a str)>;

/// Looks through every file of the data directory that is no key: database, write-ahead log, backups.
fn search_files(world: &World, secrets: &Secrets<'_>) {
    let mut files = 0;
    for entry in std::fs::read_dir(world.data_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "key") || path.is_dir() {
            continue;
        }
        files += 1;
        let bytes = std::fs::read(&path).unwrap();
        for (what, secret) in secrets {
            assert!(!contains(&bytes, secret.as_bytes()), "{what} stands in {}", path.display());
            if let Ok(raw) = hex::decode(secret) {
                assert!(!contains(&bytes, &raw), "{what} stands raw in {}", path.display());
            }
        }
    }
    assert!(files > 0);
}

/// A message to `bob` whose body holds the marker.
fn sealed_message(from: &KeyPair, bob: &Person) -> serde_json::Value {
    let sealed = direct::seal(BODY_MARKER.as_bytes(), from, bob.key.public()).unwrap();
    json!({
        "targetSpec": bob.key.public(), "nonce": sealed.nonce.to_b64(),
        "ciphertext": sealed.ciphertext_b64(),
    })
}

/// The text in the two base64 fields of a push.
fn opened(push: &serde_json::Value, from: &KeyPair, bob: &Person) -> Vec<u8> {
    let field = |name: &str| push[name].as_str().unwrap();
    let sealed = direct::Sealed::from_b64(field("nonce"), field("ciphertext")).unwrap();
    direct::open(&sealed, from.public(), &bob.key).unwrap()
}

/// The key that signs the invites of a mesh, as only the broker's own key opens it.
async fn owner_secret(world: &World, mesh: &MeshId, secret_key: &str) -> String {
    let store = world.broker().broker().store();
    let sealed = store.mesh_secrets(mesh).await.unwrap().unwrap().owner_secret_key.unwrap();
    let binding = Binding::Row { table: "mesh", column: "owner_secret_key", id: mesh.as_str() };
    let key = AtRestKey::from_hex(secret_key.trim()).unwrap();
    let text = key.open(sealed.as_str(), binding).unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

/// D-4, OPS-6 and LOG-1: neither the database files, while the broker runs and after, nor the log at its most talkative
/// hold the body of a message, a token, a setup code, an invite code (log only), a root key or a secret key.
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
    let bob = Person {
        mesh: MeshId::new(answer["mesh_id"].as_str().unwrap()),
        id: MemberId::new(answer["member_id"].as_str().unwrap()),
        key: KeyPair::from_hex(&joiner.member.to_hex()).unwrap(),
        name: "bob".to_owned(),
    };
    let ana = Person {
        id: MemberId::new(host.mesh["member_id"].as_str().unwrap()),
        mesh: bob.mesh.clone(),
        key: KeyPair::from_hex(&host.owner.to_hex()).unwrap(),
        name: "ana".to_owned(),
    };
    let session = Session::new();
    let mut sender = world.session(&ana, &session).await;
    let mut receiver = world.daemon(&bob).await;
    sender.message(sealed_message(&session.key, &bob)).await;
    let push = receiver.push().await;
    assert_eq!(opened(&push, &session.key, &bob), BODY_MARKER.as_bytes(), "the marker travelled");
    receiver.confirm(&push).await;
    receiver.leave().await;
    sender.message(sealed_message(&session.key, &bob)).await;
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
    let secret_key = std::fs::read_to_string(world.data_dir().join("secret.key")).unwrap();
    let owner_secret = owner_secret(&world, &bob.mesh, &secret_key).await;
    let (member, session) = (bob.key.to_hex(), session.key.to_hex());
    let (root_key, body) = (root_key.to_b64url(), b64(BODY_MARKER.as_bytes()));
    let secrets: Secrets<'_> = vec![
        ("message body", BODY_MARKER),
        ("message body in base64", body.trim_end_matches('=')),
        ("setup code", &setup_code),
        ("session token", &host.token),
        ("wrong token", "planted-but-wrong"),
        ("encryption key", secret_key.trim()),
        ("root key", &root_key),
        ("owner secret", &owner_secret[..64]),
        ("member secret", &member[..64]),
        ("session secret", &session[..64]),
    ];
    search_files(&world, &secrets);
    world.stop().await;
    search_files(&world, &secrets);

    let log = lines.0.lock().clone();
    assert!(contains(&log, b"\"msg\":\"broker ready\""), "the log was captured");
    assert!(contains(&log, b"setup-code"), "the path is logged");
    for (what, secret) in &secrets {
        assert!(!contains(&log, secret.as_bytes()), "{what} stands in the log");
    }
    assert!(!contains(&log, host.code.as_bytes()), "the invite code stands in the log");
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

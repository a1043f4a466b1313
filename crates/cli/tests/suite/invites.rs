//! Invites that are revoked, forged or of the old kind, and what is said about them before anything is sent.

use std::net::TcpListener;

use claudemesh_client::BrokerHttp;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::invite::{InviteV1, InviteV1Fields, RootKey};
use claudemesh_crypto::tokens::SecretText;
use claudemesh_protocol::invite::PlainHttp;
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{MeshId, Timestamp};
use serde_json::Value;

use crate::home::Home;

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// CLI spec §5.3: a revoked code.
#[test]
fn a_revoked_invite_is_called_revoked() {
    let ana = Home::new();
    let up = ana.up();
    let share = ana.json_ok(&["share"]);
    let auth: Value =
        serde_json::from_slice(&std::fs::read(ana.file("auth.json")).unwrap()).unwrap();
    let token = SecretText::new(auth["session_token"].as_str().unwrap().to_owned());
    let http =
        BrokerHttp::new(up["broker"]["url"].as_str().unwrap(), PlainHttp::LoopbackOnly).unwrap();
    wait(http.invite_revoke(&token, "home", share["code"].as_str().unwrap())).unwrap();
    let bob = Home::new();
    let (code, refused) = bob.json(&["join", share["url"].as_str().unwrap()]);
    assert_eq!((code, refused["error"].as_str()), (5, Some("revoked")), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("was revoked"), "{refused}");
}

/// A token for a broker at `listener`.
fn token(listener: &TcpListener, expires_at: Timestamp) -> String {
    let fields = InviteV1Fields {
        mesh: &MeshId::new("Mesh0000000000000000000000000001"),
        slug: "old",
        broker_url: &format!("ws://{}/ws", listener.local_addr().unwrap()),
        expires_at,
        root_key: &RootKey::generate(),
        role: MemberRole::Member,
    };
    InviteV1::sign(&fields, &KeyPair::generate()).unwrap().to_token().unwrap().to_string()
}

/// CLI spec §5.3: one byte of a token changed, or its time over: exit 2 and 5, and no connection is made.
#[test]
fn old_tokens_are_checked_before_anything_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let far = Timestamp::from_seconds(4_000_000_000);
    let good = token(&listener, far);
    let preview = Home::new().json_ok(&["join", &good, "--dry-run"]);
    assert_eq!((preview["slug"].as_str(), preview["dryRun"].as_bool()), (Some("old"), Some(true)));
    let middle = good.len() / 2;
    let mut forged = good.clone().into_bytes();
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let home = Home::new();
    let (code, refused) = home.json(&["join", &format!("ic://join/{forged}")]);
    assert!(code == 2 || code == 3, "{refused}");
    let (code, refused) =
        home.json(&["join", &token(&listener, Timestamp::from_seconds(1_000_000_000))]);
    assert_eq!((code, refused["error"].as_str()), (5, Some("expired")), "{refused}");
    assert!(!home.file("config.json").exists());
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "nobody connected"
    );
}

/// CLI spec §5.3: the old join reaches the broker, which does not know this token.
#[test]
fn an_old_token_the_broker_does_not_know_is_refused_by_it() {
    let ana = Home::new();
    let up = ana.up();
    let fields = InviteV1Fields {
        mesh: &MeshId::new(up["mesh"]["mesh_id"].as_str().unwrap()),
        slug: "home",
        broker_url: up["broker"]["ws_url"].as_str().unwrap(),
        expires_at: Timestamp::from_seconds(4_000_000_000),
        root_key: &RootKey::generate(),
        role: MemberRole::Member,
    };
    let token =
        InviteV1::sign(&fields, &KeyPair::generate()).unwrap().to_token().unwrap().to_string();
    let bob = Home::new();
    let (code, refused) = bob.json(&["join", &format!("https://any.example/join/{token}")]);
    assert!((2..=5).contains(&code), "{refused}");
    assert!(refused["error"].as_str().unwrap().starts_with("invite_"), "{refused}");
    assert!(!bob.file("config.json").exists());
}

/// Wire spec appendix A: the key of a member is enough to invite, where it may.
#[test]
fn a_member_without_an_account_shares_when_it_may() {
    let (ana, bob) = crate::home::two_people();
    assert!(!bob.file("auth.json").exists());
    let refused = bob.run(&["share"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(refused.stderr.contains("member allow"), "{refused:?}");
    ana.ok(&["member", "allow", "Bob", "canInvite"]);
    let (code, refused) = bob.json(&["share", "--role", "admin"]);
    assert_eq!((code, refused["error"].as_str()), (7, Some("forbidden")), "{refused}");
    let link = bob.invite(1);
    let carol = Home::new();
    let preview = carol.json_ok(&["join", &link, "--dry-run"]);
    assert_eq!(preview["inviter"], "Bob");
    carol.ok(&["join", &link, "--name", "Carol"]);
    ana.has_members(3);
    // The same under another name of the mesh on this machine.
    let dora = Home::new();
    dora.ok(&["join", &ana.invite(1), "--name", "Dora", "--slug", "elsewhere"]);
    ana.ok(&["member", "allow", "Dora", "canInvite"]);
    assert_eq!(dora.json_ok(&["share"])["mesh"], "elsewhere");
}

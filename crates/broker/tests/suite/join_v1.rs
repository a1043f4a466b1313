//! Joining by old-style tokens.

use std::time::Duration;

use claudemesh_broker::settings::InviteV1 as Setting;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::invite::{Claim, InviteV1, InviteV1Fields, RootKey};
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{InviteId, MemberId, MeshId, Timestamp, UserId};
use claudemesh_store::{
    CreateInvite, CreateMesh, InviteForm, InvitePreset, MeshSecrets, MeshSettings, NewIdentity,
    NewInvite, NewMember, NewMesh,
};
use serde_json::{Value, json};

use crate::world::World;

/// A mesh as an old broker would have left it, with an invite token.
struct OldMesh {
    owner: KeyPair,
    mesh: MeshId,
    token: String,
}

impl OldMesh {
    async fn make(world: &World) -> Self {
        world.sign_up().await;
        let broker = world.broker().broker();
        let now = broker.now();
        let owner = KeyPair::generate();
        let mesh = MeshId::new("o".repeat(32));
        let user = first_user(world).await;
        let member = NewMember {
            id: MemberId::new("p".repeat(32)),
            mesh_id: mesh.clone(),
            user_id: Some(user.clone()),
            identity: NewIdentity::Key(KeyPair::generate().public()),
            display_name: "ana".to_owned(),
            role: MemberRole::Admin,
            role_tag: None,
            default_groups: Vec::new(),
            message_mode: claudemesh_protocol::status::MessageMode::Push,
            joined_at: now,
        };
        let new = NewMesh {
            id: mesh.clone(),
            name: "Old".to_owned(),
            slug: "old".parse().unwrap(),
            owner_pubkey: owner.public(),
            secrets: MeshSecrets {
                owner_secret_key: None,
                root_key: claudemesh_store::Encrypted::new("x"),
            },
            settings: MeshSettings::default(),
            owner: member,
            owner_user_id: user,
            created_at: now,
        };
        assert!(matches!(
            broker.store().create_mesh(new).await.unwrap(),
            CreateMesh::Created { .. }
        ));
        let mut old = Self { owner, mesh, token: String::new() };
        old.token = old.issue(world, 2).await;
        old
    }

    /// Stores an invite of version 1 and returns its token.
    async fn issue(&self, world: &World, max_uses: u32) -> String {
        let broker = world.broker().broker();
        let expires_at = broker.now().plus(Duration::from_hours(1));
        let token = self.sign(&self.owner, expires_at);
        let invite = NewInvite {
            id: InviteId::random(claudemesh_crypto::random::fill),
            mesh_id: self.mesh.clone(),
            form: InviteForm::Token { token: token.clone() },
            role: MemberRole::Member,
            preset: InvitePreset::default(),
            max_uses,
            expires_at,
            created_by: first_user(world).await,
            created_by_member: None,
            created_at: broker.now(),
        };
        assert!(matches!(
            broker.store().create_invite(invite).await.unwrap(),
            CreateInvite::Created(_)
        ));
        token
    }

    fn sign(&self, owner: &KeyPair, expires_at: Timestamp) -> String {
        let fields = InviteV1Fields {
            mesh: &self.mesh,
            slug: "old",
            broker_url: "ws://127.0.0.1:7900/ws",
            expires_at,
            root_key: &RootKey::generate(),
            role: MemberRole::Admin,
        };
        InviteV1::sign(&fields, owner).unwrap().to_token().unwrap().to_string()
    }
}

async fn first_user(world: &World) -> UserId {
    let token = claudemesh_crypto::tokens::cli_session(&mut claudemesh_crypto::random::fill);
    drop(token);
    let broker = world.broker().broker();
    let user = claudemesh_store::NewUser {
        id: UserId::random(claudemesh_crypto::random::fill),
        name: "Old owner".to_owned(),
        email: None,
        role: claudemesh_store::UserRole::User,
        created_at: broker.now(),
    };
    broker.store().create_user(user).await.unwrap().unwrap().id
}

fn body(token: &str, key: &KeyPair) -> Value {
    json!({ "invite_token": token, "peer_pubkey": key.public().to_hex(), "display_name": "bob" })
}

/// INV-2.
#[tokio::test]
async fn a_valid_token_joins_and_any_changed_byte_breaks_it() {
    let world =
        World::start_with(|settings| settings.limits.invite_claims_per_ip_hour = 10_000).await;
    let old = OldMesh::make(&world).await;
    let key = KeyPair::generate();
    for index in (0..old.token.len()).step_by(7).chain([old.token.len() - 1]) {
        let mut bytes = old.token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        let refused =
            world.post("/join", &body(&changed, &key)).await.refused(400, "invite_bad_signature");
        assert_eq!(refused["ok"], false);
    }
    let joined = world.post("/join", &body(&old.token, &key)).await.ok();
    assert_eq!(joined["ok"], true);
    assert!(joined.get("alreadyMember").is_none());
    let again = world.post("/join", &body(&old.token, &key)).await.ok();
    assert_eq!((&again["alreadyMember"], &again["memberId"]), (&true.into(), &joined["memberId"]));
    let member = MemberId::new(joined["memberId"].as_str().unwrap());
    let row = world.broker().broker().store().member(&old.mesh, &member).await.unwrap().unwrap();
    assert_eq!(row.role, MemberRole::Member, "the row's role counts, not the token's");
}

/// INV-2.
#[tokio::test]
async fn old_invites_can_be_switched_off() {
    let world = World::start_with(|settings| settings.invite_v1 = Setting::Retired).await;
    let old = OldMesh::make(&world).await;
    let refused = world
        .post("/join", &body(&old.token, &KeyPair::generate()))
        .await
        .refused(410, "invite_v1_retired");
    assert_eq!(refused["ok"], false);
}

#[tokio::test]
async fn refusals_come_in_the_order_of_the_specification() {
    let world = World::start().await;
    let old = OldMesh::make(&world).await;
    let broker = world.broker().broker();
    let later = broker.now().plus(Duration::from_mins(1));
    let join = async |token: &str| world.post("/join", &body(token, &KeyPair::generate())).await;
    let foreign = OldMesh {
        owner: KeyPair::generate(),
        mesh: MeshId::new("q".repeat(32)),
        token: String::new(),
    };
    join(&foreign.sign(&foreign.owner, later)).await.refused(400, "mesh_not_found");
    join(&old.sign(&foreign.owner, later)).await.refused(400, "invite_owner_mismatch");
    join(&old.sign(&old.owner, later)).await.refused(400, "invite_not_found");
    let one = old.issue(&world, 1).await;
    join(&one).await.ok();
    join(&one).await.refused(400, "invite_exhausted");
    world.clock.advance(Duration::from_secs(3_601));
    join(&one).await.refused(400, "invite_expired");
}

#[tokio::test]
async fn a_proof_is_checked_when_there_is_one() {
    let world = World::start().await;
    let old = OldMesh::make(&world).await;
    let (key, other) = (KeyPair::generate(), KeyPair::generate());
    let now = world.broker().broker().now();
    let prove = |by: &KeyPair| {
        let mut with_proof = body(&old.token, &key);
        with_proof["timestamp"] = json!(now.as_millis());
        with_proof["proof"] = json!(Claim::Token(&old.token).prove(by, now).unwrap().to_hex());
        with_proof
    };
    world.post("/join", &prove(&other)).await.refused(400, "bad_signature");
    world.post("/join", &prove(&key)).await.ok();
}

#[tokio::test]
async fn a_payload_that_says_something_else_than_the_token_is_refused() {
    let world = World::start().await;
    let old = OldMesh::make(&world).await;
    let payload = serde_json::to_value(InviteV1::from_token(&old.token).ok().unwrap()).unwrap();
    let key = KeyPair::generate();
    let with = |payload: Value| {
        let mut body = body(&old.token, &key);
        body["invite_payload"] = payload;
        body
    };
    let mut changed = payload.clone();
    changed["mesh_slug"] = json!("other");
    world.post("/join", &with(changed)).await.refused(400, "invite_bad_signature");
    world.post("/join", &with(payload)).await.ok();
}

//! A store of either engine with a mesh in it, and short ways to say what tests repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::{
    InviteId, MemberId, MeshId, MessageId, PresenceId, Priority, PublicKey, TargetSpec, Timestamp,
    UserId,
};
use claudemesh_store::{
    AddMember, Claim, ClaimId, ClientMessage, CreateInvite, CreateMesh, DeliveryOutcome,
    DeliverySeq, DeliveryWrite, DestinationKind, Encrypted, InitialState, Invite, InviteForm,
    InvitePreset, Member, Mesh, MeshSecrets, MeshSettings, NewDelivery, NewIdentity, NewInvite,
    NewMember, NewMesh, NewMessage, NewUser, PostgresLocation, RecipientKind, SenderKind,
    SqliteLocation, Store, StoreLocation, User, UserRole,
};
use sqlx::Connection as _;

/// Runs each named `async fn(&Fixture)` of the module once per engine.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let fixture = $crate::fixture::Fixture::sqlite().await;
                super::$name(&fixture).await;
                fixture.store.close().await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                if claudemesh_testkit::postgres::is_skipped() {
                    return;
                }
                let fixture = $crate::fixture::Fixture::postgres().await;
                super::$name(&fixture).await;
                fixture.store.close().await;
            })+
        }
    };
}
pub(crate) use on_both_engines;

/// Start of the tests' time.
pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

static COUNTER: AtomicU64 = AtomicU64::new(1);

/// A text no other call gives, in the shape of a row id.
pub fn fresh() -> String {
    format!("{:032}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

pub fn fresh_key() -> PublicKey {
    let mut bytes = [7_u8; 32];
    bytes[..8].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    PublicKey::from_bytes(bytes)
}

pub struct Fixture {
    pub store: Store,
    pub location: StoreLocation,
    // Dropped after the store.
    _directory: Option<tempfile::TempDir>,
    _database: Option<claudemesh_testkit::postgres::TestDatabase>,
}

impl Fixture {
    pub async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location =
            StoreLocation::Sqlite(SqliteLocation::new(directory.path().join("broker.db")));
        let store = Store::open_migrated(&location).await.unwrap();
        Self { store, location, _directory: Some(directory), _database: None }
    }

    pub async fn postgres() -> Self {
        let database = claudemesh_testkit::postgres::database().await.unwrap();
        let location =
            StoreLocation::Postgres(PostgresLocation { url: database.url(), max_connections: 8 });
        let store = Store::open_migrated(&location).await.unwrap();
        Self { store, location, _directory: None, _database: Some(database) }
    }

    /// Changes the database behind the store's back.
    pub async fn by_hand(&self, sql: &str) {
        match &self.location {
            StoreLocation::Sqlite(location) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&location.path);
                let mut conn = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
                conn.close().await.unwrap();
            }
            StoreLocation::Postgres(location) => {
                let mut conn = sqlx::PgConnection::connect(&location.url).await.unwrap();
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
                conn.close().await.unwrap();
            }
        }
    }

    /// The same database through new connections.
    pub async fn reopened(&self) -> Store {
        Store::open_migrated(&self.location).await.unwrap()
    }
}

pub async fn user(store: &Store) -> User {
    let user = NewUser {
        id: UserId::new(fresh()),
        name: "Alice".to_owned(),
        email: None,
        role: UserRole::User,
        created_at: NOW,
    };
    store.create_user(user).await.unwrap().unwrap()
}

pub fn new_member(mesh: &MeshId, identity: NewIdentity) -> NewMember {
    NewMember {
        id: MemberId::new(fresh()),
        mesh_id: mesh.clone(),
        user_id: None,
        identity,
        display_name: "Bob".to_owned(),
        role: MemberRole::Member,
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: MessageMode::Push,
        joined_at: NOW,
    }
}

pub fn new_mesh(owner: &UserId, slug: &str) -> NewMesh {
    let id = MeshId::new(fresh());
    let mut owner_member = new_member(&id, NewIdentity::Key(fresh_key()));
    owner_member.user_id = Some(owner.clone());
    owner_member.role = MemberRole::Admin;
    NewMesh {
        name: slug.to_owned(),
        slug: slug.parse().unwrap(),
        owner_pubkey: fresh_key(),
        secrets: MeshSecrets {
            owner_secret_key: Some(Encrypted::new("c2VjcmV0")),
            root_key: Encrypted::new("cm9vdA"),
        },
        settings: MeshSettings::default(),
        owner: owner_member,
        owner_user_id: owner.clone(),
        created_at: NOW,
        id,
    }
}

/// A mesh with two members besides its owner.
pub struct World {
    pub mesh: Mesh,
    pub owner: Member,
    pub alice: Member,
    pub bob: Member,
}

impl World {
    pub async fn new(store: &Store) -> Self {
        Self::named(store, "alpha").await
    }

    pub async fn named(store: &Store, slug: &str) -> Self {
        let user = user(store).await;
        let made = store.create_mesh(new_mesh(&user.id, slug)).await.unwrap();
        let CreateMesh::Created { mesh, owner } = made else { panic!("slug taken") };
        let (mesh, owner) = (*mesh, *owner);
        let alice = member(store, &mesh.id).await;
        let bob = member(store, &mesh.id).await;
        Self { mesh, owner, alice, bob }
    }

    /// A direct message from Alice to Bob's member key, held.
    pub fn message(&self) -> NewMessage {
        message(&self.mesh.id, &self.alice, vec![to_member(&self.bob)])
    }
}

pub async fn member(store: &Store, mesh: &MeshId) -> Member {
    let added =
        store.add_members(vec![new_member(mesh, NewIdentity::Key(fresh_key()))]).await.unwrap();
    match added.into_iter().next() {
        Some(AddMember::Added(member)) => member,
        other => panic!("{other:?}"),
    }
}

pub async fn invite(store: &Store, world: &World, max_uses: u32) -> Invite {
    let invite = NewInvite {
        id: InviteId::new(fresh()),
        mesh_id: world.mesh.id.clone(),
        form: InviteForm::Code { code: fresh(), capability: "{}".to_owned() },
        role: MemberRole::Member,
        preset: InvitePreset::default(),
        max_uses,
        expires_at: after(3600),
        created_by: world.mesh.owner_user_id.clone(),
        created_by_member: None,
        created_at: NOW,
    };
    match store.create_invite(invite).await.unwrap() {
        CreateInvite::Created(invite) => invite,
        CreateInvite::CodeTaken => panic!("code taken"),
    }
}

pub fn to_member(member: &Member) -> NewDelivery {
    NewDelivery {
        seq: None,
        recipient_key: member.pubkey.unwrap(),
        recipient_member_id: member.id.clone(),
        recipient_kind: RecipientKind::Member,
        wrapped_key: None,
        rerouted_from: None,
        state: InitialState::Held,
    }
}

pub fn to_session(member: &Member, session: PublicKey) -> NewDelivery {
    NewDelivery {
        recipient_key: session,
        recipient_kind: RecipientKind::Session,
        ..to_member(member)
    }
}

pub fn message(mesh: &MeshId, sender: &Member, deliveries: Vec<NewDelivery>) -> NewMessage {
    NewMessage {
        mesh_id: mesh.clone(),
        message_id: MessageId::new(fresh()),
        sender_member_id: Some(sender.id.clone()),
        sender_session_key: None,
        sender_kind: SenderKind::Member,
        target_spec: TargetSpec::Everyone,
        priority: Priority::Next,
        nonce: Arc::from("bm9uY2U="),
        ciphertext: Arc::from("\"quoted\" \\ and é\u{1f600}"),
        body_version: 1,
        reply_to: None,
        mentions: None,
        hops: 0,
        key_epoch: None,
        client_message: None,
        fingerprint: None,
        created_at: NOW,
        expires_at: after(7 * 24 * 3600),
        deliveries,
    }
}

pub fn client_message(id: &str, fingerprint: u8) -> ClientMessage {
    ClientMessage {
        id: Arc::from(id),
        fingerprint: [fingerprint; 32],
        destination_kind: DestinationKind::Dm,
        destination_ref: Arc::from("bob"),
        remember_until: Some(after(365 * 24 * 3600)),
    }
}

pub fn accept(message: NewMessage) -> DeliveryWrite {
    DeliveryWrite::Accept(Arc::new(message))
}

/// Commits one message and answers its delivery numbers.
pub async fn send(store: &Store, message: NewMessage) -> Vec<DeliverySeq> {
    match store.commit(vec![accept(message)]).await.unwrap().remove(0) {
        DeliveryOutcome::Accepted { deliveries } => deliveries,
        other => panic!("{other:?}"),
    }
}

pub fn holder(name: &str) -> ClaimId {
    ClaimId::from(&PresenceId::new(name))
}

pub fn claim_of(mesh: &MeshId, key: PublicKey, now: Timestamp) -> Claim {
    Claim {
        mesh_id: mesh.clone(),
        recipient_keys: vec![key],
        by: holder("presence"),
        least_priority: Priority::Low,
        limit: 100,
        now,
        lease: Duration::from_secs(30),
        lease_max: Duration::from_mins(10),
    }
}

//! Members for load tests and bots, made without invites: straight into a store that no broker is serving, or into a
//! server's database.

use claudemesh_crypto::at_rest::AtRestKey;
use claudemesh_crypto::invite::RootKey;
use claudemesh_crypto::{KeyPair, random};
use claudemesh_protocol::permission::Standing;
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::{MemberId, MeshId, Slug, Timestamp, UserId};
use claudemesh_store::{
    AddMember, CreateMesh, Mesh, MeshSettings, NewIdentity, NewMember, NewMesh, NewUser, Store,
    StoreError, UserRole,
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::secrets;

/// Most members of one call.
pub const MEMBERS_MAX: usize = 10_000;

/// What to make.
#[derive(Debug, Clone)]
pub struct Request {
    /// The mesh; made when no live mesh has this slug.
    pub slug: Slug,
    /// How many members, 1 to [`MEMBERS_MAX`].
    pub members: usize,
    /// WebSocket address written into the result.
    pub url: String,
    /// Settings of a mesh that is made; an existing one keeps its own.
    pub settings: MeshSettings,
}

/// What was made: the content of the output file. No `Debug`: it carries secret keys.
#[derive(Serialize)]
pub struct Provisioned {
    /// The mesh.
    pub mesh_id: MeshId,
    /// WebSocket address of the broker.
    pub url: String,
    /// The members. In a mesh that was made, the first one is its owner.
    pub members: Vec<ProvisionedMember>,
}

/// One member with its keys.
#[derive(Serialize)]
pub struct ProvisionedMember {
    /// Its id.
    pub member_id: MemberId,
    /// Its key, hex64.
    pub pubkey: String,
    /// Its secret key, hex128: seed and public key.
    #[serde(serialize_with = "as_text")]
    pub secret_key: Zeroizing<String>,
}

fn as_text<S: serde::Serializer>(
    secret: &Zeroizing<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret)
}

/// Provisioning failed; nothing or a whole step of it was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// More members than one call makes, or none.
    #[error("members: expected 1 to {MEMBERS_MAX}")]
    Count,
    /// Somebody made a mesh of this slug in the same moment.
    #[error("a mesh of this name was made meanwhile; hint: run it again")]
    SlugTaken,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes members, and their mesh when there is none.
///
/// A running broker notices new members at their first hello; it need not be told.
///
/// # Errors
/// [`ProvisionError`].
pub async fn members(
    store: &Store,
    key: &AtRestKey,
    request: &Request,
    now: Timestamp,
) -> Result<Provisioned, ProvisionError> {
    if !(1..=MEMBERS_MAX).contains(&request.members) {
        return Err(ProvisionError::Count);
    }
    let mut pairs: Vec<KeyPair> = (0..request.members).map(|_| KeyPair::generate()).collect();
    let mut made = Vec::with_capacity(pairs.len());
    let mesh = if let Some(mesh) = store.mesh_by_slug(&request.slug).await? {
        mesh
    } else {
        let owner = pairs.remove(0);
        let (mesh, member) = create_mesh(store, key, request, &owner, now).await?;
        made.push(provisioned(member, &owner));
        mesh
    };
    let first_number = store.roster(&mesh.id).await?.len();
    let rows = pairs.iter().enumerate().map(|(index, pair)| {
        let name = format!("bot-{}", first_number + index);
        new_member(&mesh.id, None, pair, name, Standing::Member, now)
    });
    let added = store.add_members(rows.collect()).await?;
    for (answer, pair) in added.into_iter().zip(&pairs) {
        let (AddMember::Added(member) | AddMember::Exists(member)) = answer;
        made.push(provisioned(member.id, pair));
    }
    Ok(Provisioned { mesh_id: mesh.id, url: request.url.clone(), members: made })
}

async fn create_mesh(
    store: &Store,
    key: &AtRestKey,
    request: &Request,
    owner: &KeyPair,
    now: Timestamp,
) -> Result<(Mesh, MemberId), ProvisionError> {
    let user = NewUser {
        id: UserId::random(random::fill),
        name: format!("{} (provisioned)", request.slug),
        email: None,
        role: UserRole::User,
        created_at: now,
    };
    let user_id = user.id.clone();
    store.create_user(user).await?;
    let id = MeshId::random(random::fill);
    let (owner_pubkey, secrets) =
        secrets::new_mesh_secrets(key, &id, &KeyPair::generate(), &RootKey::generate());
    let name = request.slug.as_str().to_owned();
    let new = NewMesh {
        owner: new_member(
            &id,
            Some(user_id.clone()),
            owner,
            "bot-0".to_owned(),
            Standing::Owner,
            now,
        ),
        id,
        name,
        slug: request.slug.clone(),
        owner_pubkey,
        secrets,
        settings: request.settings.clone(),
        owner_user_id: user_id,
        created_at: now,
    };
    match store.create_mesh(new).await? {
        CreateMesh::Created { mesh, owner } => Ok((*mesh, owner.id)),
        CreateMesh::SlugTaken => Err(ProvisionError::SlugTaken),
    }
}

fn new_member(
    mesh: &MeshId,
    user_id: Option<UserId>,
    pair: &KeyPair,
    display_name: String,
    standing: Standing,
    now: Timestamp,
) -> NewMember {
    NewMember {
        id: MemberId::random(random::fill),
        mesh_id: mesh.clone(),
        user_id,
        identity: NewIdentity::Key(pair.public()),
        display_name,
        role: if standing.is_admin() { MemberRole::Admin } else { MemberRole::Member },
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: MessageMode::Push,
        joined_at: now,
    }
}

fn provisioned(member_id: MemberId, pair: &KeyPair) -> ProvisionedMember {
    ProvisionedMember { member_id, pubkey: pair.public().to_hex(), secret_key: pair.to_hex() }
}

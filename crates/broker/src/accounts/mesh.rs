//! `POST /cli/mesh/create`, `GET /cli/meshes` (broker spec §4.28).

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use claudemesh_crypto::invite::RootKey;
use claudemesh_crypto::{KeyPair, random};
use claudemesh_protocol::account::{AccountMesh, MeshCreateReply, MeshesReply};
use claudemesh_protocol::limits::{MEMBER_NAME_MAX_CHARS, MESH_NAME_CHARS};
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::{ErrorCode, MemberId, MeshId, PublicKey, Slug, Timestamp, UserId, text};
use claudemesh_store::{
    CreateMesh, Member, Mesh, MeshSecrets, MeshSettings, NewIdentity, NewMember, NewMesh,
};

use super::bearer::Account;
use super::is_owner;
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::http::Connection;
use crate::edge::request::Fields;
use crate::secrets;
use crate::state::Broker;

/// Highest number appended to a slug made from a name (broker spec §4.28).
const SLUG_NUMBER_MAX: u32 = 100;
/// Slug of a mesh whose name holds no letter or digit a slug can have.
const FALLBACK_SLUG: &str = "mesh";

/// What the caller wants, checked.
struct Wish {
    name: String,
    owner_key: PublicKey,
    owner_name: String,
    slug: SlugWish,
}

enum SlugWish {
    /// Given: taken is an error, unless the same account took it with the same key, which is this request repeated.
    Exactly(Slug),
    /// Made from the name: taken gets a number.
    From(Slug),
}

/// Makes a mesh with the caller as its owner; all or nothing.
pub(crate) async fn create(
    State(broker): State<Broker>,
    account: Account,
    body: Body,
) -> ApiResult<Json<MeshCreateReply>> {
    let wish = Wish::read(&Fields::read(body).await?)?;
    let user = account.login.user.id;
    let (mesh, owner) = match &wish.slug {
        SlugWish::From(base) => create_numbered(&broker, &wish, base, &user).await?,
        SlugWish::Exactly(slug) => match try_create(&broker, &wish, slug.clone(), &user).await? {
            Some(created) => created,
            None => match made_earlier(&broker, slug, &wish.owner_key, &user).await? {
                Some(earlier) => earlier,
                None => return Err(slug_taken(&broker, slug).await?),
            },
        },
    };
    Ok(Json(MeshCreateReply {
        id: mesh.id,
        slug: mesh.slug.as_str().to_owned(),
        name: mesh.name,
        member_id: owner.id,
    }))
}

impl Wish {
    fn read(fields: &Fields) -> ApiResult<Self> {
        let name = text::display_name(fields.text("name")?, *MESH_NAME_CHARS.end())
            .ok()
            .filter(|name| name.chars().count() >= *MESH_NAME_CHARS.start())
            .ok_or_else(|| ApiError::field("name", "2 to 80 characters"))?;
        let owner_key = fields
            .optional_key("pubkey")?
            .ok_or_else(|| ApiError::field("pubkey", "64 lowercase hexadecimal characters"))?;
        if fields.optional_text("template")?.is_some() {
            return Err(ApiError::field("template", "no template: this broker has none"));
        }
        let slug = match fields.optional_text("slug")? {
            Some(text) => {
                let slug: Slug =
                    text.parse().map_err(|error: claudemesh_protocol::slug::SlugError| {
                        ApiError::field("slug", &error.to_string())
                    })?;
                SlugWish::Exactly(slug)
            }
            None => SlugWish::From(slug_of(&name)?),
        };
        let owner_name = match fields.optional_text("display_name")? {
            Some(given) => text::display_name(given, MEMBER_NAME_MAX_CHARS)
                .map_err(|error| ApiError::field("display_name", &error.to_string()))?,
            None => owner_name(&name),
        };
        Ok(Self { name, owner_key, owner_name, slug })
    }
}

fn slug_of(name: &str) -> ApiResult<Slug> {
    Slug::from_name(name).or_else(|_| FALLBACK_SLUG.parse()).map_err(|_| ApiError::internal())
}

/// `<name>-owner`, shortened to what a member name may have.
fn owner_name(mesh_name: &str) -> String {
    const SUFFIX: &str = "-owner";
    let start: String = mesh_name.chars().take(MEMBER_NAME_MAX_CHARS - SUFFIX.len()).collect();
    format!("{}{SUFFIX}", start.trim_end())
}

async fn create_numbered(
    broker: &Broker,
    wish: &Wish,
    base: &Slug,
    user: &UserId,
) -> ApiResult<(Mesh, Member)> {
    for slug in numbered(base) {
        if broker.store().mesh_by_slug(&slug).await?.is_some() {
            continue;
        }
        if let Some(created) = try_create(broker, wish, slug, user).await? {
            return Ok(created);
        }
    }
    Err(ApiError::new(ErrorCode::SlugTaken, "too many meshes have this name").hint("give a slug"))
}

/// The slug itself, then with each number.
fn numbered(base: &Slug) -> impl Iterator<Item = Slug> + '_ {
    std::iter::once(base.clone())
        .chain((2..=SLUG_NUMBER_MAX).map(|number| base.with_number(number)))
}

/// `None` when the slug is taken.
async fn try_create(
    broker: &Broker,
    wish: &Wish,
    slug: Slug,
    user: &UserId,
) -> ApiResult<Option<(Mesh, Member)>> {
    let new = new_mesh(broker, wish, slug, user);
    match broker.store().create_mesh(new).await? {
        CreateMesh::SlugTaken => Ok(None),
        CreateMesh::Created { mesh, owner } => {
            broker.live().roster_changed(&mesh.id);
            tracing::info!(mesh_id = %mesh.id, "mesh created");
            Ok(Some((*mesh, *owner)))
        }
    }
}

fn new_mesh(broker: &Broker, wish: &Wish, slug: Slug, user: &UserId) -> NewMesh {
    let id = MeshId::random(random::fill);
    let now = broker.now();
    let (owner_pubkey, secrets) = fresh_secrets(broker, &id);
    NewMesh {
        name: wish.name.clone(),
        slug,
        owner_pubkey,
        secrets,
        settings: MeshSettings::default(),
        owner: owner_member(&id, user, wish.owner_key, &wish.owner_name, now),
        owner_user_id: user.clone(),
        created_at: now,
        id,
    }
}

fn fresh_secrets(broker: &Broker, mesh: &MeshId) -> (PublicKey, MeshSecrets) {
    secrets::new_mesh_secrets(
        broker.at_rest_key(),
        mesh,
        &KeyPair::generate(),
        &RootKey::generate(),
    )
}

/// The owner's member row.
pub(crate) fn owner_member(
    mesh: &MeshId,
    user: &UserId,
    key: PublicKey,
    name: &str,
    now: Timestamp,
) -> NewMember {
    NewMember {
        id: MemberId::random(random::fill),
        mesh_id: mesh.clone(),
        user_id: Some(user.clone()),
        identity: NewIdentity::Key(key),
        display_name: name.to_owned(),
        role: MemberRole::Admin,
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: MessageMode::Push,
        joined_at: now,
    }
}

/// The mesh of an earlier request that this one repeats.
async fn made_earlier(
    broker: &Broker,
    slug: &Slug,
    key: &PublicKey,
    user: &UserId,
) -> ApiResult<Option<(Mesh, Member)>> {
    let Some(mesh) = broker.store().mesh_by_slug(slug).await? else { return Ok(None) };
    let Some(member) = broker.store().member_by_key(&mesh.id, key).await? else { return Ok(None) };
    let is_mine =
        mesh.owner_user_id == *user && is_owner(&mesh, &member) && member.revoked.is_none();
    Ok(is_mine.then_some((mesh, member)))
}

async fn slug_taken(broker: &Broker, slug: &Slug) -> ApiResult<ApiError> {
    let mut error =
        ApiError::new(ErrorCode::SlugTaken, format!("a mesh \"{slug}\" exists already"));
    for candidate in numbered(slug).skip(1) {
        if broker.store().mesh_by_slug(&candidate).await?.is_none() {
            error = error.with("suggestion", candidate.as_str());
            break;
        }
    }
    Ok(error)
}

/// The meshes of the account.
pub(crate) async fn list(
    State(broker): State<Broker>,
    account: Account,
    connection: Connection,
) -> ApiResult<Json<MeshesReply>> {
    let user = &account.login.user.id;
    let broker_url = broker.links().ws_url_for(connection.local);
    let meshes = broker.store().meshes_of_user(user).await?;
    let meshes = meshes.into_iter().map(|entry| AccountMesh {
        active_peers: broker.live().active_peers(&entry.mesh.id),
        slug: entry.mesh.slug.as_str().to_owned(),
        is_owner: entry.mesh.owner_user_id == *user,
        id: entry.mesh.id,
        name: entry.mesh.name,
        role: entry.role,
        member_count: entry.member_count,
        joined_at: entry.member.map(|member| member.joined_at.to_iso()),
        broker_url: broker_url.clone(),
    });
    Ok(Json(MeshesReply { meshes: meshes.collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_name_fits_and_a_name_without_letters_still_has_a_slug() {
        assert_eq!(owner_name("Alpha"), "Alpha-owner");
        assert_eq!(owner_name(&"ü".repeat(80)).chars().count(), MEMBER_NAME_MAX_CHARS);
        assert_eq!(slug_of("\u{65e5}\u{672c}").unwrap().as_str(), FALLBACK_SLUG);
    }
}

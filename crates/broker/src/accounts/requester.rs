//! A member that asks over HTTP, by the bearer of its account or by its own signature (wire spec appendix A).

use axum::extract::FromRequestParts as _;
use axum::http::request::Parts;
use claudemesh_core::authorize::Caller;
use claudemesh_protocol::permission::{Permission, Standing};
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{ErrorCode, MeshId};
use claudemesh_store::{Member, Mesh};

use super::bearer::Account;
use super::{is_owner, live_mesh_by_slug, signed};
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::request::{Fields, read_body};
use crate::state::Broker;

/// How a route names its mesh.
pub(crate) enum MeshName {
    /// By slug.
    Slug(String),
    /// By slug, or by id: a machine may know the mesh by an alias.
    SlugOrId(String),
    /// By id.
    Id(String),
}

/// A member of a mesh and what it sends.
pub(crate) struct Requester {
    /// The mesh.
    pub(crate) mesh: Mesh,
    /// The caller's own row; nothing in a request can name another one.
    pub(crate) member: Member,
    /// What it may do.
    pub(crate) caller: Caller,
    /// The body.
    pub(crate) fields: Fields,
}

impl Requester {
    /// Reads a request. Without any credential the mesh is not even confirmed to exist.
    pub(crate) async fn read(
        broker: &Broker,
        name: MeshName,
        request: axum::extract::Request,
    ) -> ApiResult<Self> {
        let (mut parts, body) = request.into_parts();
        let body = read_body(body).await?;
        let (mesh, member) = member_that_asks(broker, name, &mut parts, &body).await?;
        let caller = Caller {
            standing: standing(&mesh, &member),
            overrides: member.permissions.clone(),
            session_caps: None,
        };
        Ok(Self { fields: Fields::parse(&body)?, mesh, member, caller })
    }

    /// Refuses without `permission`.
    pub(crate) fn require(&self, permission: Permission) -> ApiResult<()> {
        if self.caller.may(permission) {
            return Ok(());
        }
        Err(missing_permission(permission))
    }
}

/// The refusal that names what is missing.
pub(crate) fn missing_permission(permission: Permission) -> ApiError {
    let word = permission.as_str();
    ApiError::new(ErrorCode::Forbidden, format!("missing permission \"{word}\""))
        .with("permission", word)
}

/// What a member is in its mesh.
pub(crate) fn standing(mesh: &Mesh, member: &Member) -> Standing {
    if is_owner(mesh, member) {
        Standing::Owner
    } else if member.role == MemberRole::Admin {
        Standing::Admin
    } else {
        Standing::Member
    }
}

/// The mesh and the member of it that asks.
pub(crate) async fn member_that_asks(
    broker: &Broker,
    name: MeshName,
    parts: &mut Parts,
    body: &[u8],
) -> ApiResult<(Mesh, Member)> {
    if signed::is_signed(&parts.headers) {
        // To a key that is no member of it, a mesh that exists looks like one that does not.
        let mesh = match find_mesh(broker, name).await {
            Err(error) if error.code() == ErrorCode::NotFound => None,
            found => Some(found?),
        };
        return signed::signer(broker, mesh, parts, body).await;
    }
    let account = Account::from_request_parts(parts, broker).await?;
    let mesh = find_mesh(broker, name).await?;
    let member = broker.store().member_of_user(&mesh.id, &account.login.user.id).await?;
    Ok((mesh, member.ok_or_else(|| ApiError::not_found("mesh"))?))
}

async fn find_mesh(broker: &Broker, name: MeshName) -> ApiResult<Mesh> {
    match name {
        MeshName::Slug(slug) => live_mesh_by_slug(broker, &slug).await,
        MeshName::SlugOrId(text) => match live_mesh_by_slug(broker, &text).await {
            Err(error) if error.code() == ErrorCode::NotFound => {
                Box::pin(find_mesh(broker, MeshName::Id(text))).await
            }
            found => found,
        },
        MeshName::Id(id) => {
            let mesh = broker.store().mesh(&MeshId::new(id)).await?;
            mesh.filter(|mesh| mesh.archived_at.is_none())
                .ok_or_else(|| ApiError::not_found("mesh"))
        }
    }
}

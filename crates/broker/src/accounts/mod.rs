//! Accounts, meshes and invites over HTTP: one file per family of routes (broker spec §4.26, §4.28, §4.30, §5.2).

pub(crate) mod bearer;
pub(crate) mod claim;
pub(crate) mod invite;
pub(crate) mod join_v1;
pub(crate) mod leave;
pub(crate) mod member;
pub(crate) mod mesh;
pub(crate) mod mesh_settings;
pub(crate) mod permission;
pub(crate) mod preview;
pub(crate) mod requester;
pub(crate) mod session;
pub(crate) mod setup;
pub(crate) mod signed;

use claudemesh_protocol::Slug;
use claudemesh_store::{Member, Mesh};

use crate::edge::error::{ApiError, ApiResult};
use crate::state::Broker;

/// The live mesh with this slug.
pub(crate) async fn live_mesh_by_slug(broker: &Broker, slug: &str) -> ApiResult<Mesh> {
    let slug: Slug = slug.parse().map_err(|_| ApiError::not_found("mesh"))?;
    broker.store().mesh_by_slug(&slug).await?.ok_or_else(|| ApiError::not_found("mesh"))
}

/// True when `member` is a row of the account that owns `mesh`.
pub(crate) fn is_owner(mesh: &Mesh, member: &Member) -> bool {
    member.user_id.as_ref() == Some(&mesh.owner_user_id)
}

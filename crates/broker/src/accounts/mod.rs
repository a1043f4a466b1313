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

use claudemesh_core::authorize::Caller;
use claudemesh_protocol::permission::{Permission, Standing};
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{ErrorCode, Slug, UserId};
use claudemesh_store::{Member, Mesh};

use crate::edge::error::{ApiError, ApiResult};
use crate::state::Broker;

/// An account inside one mesh.
pub(crate) struct Standpoint {
    /// The mesh.
    pub(crate) mesh: Mesh,
    /// What the account may do in it.
    pub(crate) caller: Caller,
}

impl Standpoint {
    /// Finds a mesh by slug as `user` sees it. A mesh the account is not in answers like one that does not exist.
    pub(crate) async fn find(broker: &Broker, slug: &str, user: &UserId) -> ApiResult<Self> {
        let mesh = live_mesh_by_slug(broker, slug).await?;
        let member = broker.store().member_of_user(&mesh.id, user).await?;
        let is_owner = mesh.owner_user_id == *user;
        if member.is_none() && !is_owner {
            return Err(ApiError::not_found("mesh"));
        }
        let is_admin = member.as_ref().is_some_and(|member| member.role == MemberRole::Admin);
        let standing = match (is_owner, is_admin) {
            (true, _) => Standing::Owner,
            (false, true) => Standing::Admin,
            (false, false) => Standing::Member,
        };
        let overrides = member.map(|member| member.permissions).unwrap_or_default();
        Ok(Self { mesh, caller: Caller { standing, overrides, session_caps: None } })
    }

    /// Refuses without `permission`.
    pub(crate) fn require(&self, permission: Permission) -> ApiResult<()> {
        if self.caller.may(permission) {
            return Ok(());
        }
        let word = permission.as_str();
        Err(ApiError::new(ErrorCode::Forbidden, format!("missing permission \"{word}\""))
            .with("permission", word))
    }
}

/// The live mesh with this slug.
pub(crate) async fn live_mesh_by_slug(broker: &Broker, slug: &str) -> ApiResult<Mesh> {
    let slug: Slug = slug.parse().map_err(|_| ApiError::not_found("mesh"))?;
    broker.store().mesh_by_slug(&slug).await?.ok_or_else(|| ApiError::not_found("mesh"))
}

/// True when `member` is a row of the account that owns `mesh`.
pub(crate) fn is_owner(mesh: &Mesh, member: &Member) -> bool {
    member.user_id.as_ref() == Some(&mesh.owner_user_id)
}

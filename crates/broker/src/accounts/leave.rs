//! Leaving a mesh: `DELETE /mesh/:id/member/:member` and `DELETE /cli/mesh/:slug/member/me`, by the member's own
//! signature or by the bearer of its account.

use axum::Json;
use axum::extract::{Path, Request, State};
use claudemesh_protocol::ErrorCode;
use claudemesh_store::{Member, Mesh, Revocation, RevokeKind};
use serde_json::{Value, json};

use super::is_owner;
use super::requester::{MeshName, member_that_asks};
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::request::read_body;
use crate::live::{self, Close};
use crate::state::Broker;

/// What closes the sockets of a member that is gone (wire spec §1.3).
const GONE: Close = Close { code: 4002, reason: "revoked" };

/// Leaves the mesh with this slug.
pub(crate) async fn leave(
    State(broker): State<Broker>,
    Path(slug): Path<String>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let (mut parts, body) = request.into_parts();
    let body = read_body(body).await?;
    let (mesh, member) = member_that_asks(&broker, MeshName::Slug(slug), &mut parts, &body).await?;
    release(&broker, &mesh, member).await
}

/// Leaves the mesh with this id; `member` must be the caller's own row.
pub(crate) async fn leave_by_id(
    State(broker): State<Broker>,
    Path((mesh, member)): Path<(String, String)>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let (mut parts, body) = request.into_parts();
    let body = read_body(body).await?;
    let (mesh, own) = member_that_asks(&broker, MeshName::Id(mesh), &mut parts, &body).await?;
    if own.id.as_str() != member && member != "me" {
        return Err(ApiError::new(ErrorCode::Forbidden, "a member leaves for itself only"));
    }
    release(&broker, &mesh, own).await
}

async fn release(broker: &Broker, mesh: &Mesh, member: Member) -> ApiResult<Json<Value>> {
    if is_owner(mesh, &member) {
        return Err(ApiError::new(ErrorCode::OwnerCannotLeave, "the owner cannot leave its mesh")
            .hint("hand the mesh to another admin, or archive it"));
    }
    let revocation =
        Revocation { at: broker.now(), kind: RevokeKind::Leave, by: Some(member.id.clone()) };
    let left = broker.store().revoke_member(&mesh.id, &member.id, revocation).await?;
    if left {
        broker.live().roster_changed(&mesh.id);
        live::evict_member(broker, &mesh.id, &member.id, GONE).await;
        tracing::info!(mesh_id = %mesh.id, "member left");
    }
    Ok(Json(json!({ "ok": true, "left": left })))
}

//! Leaving a mesh: `DELETE /mesh/:id/member/:member` and `DELETE /cli/mesh/:slug/member/me`, by the member's own
//! signature or by the bearer of its account.

use axum::Json;
use axum::extract::{FromRequestParts as _, Path, Request, State};
use axum::http::request::Parts;
use claudemesh_protocol::{ErrorCode, MeshId};
use claudemesh_store::{Member, Mesh, Revocation, RevokeKind};
use serde_json::{Value, json};

use super::bearer::Account;
use super::{is_owner, live_mesh_by_slug, signed};
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
    let mesh = live_mesh_by_slug(&broker, &slug).await?;
    let member = requester(&broker, &mesh, &mut parts, &body).await?;
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
    let mesh = broker.store().mesh(&MeshId::new(mesh)).await?;
    let mesh = mesh
        .filter(|mesh| mesh.archived_at.is_none())
        .ok_or_else(|| ApiError::not_found("mesh"))?;
    let own = requester(&broker, &mesh, &mut parts, &body).await?;
    if own.id.as_str() != member && member != "me" {
        return Err(ApiError::new(ErrorCode::Forbidden, "a member leaves for itself only"));
    }
    release(&broker, &mesh, own).await
}

/// The member that asks. Without any credential the mesh is not even confirmed to exist.
async fn requester(
    broker: &Broker,
    mesh: &Mesh,
    parts: &mut Parts,
    body: &[u8],
) -> ApiResult<Member> {
    if signed::is_signed(&parts.headers) {
        return signed::signer(broker, mesh, parts, body).await;
    }
    let account = Account::from_request_parts(parts, broker).await?;
    let member = broker.store().member_of_user(&mesh.id, &account.login.user.id).await?;
    member.ok_or_else(|| ApiError::not_found("mesh"))
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

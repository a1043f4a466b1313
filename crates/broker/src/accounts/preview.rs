//! Looking at an invite without claiming it: `GET /api/public/invites/:code` and the page `GET /i/:code`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::invite::InvitePreview;
use claudemesh_store::{Invite, InviteForm};

use super::invite::closed_reason;
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::http::Connection;
use crate::edge::limit::{ClientAddress, CodeFound};
use crate::state::Broker;

/// The page behind an invite link. It names no mesh and repeats no code: whoever opened it has the link already, and
/// what is not on the page cannot be read over a shoulder or by a crawler.
const PAGE: &str = include_str!("invite_page.html");

/// What a joiner sees before it consents.
pub(crate) async fn preview(
    State(broker): State<Broker>,
    client: ClientAddress,
    connection: Connection,
    Path(code): Path<String>,
) -> ApiResult<Json<InvitePreview>> {
    let found = broker.store().invite_by_code(&code).await?;
    let found = found.filter(|invite| matches!(invite.form, InviteForm::Code { .. }));
    let kind = if found.is_some() { CodeFound::Known } else { CodeFound::Unknown };
    broker.edge_limits().preview(client, kind)?;
    let invite = found.ok_or_else(|| ApiError::not_found("invite"))?;
    let mesh = broker.store().mesh(&invite.mesh_id).await?.ok_or_else(ApiError::internal)?;
    let inviter = inviter(&broker, &invite).await?;
    let member_count = broker.store().roster(&mesh.id).await?.len();
    let is_archived = mesh.archived_at.is_some();
    let reason = closed_reason(&invite, broker.now())
        .or_else(|| is_archived.then_some(ErrorCode::MeshArchived));
    Ok(Json(InvitePreview {
        mesh_slug: mesh.slug.as_str().to_owned(),
        mesh_name: mesh.name,
        inviter,
        role: invite.role,
        expires_at: invite.expires_at.to_iso(),
        member_count: u64::try_from(member_count).unwrap_or(u64::MAX),
        owner_pubkey: mesh.owner_pubkey,
        broker_url: broker.links().ws_url_for(connection.local),
        valid: reason.is_none(),
        reason: reason.map(|code| code.as_str().to_owned()),
    }))
}

/// Who made an invite: the name of an account, or of a member that has none.
async fn inviter(broker: &Broker, invite: &Invite) -> ApiResult<Option<String>> {
    if let Some(member) = &invite.created_by_member
        && let Some(member) = broker.store().member(&invite.mesh_id, member).await?
        && member.user_id.is_none()
    {
        return Ok(Some(member.display_name));
    }
    Ok(broker.store().user(&invite.created_by).await?.map(|user| user.name))
}

/// The page itself; the same for every code, so that it says nothing about which exist.
pub(crate) async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

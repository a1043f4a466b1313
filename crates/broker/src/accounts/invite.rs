//! Making, listing and revoking invites of version 2 (broker spec §4.26, wire spec §5.8).

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use claudemesh_crypto::invite::InviteCapability;
use claudemesh_crypto::{random, tokens};
use claudemesh_protocol::account::{InviteCreateReply, InviteRow, InvitesReply};
use claudemesh_protocol::invite::InvitePreset as WirePreset;
use claudemesh_protocol::limits::{
    GROUP_ROLE_MAX_CHARS, GROUPS_PER_PRESENCE, INVITE_TTL, INVITE_TTL_MAX, INVITE_TTL_MIN,
    INVITE_USES_MAX, MEMBER_NAME_MAX_CHARS,
};
use claudemesh_protocol::permission::{Permission, Standing};
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{ErrorCode, InviteId, Timestamp, text};
use claudemesh_store::{CreateInvite, Invite, InviteForm, InvitePreset, NewInvite};

use super::requester::{MeshName, Requester};
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::request::Fields;
use crate::secrets;
use crate::state::Broker;

/// Tries to draw a code nobody has; two equal ones in a row do not happen by chance.
const CODE_DRAWS: usize = 4;

/// Makes an invite: for an account, or for a member that signs with its key and may have no account.
pub(crate) async fn create(
    State(broker): State<Broker>,
    Path(slug): Path<String>,
    request: Request,
) -> ApiResult<Json<InviteCreateReply>> {
    let asking = Requester::read(&broker, MeshName::SlugOrId(slug), request).await?;
    asking.require(Permission::Invite)?;
    let fields = &asking.fields;
    let role = fields
        .optional_value::<MemberRole>("role", "admin or member")?
        .unwrap_or(MemberRole::Member);
    if role == MemberRole::Admin && !asking.caller.standing.is_admin() {
        return Err(ApiError::new(ErrorCode::Forbidden, "only admins invite admins"));
    }
    let terms = Terms {
        role,
        max_uses: max_uses(fields)?,
        expires_at: broker.now().plus(lifetime(fields)?),
        preset: preset(fields)?,
    };
    broker.edge_limits().invite_made(&asking.member.id)?;
    let invite = store_invite(&broker, &asking, terms).await?;
    let code = code_of(&invite).ok_or_else(ApiError::internal)?.to_owned();
    tracing::info!(mesh_id = %asking.mesh.id, max_uses = invite.max_uses, "invite created");
    Ok(Json(InviteCreateReply {
        url: format!("{}/i/{code}", broker.links().app_url),
        code,
        expires_at: invite.expires_at.to_iso(),
        emailed: false,
    }))
}

struct Terms {
    role: MemberRole,
    max_uses: u32,
    expires_at: Timestamp,
    preset: InvitePreset,
}

fn max_uses(fields: &Fields) -> ApiResult<u32> {
    match fields.optional_integer("max_uses")? {
        None => Ok(1),
        Some(uses) => u32::try_from(uses)
            .ok()
            .filter(|uses| (1..=INVITE_USES_MAX).contains(uses))
            .ok_or_else(|| ApiError::field("max_uses", "1 to 1000")),
    }
}

fn lifetime(fields: &Fields) -> ApiResult<Duration> {
    match fields.optional_integer("expires_in")? {
        None => Ok(INVITE_TTL),
        Some(seconds) => u64::try_from(seconds)
            .ok()
            .map(Duration::from_secs)
            .filter(|life| (INVITE_TTL_MIN..=INVITE_TTL_MAX).contains(life))
            .ok_or_else(|| ApiError::field("expires_in", "60 seconds to 365 days, in seconds")),
    }
}

fn preset(fields: &Fields) -> ApiResult<InvitePreset> {
    let wire = fields
        .optional_value::<WirePreset>("preset", "{displayName?, roleTag?, groups?, messageMode?}")?
        .unwrap_or_default();
    let display_name = wire
        .display_name
        .map(|name| text::display_name(&name, MEMBER_NAME_MAX_CHARS))
        .transpose()
        .map_err(|error| ApiError::field("preset.displayName", &error.to_string()))?;
    let role_tag = wire
        .role_tag
        .map(|tag| text::display_name(&tag, GROUP_ROLE_MAX_CHARS))
        .transpose()
        .map_err(|error| ApiError::field("preset.roleTag", &error.to_string()))?;
    if wire.groups.as_ref().is_some_and(|groups| groups.len() > GROUPS_PER_PRESENCE) {
        return Err(ApiError::field("preset.groups", "at most 32 groups"));
    }
    Ok(InvitePreset {
        display_name,
        role_tag,
        groups: wire.groups,
        message_mode: wire.message_mode,
    })
}

async fn store_invite(broker: &Broker, asking: &Requester, terms: Terms) -> ApiResult<Invite> {
    let mesh = &asking.mesh;
    let account = asking.member.user_id.as_ref().unwrap_or(&mesh.owner_user_id);
    let secrets = broker.store().mesh_secrets(&mesh.id).await?.ok_or_else(ApiError::internal)?;
    let owner = secrets::open_owner_key(broker.at_rest_key(), &mesh.id, &secrets)
        .map_err(secrets::unreadable)?;
    for _ in 0..CODE_DRAWS {
        let id = InviteId::random(random::fill);
        let capability =
            InviteCapability::sign(&mesh.id, &id, terms.expires_at, terms.role, &owner)
                .map_err(|_| ApiError::internal())?;
        let capability = serde_json::to_string(&capability).map_err(|_| ApiError::internal())?;
        let code = tokens::invite_code(&mut random::fill).expose().to_owned();
        let new = NewInvite {
            id,
            mesh_id: mesh.id.clone(),
            form: InviteForm::Code { code, capability },
            role: terms.role,
            preset: terms.preset.clone(),
            max_uses: terms.max_uses,
            expires_at: terms.expires_at,
            created_by: account.clone(),
            created_by_member: Some(asking.member.id.clone()),
            created_at: broker.now(),
        };
        if let CreateInvite::Created(invite) = broker.store().create_invite(new).await? {
            return Ok(invite);
        }
    }
    tracing::error!("no free invite code was drawn");
    Err(ApiError::internal())
}

/// The short code; old-style invites have none.
pub(crate) fn code_of(invite: &Invite) -> Option<&str> {
    match &invite.form {
        InviteForm::Code { code, .. } => Some(code),
        InviteForm::Token { .. } => None,
    }
}

/// Why an invite cannot be claimed now, in the order of the specification.
pub(crate) fn closed_reason(invite: &Invite, now: Timestamp) -> Option<ErrorCode> {
    if invite.revoked_at.is_some() {
        Some(ErrorCode::Revoked)
    } else if invite.expires_at <= now {
        Some(ErrorCode::Expired)
    } else if invite.used_count >= invite.max_uses {
        Some(ErrorCode::Exhausted)
    } else {
        None
    }
}

/// The short-code invites of a mesh, newest first.
pub(crate) async fn list(
    State(broker): State<Broker>,
    Path(slug): Path<String>,
    request: Request,
) -> ApiResult<Json<InvitesReply>> {
    let asking = Requester::read(&broker, MeshName::SlugOrId(slug), request).await?;
    asking.require(Permission::Invite)?;
    let now = broker.now();
    let invites = broker.store().invites(&asking.mesh.id).await?;
    let rows = invites.into_iter().filter_map(|invite| {
        Some(InviteRow {
            code: code_of(&invite)?.to_owned(),
            role: invite.role,
            max_uses: invite.max_uses,
            used_count: invite.used_count,
            created_at: invite.created_at.to_iso(),
            expires_at: invite.expires_at.to_iso(),
            revoked_at: invite.revoked_at.map(Timestamp::to_iso),
            valid: closed_reason(&invite, now).is_none(),
        })
    });
    Ok(Json(InvitesReply { invites: rows.collect() }))
}

/// Revokes an invite: for its creator and for admins, at once.
pub(crate) async fn revoke(
    State(broker): State<Broker>,
    Path((slug, code)): Path<(String, String)>,
    request: Request,
) -> ApiResult<(StatusCode, Json<serde_json::Value>)> {
    let asking = Requester::read(&broker, MeshName::SlugOrId(slug), request).await?;
    let (mesh, by) = (&asking.mesh.id, &asking.member.id);
    let found = broker.store().invite_by_code(&code).await?;
    let invite = found
        .filter(|invite| invite.mesh_id == *mesh)
        .ok_or_else(|| ApiError::not_found("invite"))?;
    let is_maker = invite.created_by_member.as_ref() == Some(by)
        || asking.member.user_id.as_ref() == Some(&invite.created_by);
    if !is_maker && asking.caller.standing == Standing::Member {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "only its creator and admins revoke an invite",
        ));
    }
    let revoked = broker.store().revoke_invite(mesh, &code, by, broker.now()).await?;
    let invite = revoked.ok_or_else(|| ApiError::not_found("invite"))?;
    let revoked_at = invite.revoked_at.map(Timestamp::to_iso);
    Ok((StatusCode::OK, Json(serde_json::json!({ "ok": true, "revoked_at": revoked_at }))))
}

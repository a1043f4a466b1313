//! `POST /join`: joining by an old-style signed token, which carries the root key (wire spec §5.7). None are issued.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use claudemesh_crypto::invite::{Claim, InviteError, InviteV1};
use claudemesh_protocol::account::JoinV1Reply;
use claudemesh_protocol::{ErrorCode, PublicKey, Timestamp};
use claudemesh_store::{ClaimInvite, Invite, Member, Mesh, NewIdentity, StoreError};

use super::claim::{ProvedKey, joiner_name, joining_member};
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::limit::{ClientAddress, CodeFound};
use crate::edge::request::Fields;
use crate::settings::InviteV1 as InviteV1Setting;
use crate::state::Broker;

/// Joins. Every refusal carries `"ok": false`.
pub(crate) async fn join(
    State(broker): State<Broker>,
    client: ClientAddress,
    body: Body,
) -> ApiResult<Json<JoinV1Reply>> {
    if broker.settings().invite_v1 == InviteV1Setting::Retired {
        return Err(ApiError::new(
            ErrorCode::InviteV1Retired,
            "this broker takes no old-style invites",
        )
        .hint("ask for a new invite")
        .with_ok_false());
    }
    let fields = Fields::read(body).await.map_err(ApiError::with_ok_false)?;
    match join_by(&broker, client, &fields).await {
        Ok((member, is_known)) => Ok(Json(JoinV1Reply {
            ok: true,
            member_id: member.id,
            display_name: Some(member.display_name),
            already_member: is_known,
        })),
        Err(error) => Err(error.with_ok_false()),
    }
}

async fn join_by(
    broker: &Broker,
    client: ClientAddress,
    fields: &Fields,
) -> ApiResult<(Member, Option<bool>)> {
    let token = fields.text("invite_token")?;
    let key = fields
        .optional_key("peer_pubkey")?
        .ok_or_else(|| ApiError::field("peer_pubkey", "64 lowercase hexadecimal characters"))?;
    let proved = ProvedKey::read(fields, key)?;
    let wished_name = joiner_name(fields)?;
    let now = broker.now();

    let signed = match read_token(token, fields, now) {
        Ok(signed) => signed,
        Err(error) => {
            broker.edge_limits().claim(client, "", CodeFound::Unknown)?;
            return Err(error);
        }
    };
    if let Some(proved) = proved {
        proved.verify(&Claim::Token(token), now)?;
    }
    let mesh = checked_mesh(broker, &signed).await?;
    let invite = find(broker, client, token).await?;
    refuse_wrong_row(&invite, &mesh, now)?;
    let member = joining_member(&invite, NewIdentity::Key(key), wished_name.as_deref(), now);
    let claimed = broker.store().claim_invite(&invite.id, member, now).await;
    conclude(broker, &mesh, key, claimed)
}

fn refused(code: ErrorCode, sentence: &str) -> ApiError {
    ApiError::new(code, sentence).with_status(StatusCode::BAD_REQUEST)
}

/// Reads the token and checks its signature. What the body repeats of it must be the same.
fn read_token(token: &str, fields: &Fields, now: Timestamp) -> ApiResult<InviteV1> {
    let broken =
        || refused(ErrorCode::InviteBadSignature, "this invite is not signed as it should be");
    let signed = InviteV1::from_token(token).map_err(|_| broken())?;
    match signed.verify(now) {
        // The end that counts is the row's.
        Ok(()) | Err(InviteError::Expired) => {}
        Err(_) => return Err(broken()),
    }
    let repeated: Option<InviteV1> = fields
        .optional_value("invite_payload", "the content of the token")
        .map_err(|_| broken())?;
    if repeated.is_some_and(|repeated| repeated != signed) { Err(broken()) } else { Ok(signed) }
}

async fn checked_mesh(broker: &Broker, signed: &InviteV1) -> ApiResult<Mesh> {
    let mesh = broker.store().mesh(&signed.mesh_id).await?;
    let mesh = mesh
        .filter(|mesh| mesh.archived_at.is_none())
        .ok_or_else(|| refused(ErrorCode::MeshNotFound, "this mesh does not exist here"))?;
    if mesh.owner_pubkey != signed.owner_pubkey {
        return Err(refused(
            ErrorCode::InviteOwnerMismatch,
            "this invite is signed by somebody else",
        ));
    }
    Ok(mesh)
}

/// Looks the token up as the text it is.
async fn find(broker: &Broker, client: ClientAddress, token: &str) -> ApiResult<Invite> {
    let found = broker.store().invite_by_token(token).await?;
    if let Some(invite) = found {
        broker.edge_limits().claim(client, invite.id.as_str(), CodeFound::Known)?;
        return Ok(invite);
    }
    broker.edge_limits().claim(client, "", CodeFound::Unknown)?;
    Err(refused(ErrorCode::InviteNotFound, "this invite does not exist"))
}

fn refuse_wrong_row(invite: &Invite, mesh: &Mesh, now: Timestamp) -> ApiResult<()> {
    if invite.mesh_id != mesh.id {
        return Err(refused(ErrorCode::InviteMeshMismatch, "this invite belongs to another mesh"));
    }
    if invite.revoked_at.is_some() {
        return Err(revoked());
    }
    if invite.expires_at <= now { Err(expired()) } else { Ok(()) }
}

fn revoked() -> ApiError {
    refused(ErrorCode::InviteRevoked, "this invite was revoked")
}

fn expired() -> ApiError {
    refused(ErrorCode::InviteExpired, "this invite has expired")
}

fn conclude(
    broker: &Broker,
    mesh: &Mesh,
    key: PublicKey,
    claimed: Result<ClaimInvite, StoreError>,
) -> ApiResult<(Member, Option<bool>)> {
    match claimed {
        Ok(ClaimInvite::Joined(member)) => {
            broker.live().roster_changed(&mesh.id);
            tracing::info!(mesh_id = %mesh.id, key = key.short(12), "joined by an old-style invite");
            Ok((member, None))
        }
        Ok(ClaimInvite::AlreadyMember(member)) => Ok((member, Some(true))),
        Ok(ClaimInvite::Banned) => {
            Err(refused(ErrorCode::Banned, "this key is banned from the mesh"))
        }
        Ok(ClaimInvite::Exhausted) => {
            Err(refused(ErrorCode::InviteExhausted, "this invite has no use left"))
        }
        Ok(ClaimInvite::Revoked) => Err(revoked()),
        Ok(ClaimInvite::Expired) => Err(expired()),
        Ok(ClaimInvite::NotFound) => {
            Err(refused(ErrorCode::InviteNotFound, "this invite does not exist"))
        }
        Ok(ClaimInvite::MeshArchived) => {
            Err(refused(ErrorCode::MeshNotFound, "this mesh does not exist here"))
        }
        Err(error) if error.is_transient() => Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "a member could not be added");
            Err(ApiError::new(ErrorCode::MemberInsertFailed, "the member could not be added"))
        }
    }
}

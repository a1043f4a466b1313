//! `POST /invites/:code/claim`: joining by a short code (wire spec §5.8).
//!
//! Everything that can be refused is refused before the use is consumed, in the order of the specification; the last
//! word on uses and bans is the store's, in one transaction with the member row.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use claudemesh_crypto::exchange::ExchangePublic;
use claudemesh_crypto::invite::{Claim, InviteCapability, RootKey};
use claudemesh_crypto::{random, statement};
use claudemesh_protocol::canonical;
use claudemesh_protocol::invite::ClaimReply;
use claudemesh_protocol::limits::{MEMBER_NAME_MAX_CHARS, UNBOUND_MEMBER_TTL};
use claudemesh_protocol::status::MessageMode;
use claudemesh_protocol::{ErrorCode, MemberId, PublicKey, SignatureBytes, Timestamp, text};
use claudemesh_store::{
    ClaimInvite, Invite, InviteForm, InvitePreset, Member, Mesh, NewIdentity, NewMember,
};

use super::invite::closed_reason;
use crate::edge::error::{ApiError, ApiResult};
use crate::edge::http::Connection;
use crate::edge::limit::{ClientAddress, CodeFound};
use crate::edge::request::Fields;
use crate::secrets;
use crate::state::Broker;

/// A claim, read and checked for its shape.
struct ClaimWish {
    recipient: ExchangePublic,
    /// As sent: the proof is over this text.
    recipient_text: String,
    identity: Option<ProvedKey>,
    display_name: Option<String>,
}

/// A member key with the proof that the joiner holds it.
pub(super) struct ProvedKey {
    pub(super) key: PublicKey,
    timestamp: Timestamp,
    proof: SignatureBytes,
}

impl ProvedKey {
    /// Reads `timestamp` and `proof` beside a key; `None` when neither is there.
    pub(super) fn read(fields: &Fields, key: PublicKey) -> ApiResult<Option<Self>> {
        let timestamp = fields.optional_integer("timestamp")?;
        let proof = fields.optional_text("proof")?;
        match (timestamp, proof) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(ApiError::field("timestamp", "milliseconds since 1970")),
            (Some(_), None) => Err(ApiError::field("proof", "128 hexadecimal characters")),
            (Some(timestamp), Some(proof)) => Ok(Some(Self {
                key,
                timestamp: Timestamp::from_millis(timestamp),
                proof: proof
                    .parse()
                    .map_err(|_| ApiError::field("proof", "128 hexadecimal characters"))?,
            })),
        }
    }

    /// Checks the time window and the signature.
    pub(super) fn verify(&self, claim: &Claim<'_>, now: Timestamp) -> ApiResult<()> {
        if statement::check_window(self.timestamp, now).is_err() {
            return Err(bad_signature("the proof is too old or too new")
                .hint("check the clock of this machine")
                .with("serverTime", now.as_millis()));
        }
        claim
            .verify(self.key, self.timestamp, &self.proof)
            .map_err(|_| bad_signature("the proof was not made by this key for this invite"))
    }
}

fn bad_signature(sentence: &str) -> ApiError {
    ApiError::new(ErrorCode::BadSignature, sentence)
}

/// Joins.
pub(crate) async fn claim(
    State(broker): State<Broker>,
    client: ClientAddress,
    connection: Connection,
    Path(code): Path<String>,
    body: Body,
) -> ApiResult<Json<ClaimReply>> {
    let wish = ClaimWish::read(&Fields::read(body).await?)?;
    let now = broker.now();
    let invite = find(&broker, client, &code).await?;
    let mesh = broker.store().mesh(&invite.mesh_id).await?.ok_or_else(ApiError::internal)?;
    let known = known_member(&broker, &mesh, &wish).await?;
    refuse_closed(&invite, &mesh, known.as_ref(), now)?;
    let capability = verified_capability(&invite, &mesh)?;
    if let Some(identity) = &wish.identity {
        identity
            .verify(&Claim::Code { code: &code, recipient_x25519: &wish.recipient_text }, now)?;
    }
    let sealed_root_key = sealed_root_key(&broker, &mesh, &wish.recipient).await?;

    let (member, is_known) =
        match broker.store().claim_invite(&invite.id, wish.new_member(&invite, now), now).await? {
            ClaimInvite::Joined(member) => {
                broker.live().roster_changed(&mesh.id);
                tracing::info!(mesh_id = %mesh.id, "invite claimed");
                (member, None)
            }
            ClaimInvite::AlreadyMember(member) => (member, Some(true)),
            ClaimInvite::NotFound => return Err(ApiError::not_found("invite")),
            ClaimInvite::Revoked => return Err(closed(ErrorCode::Revoked)),
            ClaimInvite::Expired => return Err(closed(ErrorCode::Expired)),
            ClaimInvite::Exhausted => return Err(closed(ErrorCode::Exhausted)),
            ClaimInvite::MeshArchived => return Err(closed(ErrorCode::MeshArchived)),
            ClaimInvite::Banned => {
                return Err(ApiError::new(ErrorCode::Banned, "this key is banned from the mesh"));
            }
        };
    Ok(Json(ClaimReply {
        sealed_root_key,
        mesh_id: mesh.id,
        member_id: member.id,
        owner_pubkey: mesh.owner_pubkey,
        canonical_v2: capability.canonical,
        signature: Some(capability.signature),
        mesh_slug: Some(mesh.slug.as_str().to_owned()),
        mesh_name: Some(mesh.name),
        broker_url: Some(broker.links().ws_url_for(connection.local)),
        role: Some(member.role),
        display_name: Some(member.display_name),
        already_member: is_known,
    }))
}

impl ClaimWish {
    fn read(fields: &Fields) -> ApiResult<Self> {
        let recipient_text = fields.text("recipient_x25519_pubkey")?.to_owned();
        let not_a_key =
            || ApiError::field("recipient_x25519_pubkey", "an X25519 key of 32 bytes as base64url");
        let recipient = ExchangePublic::from_b64url(&recipient_text).map_err(|_| not_a_key())?;
        // A key that nothing can be sealed to is found out now, not after the use is gone.
        RootKey::generate().seal_to(&recipient).map_err(|_| not_a_key())?;
        let identity = match fields.optional_key("peer_pubkey")? {
            None => None,
            Some(key) => Some(
                ProvedKey::read(fields, key)?
                    .ok_or_else(|| ApiError::field("proof", "128 hexadecimal characters"))?,
            ),
        };
        Ok(Self { recipient, recipient_text, identity, display_name: joiner_name(fields)? })
    }

    fn new_member(&self, invite: &Invite, now: Timestamp) -> NewMember {
        let identity = match &self.identity {
            Some(proved) => NewIdentity::Key(proved.key),
            None => NewIdentity::Unbound { until: now.plus(UNBOUND_MEMBER_TTL) },
        };
        joining_member(invite, identity, self.display_name.as_deref(), now)
    }
}

/// The name the joiner wants, if it says one.
pub(super) fn joiner_name(fields: &Fields) -> ApiResult<Option<String>> {
    fields
        .optional_text("display_name")?
        .map(|name| text::display_name(name, MEMBER_NAME_MAX_CHARS))
        .transpose()
        .map_err(|error| ApiError::field("display_name", &error.to_string()))
}

/// The member row of a joiner: the preset of the invite overrides what it sent.
pub(super) fn joining_member(
    invite: &Invite,
    identity: NewIdentity,
    wished_name: Option<&str>,
    now: Timestamp,
) -> NewMember {
    let InvitePreset { display_name, role_tag, groups, message_mode } = invite.preset.clone();
    let nameless = || match identity {
        NewIdentity::Key(key) => format!("member-{}", key.short(8)),
        NewIdentity::Unbound { .. } => "new member".to_owned(),
    };
    NewMember {
        id: MemberId::random(random::fill),
        mesh_id: invite.mesh_id.clone(),
        user_id: None,
        identity,
        display_name: display_name
            .or_else(|| wished_name.map(str::to_owned))
            .unwrap_or_else(nameless),
        role: invite.role,
        role_tag,
        default_groups: groups.unwrap_or_default(),
        message_mode: message_mode.unwrap_or(MessageMode::Push),
        joined_at: now,
    }
}

/// Looks the code up and takes its cost; unknown and malformed codes take the same road and cost double.
async fn find(broker: &Broker, client: ClientAddress, code: &str) -> ApiResult<Invite> {
    let found = broker.store().invite_by_code(code).await?;
    let found = found.filter(|invite| matches!(invite.form, InviteForm::Code { .. }));
    let kind = if found.is_some() { CodeFound::Known } else { CodeFound::Unknown };
    broker.edge_limits().claim(client, code, kind)?;
    found.ok_or_else(|| ApiError::not_found("invite"))
}

/// The live member that asks again, if it is one.
async fn known_member(broker: &Broker, mesh: &Mesh, wish: &ClaimWish) -> ApiResult<Option<Member>> {
    let Some(identity) = &wish.identity else { return Ok(None) };
    let member = broker.store().member_by_key(&mesh.id, &identity.key).await?;
    Ok(member.filter(|member| member.revoked.is_none()))
}

/// A member that joined before is answered even when no use is left; it consumes none.
fn refuse_closed(
    invite: &Invite,
    mesh: &Mesh,
    known: Option<&Member>,
    now: Timestamp,
) -> ApiResult<()> {
    match closed_reason(invite, now) {
        Some(ErrorCode::Exhausted) if known.is_some() => {}
        Some(code) => return Err(closed(code)),
        None => {}
    }
    if mesh.archived_at.is_some() { Err(closed(ErrorCode::MeshArchived)) } else { Ok(()) }
}

/// The 410 of an invite that cannot be used any more.
pub(super) fn closed(code: ErrorCode) -> ApiError {
    let sentence = match code {
        ErrorCode::Revoked => "this invite was revoked",
        ErrorCode::Expired => "this invite has expired",
        ErrorCode::Exhausted => "this invite has no use left",
        ErrorCode::MeshArchived => "this mesh was archived",
        _ => "this invite cannot be used",
    };
    ApiError::new(code, sentence).hint("ask for a new invite")
}

/// A row whose statement is not exactly what the owner signed is never honoured.
fn verified_capability(invite: &Invite, mesh: &Mesh) -> ApiResult<InviteCapability> {
    let broken = || bad_signature("this invite is not signed by the owner of its mesh");
    let InviteForm::Code { capability, .. } = &invite.form else { return Err(broken()) };
    let capability: InviteCapability = serde_json::from_str(capability).map_err(|_| broken())?;
    let expected = canonical::invite_v2(
        &mesh.id,
        &invite.id,
        invite.expires_at,
        invite.role,
        mesh.owner_pubkey,
    )
    .map_err(|_| broken())?;
    capability.verify_row(&expected, mesh.owner_pubkey).map_err(|_| broken())?;
    Ok(capability)
}

async fn sealed_root_key(
    broker: &Broker,
    mesh: &Mesh,
    recipient: &ExchangePublic,
) -> ApiResult<String> {
    let secrets = broker.store().mesh_secrets(&mesh.id).await?.ok_or_else(ApiError::internal)?;
    let root_key = secrets::open_root_key(broker.at_rest_key(), &mesh.id, &secrets)
        .map_err(secrets::unreadable)?;
    root_key.seal_to(recipient).map_err(|_| ApiError::internal())
}

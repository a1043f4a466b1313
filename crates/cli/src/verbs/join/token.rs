//! Joining by a signed token (version 1 invites of older servers): checked here before anything is sent
//! (CLI spec §5.3).

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::hash::sha256_hex;
use claudemesh_crypto::invite::{Claim, InviteError, InviteV1};
use claudemesh_protocol::account::{JoinV1Reply, JoinV1Request};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Join, Joined, forged, refused};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::local::{PendingJoins, PendingKeys, Secret};
use crate::output::{Document, Report, Screen};
use crate::remote::http_failure;

/// A token as it may be shown.
pub(super) const MASKED: &str = "…/join/***";
/// Said after joining with such a link.
const OLD_STYLE: &str =
    "this is an old-style link, which contains the mesh key; ask the owner for a new one";

impl Join<'_> {
    /// Joins by a token.
    pub(super) async fn token(&self, token: &str) -> Outcome<Report> {
        let context = self.context;
        let invite = genuine(context, token)?;
        if self.is_dry_run {
            return Ok(dry_run(&invite));
        }
        let known = self.config.meshes().find(|mesh| mesh.mesh_id == invite.mesh_id);
        if let Some(report) = self.about_known(known)? {
            return Ok(report);
        }
        self.check_slug(&invite.mesh_slug)?;
        self.consent(None, &invite.broker_url, invite.owner_pubkey)?;
        let pending_id = sha256_hex(token.as_bytes());
        let keys = kept(context, &pending_id)?;
        let http = context
            .http(context.environment.broker_http.as_deref().unwrap_or(&invite.broker_url))?;
        let request = request(&invite, token, &keys, &self.name)?;
        let reply = context.out.during("joining", http.join_v1(&request)).await;
        let reply = reply.map_err(|error| refused(http_failure(error, http.base()), MASKED))?;
        let joined = joined(&invite, reply, keys, &self.name);
        let slug = self.write(&joined, http.base())?;
        self.forget(&pending_id)?;
        Ok(self.report(&joined, &slug, Some(OLD_STYLE)).await)
    }
}

/// The invite in a token, when its owner signed it and its time is not over.
pub(super) fn genuine(context: &Context, token: &str) -> Outcome<InviteV1> {
    let invite = InviteV1::from_token(token).map_err(|_| {
        Failure::of_word("invalid_invite", format!("{}: not an invite", context.spoken))
            .detail("expected: https://<server>/i/XXXXXXXX")
    })?;
    invite.verify(Context::now()).map_err(|error| match error {
        InviteError::Expired => refused(Failure::of_word("expired", "expired"), MASKED),
        other => forged(&other.to_string()),
    })?;
    Ok(invite)
}

/// What is asked of the server with it.
pub(super) fn request(
    invite: &InviteV1,
    token: &str,
    keys: &KeyPair,
    name: &str,
) -> Outcome<JoinV1Request> {
    let now = Context::now();
    let proof = Claim::Token(token).prove(keys, now).map_err(|error| Failure::internal(&error))?;
    let payload = serde_json::to_value(invite).map_err(|error| Failure::internal(&error))?;
    Ok(JoinV1Request {
        invite_token: Some(token.to_owned()),
        invite_payload: Some(payload),
        peer_pubkey: keys.public().to_hex(),
        display_name: Some(name.to_owned()),
        timestamp: Some(now.as_millis()),
        proof: Some(proof.to_hex()),
    })
}

/// The membership that follows from the server's answer.
pub(super) fn joined(invite: &InviteV1, reply: JoinV1Reply, keys: KeyPair, name: &str) -> Joined {
    Joined {
        mesh_id: invite.mesh_id.clone(),
        member_id: reply.member_id,
        slug: invite.mesh_slug.clone(),
        keys,
        broker_url: invite.broker_url.clone(),
        role: invite.role,
        owner: invite.owner_pubkey,
        root_key: Zeroizing::new(invite.mesh_root_key.clone()),
        invite_version: 1,
        was_member: reply.already_member.unwrap_or(false),
        other_name: reply.display_name.filter(|given| given != name),
    }
}

/// The member key of an earlier attempt with this token, or a fresh one, on disk before it is used.
fn kept(context: &Context, id: &str) -> Outcome<KeyPair> {
    let mut pending = PendingJoins::open(context)?;
    if let Some(keys) =
        pending.keys(id).and_then(|kept| KeyPair::from_hex(kept.member.reveal()).ok())
    {
        return Ok(keys);
    }
    let keys = KeyPair::generate();
    pending.keep(
        id,
        &PendingKeys { member: Secret::new(keys.to_hex().as_str()), exchange: Secret::new("") },
    )?;
    Ok(keys)
}

fn dry_run(invite: &InviteV1) -> Report {
    let expires = claudemesh_protocol::Timestamp::from_seconds(invite.expires_at).to_iso();
    let mut screen = Screen::new();
    screen.section(&format!(
        "invite to {}",
        claudemesh_protocol::text::sanitized_line(&invite.mesh_slug, 40)
    ));
    screen.pairs(&[
        ("role", invite.role.as_str().to_owned()),
        ("expires", expires.clone()),
        ("broker", claudemesh_protocol::text::sanitized_line(&invite.broker_url, 80)),
        ("owner key", format!("{}…", invite.owner_pubkey.short(16))),
    ]);
    screen.note(OLD_STYLE);
    let document = json!({
        "dryRun": true,
        "slug": invite.mesh_slug,
        "meshId": invite.mesh_id,
        "role": invite.role,
        "expiresAt": expires,
        "brokerUrl": invite.broker_url,
        "ownerPubkey": invite.owner_pubkey,
        "valid": true,
    });
    Report::new(Document::object(document), screen)
}

//! Joining by short code (version 2 invites): preview, consent, claim, check, unseal (CLI spec §5.3).

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::exchange::ExchangeSecret;
use claudemesh_crypto::hash::sha256_hex;
use claudemesh_crypto::invite::{Claim, InviteCapability, RootKey};
use claudemesh_protocol::invite::{ClaimReply, ClaimRequest, InvitePreview};
use serde_json::json;

use super::{Anew, Join, Joined, forged, refused};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::local::{PendingJoins, PendingKeys, Secret};
use crate::output::{Document, Report, Screen};
use crate::remote::{http_failure, no_server};

/// Characters of a code that may be shown.
const SHOWN_CHARS: usize = 2;

impl Join<'_> {
    /// Joins by a code; `base` is the web address the link came with.
    pub(super) async fn code(&self, code: &str, base: Option<&str>) -> Outcome<Report> {
        let context = self.context;
        let masked = masked(code);
        let account = context.account()?;
        let server = base
            .map(str::to_owned)
            .or_else(|| context.server(self.config, account.as_ref()))
            .ok_or_else(no_server)?;
        let http = context.http(&server)?;
        let preview = context.out.during("looking at the invite", http.preview(code)).await;
        let preview =
            preview.map_err(|error| refused(http_failure(error, http.base()), &masked))?;
        if self.is_dry_run {
            return Ok(dry_run(&preview));
        }
        let own = match self.anew {
            Some(Anew::Own { kept_as, .. }) => Some(kept_as),
            _ => None,
        };
        let pending_id = own.map_or_else(|| sha256_hex(code.as_bytes()), str::to_owned);
        let known = match (own, self.alias) {
            // Whatever the mesh is called at the server by now: the invite is to it.
            (Some(_), Some(slug)) => self.config.mesh(slug),
            _ => self.known_mesh(&preview.mesh_slug, &preview.broker_url, preview.owner_pubkey),
        };
        if let Some(report) = self.about_known(known)? {
            PendingJoins::open(context)?.forget_finished(self.config)?;
            return Ok(report);
        }
        let began_before = PendingJoins::open(context)?.keys(&pending_id).is_some();
        if let (false, Some(reason), false) = (preview.valid, &preview.reason, began_before) {
            return Err(refused(Failure::of_word(reason, reason.replace('_', " ")), &masked));
        }
        self.check_slug(&preview.mesh_slug)?;
        self.consent(base, &preview.broker_url, preview.owner_pubkey)?;
        let keys = Keys::kept(context, &pending_id)?;
        let claim_base = context
            .environment
            .claim_url
            .clone()
            .or_else(|| context.environment.broker_http.clone())
            .unwrap_or_else(|| preview.broker_url.clone());
        let broker = context.http(&claim_base)?;
        let request = keys.claim(code, &self.name)?;
        let reply = context.out.during("joining", broker.claim(code, &request)).await;
        let reply = reply.map_err(|error| refused(http_failure(error, broker.base()), &masked))?;
        let joined = keys.joined(reply, &preview, &self.name)?;
        let slug = self.write(&joined, &server)?;
        self.forget(&pending_id)?;
        Ok(self.report(&joined, &slug, None).await)
    }
}

/// The two key pairs of a claim.
pub(super) struct Keys {
    member: KeyPair,
    exchange: ExchangeSecret,
}

impl Keys {
    /// Those of an earlier attempt with this code, or fresh ones; on disk before they are used.
    fn kept(context: &Context, id: &str) -> Outcome<Self> {
        let mut pending = PendingJoins::open(context)?;
        if let Some(keys) = pending.keys(id).and_then(|kept| Self::read(&kept)) {
            return Ok(keys);
        }
        let keys = Self::fresh();
        let exchange = Secret::new(claudemesh_protocol::encoding::b64url(keys.exchange.as_bytes()));
        pending.keep(
            id,
            &PendingKeys { member: Secret::new(keys.member.to_hex().as_str()), exchange },
        )?;
        Ok(keys)
    }

    /// Those of a membership that no file is to know of.
    pub(super) fn fresh() -> Self {
        Self { member: KeyPair::generate(), exchange: ExchangeSecret::generate() }
    }

    fn read(kept: &PendingKeys) -> Option<Self> {
        let member = KeyPair::from_hex(kept.member.reveal()).ok()?;
        let exchange =
            claudemesh_protocol::encoding::b64url_decode_array(kept.exchange.reveal()).ok()?;
        Some(Self { member, exchange: ExchangeSecret::from_bytes(exchange) })
    }

    pub(super) fn claim(&self, code: &str, name: &str) -> Outcome<ClaimRequest> {
        let recipient = self.exchange.public().to_b64url();
        let now = Context::now();
        let proof = Claim::Code { code, recipient_x25519: &recipient }
            .prove(&self.member, now)
            .map_err(|error| Failure::internal(&error))?;
        Ok(ClaimRequest {
            recipient_x25519_pubkey: recipient,
            display_name: Some(name.to_owned()),
            peer_pubkey: Some(self.member.public().to_hex()),
            timestamp: Some(now.as_millis()),
            proof: Some(proof.to_hex()),
        })
    }

    /// Believes the answer only as far as the owner's signature goes.
    pub(super) fn joined(
        self,
        reply: ClaimReply,
        preview: &InvitePreview,
        asked: &str,
    ) -> Outcome<Joined> {
        let signature = reply.signature.ok_or_else(|| forged("the answer carries no signature"))?;
        if reply.owner_pubkey != preview.owner_pubkey {
            return Err(forged("the owner of the mesh changed while joining"));
        }
        let capability = InviteCapability { canonical: reply.canonical_v2.clone(), signature };
        capability
            .verify_answer(&reply.mesh_id, reply.owner_pubkey)
            .map_err(|error| forged(&error.to_string()))?;
        let signed_role = reply.canonical_v2.split('|').nth(4).and_then(|role| role.parse().ok());
        let role = signed_role.ok_or_else(|| forged("the signed text names no role"))?;
        if reply.role.is_some_and(|told| told != role) {
            return Err(forged("another role was signed than told"));
        }
        let root_key = RootKey::open_sealed(&reply.sealed_root_key, &self.exchange)
            .map_err(|_| forged("the mesh key cannot be opened"))?;
        Ok(Joined {
            mesh_id: reply.mesh_id,
            member_id: reply.member_id,
            slug: reply.mesh_slug.unwrap_or_else(|| preview.mesh_slug.clone()),
            keys: self.member,
            broker_url: reply.broker_url.unwrap_or_else(|| preview.broker_url.clone()),
            role,
            owner: reply.owner_pubkey,
            root_key: root_key.to_b64url(),
            invite_version: 2,
            was_member: reply.already_member.unwrap_or(false),
            other_name: reply.display_name.filter(|name| name != asked),
        })
    }
}

/// A code as it may be shown.
pub(super) fn masked(code: &str) -> String {
    format!("…/i/{}***", code.chars().take(SHOWN_CHARS).collect::<String>())
}

fn dry_run(preview: &InvitePreview) -> Report {
    let mut screen = Screen::new();
    screen.section(&format!("invite to {}", preview.mesh_slug));
    let inviter = preview.inviter.clone().unwrap_or_else(|| "(unknown)".to_owned());
    let line = |text: &str| claudemesh_protocol::text::sanitized_line(text, 80);
    screen.pairs(&[
        ("from", line(&inviter)),
        ("role", preview.role.as_str().to_owned()),
        ("members", preview.member_count.to_string()),
        ("expires", line(&preview.expires_at)),
        ("broker", line(&preview.broker_url)),
        ("owner key", format!("{}…", preview.owner_pubkey.short(16))),
        (
            "usable",
            if preview.valid {
                "yes".to_owned()
            } else {
                line(preview.reason.as_deref().unwrap_or("no"))
            },
        ),
    ]);
    let document = json!({
        "dryRun": true,
        "slug": preview.mesh_slug,
        "inviter": preview.inviter,
        "role": preview.role,
        "memberCount": preview.member_count,
        "expiresAt": preview.expires_at,
        "brokerUrl": preview.broker_url,
        "ownerPubkey": preview.owner_pubkey,
        "valid": preview.valid,
        "reason": preview.reason,
    });
    Report::new(Document::object(document), screen)
}

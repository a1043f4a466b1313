//! `POST /v1/outbox/requeue`: the same message once more under a fresh id (daemon spec §11.8). All that was asked of the
//! first one is carried over; what depends on the present (target, ciphertext, fingerprint) is made anew.

use claudemesh_ipc::api::{OutboxItem, RequeueReply, RequeueRequest, RowStatus};
use claudemesh_protocol::body::Meta;
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::{ErrorCode, TargetSpec};
use serde_json::Value;
use zeroize::Zeroizing;

use super::refusal;
use crate::api::Api;
use crate::api::caller::Caller;
use crate::api::failure::Failure;
use crate::api::send::{RequestParts, check_id, destination_of, seal_failure, space_left};
use crate::hooks::Asked;
use crate::mesh::{MeshHandle, Resolution};
use crate::ops::not_attached;
use crate::outbox::operator::{InFlight, Untouched};
use crate::outbox::{NewRow, OutboundRow, SealedBody};

/// Longest name of who requeues, in characters.
const ABORTED_BY_MAX_CHARS: usize = 64;
/// Who requeues when nobody is named.
const OPERATOR: &str = "operator";

impl Api {
    pub(super) async fn requeue(
        &self,
        caller: &Caller,
        old: &OutboxItem,
        mut body: RequeueRequest,
    ) -> Result<RequeueReply, Failure> {
        let in_flight = if body.force { InFlight::Replaced } else { InFlight::Kept };
        if matches!(old.status, RowStatus::Done | RowStatus::Aborted) {
            return Err(refusal(Untouched::Finished(old.status)));
        }
        let client_message_id = match &body.new_client_message_id {
            Some(id) => check_id(id.clone())?,
            None => crate::ids::next(),
        };
        let mesh = self.mesh(&old.mesh).ok_or_else(|| not_attached(&old.mesh))?;
        space_left(self).await?;
        let outbox = &self.daemon.context().outbox;
        let Some((_, row)) = outbox.stored(&old.id).await? else {
            return Err(refusal(Untouched::NoSuchRow));
        };
        if let Some(text) = body.payload.take() {
            // Other words are another message: whoever guards what goes out is asked about them, too.
            let asked = Asked {
                mesh: old.mesh.clone(),
                to: row.to_raw.clone(),
                target: row.target_spec.to_string(),
                message: text.clone(),
                priority: row.priority.as_str(),
                meta: user_meta(&row)?,
                sender_session: caller.session.as_ref().map(|session| session.session_id.clone()),
            };
            let replaced = self.daemon.hooks().before_send(asked).await?;
            body.payload = Some(replaced.unwrap_or(text));
        }
        let new = Self::renewed(&mesh, row, &body, client_message_id.clone())?;
        let aborted_by = body.aborted_by.as_deref().unwrap_or(OPERATOR);
        let aborted_by = sanitized_line(aborted_by, ABORTED_BY_MAX_CHARS);
        match outbox.requeue(&old.id, in_flight, &aborted_by, new).await? {
            Ok(new_row_id) => {
                let session = caller.session.as_ref().map(|session| session.session_id.as_str());
                tracing::info!(mesh = %old.mesh, old = %old.id, new = %new_row_id, session, "outbox_requeued");
                Ok(RequeueReply {
                    aborted_row_id: old.id.clone(),
                    new_row_id,
                    new_client_message_id: client_message_id,
                })
            }
            Err(untouched) => Err(refusal(untouched)),
        }
    }

    /// The row that takes the place of `old`.
    fn renewed(
        mesh: &MeshHandle,
        old: OutboundRow,
        body: &RequeueRequest,
        client_message_id: String,
    ) -> Result<NewRow, Failure> {
        let target =
            if body.keep_target { old.target_spec.clone() } else { now_meant(mesh, &old)? };
        let payload = match &body.payload {
            Some(text) if text.is_empty() => {
                return Err(Failure::field("payload", "\"payload\" is empty"));
            }
            Some(text) => Zeroizing::new(text.as_bytes().to_vec()),
            None => old.payload.clone(),
        };
        let text = std::str::from_utf8(&payload)
            .map_err(|_| Failure::new(ErrorCode::Internal, "the text of this row is damaged"))?;
        let meta = user_meta(&old)?;
        let request = RequestParts {
            target: &target,
            reply_to_id: old.reply_to_id.as_deref(),
            priority: old.priority,
            meta: meta.as_ref(),
            message: text,
        };
        let fingerprint = request.fingerprint()?;
        // The same box under another id is what the operator asked for with `keep_target`, unless the text changed.
        let sealed =
            if body.keep_target && body.payload.is_none() {
                None
            } else {
                let sender = mesh.sender(old.sender_session_pubkey).ok_or_else(|| {
                    let message = "the session that sent this has ended and its key is gone";
                    Failure::new(ErrorCode::SenderSessionGone, message)
                        .hint("keep the target to send it as it was sealed, or send it anew")
                })?;
                let sealed = mesh.seal(&target, text, meta.as_ref(), old.hops, &sender);
                Some(sealed.map_err(|error| {
                    seal_failure(error.code, error.message).with_all(error.extra)
                })?)
            };
        let channel = sealed.as_ref().map_or_else(|| channel_of(&target), |sealed| sealed.channel);
        let now = crate::clock::now();
        let life = old.expires_at.since(old.enqueued_at).min(Self::max_age(mesh));
        Ok(NewRow {
            client_message_id,
            fingerprint,
            mesh: old.mesh,
            to_raw: old.to_raw,
            destination_kind: destination_of(&target).0,
            target_spec: target,
            channel,
            priority: old.priority,
            payload,
            meta: old.meta,
            reply_to_id: old.reply_to_id,
            mentions: old.mentions,
            body: sealed.map_or(old.body, SealedBody::from),
            sender_session_pubkey: old.sender_session_pubkey,
            hops: old.hops,
            enqueued_at: now,
            expires_at: now.plus(life),
        })
    }
}

/// What the text the sender typed means by now. Never wider than before: one key stays one key.
fn now_meant(mesh: &MeshHandle, old: &OutboundRow) -> Result<TargetSpec, Failure> {
    let text = old
        .to_raw
        .split_once(':')
        .filter(|(slug, _)| *slug == mesh.slug())
        .map_or(old.to_raw.as_str(), |(_, rest)| rest);
    let kept = "keep_target sends it to whom it was addressed first";
    match mesh.resolve(text, old.sender_session_pubkey) {
        // One of several copies to the sender's own sessions: this copy keeps its session.
        Resolution::One(resolved) if resolved.is_self_member => Ok(old.target_spec.clone()),
        Resolution::One(resolved) if resolved.is_caller => {
            Err(Failure::new(ErrorCode::SelfTarget, "that is the sending session itself"))
        }
        Resolution::One(resolved) => Ok(resolved.target),
        Resolution::Ambiguous(found) => {
            let names: Vec<Value> = found
                .iter()
                .map(|one| serde_json::json!({ "name": one.name, "pubkey": one.pubkey, "kind": one.kind }))
                .collect();
            let message = format!("{text:?} may mean several by now");
            Err(Failure::new(ErrorCode::AmbiguousTarget, message)
                .with("candidates", names)
                .hint(kept))
        }
        Resolution::None { names, .. } => {
            let message = format!("nobody here is called {text:?} by now");
            Err(Failure::new(ErrorCode::TargetNotFound, message)
                .with("candidates", names)
                .hint(kept))
        }
        Resolution::Refused { code, message } => Err(Failure::new(code, message)),
    }
}

fn user_meta(old: &OutboundRow) -> Result<Option<Meta>, Failure> {
    let Some(text) = old.meta.as_deref() else { return Ok(None) };
    serde_json::from_str(text)
        .map(Some)
        .map_err(|_| Failure::new(ErrorCode::Internal, "the metadata of this row is damaged"))
}

const fn channel_of(target: &TargetSpec) -> &'static str {
    match target {
        TargetSpec::Key(_) => "dm",
        TargetSpec::Group(_) => "group",
        TargetSpec::Everyone => "broadcast",
        TargetSpec::Topic(_) => "topic",
    }
}

//! `message_status`: what became of a message (broker spec §3.7).

use claudemesh_protocol::limits::ID_PREFIX_MIN_CHARS;
use claudemesh_protocol::wire::{MessageStatus, MessageStatusResult, RecipientStatus};
use claudemesh_protocol::{ErrorCode, Timestamp, id};
use claudemesh_store::{DeliveryState, DeliveryStatus, MessageLookup};

use super::{Peer, Refusal, Reply};
use crate::live::MeshState;

mod standing;

use standing::{Message, is_merged, is_present, standing};

/// Answers the sender's member and admins; to others the message does not exist.
pub(super) async fn message_status(
    peer: &Peer,
    query: MessageStatus,
    req_id: Option<String>,
) -> Reply {
    let asked = query.message_id;
    let is_id = (ID_PREFIX_MIN_CHARS..=id::ROW_ID_CHARS).contains(&asked.len())
        && asked.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_id {
        return Err(Refusal::new(
            ErrorCode::InvalidArgument,
            "a message id has 8 to 32 letters and digits",
        ));
    }
    let is_admin = {
        let state = peer.mesh.lock();
        state.member(&peer.member_id).is_some_and(|entry| state.standing(entry).is_admin())
    };
    let sender = (!is_admin).then_some(&peer.member_id);
    peer.broker.delivery().settled().await;
    let status = match peer.broker.store().message_status(&peer.mesh.id, &asked, sender).await? {
        MessageLookup::Found(status) => status,
        MessageLookup::NotFound => {
            return Err(Refusal::new(ErrorCode::NotFound, "no message of yours has this id"));
        }
        MessageLookup::Ambiguous => {
            return Err(Refusal::new(
                ErrorCode::AmbiguousPrefix,
                "several messages begin like this",
            ));
        }
    };
    // A row that found its message in the member's queue already is that message's second copy, not a delivery.
    let mut counted = status.deliveries.iter().filter(|row| !is_merged(row)).peekable();
    let delivered = counted.peek().is_some()
        && counted.all(|row: &DeliveryStatus| row.state == DeliveryState::Delivered);
    let last = status.deliveries.iter().filter_map(|row| row.delivered_at).max();
    let state = peer.mesh.lock();
    let message = Message {
        priority: status.priority,
        created_at: status.created_at,
        expires_at: status.expires_at,
        is_sender_gone: status
            .sender_member_id
            .as_ref()
            .is_some_and(|sender| state.member(sender).is_none()),
        now: peer.broker.now(),
        lease_ms: peer.broker.limits().lease_ttl_ms,
    };
    let recipients = status.deliveries.iter().map(|row| recipient(&state, &message, row)).collect();
    Ok(Some(
        MessageStatusResult {
            message_id: asked,
            target_spec: status.target_spec.to_string(),
            delivered,
            delivered_at: last.filter(|_| delivered).map(Timestamp::to_iso),
            recipients,
            req_id,
        }
        .into(),
    ))
}

fn recipient(state: &MeshState, message: &Message, row: &DeliveryStatus) -> RecipientStatus {
    let member = state.member(&row.recipient_member_id).map(|entry| &entry.member.display_name);
    let name = state
        .session(row.recipient_key)
        .map(|entry| &entry.presence.display_name)
        .or(member)
        .cloned()
        .unwrap_or_default();
    let word = match row.state {
        DeliveryState::Delivered => "delivered",
        _ if is_present(state, row) => "held",
        _ => "disconnected",
    };
    // People wait for people: the name of a session says nothing once another one takes its messages.
    let standing = standing(state, message, row, member.map_or(name.as_str(), String::as_str));
    RecipientStatus {
        name,
        pubkey: row.recipient_key.to_hex(),
        status: word.to_owned(),
        state: Some(standing.state),
        since: Some(standing.since.to_iso()),
        asserted_by: Some(standing.asserted_by.as_str().to_owned()),
        path: standing.path,
        evidence: standing.evidence,
        reason: standing.reason,
        next: standing.next,
    }
}

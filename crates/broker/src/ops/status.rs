//! `message_status`: what became of a message (broker spec §3.7).

use claudemesh_core::presence::Lease;
use claudemesh_protocol::wire::{
    MessageStatus, MessageStatusResult, ReceiptState, RecipientStatus,
};
use claudemesh_protocol::{ErrorCode, Timestamp, id};
use claudemesh_store::{DeliveryState, DeliveryStatus, MessageLookup};

use super::{Peer, Refusal, Reply};
use crate::live::MeshState;

/// Least characters of a prefix (wire spec §3.1).
const PREFIX_MIN_CHARS: usize = 8;

/// Answers the sender's member and admins; to others the message does not exist.
pub(super) async fn message_status(
    peer: &Peer,
    query: MessageStatus,
    req_id: Option<String>,
) -> Reply {
    let asked = query.message_id;
    let is_id = (PREFIX_MIN_CHARS..=id::ROW_ID_CHARS).contains(&asked.len())
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
    let is_delivered = |row: &DeliveryStatus| row.state == DeliveryState::Delivered;
    let delivered = !status.deliveries.is_empty() && status.deliveries.iter().all(is_delivered);
    let last = status.deliveries.iter().filter_map(|row| row.delivered_at).max();
    let state = peer.mesh.lock();
    let recipients = status
        .deliveries
        .iter()
        .map(|row| recipient(&state, row, status.created_at, status.expires_at))
        .collect();
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

fn recipient(
    state: &MeshState,
    row: &DeliveryStatus,
    created_at: Timestamp,
    expires_at: Timestamp,
) -> RecipientStatus {
    let session = state.session(row.recipient_key);
    let name = session
        .map(|entry| entry.presence.display_name.clone())
        .or_else(|| {
            state.member(&row.recipient_member_id).map(|entry| entry.member.display_name.clone())
        })
        .unwrap_or_default();
    let is_here = session.is_some() || state.of_member(&row.recipient_member_id).next().is_some();
    let is_leased = session.is_some_and(|entry| entry.lease != Lease::Online);
    let word = match row.state {
        DeliveryState::Delivered => "delivered",
        _ if is_here => "held",
        _ => "disconnected",
    };
    let (receipt, since, next) = match row.state {
        DeliveryState::Delivered => {
            (ReceiptState::Accepted, row.delivered_at.unwrap_or(created_at), None)
        }
        DeliveryState::Expired => (ReceiptState::Expired, expires_at, None),
        DeliveryState::Dropped => (ReceiptState::Refused, created_at, None),
        _ if row.rerouted_from.is_some() => {
            (ReceiptState::Rerouted, created_at, Some("the member connects"))
        }
        DeliveryState::Claimed => {
            (ReceiptState::Accepted, created_at, Some("the recipient confirms"))
        }
        DeliveryState::Held if !is_here => {
            (ReceiptState::Held, created_at, Some("the recipient connects"))
        }
        DeliveryState::Held if is_leased => {
            (ReceiptState::Held, created_at, Some("the recipient reconnects"))
        }
        DeliveryState::Held => (ReceiptState::Deferred, created_at, Some("the recipient is idle")),
    };
    RecipientStatus {
        name,
        pubkey: row.recipient_key.to_hex(),
        status: word.to_owned(),
        state: Some(receipt),
        since: Some(since.to_iso()),
        asserted_by: Some("broker".to_owned()),
        path: None,
        evidence: None,
        reason: row.drop_reason.clone(),
        next: next.map(str::to_owned),
    }
}

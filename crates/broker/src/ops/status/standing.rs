//! Where one delivery stands, who says so, and what it waits for, in a few words (wire spec §3.1, Receipts).
//!
//! What recipients said is in the store. What the broker says itself follows from the row and from who is here now, so
//! that it is never older than the question.

use std::time::Duration;

use claudemesh_core::presence::Lease;
use claudemesh_core::receipt::rank;
use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{Priority, Timestamp};
use claudemesh_store::{
    AssertedBy, DeliveryReceipt, DeliveryState, DeliveryStatus, RecipientKind, Reroute,
};

use super::super::receipt::gated;
use crate::live::{Entry, MeshState};

/// The reason of a row whose message stands in the member's queue already.
const MERGED: &str = "merged";

/// What all deliveries of a message have in common.
pub(super) struct Message {
    pub(super) priority: Priority,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// The sending member was removed from the mesh: what it left is not delivered any more.
    pub(super) is_sender_gone: bool,
    pub(super) now: Timestamp,
    /// Life of a lease, in milliseconds.
    pub(super) lease_ms: u64,
}

/// What is said about one delivery.
pub(super) struct Standing {
    pub(super) state: ReceiptState,
    pub(super) since: Timestamp,
    pub(super) asserted_by: AssertedBy,
    pub(super) path: Option<String>,
    pub(super) evidence: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) next: Option<String>,
}

impl Standing {
    fn of_broker(state: ReceiptState, since: Timestamp) -> Self {
        Self {
            state,
            since,
            asserted_by: AssertedBy::Broker,
            path: None,
            evidence: None,
            reason: None,
            next: None,
        }
    }

    fn because(self, reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..self }
    }

    fn waiting(self, next: String) -> Self {
        Self { next: Some(next), ..self }
    }
}

impl From<&DeliveryReceipt> for Standing {
    fn from(receipt: &DeliveryReceipt) -> Self {
        Self {
            state: receipt.progress.shown(),
            since: receipt.since,
            asserted_by: receipt.asserted_by,
            path: receipt.path.clone(),
            evidence: receipt.evidence.clone(),
            reason: receipt.reason.clone(),
            next: None,
        }
    }
}

/// True for a row that was dropped because its member's queue has the same message.
pub(super) fn is_merged(row: &DeliveryStatus) -> bool {
    row.state == DeliveryState::Dropped && row.drop_reason.as_deref() == Some(MERGED)
}

/// Presences that stand for this recipient: the session, or everything of the member that lasts.
fn presences<'a>(state: &'a MeshState, row: &'a DeliveryStatus) -> impl Iterator<Item = &'a Entry> {
    let session =
        state.session(row.recipient_key).filter(|_| row.recipient_kind == RecipientKind::Session);
    let of_member = state.of_member(&row.recipient_member_id).filter(|entry| {
        row.recipient_kind != RecipientKind::Session && !entry.presence.is_transient()
    });
    session.into_iter().chain(of_member)
}

/// True when the recipient has a presence, connected or leased.
pub(super) fn is_present(state: &MeshState, row: &DeliveryStatus) -> bool {
    presences(state, row).next().is_some()
}

/// Everything about one delivery; `who` is the recipient's name in sentences.
pub(super) fn standing(
    state: &MeshState,
    message: &Message,
    row: &DeliveryStatus,
    who: &str,
) -> Standing {
    match row.state {
        DeliveryState::Expired => Standing::of_broker(ReceiptState::Expired, message.expires_at),
        DeliveryState::Dropped if is_merged(row) => {
            Standing::of_broker(ReceiptState::Rerouted, message.created_at).because(MERGED)
        }
        DeliveryState::Dropped => {
            let reason = row.drop_reason.as_deref().unwrap_or("dropped");
            Standing::of_broker(ReceiptState::Refused, message.created_at).because(reason)
        }
        DeliveryState::Delivered => match &row.receipt {
            Some(receipt) => said(receipt, who),
            // An old client: it has confirmed the push, and that is all that will ever be known.
            None => Standing::of_broker(ReceiptState::Accepted, message.created_at),
        },
        DeliveryState::Held | DeliveryState::Claimed => open(state, message, row, who),
    }
}

/// A delivery its recipient has not confirmed.
fn open(state: &MeshState, message: &Message, row: &DeliveryStatus, who: &str) -> Standing {
    let is_claimed = row.state == DeliveryState::Claimed && row.due_at > message.now;
    // The sweep comes every few minutes; nobody is handed the row in between.
    if !is_claimed && message.expires_at <= message.now {
        return Standing::of_broker(ReceiptState::Expired, message.expires_at);
    }
    // The recipient has said something already and only its confirmation is missing: it knows better.
    if let Some(receipt) = &row.receipt
        && receipt.asserted_by != AssertedBy::Broker
    {
        return said(receipt, who);
    }
    let waits = waiting(state, message, row, who, is_claimed);
    match &row.receipt {
        Some(receipt) => Standing { next: waits.next, ..Standing::from(receipt) },
        // Moved before it was accepted: the ack has said so, and the status says it again.
        None if row.rerouted_from.is_some() => Standing {
            state: ReceiptState::Rerouted,
            since: message.created_at,
            path: Some(row.recipient_key.to_hex()),
            reason: Some(Reroute::REASON.to_owned()),
            ..waits
        },
        None => waits,
    }
}

/// What the broker itself sees an open delivery wait for.
fn waiting(
    state: &MeshState,
    message: &Message,
    row: &DeliveryStatus,
    who: &str,
    is_claimed: bool,
) -> Standing {
    let since = |at: Timestamp| at.max(message.created_at);
    let expires = message.expires_at.to_iso();
    if is_claimed {
        let seconds = row.due_at.since(message.now).as_secs().max(1);
        return Standing::of_broker(ReceiptState::Accepted, message.created_at)
            .waiting(format!("pushed again in {seconds} s unless {who} confirms it"));
    }
    let held = |at| Standing::of_broker(ReceiptState::Held, since(at));
    let Some(member) = state.member(&row.recipient_member_id) else {
        return held(message.created_at).because("recipient_removed");
    };
    if message.is_sender_gone {
        return held(message.created_at).because("sender_removed");
    }
    if state.receivers(row.recipient_key).next().is_none() {
        let lost_at = presences(state, row)
            .filter_map(|entry| match entry.lease {
                Lease::Until(until) => Some(until.minus(Duration::from_millis(message.lease_ms))),
                Lease::Online => None,
            })
            .max();
        let verb = if lost_at.is_some() { "reconnects" } else { "connects" };
        let gone_at = lost_at.or(member.member.last_seen_at).unwrap_or(message.created_at);
        return held(gone_at)
            .because("absent")
            .waiting(format!("waits until {who} {verb}, expires {expires}"));
    }
    if let Some(gate) = gated(state, row.recipient_key, message.priority) {
        let next = match gate.reason() {
            "dnd" => format!("waits until {who} may be disturbed, expires {expires}"),
            _ => format!("waits until {who} is idle, expires {expires}"),
        };
        return Standing::of_broker(ReceiptState::Deferred, since(gate.since))
            .because(gate.reason())
            .waiting(next);
    }
    Standing::of_broker(ReceiptState::Accepted, message.created_at)
        .waiting(format!("waits behind older messages for {who}"))
}

/// What the recipient's daemon, or the broker about a moved row, said last.
fn said(receipt: &DeliveryReceipt, who: &str) -> Standing {
    let standing = Standing::from(receipt);
    let next = match standing.state {
        ReceiptState::OnDevice => format!("waits until a session of {who} takes it"),
        ReceiptState::Handed => format!("waits for a sign of it in the record of {who}'s session"),
        ReceiptState::InContext => format!("waits until {who}'s turn ends"),
        ReceiptState::Held => match standing.reason.as_deref() {
            Some("busy") => format!("waits until {who} is idle"),
            Some("dialog") => format!("waits for a person to answer a dialog in {who}'s session"),
            Some("approval") => format!("waits for a person to approve it for {who}"),
            _ => format!("waits on {who}'s side"),
        },
        ReceiptState::Deferred => format!("waits until {who} is idle"),
        ReceiptState::SessionGone => format!("waits until another session of {who} takes it"),
        _ => return standing,
    };
    debug_assert!(rank(standing.state) < rank(ReceiptState::TurnEnded));
    standing.waiting(next)
}

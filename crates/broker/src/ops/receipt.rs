//! `receipt`: what recipients say about how far a message came, checked, kept and told to the sender; and what the broker
//! itself tells the sender after the ack (broker spec §3.7, wire spec §3.1).
//!
//! Nothing here answers a recipient: a receipt that does not count has no effect but a counter.

use std::sync::Arc;

use claudemesh_core::presence::Handshake;
use claudemesh_core::rate::{RateLimit, TokenBucket};
use claudemesh_core::receipt::{self as rule, is_of_recipient};
use claudemesh_crypto::receipt::Statement;
use claudemesh_protocol::limits::{
    CLIENT_MESSAGE_ID_MAX_CHARS, CLOCK_SKEW, LISTED_FORMER_KEYS_MAX, RECEIPT_BURST,
    RECEIPT_EVIDENCE_MAX_CHARS, RECEIPT_PATH_MAX_CHARS, RECEIPT_REASON_MAX_CHARS, RECEIPTS_PER_MIN,
};
use claudemesh_protocol::wire::{Receipt, ReceiptState};
use claudemesh_protocol::{MemberId, PresenceId, PublicKey, SignatureBytes, Timestamp, id};
use claudemesh_store::{AssertedBy, NewReceipt, Receipted};

use super::Peer;
use crate::delivery::Job;
use crate::live::{Mesh, MeshState};
use crate::state::Broker;

mod tell;

pub(crate) use tell::{News, deferred, gated, released, tell};

use tell::{devices, listeners, say};

/// A receipt on its way through the writer.
pub(crate) struct Pending {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) new: Box<NewReceipt>,
    frame: Box<Receipt>,
    /// The connection it came on, which is not told.
    from: PresenceId,
}

/// Takes a receipt in. One that does not count is dropped with a counter.
pub(super) async fn receipt(peer: &Peer, said: Receipt) {
    let refused = match check(peer, &said) {
        Ok(new) => {
            let pending = Pending {
                mesh: Arc::clone(&peer.mesh),
                new: Box::new(new),
                frame: Box::new(said),
                from: peer.presence_id.clone(),
            };
            // Refused only while the broker stops: receipts are best effort.
            let queued = peer.broker.delivery().enqueue(Job::Receipt(Box::new(pending))).await;
            queued.err().map(|_| "unavailable")
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = refused {
        peer.broker.metrics().receipts_dropped.inc(reason);
    }
}

/// Everything that needs no look at the delivery, cheapest first; the signature is checked last, within the budget.
fn check(peer: &Peer, said: &Receipt) -> Result<NewReceipt, &'static str> {
    let now = peer.broker.now();
    let signature = check_shape(said, now).ok_or("malformed")?;
    let former_keys = {
        let mut state = peer.mesh.lock();
        charge(&mut state, &peer.member_id, now)?;
        if !owns(peer, &mut state, said.recipient) {
            return Err("not_yours");
        }
        former_keys(peer, &state, said.recipient)
    };
    let at = Timestamp::from_millis(said.at);
    let statement = Statement {
        mesh: &peer.mesh.id,
        message: &said.broker_message_id,
        recipient: said.recipient,
        state: said.state,
        at,
    };
    statement.verify(peer.member_key, &signature).map_err(|_| "bad_signature")?;
    let shared = |text: &Option<String>| text.as_deref().map(Arc::from);
    Ok(NewReceipt {
        mesh_id: peer.mesh.id.clone(),
        message_id: said.broker_message_id.clone(),
        client_message_id: said.client_message_id.as_str().into(),
        recipient_key: said.recipient,
        former_keys,
        member_id: peer.member_id.clone(),
        member_key: peer.member_key,
        state: said.state,
        asserted_by: asserted_by(said.state),
        path: shared(&said.path),
        evidence: shared(&said.evidence),
        reason: shared(&said.reason),
        at,
    })
}

/// The signature of a receipt whose fields may be what they are.
fn check_shape(said: &Receipt, now: Timestamp) -> Option<SignatureBytes> {
    let fits = |text: &Option<String>, most: usize| {
        text.as_ref()
            .is_none_or(|text| text.chars().count() <= most && !text.chars().any(char::is_control))
    };
    let message_id = said.broker_message_id.as_str();
    let is_well_formed = is_of_recipient(said.state)
        && (1..=id::ROW_ID_CHARS).contains(&message_id.len())
        && message_id.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && said.client_message_id.len() <= CLIENT_MESSAGE_ID_MAX_CHARS
        && fits(&said.path, RECEIPT_PATH_MAX_CHARS)
        && fits(&said.evidence, RECEIPT_EVIDENCE_MAX_CHARS)
        && fits(&said.reason, RECEIPT_REASON_MAX_CHARS)
        && (0..=now.plus(CLOCK_SKEW).as_millis()).contains(&said.at);
    said.signature.as_deref().filter(|_| is_well_formed)?.parse().ok()
}

fn charge(state: &mut MeshState, member: &MemberId, now: Timestamp) -> Result<(), &'static str> {
    let limit = RateLimit { burst: RECEIPT_BURST, per_minute: RECEIPTS_PER_MIN };
    state
        .receipt_budgets
        .entry(member.clone())
        .or_insert_with(|| TokenBucket::full(limit, now))
        .take(limit, now)
        .map_err(|_| "flood")
}

/// True when this connection may speak for deliveries of `key`: its own keys; a member's own connection also speaks for
/// the sessions of its member, because a session that is gone cannot say so itself. Whose a session key is, the delivery
/// tells.
fn owns(peer: &Peer, state: &mut MeshState, key: PublicKey) -> bool {
    let stands_for_sessions = match state.own(&peer.presence_id, &peer.connection) {
        Some(entry) => {
            entry.presence.handshake == Handshake::Member && entry.presence.session_key.is_none()
        }
        None => return false,
    };
    stands_for_sessions || state.keys_of(&peer.presence_id).contains(&key)
}

/// The keys that the member had before, where it speaks for its present one: what was handed over before a change of keys
/// stands under the key of that time, and its daemon knows it under the new one alone.
fn former_keys(peer: &Peer, state: &MeshState, recipient: PublicKey) -> Arc<[PublicKey]> {
    if recipient != peer.member_key {
        return Arc::default();
    }
    let former = state.member(&peer.member_id).map(|entry| entry.former_keys.iter().rev());
    former.into_iter().flatten().take(LISTED_FORMER_KEYS_MAX).map(|former| former.key).collect()
}

fn asserted_by(state: ReceiptState) -> AssertedBy {
    if rule::asserted_by(state) == AssertedBy::AgentRecord.as_str() {
        AssertedBy::AgentRecord
    } else {
        AssertedBy::RecipientDaemon
    }
}

/// After the commit: the sender hears what was kept.
pub(crate) fn finish(broker: &Broker, pending: Pending, outcome: &Receipted) {
    let Pending { mesh, new, mut frame, from } = pending;
    let dropped = match outcome {
        Receipted::Stored(told) => {
            broker.metrics().receipts.inc(new.state.as_str());
            frame.asserted_by = Some(new.asserted_by.as_str().to_owned());
            let state = mesh.lock();
            let mut to = listeners(&state, told);
            let others = devices(&state, &new.member_id).filter(|entry| entry.presence.id != from);
            to.extend(others.map(|entry| entry.presence.id.clone()));
            say(&state, to, *frame);
            return;
        }
        Receipted::Unknown => "unknown",
        Receipted::Unchanged => "unchanged",
        Receipted::Full => "full",
    };
    broker.metrics().receipts_dropped.inc(dropped);
}

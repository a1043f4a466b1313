//! Acknowledgements, pulls and the loop guard's release; the texts of a send's answers (wire spec §3.1, §4.2).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::rate::{RateLimit, TokenBucket};
use claudemesh_protocol::limits::PULL_INTERVAL;
use claudemesh_protocol::wire::{Ack, ClientAck, LoopUnblock, ServerFrame};
use claudemesh_protocol::{ErrorCode, MemberId, MessageId};
use claudemesh_store::{AckById, Dedupe, DeliverySeq, MessageRef};

use super::{Peer, Refusal, Reply};
use crate::delivery::{self, Job};
use crate::live::MeshState;
use crate::state::Broker;

/// The budget of one member.
pub(super) fn send_limit(broker: &Broker) -> RateLimit {
    RateLimit { burst: broker.limits().send_burst, per_minute: broker.limits().send_per_min }
}

/// Gives a member back what a repeat of a paid message was charged.
pub(crate) fn give_back(broker: &Broker, state: &mut MeshState, member: &MemberId) {
    let limit = send_limit(broker);
    if let Some(bucket) = state.budgets.get_mut(member) {
        TokenBucket::give_back(bucket, limit);
    }
}

/// A failed send: `code: text`. Permanent codes say `invalid` or `forbidden` somewhere, because old daemons classify by
/// these words; transient ones never do.
pub(crate) fn failed_ack(request: Ack, code: ErrorCode, text: &str) -> Ack {
    Ack {
        id: request.id,
        error: Some(format!("{code}: {text}")),
        client_message_id: request.client_message_id,
        req_id: request.req_id,
        ..Ack::default()
    }
}

/// The answer to a message that was accepted before.
pub(crate) fn duplicate_ack(request: Ack, first: &Dedupe) -> Ack {
    Ack {
        id: request.id,
        message_id: first.message_id.as_str().to_owned(),
        queued: true,
        status: Some(200),
        client_message_id: request.client_message_id,
        duplicate: Some(true),
        history_available: Some(first.history_available),
        first_seen_at: Some(first.first_seen_at.to_iso()),
        req_id: request.req_id,
        ..Ack::default()
    }
}

/// The answer to an id that was used for something else.
pub(crate) fn conflict_ack(request: Ack, first: &Dedupe) -> Ack {
    let ack =
        failed_ack(request, ErrorCode::IdempotencyConflict, "invalid reuse of client_message_id");
    Ack { status: Some(409), broker_fingerprint_prefix: Some(first.fingerprint_prefix()), ..ack }
}

/// `client_ack`: the rows this connection was pushed under that id are delivered. What is not in memory is looked for in
/// the store among the connection's own keys; anything else has no effect.
pub(super) async fn client_ack(peer: &Peer, ack: ClientAck) -> Reply {
    let (deliveries, keys) = {
        let mut state = peer.mesh.lock();
        let keys = state.keys_of(&peer.presence_id);
        let entry = peer.own(&mut state)?;
        let deliveries: Vec<DeliverySeq> = entry
            .unacked
            .iter()
            .filter(|row| {
                ack.broker_message_id.as_deref() == Some(row.message_id.as_ref())
                    || (ack.client_message_id.is_some()
                        && ack.client_message_id.as_deref() == row.client_message_id.as_deref())
            })
            .map(|row| row.seq)
            .collect();
        let settled = deliveries.into_iter().filter_map(|seq| settle_delivered(&mut state, seq));
        (settled.collect::<Vec<_>>(), keys)
    };
    let job = if deliveries.is_empty() {
        let message = match (ack.broker_message_id, ack.client_message_id) {
            (Some(id), _) => MessageRef::Broker(MessageId::new(id)),
            (None, Some(id)) => MessageRef::Client(id.into()),
            (None, None) => return Ok(None),
        };
        let ack = AckById {
            mesh_id: peer.mesh.id.clone(),
            recipient_keys: keys.clone(),
            message,
            at: peer.broker.now(),
        };
        Job::AckById { mesh: Arc::clone(&peer.mesh), member_id: peer.member_id.clone(), ack }
    } else {
        let mesh = Arc::clone(&peer.mesh);
        Job::Ack { mesh, rows: deliveries, at: peer.broker.now() }
    };
    // Refused only while the broker stops: the row comes again and the receiver knows it.
    let _ = peer.broker.delivery().enqueue(job).await;
    for key in keys {
        delivery::wake_key(&peer.broker, &peer.mesh, key);
    }
    Ok(None)
}

/// Forgets a pushed row that its recipient has; answers it with the member it counted for.
fn settle_delivered(state: &mut MeshState, seq: DeliverySeq) -> Option<(DeliverySeq, MemberId)> {
    let row = state.settle(seq)?;
    state.sub_open(&row.member_id, 1);
    state.tidy_queue(row.key);
    Some((seq, row.member_id))
}

/// Rows written to a client that does not acknowledge are delivered by that.
pub(crate) async fn delivered_by_write(peer: &Peer, deliveries: Vec<DeliverySeq>) {
    let (rows, keys) = {
        let mut state = peer.mesh.lock();
        let settled = deliveries.into_iter().filter_map(|seq| settle_delivered(&mut state, seq));
        let rows = settled.collect();
        (rows, state.keys_of(&peer.presence_id))
    };
    let (mesh, at) = (Arc::clone(&peer.mesh), peer.broker.now());
    let _ = peer.broker.delivery().enqueue(Job::Ack { mesh, rows, at }).await;
    for key in keys {
        delivery::wake_key(&peer.broker, &peer.mesh, key);
    }
}

/// `pull_messages`: hands over everything held for this connection, whatever its status says.
pub(super) fn pull(peer: &Peer) -> Reply {
    let now = peer.broker.now();
    {
        let mut state = peer.mesh.lock();
        let entry = peer.own(&mut state)?;
        if let Some(before) = entry.pulled_at
            && now.since(before) < PULL_INTERVAL
        {
            let wait = PULL_INTERVAL.saturating_sub(now.since(before));
            return Err(Refusal {
                retry_after_ms: Some(millis(wait)),
                ..Refusal::new(ErrorCode::RateLimited, "messages may be pulled once in 5 s")
            });
        }
        entry.pulled_at = Some(now);
        let keys = state.keys_of(&peer.presence_id);
        let has_held = keys.iter().any(|key| {
            state
                .queues
                .get(key)
                .is_some_and(|queue| queue.has_held(claudemesh_core::gate::Priorities::ALL))
        });
        peer.own(&mut state)?.is_pulling = has_held;
    }
    delivery::wake_presence(&peer.broker, &peer.mesh, &peer.presence_id);
    Ok(None)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `loop_unblock`: lifts the stop between any key of the caller's member and `peer`; says whether there was one.
pub(super) fn loop_unblock(
    peer: &Peer,
    unblock: &LoopUnblock,
    req_id: Option<String>,
) -> Option<ServerFrame> {
    let now = peer.broker.now();
    let mut state = peer.mesh.lock();
    let mut keys = vec![peer.member_key, peer.key()];
    keys.extend(state.of_member(&peer.member_id).filter_map(|entry| entry.presence.session_key));
    let mut was_lifted = false;
    for key in keys {
        was_lifted |= state.loops.lift(key, unblock.peer, now);
    }
    Some(Ack { lifted: Some(was_lifted), ..Ack::bare(&req_id?) }.into())
}

//! `send`: the checks in their order, then the decision per recipient, then the writer (broker spec §3.1).
//!
//! The store's dedupe lookup stands in the commit itself. It is asked before only when a check refuses: a repeat of a
//! committed message is answered as such even when it would not be accepted today, and costs no budget.

use std::sync::Arc;

use claudemesh_core::queue::Route;
use claudemesh_core::rate::TokenBucket;
use claudemesh_core::target::Reach;
use claudemesh_crypto::fingerprint::{Fingerprint, default_fingerprint};
use claudemesh_protocol::limits::{
    CLIENT_MESSAGE_ID_MAX_CHARS, MENTIONS_MAX, REPLY_TO_MAX_CHARS, SESSION_KEY_MEMORY,
};
use claudemesh_protocol::wire::{Ack, ClientFrame, Push, Send};
use claudemesh_protocol::{ErrorCode, Priority, PublicKey, TargetSpec, Timestamp};
use claudemesh_store::{SessionKeySeen, StoreError};
use serde_json::json;

use super::messaging::{conflict_ack, duplicate_ack, failed_ack, give_back, millis, send_limit};
use super::rows::Passed;
use super::{Peer, Refusal, recipients, rows};
use crate::delivery::{Accept, Job};
use crate::live::{self, MeshState};

/// A send whose shape is right.
pub(super) struct Checked {
    pub(super) target: TargetSpec,
    pub(super) priority: Priority,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) mentions: Option<Arc<str>>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) body_version: u8,
}

/// Everything a send comes to.
pub(super) async fn send(peer: &Peer, send: Send, req_id: Option<String>) {
    let request = Ack {
        id: send.id.clone().unwrap_or_default(),
        client_message_id: send.client_message_id.clone(),
        req_id,
        ..Ack::default()
    };
    let refused = match check_shape(&send, peer.broker.now()) {
        Err(refusal) => {
            // The id of a misshapen request means nothing, so there is nothing to look up.
            say_refusal(peer, request, &refusal);
            return;
        }
        Ok(checked) => match accept(peer, send, &checked, &request).await {
            Ok(()) => return,
            Err(refusal) => (refusal, checked),
        },
    };
    let (refusal, checked) = refused;
    match earlier_answer(peer, &request, &checked).await {
        Some(ack) => {
            if refusal.code != ErrorCode::RateLimited {
                give_back(&peer.broker, &mut peer.mesh.lock(), &peer.member_id);
            }
            peer.connection.say(&ack.into());
        }
        None => say_refusal(peer, request, &refusal),
    }
}

fn say_refusal(peer: &Peer, request: Ack, refusal: &Refusal) {
    peer.broker.metrics().messages_rejected.inc(refusal.code.as_str());
    let ack = failed_ack(request, refusal.code, &refusal.message);
    peer.connection.say(&Ack { retry_after_ms: refusal.retry_after_ms, ..ack }.into());
}

/// The answer an earlier send of this id got.
async fn earlier_answer(peer: &Peer, request: &Ack, checked: &Checked) -> Option<Ack> {
    let id = request.client_message_id.as_deref()?;
    let fingerprint = checked.fingerprint.as_ref()?;
    let first = peer.broker.store().lookup_dedupe(&peer.mesh.id, id).await.ok()??;
    if first.is_same_send(Some(&peer.member_id), fingerprint.as_bytes()) {
        peer.broker.metrics().dedupe_hits.inc();
        Some(duplicate_ack(request.clone(), &first))
    } else {
        peer.broker.metrics().dedupe_conflicts.inc();
        Some(conflict_ack(request.clone(), &first))
    }
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest, format!("invalid request: {}", text.into()))
}

/// Step 1.
fn check_shape(send: &Send, now: Timestamp) -> Result<Checked, Refusal> {
    let target: TargetSpec = send.target_spec.parse().map_err(|error| {
        Refusal::new(ErrorCode::InvalidTarget, format!("invalid target: {error}"))
    })?;
    let priority = match send.priority.as_deref() {
        None => Priority::default(),
        Some(word) => word.parse().map_err(|_| invalid("priority is now, next or low"))?,
    };
    if let Some(id) = &send.client_message_id {
        let is_printable = id.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if id.is_empty() || id.len() > CLIENT_MESSAGE_ID_MAX_CHARS || !is_printable {
            return Err(invalid("client_message_id has 1 to 128 printable ASCII characters"));
        }
    }
    if send.reply_to_id.as_ref().is_some_and(|id| id.chars().count() > REPLY_TO_MAX_CHARS) {
        return Err(invalid("replyToId is longer than 128 characters"));
    }
    let fingerprint = match (&send.request_fingerprint, &send.client_message_id) {
        (Some(hex), _) => Some(
            Fingerprint::from_hex(hex)
                .ok_or_else(|| invalid("request_fingerprint is not hex64"))?,
        ),
        (None, None) => None,
        (None, Some(_)) => Some(
            default_fingerprint(&target, priority, send.reply_to_id.as_deref())
                .map_err(|_| invalid("replyToId contains NUL"))?,
        ),
    };
    let mentions = match send.mentions.as_deref() {
        None | Some([]) => None,
        Some(names) if names.len() > MENTIONS_MAX => return Err(invalid("more than 16 mentions")),
        Some(names) => Some(json!(names).to_string().into()),
    };
    let body_version = send.body_version.unwrap_or(1);
    if !(1..=2).contains(&body_version) {
        return Err(invalid("bodyVersion is 1 or 2"));
    }
    let expires_at = send.expires_at.map(Timestamp::from_millis);
    if expires_at.is_some_and(|at| at <= now) {
        return Err(invalid("expiresAt lies in the past"));
    }
    Ok(Checked { target, priority, fingerprint, mentions, expires_at, body_version })
}

/// Steps 3 to 10. The budget is given back when a later check refuses a repeat; a refused new message has used it.
async fn accept(peer: &Peer, send: Send, checked: &Checked, request: &Ack) -> Result<(), Refusal> {
    live::refresh(&peer.broker, &peer.mesh).await?;
    charge(peer)?;
    check_size(peer, &send, checked)?;
    let ended = lookup_key(peer, &checked.target).await?;
    let frame = ClientFrame::Send(Box::new(send));
    let accept = {
        let mut state = peer.mesh.lock();
        peer.authorize_in(&state, &frame)?;
        let ClientFrame::Send(send) = frame else { return Ok(()) };
        plan(peer, &mut state, *send, checked, ended.as_ref(), request)?
    };
    if let Err(Job::Accept(accept)) =
        peer.broker.delivery().enqueue(Job::Accept(Box::new(accept))).await
    {
        let mut state = peer.mesh.lock();
        for plan in &accept.plans {
            state.sub_open(&plan.member_id, 1);
            if plan.route == Route::Held {
                state.queue(plan.key).cancelled(accept.priority);
            }
        }
        return Err(Refusal::new(ErrorCode::Unavailable, "the broker is stopping; try again"));
    }
    Ok(())
}

/// Step 3.
fn charge(peer: &Peer) -> Result<(), Refusal> {
    let limit = send_limit(&peer.broker);
    let now = peer.broker.now();
    let mut state = peer.mesh.lock();
    let bucket = state
        .budgets
        .entry(peer.member_id.clone())
        .or_insert_with(|| TokenBucket::full(limit, now));
    bucket.take(limit, now).map_err(|exhausted| Refusal {
        retry_after_ms: Some(millis(exhausted.retry_after)),
        ..Refusal::new(
            ErrorCode::RateLimited,
            format!("max {} msg/min (burst {}) — slow down", limit.per_minute, limit.burst),
        )
    })
}

/// Step 4.
fn check_size(peer: &Peer, send: &Send, checked: &Checked) -> Result<(), Refusal> {
    let limits = peer.broker.limits();
    let too_large = |text: String| Refusal::new(ErrorCode::PayloadTooLarge, text);
    let size =
        send.nonce.chars().count() + send.ciphertext.chars().count() + checked.target.wire_len();
    if size > limits.max_message_bytes {
        let max = limits.max_message_bytes;
        return Err(too_large(format!("invalid size {size} > MAX_MESSAGE_BYTES={max}")));
    }
    let Some(keys) = &send.wrapped_keys else { return Ok(()) };
    if keys.len() > limits.group_audience_max {
        let max = limits.group_audience_max;
        return Err(too_large(format!("invalid number of wrapped keys {} > {max}", keys.len())));
    }
    let bytes: usize = keys.iter().map(|key| 64 + key.nonce.len() + key.key.len()).sum();
    if bytes > limits.max_wrapped_keys_bytes {
        let max = limits.max_wrapped_keys_bytes;
        return Err(too_large(format!("invalid size of wrapped keys {bytes} > {max}")));
    }
    Ok(())
}

/// Asks the store about a key that memory does not know: a session that has ended, or a member somebody else added.
async fn lookup_key(
    peer: &Peer,
    target: &TargetSpec,
) -> Result<Option<SessionKeySeen>, StoreError> {
    let TargetSpec::Key(key) = target else { return Ok(None) };
    let is_known = {
        let state = peer.mesh.lock();
        live::member_key_of(&state, *key).is_some()
    };
    if is_known {
        return Ok(None);
    }
    let store = peer.broker.store();
    let not_before = peer.broker.now().minus(SESSION_KEY_MEMORY);
    if let Some(seen) = store.session_key(&peer.mesh.id, key, not_before).await? {
        return Ok(Some(seen));
    }
    if store.member_by_key(&peer.mesh.id, key).await?.is_some_and(|member| member.revoked.is_none())
    {
        live::mark_stale(&peer.mesh);
        live::refresh(&peer.broker, &peer.mesh).await?;
    }
    Ok(None)
}

/// Steps 6 to 10 under the lock.
fn plan(
    peer: &Peer,
    state: &mut MeshState,
    send: Send,
    checked: &Checked,
    ended: Option<&SessionKeySeen>,
    request: &Ack,
) -> Result<Accept, Refusal> {
    let sender = match state.own(&peer.presence_id, &peer.connection) {
        Some(entry) => entry.presence.clone(),
        None => return Err(Refusal::new(ErrorCode::Unavailable, "this connection was replaced")),
    };
    check_key(peer, state)?;
    let resolved = match &checked.target {
        TargetSpec::Key(key) => recipients::direct(peer, state, *key, ended)?,
        TargetSpec::Everyone => {
            recipients::multicast(peer, state, Reach::Everyone, &send, checked)?
        }
        TargetSpec::Group(name) => {
            recipients::multicast(peer, state, Reach::Group(name), &send, checked)?
        }
        // Topics come with a later step; an unknown topic is what every topic is until then.
        TargetSpec::Topic(_) => return Err(recipients::not_found()),
    };
    guard_against_loops(peer, state, &send, &checked.target)?;
    let resolved = recipients::within_backlog(peer, state, resolved, checked.target.is_direct())?;
    Ok(rows::build(peer, state, Passed { sender: &sender, send, checked, resolved, request }))
}

/// What was sealed with a member key counts while that is the member's key: a stored message names its sender by its time.
fn check_key(peer: &Peer, state: &MeshState) -> Result<(), Refusal> {
    if peer.session_key.is_some() {
        return Ok(());
    }
    let is_changed = state
        .member(&peer.member_id)
        .is_some_and(|entry| entry.member.pubkey != Some(peer.member_key));
    if is_changed || state.changing_key.contains(&peer.member_id) {
        return Err(Refusal::new(ErrorCode::Unavailable, "the key of this member is changing"));
    }
    Ok(())
}

/// Step 8b.
fn guard_against_loops(
    peer: &Peer,
    state: &mut MeshState,
    send: &Send,
    target: &TargetSpec,
) -> Result<(), Refusal> {
    let now = peer.broker.now();
    let limits = peer.broker.limits();
    let max = limits.loop_max_hops;
    let other = match target {
        TargetSpec::Key(key) => Some(*key),
        _ => None,
    };
    if send.hops.is_some_and(|hops| hops > max) {
        peer.broker.metrics().loop_stopped.inc("hops");
        if let Some(other) = other {
            tell_loop(peer, state, other, send.hops, 1, None);
        }
        return Err(Refusal::new(
            ErrorCode::LoopStopped,
            format!("forbidden: the message has made more than {max} hops"),
        ));
    }
    let Some(other) = other else { return Ok(()) };
    if let Err(stopped) = state.loops.admit(peer.key(), other, send.hops, now, limits.into()) {
        if stopped.is_new {
            peer.broker.metrics().loop_stopped.inc("pair");
            tell_loop(peer, state, other, send.hops, stopped.count, Some(stopped.until));
        }
        return Err(Refusal::new(
            ErrorCode::LoopStopped,
            "forbidden: these two sessions answer each other without end; a person may lift the stop",
        ));
    }
    Ok(())
}

fn tell_loop(
    peer: &Peer,
    state: &MeshState,
    other: PublicKey,
    hops: Option<u32>,
    count: usize,
    until: Option<Timestamp>,
) {
    let data = json!({
        "pair": [peer.key(), other],
        "hops": hops.unwrap_or(0),
        "count": count,
        "until": until.map(Timestamp::to_iso),
    });
    let id = live::event_id();
    let created_at = peer.broker.now().to_iso();
    let push = Push::system(&peer.mesh.id, id, created_at, "loop_stopped", data);
    let others: Vec<_> = state.receivers(other).map(|entry| entry.presence.id.clone()).collect();
    state.announce(push, |presence| {
        presence.id == peer.presence_id || others.contains(&presence.id)
    });
}

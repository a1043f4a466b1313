//! Held rows on their way: a drain claims up to a hundred, pushes them in order and goes on until nothing deliverable is
//! left or the recipient has enough to acknowledge. At most one drain runs per recipient key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::gate::Priorities;
use claudemesh_core::queue::{self, Counts};
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::limits::{CLAIM_BATCH, CLAIM_LEASE_MAX, SESSION_KEY_MEMORY};
use claudemesh_protocol::wire::{Origin, Push};
use claudemesh_protocol::{PresenceId, PublicKey};
use claudemesh_store::{Claim, ClaimId, ClaimedDelivery, ReleasedRow, SenderKind, StoreError};

use super::router::{Frame, Row, Sender, push_row};
use super::{Job, copies};
use crate::live::{Entry, Mesh, MeshState};
use crate::state::Broker;

/// Looks at every queue of a presence.
pub(crate) fn wake_presence(broker: &Broker, mesh: &Arc<Mesh>, id: &PresenceId) {
    let keys = mesh.lock().keys_of(id);
    for key in keys {
        wake_key(broker, mesh, key);
    }
}

/// Starts a drain of this key when something is held that may be pushed now, and brings copies to devices that are owed
/// some.
pub(crate) fn wake_key(broker: &Broker, mesh: &Arc<Mesh>, key: PublicKey) {
    let (begins, due) = {
        let mut state = mesh.lock();
        let due = copies::begin(&mut state, key);
        // Nearly always nothing waits, and then it does not matter who could take it.
        let begins = state.queues.contains_key(&key) && {
            let open = state.open(key);
            state.queue(key).begin_drain(open)
        };
        if !begins {
            state.tidy_queue(key);
        }
        (begins, due)
    };
    for id in due {
        broker.spawn(copies::run(broker.clone(), Arc::clone(mesh), id, key));
    }
    if begins {
        broker.spawn(run(broker.clone(), Arc::clone(mesh), key));
    }
}

async fn run(broker: Broker, mesh: Arc<Mesh>, key: PublicKey) {
    loop {
        let outcome = loop {
            match step(&broker, &mesh, key).await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = &outcome {
            // The timer tries again.
            tracing::warn!(%error, mesh_id = %mesh.id, "cannot claim held messages");
        }
        let mut state = mesh.lock();
        let open = state.open(key);
        let goes_on = state.queue(key).end_drain()
            && outcome.is_ok()
            && !broker.stopping().is_cancelled()
            && state.queue(key).begin_drain(open);
        if !goes_on {
            state.tidy_queue(key);
            // What its member's queue had to keep back from a session that stands in (see `MeshState::open_to`).
            let stands_in = state.session(key).filter(|entry| entry.presence.is_stand_in());
            let member_key = stands_in.map(|entry| entry.presence.member_key);
            drop(state);
            if let Some(member_key) = member_key {
                wake_key(&broker, &mesh, member_key);
            }
            return;
        }
    }
}

/// Claims once and pushes. True when there is more to do at once.
async fn step(broker: &Broker, mesh: &Arc<Mesh>, key: PublicKey) -> Result<bool, StoreError> {
    let Some((open, claim)) = prepare(broker, mesh, key) else { return Ok(false) };
    let asked = claim.limit;
    let rows = broker.store().claim(claim).await?;
    broker.metrics().delivery_claims.inc_by(rows.len() as u64);
    let attestations = attestations_of(broker, mesh, &rows).await;
    let mut returned = Vec::new();
    let goes_on = {
        let mut state = mesh.lock();
        let mut counts = Counts::default();
        for row in &rows {
            queue::add(&mut counts, row.message.priority);
        }
        // A socket was lost meanwhile: older rows are on their way back, and these must not pass them.
        let is_disturbed = state.queue(key).is_disturbed();
        state.queue(key).end_step(open, asked, counts);
        for row in &rows {
            if row.attempt > 1 {
                broker.metrics().delivery_redeliveries.inc();
            }
            // After a row that found no room the younger ones wait too.
            if is_disturbed || !returned.is_empty() || !push_claimed(&mut state, row, &attestations)
            {
                state.queue(key).releasing(row.message.priority);
                returned.push(ReleasedRow { seq: row.seq, recipient_key: key, was_written: false });
            }
        }
        if rows.len() < asked {
            end_pulls(&mut state, key);
        }
        let still_open = state.open(key);
        returned.is_empty() && state.queue(key).wants_more(still_open)
    };
    if !returned.is_empty() {
        let job = Job::Release { mesh: Arc::clone(mesh), rows: returned };
        if let Err(Job::Release { rows, .. }) = broker.delivery().enqueue(job).await {
            let mut state = mesh.lock();
            for row in rows {
                state.queue(row.recipient_key).released();
            }
        }
    }
    Ok(goes_on)
}

fn prepare(broker: &Broker, mesh: &Mesh, key: PublicKey) -> Option<(Priorities, Claim)> {
    if broker.stopping().is_cancelled() {
        return None;
    }
    let mut state = mesh.lock();
    let room = state.receivers(key).map(Entry::room).max()?;
    let open = state.open(key);
    let least_priority = open.iter().last()?;
    let by = match state.session(key) {
        Some(entry) => ClaimId::from(&entry.presence.id),
        None => ClaimId::new(state.member_by_key(key)?.member.id.as_str()),
    };
    if !state.queue(key).wants_more(open) {
        return None;
    }
    state.queue(key).begin_step();
    let claim = Claim {
        mesh_id: mesh.id.clone(),
        recipient_keys: vec![key],
        by,
        least_priority,
        limit: room.min(CLAIM_BATCH),
        now: broker.now(),
        lease: Duration::from_millis(broker.limits().claim_lease_ms),
        lease_max: CLAIM_LEASE_MAX,
    };
    Some((open, claim))
}

/// Everything held was handed over: the status gate counts again.
fn end_pulls(state: &mut MeshState, key: PublicKey) {
    let pulling: Vec<PresenceId> = state
        .receivers(key)
        .filter(|entry| entry.is_pulling)
        .map(|entry| entry.presence.id.clone())
        .collect();
    for id in pulling {
        if let Some(entry) = state.presence_mut(&id) {
            entry.is_pulling = false;
        }
    }
}

pub(super) type Attestations = HashMap<PublicKey, Arc<ParentAttestation>>;

/// Attestations of sending sessions: of those that are here from memory, of others as they were last seen.
pub(super) async fn attestations_of(
    broker: &Broker,
    mesh: &Mesh,
    rows: &[ClaimedDelivery],
) -> Attestations {
    let mut found = Attestations::new();
    let mut missing = Vec::new();
    {
        let state = mesh.lock();
        for key in rows.iter().filter_map(|row| row.message.sender_session_key) {
            if found.contains_key(&key) || missing.contains(&key) {
                continue;
            }
            match state.session(key) {
                Some(entry) => {
                    if let Some(attestation) = &entry.presence.attestation {
                        found.insert(key, Arc::new(attestation.clone()));
                    }
                }
                None => missing.push(key),
            }
        }
    }
    let not_before = broker.now().minus(SESSION_KEY_MEMORY);
    for key in missing {
        // Without it the receiver shows the sender as unverified; the message itself must not wait for it.
        if let Ok(Some(seen)) = broker.store().session_key(&mesh.id, &key, not_before).await
            && let Some(attestation) =
                seen.attestation.as_deref().and_then(|text| serde_json::from_str(text).ok())
        {
            found.insert(key, Arc::new(attestation));
        }
    }
    found
}

pub(super) fn sender_of(
    state: &MeshState,
    row: &ClaimedDelivery,
    attestations: &Attestations,
) -> Sender {
    let session_key = row.message.sender_session_key;
    Sender {
        session_key,
        attestation: session_key.and_then(|key| attestations.get(&key).cloned()),
        presence: session_key
            .and_then(|key| state.session(key))
            .map(|entry| entry.presence.id.clone()),
    }
}

fn push_claimed(state: &mut MeshState, row: &ClaimedDelivery, attestations: &Attestations) -> bool {
    let sender = sender_of(state, row, attestations);
    frame_of(state, row, &sender)
        .is_some_and(|frame| push_row(state, &Row::claimed(row), &frame, &sender))
}

/// What the recipient of a stored row is told.
pub(super) fn frame_of(state: &MeshState, row: &ClaimedDelivery, sender: &Sender) -> Option<Frame> {
    Frame::of(push_of(state, row), sender)
}

/// The push of a stored row, the same as it would have been when it was sent.
fn push_of(state: &MeshState, row: &ClaimedDelivery) -> Push {
    let message = &row.message;
    let member = message.sender_member_id.as_ref().and_then(|id| state.member(id));
    let member_key = member.and_then(|entry| entry.key_at(message.created_at));
    let name = message
        .sender_session_key
        .and_then(|key| state.session(key))
        .map(|entry| entry.presence.display_name.as_str())
        .or_else(|| member.map(|entry| entry.member.display_name.as_str()));
    let sender_key = message.sender_session_key.or(member_key);
    let text = |text: &Arc<str>| text.as_ref().to_owned();
    Push {
        message_id: message.message_id.as_str().to_owned(),
        mesh_id: message.mesh_id.as_str().to_owned(),
        sender_pubkey: sender_key.map(PublicKey::to_hex).unwrap_or_default(),
        sender_member_pubkey: member_key.map(PublicKey::to_hex),
        sender_member_id: message.sender_member_id.as_ref().map(|id| id.as_str().to_owned()),
        sender_name: name.map(Into::into),
        reply_to_id: message.reply_to.as_ref().map(text),
        priority: Some(message.priority),
        nonce: Arc::clone(&message.nonce),
        ciphertext: Arc::clone(&message.ciphertext),
        created_at: message.created_at.to_iso(),
        client_message_id: message.client_message_id.as_ref().map(text),
        request_fingerprint: message.fingerprint.map(hex::encode),
        target_spec: Some(message.target_spec.to_string()),
        body_version: Some(message.body_version),
        key_epoch: message.key_epoch,
        mentions: message.mentions.as_deref().and_then(|json| serde_json::from_str(json).ok()),
        hops: Some(message.hops),
        origin: Some(origin_of(message.sender_kind)),
        untrusted: (message.sender_kind == SenderKind::Connector).then_some(true),
        attempt: Some(row.attempt),
        ..Push::default()
    }
}

/// What receivers are told about the kind of a sender.
pub(crate) const fn origin_of(kind: SenderKind) -> Origin {
    match kind {
        SenderKind::Member | SenderKind::Session | SenderKind::Api => Origin::Member,
        SenderKind::Service => Origin::Service,
        SenderKind::Connector => Origin::Connector,
        SenderKind::Webhook => Origin::Webhook,
        SenderKind::System => Origin::System,
    }
}

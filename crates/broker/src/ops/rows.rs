//! From a resolved send to the rows it is stored as and the push its recipients get (broker spec §3.1 step 10).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_core::presence::Presence;
use claudemesh_core::queue::Route;
use claudemesh_protocol::wire::{Ack, Push, Send};
use claudemesh_protocol::{MessageId, PeerRole, Timestamp};
use claudemesh_store::{
    ClaimId, ClientMessage, DedupeRetention, DestinationKind, InitialState, NewDelivery,
    NewMessage, RecipientKind, SenderKind,
};

use super::Peer;
use super::recipients::{Recipient, Resolved};
use super::send::Checked;
use crate::delivery::{self, Accept, Plan, Pushed};
use crate::live::MeshState;
use crate::state::Broker;

const DAY: Duration = Duration::from_hours(24);

const fn sender_kind(presence: &Presence, is_connector: bool) -> SenderKind {
    match (presence.role, presence.session_key.is_some()) {
        (PeerRole::Service, _) if is_connector => SenderKind::Connector,
        (PeerRole::Service, _) => SenderKind::Service,
        (_, true) => SenderKind::Session,
        (_, false) => SenderKind::Member,
    }
}

/// A send that passed every check.
pub(super) struct Passed<'a> {
    pub(super) sender: &'a Presence,
    pub(super) send: Send,
    pub(super) checked: &'a Checked,
    pub(super) resolved: Resolved,
    /// The answer so far.
    pub(super) request: &'a Ack,
}

/// Step 10: routes, rows and the push.
pub(super) fn build(peer: &Peer, state: &mut MeshState, passed: Passed<'_>) -> Accept {
    let Passed { sender, send, checked, resolved, request } = passed;
    let broker = &peer.broker;
    let now = broker.now();
    let claimed_until = now.plus(Duration::from_millis(broker.limits().claim_lease_ms));
    let message_id = MessageId::random(claudemesh_crypto::random::fill);
    let held = resolved.recipients.iter().filter(|recipient| recipient.is_absent).count();
    let (deliveries, plans): (Vec<NewDelivery>, Vec<Plan>) = resolved
        .recipients
        .into_iter()
        .map(|recipient| row_of(broker, state, recipient, checked, claimed_until))
        .unzip();
    let is_connector = matches!(sender.client.peer_type.as_deref(), Some("connector" | "bridge"));
    let kind = sender_kind(sender, is_connector);
    let ack = Ack {
        message_id: message_id.as_str().to_owned(),
        queued: true,
        status: Some(201),
        duplicate: Some(false),
        recipient_online: resolved.recipient_online,
        rerouted_to: resolved.rerouted_to,
        recipients: Some(plans.len()),
        held: Some(held),
        skipped_no_key: resolved.skipped_no_key,
        unreadable_by: resolved.unreadable_by,
        ..request.clone()
    };
    let retention =
        state.info.settings.retention_days.unwrap_or(broker.limits().message_retention_days);
    let latest = now.plus(DAY * retention);
    let push = push_of(peer, sender, &send, checked, Stamp { message_id: &message_id, kind, now });
    let message = NewMessage {
        mesh_id: peer.mesh.id.clone(),
        message_id,
        sender_member_id: Some(peer.member_id.clone()),
        sender_session_key: peer.session_key,
        sender_kind: kind,
        target_spec: checked.target.clone(),
        priority: checked.priority,
        nonce: send.nonce,
        ciphertext: send.ciphertext,
        body_version: checked.body_version,
        reply_to: send.reply_to_id.map(Into::into),
        mentions: checked.mentions.clone(),
        hops: send.hops.unwrap_or(0),
        key_epoch: send.key_epoch,
        fingerprint: send
            .request_fingerprint
            .as_ref()
            .and(checked.fingerprint.as_ref())
            .map(|fingerprint| *fingerprint.as_bytes()),
        client_message: client_message(state, checked, send.client_message_id, now),
        created_at: now,
        expires_at: checked.expires_at.map_or(latest, |at| at.min(latest)),
        deliveries,
    };
    let sender = delivery::Sender {
        session_key: peer.session_key,
        attestation: sender.attestation.clone().map(Arc::new),
        presence: Some(peer.presence_id.clone()),
    };
    Accept {
        mesh: Arc::clone(&peer.mesh),
        message: Arc::new(message),
        frame: delivery::Frame::of(push, &sender).map(Box::new),
        sender,
        sender_member: peer.member_id.clone(),
        accepted_at: now,
        claimed_until,
        priority: checked.priority,
        plans,
        connection: Arc::clone(&peer.connection),
        ack: Box::new(ack),
    }
}

/// One delivery: what is stored of it, and what is to be done with it. It counts as open from now on.
fn row_of(
    broker: &Broker,
    state: &mut MeshState,
    recipient: Recipient,
    checked: &Checked,
    claimed_until: Timestamp,
) -> (NewDelivery, Plan) {
    let route = state.route(recipient.key, checked.priority);
    state.add_open(&recipient.member_id, 1);
    let initial = match route {
        Route::Held => InitialState::Held,
        Route::Direct => {
            InitialState::Claimed { by: claim_id(state, &recipient), until: claimed_until }
        }
    };
    let seq = broker.delivery().numbered_row(broker.store());
    let presence = state
        .session(recipient.key)
        .filter(|_| recipient.kind == RecipientKind::Session)
        .map(|entry| entry.presence.id.clone());
    let Recipient { key, member_id, kind, wrapped_key, rerouted_from, .. } = recipient;
    let row = NewDelivery {
        seq,
        recipient_key: key,
        recipient_member_id: member_id.clone(),
        recipient_kind: kind,
        wrapped_key: wrapped_key.clone(),
        rerouted_from,
        state: initial,
    };
    let push = Pushed::NotYet;
    (row, Plan { seq, key, presence, member_id, kind, route, wrapped_key, push })
}

/// A session's rows are claimed by its presence, a member's by the member as a whole.
fn claim_id(state: &MeshState, recipient: &Recipient) -> ClaimId {
    match state.session(recipient.key) {
        Some(entry) if recipient.kind == RecipientKind::Session => {
            ClaimId::from(&entry.presence.id)
        }
        _ => ClaimId::new(recipient.member_id.as_str()),
    }
}

fn client_message(
    state: &MeshState,
    checked: &Checked,
    id: Option<String>,
    now: Timestamp,
) -> Option<ClientMessage> {
    let (id, fingerprint) = (id?, checked.fingerprint.as_ref()?);
    let destination_kind =
        if checked.target.is_direct() { DestinationKind::Dm } else { DestinationKind::Queue };
    let remember_until = match state.info.settings.dedupe {
        DedupeRetention::Days(days) => Some(now.plus(DAY * days)),
        DedupeRetention::Permanent => None,
    };
    Some(ClientMessage {
        id: id.into(),
        fingerprint: *fingerprint.as_bytes(),
        destination_kind,
        destination_ref: checked.target.to_string().into(),
        remember_until,
    })
}

/// What the broker puts on a message.
#[derive(Clone, Copy)]
struct Stamp<'a> {
    message_id: &'a MessageId,
    kind: SenderKind,
    now: Timestamp,
}

fn push_of(
    peer: &Peer,
    sender: &Presence,
    send: &Send,
    checked: &Checked,
    stamp: Stamp<'_>,
) -> Push {
    let Stamp { message_id, kind, now } = stamp;
    Push {
        message_id: message_id.as_str().to_owned(),
        mesh_id: peer.mesh.id.as_str().to_owned(),
        sender_pubkey: peer.key().to_hex(),
        sender_member_pubkey: Some(peer.member_key.to_hex()),
        sender_member_id: Some(peer.member_id.as_str().to_owned()),
        sender_name: Some(sender.display_name.as_str().into()),
        reply_to_id: send.reply_to_id.clone(),
        priority: Some(checked.priority),
        nonce: Arc::clone(&send.nonce),
        ciphertext: Arc::clone(&send.ciphertext),
        created_at: now.to_iso(),
        client_message_id: send.client_message_id.clone(),
        request_fingerprint: send.request_fingerprint.as_ref().map(|hex| hex.to_ascii_lowercase()),
        target_spec: Some(checked.target.to_string()),
        body_version: Some(checked.body_version),
        key_epoch: send.key_epoch,
        mentions: send.mentions.clone(),
        hops: Some(send.hops.unwrap_or(0)),
        origin: Some(delivery::origin_of(kind)),
        untrusted: (kind == SenderKind::Connector).then_some(true),
        attempt: Some(1),
        ..Push::default()
    }
}

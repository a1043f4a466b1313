//! From a stored row to the sockets of its recipient.

use std::sync::Arc;

use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::limits::COPIES_OWED_MAX;
use claudemesh_protocol::wire::{Push, ServerFrame};
use claudemesh_protocol::{MemberId, PresenceId, Priority, PublicKey, Timestamp};
use claudemesh_store::{ClaimedDelivery, DeliverySeq};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::live::{InFlight, MeshState, Unacked};

/// Session keys remembered per connection as "attestation already given"; beyond it they are given again.
const KNOWN_SENDERS_MAX: usize = 4_096;

/// Who a message is from, as far as pushing it needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) session_key: Option<PublicKey>,
    pub(crate) attestation: Option<Arc<ParentAttestation>>,
    /// The presence it was sent from, which never receives it; unknown for drained messages.
    pub(crate) presence: Option<PresenceId>,
}

/// One row to push.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) seq: DeliverySeq,
    pub(super) key: PublicKey,
    pub(super) member_id: &'a MemberId,
    pub(super) priority: Priority,
    pub(super) until: Timestamp,
    /// The content key for this recipient, as JSON.
    pub(super) wrapped_key: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// A row that was claimed.
    pub(super) fn claimed(row: &'a ClaimedDelivery) -> Self {
        Self {
            seq: row.seq,
            key: row.recipient_key,
            member_id: &row.recipient_member_id,
            priority: row.message.priority,
            until: row.until,
            wrapped_key: row.wrapped_key.as_deref(),
        }
    }
}

/// A push as JSON without what differs per connection, so that a broadcast is written as JSON once.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// An object without its last brace.
    start: String,
    attestation: Option<String>,
    message_id: Arc<str>,
    client_message_id: Option<Arc<str>>,
}

impl Frame {
    /// The frame of a push that has neither a wrapped key nor an attestation.
    pub(crate) fn of(push: Push, sender: &Sender) -> Option<Self> {
        let message_id = push.message_id.as_str().into();
        let client_message_id = push.client_message_id.as_deref().map(Into::into);
        let attestation = sender.attestation.as_deref().map(serde_json::to_string);
        let encoded = ServerFrame::from(push)
            .encode()
            .and_then(|start| Ok((start, attestation.transpose()?)));
        let (mut start, attestation) = encoded
            .inspect_err(|error| tracing::error!(%error, "cannot write a push as JSON"))
            .ok()?;
        start.pop();
        Some(Self { start, attestation, message_id, client_message_id })
    }

    /// The whole text; `wrapped_key` is JSON.
    fn text(&self, wrapped_key: Option<&str>, with_attestation: bool) -> Utf8Bytes {
        let attestation = self.attestation.as_deref().filter(|_| with_attestation);
        let more = [("wrappedKey", wrapped_key), ("senderAttestation", attestation)];
        let length: usize = more
            .iter()
            .filter_map(|(name, json)| Some(name.len() + json.as_ref()?.len() + 4))
            .sum();
        let mut text = String::with_capacity(self.start.len() + length + 1);
        text.push_str(&self.start);
        for (name, json) in more {
            if let Some(json) = json {
                text.extend([",\"", name, "\":", json]);
            }
        }
        text.push('}');
        text.into()
    }
}

/// Pushes a row to every connection of its recipient that takes it and does not have it yet. Attestations are added per
/// connection. False when nobody has it: the row must be released.
///
/// A device that cannot take it while another one does is owed a copy: each device keeps its own, and the other one's
/// acknowledgement ends the delivery (broker spec §3.3).
pub(super) fn push_row(
    state: &mut MeshState,
    row: &Row<'_>,
    frame: &Frame,
    sender: &Sender,
) -> bool {
    let mut pushed_to = Vec::new();
    let mut was_written = false;
    if let Some(before) = state.in_flight.get(&row.seq) {
        pushed_to.clone_from(&before.pushed_to);
        was_written = before.was_written;
    }
    let mut takers: Vec<PresenceId> = Vec::new();
    let mut owed: Vec<PresenceId> = Vec::new();
    for entry in state.receivers(row.key) {
        let id = &entry.presence.id;
        if sender.presence.as_ref() == Some(id) || pushed_to.contains(id) {
            continue;
        }
        if state.open_to(entry, row.key).allows(row.priority) {
            takers.push(id.clone());
        } else if entry.presence.is_device()
            || (entry.open().allows(row.priority) && !state.has_missed_a_row(entry, row.key))
        {
            // The latter waits behind rows of its own only. One that has missed an older row gets none before that has
            // arrived by another of its daemon's sockets, which brings this one too.
            owed.push(id.clone());
        }
    }
    for id in takers {
        if push_to(state, &id, row, frame, sender, Ack::Awaited) {
            pushed_to.push(id);
        } else if state.presence(&id).is_some_and(|entry| entry.presence.is_device()) {
            owed.push(id);
        }
    }
    if pushed_to.is_empty() {
        return false;
    }
    for id in owed {
        if let Some(entry) = state.presence_mut(&id)
            && entry.owed.len() < COPIES_OWED_MAX
        {
            entry.owed.insert(row.seq, row.priority);
        }
    }
    let in_flight = InFlight {
        key: row.key,
        member_id: row.member_id.clone(),
        priority: row.priority,
        until: row.until,
        pushed_to,
        was_written,
    };
    state.in_flight.insert(row.seq, in_flight);
    true
}

/// Whether the acknowledgement of a push ends anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// It ends the delivery.
    Awaited,
    /// The delivery has ended; this is a device's own copy.
    Pointless,
}

/// Queues a push on one connection. False when it has no room.
pub(super) fn push_to(
    state: &mut MeshState,
    id: &PresenceId,
    row: &Row<'_>,
    frame: &Frame,
    sender: &Sender,
    ack: Ack,
) -> bool {
    let Some(entry) = state.presence_mut(id) else { return false };
    let Some(connection) = &entry.connection else { return false };
    let news = sender.session_key.filter(|key| !entry.known_senders.contains(key));
    let text = frame.text(row.wrapped_key, news.is_some());
    let is_awaited = ack == Ack::Awaited;
    let delivers = (is_awaited && !entry.presence.acknowledges()).then_some(row.seq);
    let Ok(ticket) = connection.deliver(text, delivers) else { return false };
    if let Some(key) = news {
        if entry.known_senders.len() >= KNOWN_SENDERS_MAX {
            entry.known_senders.clear();
        }
        entry.known_senders.insert(key);
    }
    if is_awaited {
        entry.unacked.push_back(Unacked {
            seq: row.seq,
            message_id: Arc::clone(&frame.message_id),
            client_message_id: frame.client_message_id.clone(),
            ticket,
        });
    }
    true
}

/// From the acceptance of a message to its push.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of a latency are far below 2^52")]
pub(super) fn latency_seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).as_millis() as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::wire::WrappedKey;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_frame_put_together_says_the_same_as_a_push_written_whole() {
        let wrapped_key = WrappedKey {
            to: PublicKey::from_bytes([7; 32]),
            nonce: "bm9uY2U=".into(),
            key: "a2V5".into(),
        };
        let push = Push { message_id: "m".to_owned(), hops: Some(3), ..Push::default() };
        let sender = Sender { session_key: None, attestation: None, presence: None };
        let frame = Frame::of(push.clone(), &sender).unwrap();
        let whole = |push: &Push| read(&ServerFrame::from(push.clone()).encode().unwrap());
        assert_eq!(read(&frame.text(None, true)), whole(&push));
        let text = frame.text(Some(&json!(wrapped_key).to_string()), true);
        assert_eq!(read(&text), whole(&Push { wrapped_key: Some(wrapped_key), ..push }));
    }

    #[test]
    fn an_attestation_is_in_the_frame_only_where_it_is_news() {
        let attestation: ParentAttestation = serde_json::from_value(json!({
            "sessionPubkey": "07".repeat(32), "parentMemberPubkey": "08".repeat(32),
            "expiresAt": 5, "signature": "09".repeat(64),
        }))
        .unwrap();
        let sender = Sender {
            session_key: None,
            attestation: Some(Arc::new(attestation.clone())),
            presence: None,
        };
        let push = Push { message_id: "m".to_owned(), ..Push::default() };
        let frame = Frame::of(push.clone(), &sender).unwrap();
        let whole = |push: Push| read(&ServerFrame::from(push).encode().unwrap());
        assert_eq!(read(&frame.text(None, false)), whole(push.clone()));
        let told = Push { sender_attestation: Some(attestation), ..push };
        assert_eq!(read(&frame.text(None, true)), whole(told));
    }
}

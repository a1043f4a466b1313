//! From a stored row to the sockets of its recipient.

use std::sync::Arc;

use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::limits::COPIES_OWED_MAX;
use claudemesh_protocol::wire::Push;
use claudemesh_protocol::{MemberId, PresenceId, Priority, PublicKey, Timestamp};
use claudemesh_store::DeliverySeq;
use serde::Serialize;

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
}

/// Pushes a row to every connection of its recipient that takes it and does not have it yet. `push` carries what this
/// recipient is told; attestation and encoding are added per connection. False when nobody has it: the row must be
/// released.
///
/// A device that cannot take it while another one does is owed a copy: each device keeps its own, and the other one's
/// acknowledgement ends the delivery (broker spec §3.3).
pub(super) fn push_row(
    state: &mut MeshState,
    row: &Row<'_>,
    push: &mut Push,
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
        } else if entry.presence.is_device() || entry.open().allows(row.priority) {
            // The latter waits behind rows of its own only.
            owed.push(id.clone());
        }
    }
    let ids = Ids::of(push);
    for id in takers {
        if push_to(state, &id, row.seq, push, sender, Some(&ids)) {
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

/// The two names an acknowledgement may use.
pub(super) struct Ids {
    message_id: Arc<str>,
    client_message_id: Option<Arc<str>>,
}

impl Ids {
    pub(super) fn of(push: &Push) -> Self {
        Self {
            message_id: push.message_id.as_str().into(),
            client_message_id: push.client_message_id.as_deref().map(Into::into),
        }
    }
}

/// Queues a push on one connection; with `ids` its acknowledgement is awaited there. False when it has no room.
pub(super) fn push_to(
    state: &mut MeshState,
    id: &PresenceId,
    seq: DeliverySeq,
    push: &mut Push,
    sender: &Sender,
    ids: Option<&Ids>,
) -> bool {
    let Some(entry) = state.presence_mut(id) else { return false };
    let Some(connection) = entry.connection.clone() else { return false };
    let news = sender.session_key.filter(|key| !entry.known_senders.contains(key));
    push.sender_attestation = news.and(sender.attestation.as_deref().cloned());
    let Some(text) = encode(push) else { return false };
    let delivers = (ids.is_some() && !entry.presence.acknowledges()).then_some(seq);
    let Ok(ticket) = connection.deliver(text.into(), delivers) else { return false };
    if let Some(key) = news {
        if entry.known_senders.len() >= KNOWN_SENDERS_MAX {
            entry.known_senders.clear();
        }
        entry.known_senders.insert(key);
    }
    if let Some(ids) = ids {
        entry.unacked.push_back(Unacked {
            seq,
            message_id: Arc::clone(&ids.message_id),
            client_message_id: ids.client_message_id.clone(),
            ticket,
        });
    }
    true
}

/// The wire form of a push that is borrowed, so that it need not be copied for each recipient.
#[derive(Serialize)]
#[serde(tag = "type")]
enum Frame<'a> {
    #[serde(rename = "push")]
    Push(&'a Push),
}

fn encode(push: &Push) -> Option<String> {
    serde_json::to_string(&Frame::Push(push))
        .inspect_err(|error| tracing::error!(%error, "cannot write a push as JSON"))
        .ok()
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::wire::ServerFrame;

    use super::*;

    #[test]
    fn a_borrowed_push_reads_the_same_as_an_owned_one() {
        let push = Push { message_id: "m".to_owned(), hops: Some(3), ..Push::default() };
        assert_eq!(encode(&push), ServerFrame::from(push).encode().ok());
    }
}

//! From a stored row to the sockets of its recipient.

use std::sync::Arc;

use claudemesh_protocol::attestation::ParentAttestation;
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
pub(super) fn push_row(
    state: &mut MeshState,
    row: &Row<'_>,
    push: &mut Push,
    sender: &Sender,
) -> bool {
    let mut pushed_to =
        state.in_flight.get(&row.seq).map(|row| row.pushed_to.clone()).unwrap_or_default();
    let receivers: Vec<PresenceId> = state
        .receivers(row.key)
        .into_iter()
        .filter(|entry| entry.open().allows(row.priority))
        .filter(|entry| sender.presence.as_ref() != Some(&entry.presence.id))
        .filter(|entry| !pushed_to.contains(&entry.presence.id))
        .map(|entry| entry.presence.id.clone())
        .collect();
    let message_id: Arc<str> = push.message_id.as_str().into();
    let client_message_id: Option<Arc<str>> = push.client_message_id.as_deref().map(Into::into);
    for id in receivers {
        let Some(entry) = state.presence_mut(&id) else { continue };
        let Some(connection) = entry.connection.clone() else { continue };
        let news = sender.session_key.filter(|key| !entry.known_senders.contains(key));
        push.sender_attestation = news.and(sender.attestation.as_deref().cloned());
        let Some(text) = encode(push) else { continue };
        let delivers = (!entry.presence.acknowledges()).then_some(row.seq);
        if connection.deliver(text.into(), delivers).is_err() {
            continue;
        }
        if let Some(key) = news {
            if entry.known_senders.len() >= KNOWN_SENDERS_MAX {
                entry.known_senders.clear();
            }
            entry.known_senders.insert(key);
        }
        entry.unacked.push_back(Unacked {
            seq: row.seq,
            message_id: Arc::clone(&message_id),
            client_message_id: client_message_id.clone(),
        });
        pushed_to.push(id);
    }
    if pushed_to.is_empty() {
        return false;
    }
    let in_flight = InFlight {
        key: row.key,
        member_id: row.member_id.clone(),
        priority: row.priority,
        until: row.until,
        pushed_to,
    };
    state.in_flight.insert(row.seq, in_flight);
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

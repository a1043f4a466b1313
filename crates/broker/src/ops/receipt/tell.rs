//! Telling senders what became of their messages: what recipients said, and what the broker itself knows and the ack could
//! not say. Live only; whoever missed it asks with `message_status`.

use std::collections::BTreeSet;
use std::sync::Arc;

use claudemesh_core::gate;
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::wire::{Receipt, ReceiptState, ServerFrame};
use claudemesh_protocol::{
    MemberId, MessageId, PeerStatus, PresenceId, Priority, PublicKey, Timestamp,
};
use claudemesh_store::{AssertedBy, DeliverySeq, ReleasedRow, Reroute, Told};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::live::{Entry, Mesh, MeshState};
use crate::state::Broker;

fn wants_receipts(entry: &Entry) -> bool {
    entry.connection.is_some() && entry.presence.client.has(capability::RECEIPTS)
}

/// Connections of a member's daemons that want receipts.
pub(super) fn devices<'a>(
    state: &'a MeshState,
    member: &MemberId,
) -> impl Iterator<Item = &'a Entry> {
    state
        .of_member(member)
        .filter(|entry| entry.presence.is_device())
        .filter(|entry| wants_receipts(entry))
}

/// Who hears about a message: the session that sent it while it is connected, else its member's daemons.
pub(super) fn listeners(state: &MeshState, told: &Told) -> BTreeSet<PresenceId> {
    let session = told
        .sender_session_key
        .and_then(|key| state.session(key))
        .filter(|entry| entry.connection.is_some());
    match (session, &told.sender_member_id) {
        (Some(entry), _) => Some(entry)
            .filter(|entry| wants_receipts(entry))
            .map(|entry| entry.presence.id.clone())
            .into_iter()
            .collect(),
        (None, Some(member)) => {
            devices(state, member).map(|entry| entry.presence.id.clone()).collect()
        }
        (None, None) => BTreeSet::new(),
    }
}

/// Says a receipt. It is live only: who has no room now reads the state with `message_status`.
pub(super) fn say(state: &MeshState, to: BTreeSet<PresenceId>, receipt: Receipt) {
    if to.is_empty() {
        return;
    }
    let Some(text) = encode(receipt) else { return };
    for id in to {
        if let Some(connection) = state.presence(&id).and_then(|entry| entry.connection.as_ref()) {
            connection.offer(text.clone());
        }
    }
}

fn encode(receipt: Receipt) -> Option<Utf8Bytes> {
    ServerFrame::from(receipt)
        .encode()
        .inspect_err(|error| tracing::error!(%error, "cannot write a receipt as JSON"))
        .ok()
        .map(Utf8Bytes::from)
}

/// What the broker itself has to tell about deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum News {
    /// Nobody was there to take them before their time was over.
    Expired,
    /// They wait, because who they were pushed to has gone without confirming them.
    Held,
    /// Their session has ended; they wait in the queue of this member key.
    Rerouted { to: PublicKey },
}

/// Tells senders what became of their messages after the ack. Without a signature: the broker says only what it knows
/// itself.
pub(crate) fn tell(broker: &Broker, state: &MeshState, told: &[Told], news: News) {
    let (word, reason, path) = match news {
        News::Expired => (ReceiptState::Expired, "expired", None),
        News::Held => (ReceiptState::Held, "absent", None),
        News::Rerouted { to } => (ReceiptState::Rerouted, Reroute::REASON, Some(to.to_hex())),
    };
    broker.metrics().receipts.inc_by(word.as_str(), told.len() as u64);
    for one in told {
        let receipt = Receipt {
            broker_message_id: one.message_id.clone(),
            client_message_id: one.client_message_id.as_deref().unwrap_or_default().to_owned(),
            recipient: one.recipient_key,
            state: word,
            path: path.clone(),
            evidence: None,
            reason: Some(reason.to_owned()),
            at: broker.now().as_millis(),
            signature: None,
            asserted_by: Some(AssertedBy::Broker.as_str().to_owned()),
        };
        say(state, listeners(state, one), receipt);
    }
}

/// Pushed rows went back to held. Where nobody is left to push them to, their senders are told.
pub(crate) fn released(broker: &Broker, mesh: &Arc<Mesh>, rows: &[ReleasedRow]) {
    let waiting: Vec<DeliverySeq> = {
        let state = mesh.lock();
        if !state.presences().any(wants_receipts) {
            return;
        }
        rows.iter()
            .filter(|row| state.receivers(row.recipient_key).next().is_none())
            .map(|row| row.seq)
            .collect()
    };
    if waiting.is_empty() {
        return;
    }
    let (broker, mesh) = (broker.clone(), Arc::clone(mesh));
    broker.clone().spawn(async move {
        match broker.store().senders_of_held(&waiting).await {
            Ok(told) => {
                let state = mesh.lock();
                // Whoever came back meanwhile gets the message now.
                let told: Vec<Told> = told
                    .into_iter()
                    .filter(|one| state.receivers(one.recipient_key).next().is_none())
                    .collect();
                tell(&broker, &state, &told, News::Held);
            }
            Err(error) => tracing::warn!(%error, "cannot tell senders that their messages wait"),
        }
    });
}

/// Why the broker's own status gate keeps a message of this priority from its recipient; `None` while somebody may get
/// it, or nobody is there.
pub(crate) fn gated(state: &MeshState, key: PublicKey, priority: Priority) -> Option<Gated> {
    let mut gates = state.receivers(key).map(|entry| {
        let presence = &entry.presence;
        let status = presence.status.status;
        let is_open = gate::open_for(status, presence.gatekeeper()).allows(priority);
        (!is_open).then_some(Gated { status, since: presence.status.updated_at })
    });
    let first = gates.next()??;
    // Several devices: the message waits for whichever is free first, and busy ends by itself.
    gates.try_fold(first, |waits, gate| {
        let gate = gate?;
        Some(if waits.status == PeerStatus::Dnd { gate } else { waits })
    })
}

/// A closed status gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gated {
    status: PeerStatus,
    /// Since when the status holds.
    pub(crate) since: Timestamp,
}

impl Gated {
    /// The word of receipts.
    pub(crate) const fn reason(self) -> &'static str {
        match self.status {
            PeerStatus::Dnd => "dnd",
            PeerStatus::Idle | PeerStatus::Working => "busy",
        }
    }
}

/// The receipts about those recipients of a message that the broker's own gate keeps waiting; they follow the ack.
pub(crate) fn deferred(
    broker: &Broker,
    state: &MeshState,
    sender: Option<&PresenceId>,
    message: (&MessageId, Option<&str>),
    waiting: impl Iterator<Item = (PublicKey, Priority)>,
) -> Vec<Utf8Bytes> {
    let is_wanted = sender
        .and_then(|id| state.presence(id))
        .is_some_and(|entry| entry.presence.client.has(capability::RECEIPTS));
    if !is_wanted {
        return Vec::new();
    }
    let receipts: Vec<Utf8Bytes> = waiting
        .filter_map(|(key, priority)| Some((key, gated(state, key, priority)?)))
        .filter_map(|(recipient, gated)| {
            encode(Receipt {
                broker_message_id: message.0.clone(),
                client_message_id: message.1.unwrap_or_default().to_owned(),
                recipient,
                state: ReceiptState::Deferred,
                path: None,
                evidence: None,
                reason: Some(gated.reason().to_owned()),
                at: broker.now().as_millis(),
                signature: None,
                asserted_by: Some(AssertedBy::Broker.as_str().to_owned()),
            })
        })
        .collect();
    broker.metrics().receipts.inc_by(ReceiptState::Deferred.as_str(), receipts.len() as u64);
    receipts
}

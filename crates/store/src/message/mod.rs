//! Messages and deliveries: the durable half of the main road (broker spec §1.3, §3). One message row, one delivery row
//! per recipient key, one dedupe row per client message id, all of a send in one transaction.
//!
//! - [`crate::Store::commit`] takes everything the delivery writer has queued and makes it durable with one commit.
//! - `number`: row numbers that are known before the commit.
//! - [`crate::Store::claim`] hands held rows to a connection under a lease.
//! - `due`: claims that ran out, rows past their time, counts. - `status`: what became of a message.

use std::sync::Arc;

use claudemesh_protocol::{
    MemberId, MeshId, MessageId, PresenceId, Priority, PublicKey, TargetSpec, Timestamp,
};

pub use self::banned::DroppedRow;
pub(crate) use self::banned::drop_messages_of;
pub use self::claim::{Claim, ClaimedDelivery, DeviceCopy, StoredMessage};
pub use self::due::{Backlog, BacklogTotal, Expired, Recipient};
pub use self::receipt::{AssertedBy, DeliveryReceipt, NewReceipt, Receipted, Told};
pub use self::status::{DeliveryStatus, MessageLookup, MessageStatus};

pub(crate) use self::commit::{release_claims, release_claims_of_run, reroute};
pub(crate) use self::number::Numbers;

use crate::engine::stored_number;

mod banned;
mod claim;
mod commit;
mod due;
mod number;
mod receipt;
mod status;

/// Row number of a delivery. Rows of one recipient are in accept order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliverySeq(pub i64);

/// Who holds a claim: a presence, or for a row of a member key the member as a whole. Opaque to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimId(String);

impl ClaimId {
    /// Takes an id as it stands, at most 64 characters.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&PresenceId> for ClaimId {
    fn from(id: &PresenceId) -> Self {
        Self(id.as_str().to_owned())
    }
}

/// What kind of sender a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SenderKind {
    /// A member's own connection.
    Member,
    /// A session.
    Session,
    /// A service identity.
    Service,
    /// An API key.
    Api,
    /// The broker itself.
    System,
    /// An inbound webhook.
    Webhook,
    /// A connector.
    Connector,
}

/// What kind of key a delivery is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecipientKind {
    /// A member's queue.
    Member,
    /// One session.
    Session,
    /// A service identity.
    Service,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Waits for its recipient.
    Held,
    /// Handed to a connection that has not acknowledged yet.
    Claimed,
    /// Acknowledged by the recipient.
    Delivered,
    /// Given up for another reason than time.
    Dropped,
    /// Past its time.
    Expired,
}

/// Destination class of a client message id (wire spec §4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DestinationKind {
    /// A topic, a group, or everybody.
    Topic,
    /// One key.
    Dm,
    /// A queue.
    Queue,
}

/// Idempotency of a send that carries a client message id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage {
    /// The sender's id, 1 to 128 printable ASCII characters.
    pub id: Arc<str>,
    /// Fingerprint of the request, given by the sender or substituted (wire spec §4.7).
    pub fingerprint: [u8; 32],
    /// Destination class.
    pub destination_kind: DestinationKind,
    /// Destination as the fingerprint saw it.
    pub destination_ref: Arc<str>,
    /// When the id may be forgotten; `None` never.
    pub remember_until: Option<Timestamp>,
}

/// A message to be accepted.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its mesh.
    pub mesh_id: MeshId,
    /// A fresh id.
    pub message_id: MessageId,
    /// The sending member; `None` for the broker and webhooks.
    pub sender_member_id: Option<MemberId>,
    /// The sending session's key.
    pub sender_session_key: Option<PublicKey>,
    /// What kind of sender it is.
    pub sender_kind: SenderKind,
    /// Target as written by the sender.
    pub target_spec: TargetSpec,
    /// Urgency.
    pub priority: Priority,
    /// Nonce, b64.
    pub nonce: Arc<str>,
    /// Sealed body, b64.
    pub ciphertext: Arc<str>,
    /// 1 plaintext or box, 2 encrypted group body.
    pub body_version: u8,
    /// Message this answers.
    pub reply_to: Option<Arc<str>>,
    /// Names mentioned, as JSON text (an array); `None` for none.
    pub mentions: Option<Arc<str>>,
    /// Automatic answers it stands on.
    pub hops: u32,
    /// Version of the topic key.
    pub key_epoch: Option<u32>,
    /// Idempotency.
    pub client_message: Option<ClientMessage>,
    /// Fingerprint of the request for receivers, only when the sender gave one.
    pub fingerprint: Option<[u8; 32]>,
    /// Now.
    pub created_at: Timestamp,
    /// When undelivered rows are given up.
    pub expires_at: Timestamp,
    /// One row per recipient key; keys must be distinct.
    pub deliveries: Vec<NewDelivery>,
}

/// State a delivery row is born in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialState {
    /// Waits.
    Held,
    /// Pushed to a present recipient, or about to be.
    Claimed {
        /// Who holds it.
        by: ClaimId,
        /// End of the claim.
        until: Timestamp,
    },
    /// Acknowledged already (a push that overtook the commit).
    Delivered {
        /// When.
        at: Timestamp,
    },
}

/// A delivery to be made.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its number, from [`crate::Store::next_delivery_seq`]; `None` lets the store choose.
    pub seq: Option<DeliverySeq>,
    /// Key it is for.
    pub recipient_key: PublicKey,
    /// The member behind the key; the backlog counts by it.
    pub recipient_member_id: MemberId,
    /// What kind of key it is.
    pub recipient_kind: RecipientKind,
    /// Wrapped content key of a group body, as JSON text.
    pub wrapped_key: Option<Arc<str>>,
    /// The ended session key the sender named.
    pub rerouted_from: Option<PublicKey>,
    /// State it is born in.
    pub state: InitialState,
}

/// An acknowledgement by message id, when the delivery's number is not at hand.
#[derive(Debug, Clone)]
pub struct AckById {
    /// The mesh.
    pub mesh_id: MeshId,
    /// Keys of the acknowledging connection; rows of other keys are untouched.
    pub recipient_keys: Vec<PublicKey>,
    /// Which message.
    pub message: MessageRef,
    /// Now.
    pub at: Timestamp,
}

/// A message by either of its ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MessageRef {
    /// The broker's id.
    Broker(MessageId),
    /// The sender's id.
    Client(Arc<str>),
}

/// Moves everything open for an ended session key to its member's queue (broker spec §3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reroute {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The ended session's key.
    pub session_key: PublicKey,
    /// Its member's key.
    pub member_key: PublicKey,
    /// Its member.
    pub member_id: MemberId,
    /// Now.
    pub at: Timestamp,
}

impl Reroute {
    /// The reason receipts give for it.
    pub const REASON: &'static str = "session_ended";
}

/// A claimed row that goes back to held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasedRow {
    /// Its number.
    pub seq: DeliverySeq,
    /// The key it was claimed for. A row that has moved to another key meanwhile is somebody else's now and stays.
    pub recipient_key: PublicKey,
    /// True when it was written to a socket, so that the attempt counts.
    pub was_written: bool,
}

/// One entry of a commit.
#[derive(Debug, Clone)]
pub enum DeliveryWrite {
    /// Accept a message.
    Accept(Arc<NewMessage>),
    /// Rows were acknowledged by their recipient.
    Ack {
        /// Which.
        deliveries: Vec<DeliverySeq>,
        /// Now.
        at: Timestamp,
    },
    /// Rows were acknowledged by message id.
    AckById(AckById),
    /// Claimed rows go back to held at once.
    Release {
        /// Which.
        rows: Vec<ReleasedRow>,
    },
    /// A session ended.
    Reroute(Reroute),
    /// A recipient says how far a message came.
    Receipt(Box<NewReceipt>),
    /// A sender was banned: what it sent and nobody has acknowledged is given up, also what this batch accepts.
    DropFrom {
        /// The mesh.
        mesh_id: MeshId,
        /// The sender.
        sender: MemberId,
    },
}

/// Answer to one entry of a commit, at the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The message is durable.
    Accepted {
        /// Row numbers, in the order of [`NewMessage::deliveries`].
        deliveries: Vec<DeliverySeq>,
    },
    /// The same send was accepted before (possibly earlier in this very batch); nothing was written.
    Duplicate(Dedupe),
    /// The client message id was used for something else or by someone else; nothing was written.
    Conflict(Dedupe),
    /// Rows that became delivered by this entry; final and foreign ones are not among them.
    Acked {
        /// Which.
        deliveries: Vec<DeliverySeq>,
    },
    /// How many claimed rows are held again.
    Released {
        /// Rows.
        rows: u64,
    },
    /// A session's rows were moved.
    Rerouted(Rerouted),
    /// What became of a receipt.
    Receipted(Receipted),
    /// Rows that were given up.
    Dropped(Vec<DroppedRow>),
}

/// What moving an ended session's rows has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rerouted {
    /// Rows now held in the member's queue.
    pub moved: u64,
    /// Rows dropped because the member's queue has the same message.
    pub merged: u64,
    /// Whose messages the moved rows are; `recipient_key` is the ended session's.
    pub told: Vec<Told>,
}

/// A remembered client message id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// The broker's id of the first send.
    pub message_id: MessageId,
    /// Who sent it.
    pub sender_member_id: Option<MemberId>,
    /// Its fingerprint.
    pub fingerprint: [u8; 32],
    /// When it was accepted.
    pub first_seen_at: Timestamp,
    /// False once the message itself is gone.
    pub history_available: bool,
}

impl Dedupe {
    /// True when a send with this sender and fingerprint repeats the remembered one; false when it conflicts with it.
    pub fn is_same_send(&self, sender: Option<&MemberId>, fingerprint: &[u8; 32]) -> bool {
        self.sender_member_id.as_ref() == sender && self.fingerprint == *fingerprint
    }

    /// The part of the fingerprint a conflict may show: 8 bytes, hexadecimal.
    pub fn fingerprint_prefix(&self) -> String {
        self.fingerprint.iter().take(8).fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

stored_number!(SenderKind, "message.sender_kind" {
    Member = 0,
    Session = 1,
    Service = 2,
    Api = 3,
    System = 4,
    Webhook = 5,
    Connector = 6,
});

stored_number!(RecipientKind, "delivery.recipient_kind" { Member = 0, Session = 1, Service = 2, });

stored_number!(DeliveryState, "delivery.state" {
    Held = 0,
    Claimed = 1,
    Delivered = 2,
    Dropped = 3,
    Expired = 4,
});

impl DestinationKind {
    /// Column `destination_kind`; written for people who look, never read back.
    const fn stored(self) -> i64 {
        match self {
            Self::Topic => 0,
            Self::Dm => 1,
            Self::Queue => 2,
        }
    }
}

/// The number of a priority; less urgent ones are greater, as claims order by it.
const fn stored_priority(priority: Priority) -> i64 {
    match priority {
        Priority::Now => 0,
        Priority::Next => 1,
        Priority::Low => 2,
    }
}

fn priority_from_stored(number: i64) -> crate::Result<Priority> {
    match number {
        0 => Ok(Priority::Now),
        1 => Ok(Priority::Next),
        2 => Ok(Priority::Low),
        _ => Err(crate::StoreError::corrupt("message.priority")),
    }
}

//! What comes in on one connection: filtered, opened, stored, and only then acknowledged (daemon spec §7.4, §13.2).
//!
//! Messages are opened one after the other and stored side by side, so that many share one commit; they enter the
//! inbox, and are acknowledged, in the order they came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_client::{Connection, ConnectionEvent};
use claudemesh_crypto::KeyPair;
use claudemesh_ipc::api::{Decrypt, RecipientKind};
use claudemesh_protocol::wire::{ClientAck, ClientFrame, Push, ReceiptState};
use claudemesh_protocol::{MessageId, PublicKey, TargetSpec, Timestamp};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Mesh;
use super::handle::Via;
use super::open::{OwnKeys, open};
use super::receipt::{self, Subject};
use super::sender::{Claim, Sender};
use crate::clock;
use crate::inbox::{Inserted, NewItem};
use crate::storage::{Causes, StorageError};

/// Messages of one connection on their way into the inbox.
const STORING_MAX: usize = 128;
/// How long the roster is waited for when a sender is not in it.
const ROSTER_WAIT: Duration = Duration::from_secs(3);
/// A stranger must not make us fetch the roster for ever: once for each key, and eight times in all, per this time.
const ROSTER_PAUSE: Duration = Duration::from_secs(5);
/// Fetches per [`ROSTER_PAUSE`].
const ROSTER_FETCHES: usize = 8;

/// The receiving end of one connection.
pub(super) struct Receiver {
    mesh: Arc<Mesh>,
    connection: Connection,
    via: Via,
    session: Option<Arc<KeyPair>>,
    storing: FuturesOrdered<BoxFuture<'static, Stored>>,
    /// Senders the roster was fetched for lately.
    asked_for: VecDeque<(PublicKey, Instant)>,
}

/// A message after the attempt to store it.
struct Stored {
    ack: ClientAck,
    receipt: Option<(Subject, ReceiptState)>,
    inserted: Result<Inserted, StorageError>,
}

/// Which own key a push is for.
struct Recipient {
    key: PublicKey,
    kind: RecipientKind,
    /// The ended session it was addressed to.
    addressed_to: Option<PublicKey>,
}

impl Receiver {
    pub(super) fn new(mesh: Arc<Mesh>, connection: Connection, via: Via) -> Self {
        Self {
            mesh,
            connection,
            via,
            session: None,
            storing: FuturesOrdered::new(),
            asked_for: VecDeque::new(),
        }
    }

    /// For the connection of a session, with its key pair.
    pub(super) fn of_session(mesh: Arc<Mesh>, connection: Connection, keys: Arc<KeyPair>) -> Self {
        let via = Via::Session(keys.public());
        Self { session: Some(keys), ..Self::new(mesh, connection, via) }
    }

    /// The next event of the connection; acknowledges meanwhile what has been stored. `None` when the connection has
    /// ended and everything is stored.
    pub(super) async fn next(
        &mut self,
        events: &mut mpsc::Receiver<ConnectionEvent>,
    ) -> Option<ConnectionEvent> {
        loop {
            tokio::select! {
                biased;
                Some(stored) = self.storing.next() => self.settle(stored).await,
                event = events.recv(), if self.storing.len() < STORING_MAX => match event {
                    Some(event) => return Some(event),
                    None if self.storing.is_empty() => return None,
                    None => {
                        while let Some(stored) = self.storing.next().await {
                            self.settle(stored).await;
                        }
                        return None;
                    }
                },
            }
        }
    }

    /// The connection is open again: what could not be learned before may be known now.
    pub(super) fn opened(&mut self) {
        self.asked_for.clear();
    }

    /// Takes a push: a system event is told, a message is opened and handed to the inbox.
    pub(super) async fn receive(&mut self, push: Push) {
        if push.subtype.as_deref() == Some("system") {
            if self.via == Via::Member {
                self.mesh.take_system_event(&push);
            }
            return;
        }
        let Ok(sender_key) = push.sender_pubkey.parse::<PublicKey>() else {
            tracing::debug!(mesh = %self.mesh.slug, "invalid_sender_key");
            return self.acknowledge(ack_of(&push)).await;
        };
        if self.is_echo(&push, sender_key) {
            tracing::debug!(mesh = %self.mesh.slug, "self_echo_dropped");
            return self.acknowledge(ack_of(&push)).await;
        }
        let Some(client_message_id) =
            [push.client_message_id.as_deref(), Some(push.message_id.as_str())]
                .into_iter()
                .flatten()
                .find(|id| !id.is_empty())
                .map(str::to_owned)
        else {
            tracing::debug!(mesh = %self.mesh.slug, "push_without_id");
            return;
        };
        let sender = self.judge(&push, sender_key).await;
        let item = self.item(&push, sender_key, sender, client_message_id);
        self.store(&push, item);
    }

    /// Tells the broker that a push need not come again.
    pub(super) async fn acknowledge(&mut self, ack: ClientAck) {
        let frame = ClientFrame::ClientAck(Box::new(ack));
        if let Err(error) = self.connection.send(&frame).await {
            // The broker repeats the push on the next connection; the inbox knows it then.
            tracing::debug!(mesh = %self.mesh.slug, %error, "client_ack_not_sent");
        }
    }

    /// Copies of what we sent ourselves (daemon spec §7.4, rules 2 and 3).
    fn is_echo(&self, push: &Push, sender: PublicKey) -> bool {
        match self.via {
            Via::Session(own) => sender == own,
            Via::Member => {
                let own = self.mesh.member.public;
                sender == own
                    || push
                        .sender_member_pubkey
                        .as_deref()
                        .is_some_and(|key| key.parse() == Ok(own))
            }
        }
    }

    async fn judge(&mut self, push: &Push, key: PublicKey) -> Sender {
        let created_at = Timestamp::parse_iso(&push.created_at).unwrap_or_else(clock::now);
        let claim = Claim {
            key,
            name: push.sender_name.as_deref(),
            attestation: push.sender_attestation.as_ref(),
            created_at,
        };
        let sender = self.mesh.senders.judge(&claim, &self.mesh.roster.view());
        if sender.is_verified || !self.may_ask_for(key) {
            return sender;
        }
        // Somebody new, or the roster is not there yet.
        let mesh = Arc::clone(&self.mesh);
        if let Ok(Ok(())) = tokio::time::timeout(ROSTER_WAIT, mesh.refresh.now()).await {
            return mesh.senders.judge(&claim, &mesh.roster.view());
        }
        sender
    }

    fn may_ask_for(&mut self, key: PublicKey) -> bool {
        self.asked_for.retain(|(_, at)| at.elapsed() < ROSTER_PAUSE);
        let has_asked = self.asked_for.iter().any(|(asked, _)| *asked == key);
        if has_asked || self.asked_for.len() >= ROSTER_FETCHES {
            return false;
        }
        self.asked_for.push_back((key, Instant::now()));
        true
    }

    fn item(
        &self,
        push: &Push,
        sender_key: PublicKey,
        sender: Sender,
        client_message_id: String,
    ) -> NewItem {
        let target =
            push.target_spec.as_deref().and_then(|target| target.parse::<TargetSpec>().ok());
        let recipient = self.recipient(target.as_ref());
        let mesh = &self.mesh;
        let stored = |key: PublicKey| mesh.own_keys(key);
        let keys = OwnKeys {
            member: &mesh.member.keys,
            session: self.session.as_deref(),
            stored: &stored,
        };
        let opened = open(push, sender_key, target.as_ref(), &keys, &mesh.shared_keys);
        let (channel, topic) = channel_of(push, target.as_ref(), opened.decrypt);
        let raw = (!opened.decrypt.is_readable())
            .then(|| json!({"nonce": push.nonce, "ciphertext": push.ciphertext}).to_string());
        NewItem {
            mesh: mesh.slug.clone(),
            client_message_id,
            broker_message_id: Some(push.message_id.clone()).filter(|id| !id.is_empty()),
            recipient_pubkey: recipient.key,
            recipient_kind: recipient.kind,
            channel: channel.to_owned(),
            topic,
            topic_id: match target {
                Some(TargetSpec::Topic(id)) => Some(id),
                _ => None,
            },
            sender_pubkey: sender_key,
            sender_member_pubkey: sender.member,
            sender_name: sender.name,
            priority: push.priority.unwrap_or_default(),
            subtype: push.subtype.clone(),
            body: opened.body,
            meta: opened.meta,
            mentions: push.mentions.clone().unwrap_or_default(),
            body_version: u32::from(push.body_version.unwrap_or(1)),
            decrypt: opened.decrypt,
            raw,
            reply_to_id: push.reply_to_id.clone(),
            created_at: Timestamp::parse_iso(&push.created_at),
            expires_at: None,
            transport: "broker",
            hops: push.hops.unwrap_or(0).max(opened.hops),
            sender_verified: sender.is_verified,
            addressed_to: recipient.addressed_to,
        }
    }

    fn recipient(&self, target: Option<&TargetSpec>) -> Recipient {
        let member = self.mesh.member.public;
        let named = match target {
            Some(TargetSpec::Key(key)) => Some(*key),
            _ => None,
        };
        match self.via {
            Via::Session(session) if named != Some(member) => {
                Recipient { key: session, kind: RecipientKind::Session, addressed_to: None }
            }
            _ => Recipient {
                key: member,
                kind: RecipientKind::Member,
                addressed_to: named.filter(|named| *named != member),
            },
        }
    }

    fn store(&mut self, push: &Push, item: NewItem) {
        let subject = item.broker_message_id.as_ref().map(|id| Subject {
            broker_message_id: MessageId::new(id.clone()),
            client_message_id: item.client_message_id.clone(),
            recipient: item.recipient_pubkey,
        });
        let state = if item.decrypt.is_readable() {
            ReceiptState::OnDevice
        } else {
            ReceiptState::Unreadable
        };
        let (ack, receipt) = (ack_of(push), subject.map(|subject| (subject, state)));
        let inbox = self.mesh.context.inbox.clone();
        self.storing.push_back(Box::pin(async move {
            let inserted = inbox.insert(item, clock::now()).await;
            Stored { ack, receipt, inserted }
        }));
    }

    /// The message is in the inbox, or was before: acknowledge it. It is not: the broker will repeat it.
    async fn settle(&mut self, stored: Stored) {
        match stored.inserted {
            Ok(Inserted::New(_)) => {
                self.acknowledge(stored.ack).await;
                if let Some((subject, state)) = stored.receipt {
                    self.say(subject, state).await;
                }
            }
            Ok(Inserted::Duplicate) => self.acknowledge(stored.ack).await,
            Err(error) => {
                tracing::warn!(mesh = %self.mesh.slug, error = %Causes(&error), "inbox_insert_failed");
            }
        }
    }

    /// Sends a receipt, at brokers that take them; best effort.
    async fn say(&mut self, subject: Subject, state: ReceiptState) {
        let mesh = Arc::clone(&self.mesh);
        if !mesh.negotiated().has_receipts {
            return;
        }
        let signed = receipt::sign(&mesh.id, subject, state, &mesh.member.keys, clock::now());
        let Some(receipt) = signed else { return };
        if let Err(error) = self.connection.send(&ClientFrame::Receipt(Box::new(receipt))).await {
            tracing::debug!(mesh = %mesh.slug, %error, "receipt_not_sent");
        }
    }
}

impl Mesh {
    /// The key pair of another session of our member: a live one, or the stored one of an ended one.
    fn own_keys(&self, key: PublicKey) -> Option<Arc<KeyPair>> {
        if let Some(link) = self.sessions.lock().get(&key) {
            return Some(Arc::clone(&link.keys));
        }
        match self.context.sessions.key_store().load_by_key(&self.slug, &key) {
            Ok(stored) => stored.map(|stored| Arc::new(stored.keys)),
            Err(error) => {
                tracing::warn!(mesh = %self.slug, %error, "session_key_store_unreadable");
                None
            }
        }
    }
}

fn ack_of(push: &Push) -> ClientAck {
    ClientAck {
        client_message_id: push.client_message_id.clone(),
        broker_message_id: Some(push.message_id.clone()).filter(|id| !id.is_empty()),
    }
}

/// Channel and the name of topic or group.
fn channel_of(
    push: &Push,
    target: Option<&TargetSpec>,
    decrypt: Decrypt,
) -> (&'static str, Option<String>) {
    match target {
        Some(TargetSpec::Key(_)) => ("dm", None),
        Some(TargetSpec::Everyone) => ("broadcast", None),
        Some(TargetSpec::Group(name)) => ("group", Some(name.as_str().to_owned())),
        None if push.topic.is_none() && decrypt == Decrypt::Plain => ("broadcast", None),
        None if push.topic.is_none() => ("dm", None),
        Some(TargetSpec::Topic(_)) | None => ("topic", push.topic.clone()),
    }
}

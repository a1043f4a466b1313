//! What comes in on one connection: filtered, opened, stored, and only then acknowledged (daemon spec §7.4, §13.2).
//!
//! Messages are opened one after the other and stored side by side, so that many share one commit; they enter the
//! inbox, and are acknowledged, in the order they came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claudemesh_client::{Connection, ConnectionEvent};
use claudemesh_crypto::KeyPair;
use claudemesh_ipc::api::{Decrypt, RecipientKind};
use claudemesh_protocol::wire::{ClientAck, ClientFrame, Push, ReceiptState};
use claudemesh_protocol::{PublicKey, TargetSpec, Timestamp};
use claudemesh_sqlite::planted_bug;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Mesh;
use super::announce::LOOP_STOPPED;
use super::handle::Via;
use super::open::{OwnKeys, open};
use super::proof::Shown;
use super::sender::{Claim, Sender};
use crate::clock;
use crate::inbox::{Inserted, Line, NewItem, Subject};
use crate::storage::{Causes, StorageError};

/// Messages of one connection on their way into the inbox.
const STORING_MAX: usize = 128;
/// How long the roster is waited for when a sender is not in it.
const ROSTER_WAIT: Duration = Duration::from_secs(3);
/// A stranger must not make us fetch the roster for ever: once for each key, and eight times in all, per this time.
const ROSTER_PAUSE: Duration = Duration::from_secs(5);
/// Fetches per [`ROSTER_PAUSE`].
const ROSTER_FETCHES: usize = 8;

/// Pushes that were acknowledged and not stored.
#[derive(Default)]
pub(super) struct Dropped {
    invalid: AtomicU64,
    echoes: AtomicU64,
    removed: AtomicU64,
    stale: AtomicU64,
}

/// How many pushes were acknowledged and not stored, and why; and how many were stored that nothing opens any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DroppedCounts {
    /// They could not be read (`cm_daemon_invalid_inbound_total`).
    pub invalid: u64,
    /// Copies of what we sent ourselves.
    pub echoes: u64,
    /// Their sender is no member any more.
    pub removed: u64,
    /// Sealed for a former key of ours whose time has passed; stored (`cm_daemon_decrypt_stale_total`).
    pub stale: u64,
}

impl super::MeshHandle {
    /// Pushes that were dropped since the start.
    pub fn dropped(&self) -> DroppedCounts {
        let dropped = &self.mesh.dropped;
        DroppedCounts {
            invalid: dropped.invalid.load(Ordering::Relaxed),
            echoes: dropped.echoes.load(Ordering::Relaxed),
            removed: dropped.removed.load(Ordering::Relaxed),
            stale: dropped.stale.load(Ordering::Relaxed),
        }
    }
}

/// The receiving end of one connection.
pub(super) struct Receiver {
    mesh: Arc<Mesh>,
    connection: Connection,
    via: Via,
    session: Option<Arc<KeyPair>>,
    storing: FuturesOrdered<BoxFuture<'static, Stored>>,
    /// What came on the open socket.
    line: Line,
    /// The last message could not be stored.
    is_failing: bool,
    /// Senders the roster was fetched for lately.
    asked_for: VecDeque<(PublicKey, Instant)>,
}

/// A message after the attempt to store it.
struct Stored {
    line: Line,
    ack: ClientAck,
    subject: Option<Subject>,
    is_readable: bool,
    /// The sender, when it is to be judged again.
    unproved: Option<Shown>,
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
            line: Line::default(),
            is_failing: false,
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
    pub(super) async fn opened(&mut self) {
        self.asked_for.clear();
        self.line = Line::default();
        self.mesh.restate(self.via.key(self.mesh.voice_key())).await;
    }

    /// Takes a push: a system event is told, a message is opened and handed to the inbox.
    pub(super) async fn receive(&mut self, push: Push) {
        if push.subtype.as_deref() == Some("system") {
            match (self.via, push.event.as_deref(), push.event_data) {
                // Told to both sides; a session may be the only side that is connected.
                (Via::Session(_), Some(LOOP_STOPPED), Some(Value::Object(data))) => {
                    self.mesh.take_loop_stop(data);
                }
                (Via::Session(_), ..) => {}
                (Via::Member, _, event_data) => {
                    self.mesh.take_system_event(&Push { event_data, ..push });
                }
            }
            return;
        }
        if self.line.is_broken() {
            // It comes again on the next socket, behind what could not be stored.
            return;
        }
        let Ok(sender_key) = push.sender_pubkey.parse::<PublicKey>() else {
            self.mesh.dropped.invalid.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(mesh = %self.mesh.slug, "invalid_sender_key");
            return self.acknowledge(ack_of(&push)).await;
        };
        if self.mesh.pings.came_back(&push) {
            return self.acknowledge(ack_of(&push)).await;
        }
        if self.is_echo(&push, sender_key) {
            self.mesh.dropped.echoes.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(mesh = %self.mesh.slug, "self_echo_dropped");
            return self.acknowledge(ack_of(&push)).await;
        }
        let target = push.target_spec.as_deref().and_then(|target| target.parse().ok());
        if self.mesh.is_for_the_devices(target.as_ref()) {
            // Without an acknowledgement it stays for them.
            tracing::debug!(mesh = %self.mesh.slug, "member_row_left_alone");
            return;
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
        if self.is_removed(&push, sender_key) {
            self.mesh.dropped.removed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(mesh = %self.mesh.slug, "sender_removed");
            return self.acknowledge(ack_of(&push)).await;
        }
        let item = self.item(&push, sender_key, sender, client_message_id);
        if planted_bug("daemon.client_ack_before_commit") {
            self.acknowledge(ack_of(&push)).await;
        }
        self.store(&push, item);
    }

    /// Tells the broker that a push need not come again.
    async fn acknowledge(&mut self, ack: ClientAck) {
        let frame = ClientFrame::ClientAck(Box::new(ack));
        if let Err(error) = self.connection.send(&frame).await {
            // The broker repeats the push on the next connection; the inbox knows it then.
            tracing::debug!(mesh = %self.mesh.slug, %error, "client_ack_not_sent");
        }
    }

    /// What a removed member, or a session it once vouched for, still sends (daemon spec §7.4, rule 5).
    fn is_removed(&self, push: &Push, sender: PublicKey) -> bool {
        let removed = self.mesh.removed.lock();
        if removed.is_empty() {
            return false;
        }
        let vouching = push.sender_attestation.as_ref().map(|proof| proof.parent_member_pubkey);
        let behind = self.mesh.roster.view().member_behind(sender);
        [Some(sender), vouching, behind].into_iter().flatten().any(|key| removed.contains_key(&key))
    }

    /// A push that could not be read: dropped, counted, and acknowledged, or the broker repeats it for ever.
    pub(super) async fn unreadable(&mut self, ack: ClientAck) {
        self.mesh.dropped.invalid.fetch_add(1, Ordering::Relaxed);
        self.acknowledge(ack).await;
    }

    /// Copies of what we sent ourselves (daemon spec §7.4, rules 2 and 3).
    fn is_echo(&self, push: &Push, sender: PublicKey) -> bool {
        let is_ours = match self.via {
            Via::Session(own) => sender == own,
            // Other sessions of our member write to it as anybody does.
            Via::Member if let Some(own) = self.mesh.own_session_key() => sender == own,
            Via::Member => {
                let is_own = |key| self.mesh.is_own_member_key(key);
                let behind = push.sender_member_pubkey.as_deref();
                is_own(sender) || behind.is_some_and(|key| key.parse().is_ok_and(is_own))
            }
        };
        is_ours && !self.is_left_by_a_session(push, sender)
    }

    /// A letter from one session of ours to another that has ended: it came to the member's queue, and from there perhaps
    /// to the very session that wrote it, standing in for the member's own connection.
    fn is_left_by_a_session(&self, push: &Push, sender: PublicKey) -> bool {
        let target = push.target_spec.as_deref().and_then(|target| target.parse().ok());
        match target {
            Some(TargetSpec::Key(key)) => {
                !self.mesh.is_own_member_key(key)
                    && key != sender
                    && self.mesh.own_keys(key).is_some()
            }
            _ => false,
        }
    }

    async fn judge(&mut self, push: &Push, key: PublicKey) -> Sender {
        let claim = claim_of(push, key);
        let sender = self.mesh.senders.judge(&claim, &self.mesh.roster.view());
        if sender.is_verified {
            return sender;
        }
        if !self.may_ask_for(key) {
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
        let archived = || mesh.context.identity.archived(&mesh.slug, clock::now());
        let keys = OwnKeys {
            member: &mesh.member.keys,
            session: self.session.as_deref().or(mesh.own_session_keys()),
            stored: &stored,
            archived: &archived,
        };
        let opened = open(push, sender_key, target.as_ref(), &keys, &mesh.shared_keys);
        let (channel, topic) = channel_of(push, target.as_ref(), opened.decrypt);
        let is_for_former_key = |key| key != mesh.member.public && mesh.is_own_member_key(key);
        let mut decrypt = opened.decrypt;
        if !decrypt.is_readable() && named_key(push, target.as_ref()).is_some_and(is_for_former_key)
        {
            mesh.dropped.stale.fetch_add(1, Ordering::Relaxed);
            decrypt = Decrypt::Failed;
        }
        let raw = (!decrypt.is_readable())
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
            decrypt,
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
        let own = self.mesh.voice_key();
        let named = match target {
            Some(TargetSpec::Key(key)) => Some(*key),
            _ => None,
        };
        match self.via {
            // A session that stands in for its member's own connection is also handed what a session left to the member.
            Via::Session(session) if named.is_none_or(|named| named == session) => {
                Recipient { key: session, kind: RecipientKind::Session, addressed_to: None }
            }
            _ => Recipient {
                key: own,
                kind: RecipientKind::Member,
                // What was for a key that the member had before is the member's, not an ended session's.
                addressed_to: named
                    .filter(|named| *named != own && !self.mesh.is_own_member_key(*named)),
            },
        }
    }

    fn store(&mut self, push: &Push, item: NewItem) {
        let subject = item.broker_message_id.as_ref().map(|id| Subject {
            broker_message_id: id.clone(),
            client_message_id: item.client_message_id.clone(),
            recipient: item.recipient_pubkey,
            kind: item.recipient_kind,
        });
        let (ack, is_readable) = (ack_of(push), item.decrypt.is_readable());
        let unproved =
            (!item.sender_verified).then(|| Shown::of(&claim_of(push, item.sender_pubkey)));
        let (inbox, line) = (self.mesh.context.inbox.clone(), self.line.clone());
        self.storing.push_back(Box::pin(async move {
            let inserted = inbox.insert_in(&line, item, clock::now()).await;
            Stored { line, ack, subject, is_readable, unproved, inserted }
        }));
    }

    fn count(&self, inserted: &Inserted) {
        let (figures, slug) = (&self.mesh.context.figures, &self.mesh.slug);
        match inserted {
            Inserted::New(item) => {
                let subtype = item.subtype.as_deref();
                figures.received(slug, &item.channel, subtype, &item.transport, item.decrypt);
            }
            Inserted::Duplicate => figures.known_to_inbox(slug),
        }
    }

    /// The message is in the inbox, or was before: acknowledge it. It is not: the broker will repeat it.
    async fn settle(&mut self, stored: Stored) {
        match stored.inserted {
            Ok(inserted) => {
                self.is_failing = false;
                self.acknowledge(stored.ack).await;
                self.count(&inserted);
                // Now that a later proof finds the row.
                if let Some(shown) = stored.unproved {
                    self.mesh.unproved.note(shown);
                }
                let Some(subject) = stored.subject else { return };
                match (inserted, stored.is_readable) {
                    (Inserted::New(_), false) => {
                        self.mesh.report(subject, ReceiptState::Unreadable.into());
                    }
                    (Inserted::New(item), true) => {
                        self.mesh.report(subject.clone(), ReceiptState::OnDevice.into());
                        if item.held {
                            self.mesh.report_busy(subject);
                        }
                    }
                    // The first word on it may have been lost together with the acknowledgement.
                    (Inserted::Duplicate, true) => {
                        self.mesh.report(subject, ReceiptState::OnDevice.into());
                    }
                    (Inserted::Duplicate, false) => {}
                }
            }
            Err(error) => self.not_stored(&stored.line, &error),
        }
    }

    /// Nothing behind it may pass it: the socket is given up, and the broker sends everything again in its order.
    fn not_stored(&mut self, line: &Line, error: &StorageError) {
        let mesh = &self.mesh.slug;
        if self.is_failing {
            tracing::debug!(mesh = %mesh, error = %Causes(error), "inbox_insert_failed");
        } else {
            tracing::warn!(mesh = %mesh, error = %Causes(error), "inbox_insert_failed");
        }
        self.is_failing = true;
        if line.is(&self.line) && line.is_broken() {
            self.connection.drop_socket("inbox_insert_failed");
        }
    }
}

impl Mesh {
    /// The key pair of another session of our member: a live one, or the stored one of an ended one.
    pub(super) fn own_keys(&self, key: PublicKey) -> Option<Arc<KeyPair>> {
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

/// The own key a push was sealed for, as far as it says so.
fn named_key(push: &Push, target: Option<&TargetSpec>) -> Option<PublicKey> {
    match target {
        Some(TargetSpec::Key(key)) => Some(*key),
        _ => push.wrapped_key.as_ref().map(|wrapped| wrapped.to),
    }
}

/// What a push says about its sender.
fn claim_of(push: &Push, key: PublicKey) -> Claim<'_> {
    Claim {
        key,
        name: push.sender_name.as_deref(),
        attestation: push.sender_attestation.as_ref(),
        created_at: Timestamp::parse_iso(&push.created_at).unwrap_or_else(clock::now),
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

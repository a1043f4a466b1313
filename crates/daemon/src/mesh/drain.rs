//! Sending what the outbox holds: one worker per mesh, woken by rows, connections and deadlines (daemon spec §11.3).
//!
//! Each sender and target is a line of which only the head is on its way, so order holds through every retry. A row is
//! done only after the broker's ack.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_client::{Connection, RequestError};
use claudemesh_crypto::KeyPair;
use claudemesh_ipc::api::{BrokerAnswer, EventKind};
use claudemesh_protocol::body::Meta;
use claudemesh_protocol::limits::{
    DUE_QUERY_INTERVAL, LEGACY_FRAME_MAX_BYTES, OUTBOX_IN_FLIGHT, OUTBOX_MAX_AGE_DEFAULT_HOURS,
    SEND_ACK_TIMEOUT,
};
use claudemesh_protocol::wire::{Ack, Send, WrappedKey};
use claudemesh_protocol::{MemberId, PublicKey, TargetSpec};
use claudemesh_sqlite::crash_point;
use futures_util::FutureExt as _;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Mesh;
use super::announce::object;
use super::flush::Flush;
use super::outcome::{Outcome, Reason, RowFacts, of_ack, of_error, retry_wait};
use super::rekey::rekeyed;
use super::roster::RosterView;
use super::seal::{Draft, audience, reseal_group, wrap_keys};
use crate::outbox::{ClaimFrom, Done, OutboundRow, SealedBody};
use crate::storage::{Causes, StorageError};
use crate::{blocking, clock};

/// Least time between two looks that nothing asked for.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// Pause after the outbox could not be read or written.
const STORAGE_PAUSE: Duration = Duration::from_secs(1);
/// When the worker looks again after it sent something, unless an answer wakes it sooner: other lines have their own
/// times.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Age of the roster above which it is fetched before the key of a group message is wrapped.
const AUDIENCE_MAX_AGE: Duration = Duration::from_millis(250);
/// How long that fetch may take.
const AUDIENCE_WAIT: Duration = Duration::from_secs(5);
/// Wraps made on the worker itself; more go to a thread that may be busy.
const WRAPS_INLINE: usize = 32;
/// Close code of a frame that was too large.
const TOO_BIG: u16 = 1009;

/// Rows on their way, by sender; `None` is the member.
pub(super) struct InFlight {
    by_sender: parking_lot::Mutex<HashMap<Option<PublicKey>, usize>>,
    total: watch::Sender<usize>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { by_sender: parking_lot::Mutex::default(), total: watch::Sender::new(0) }
    }
}

impl InFlight {
    fn free(&self, sender: Option<PublicKey>) -> usize {
        let used = self.by_sender.lock().get(&sender).copied().unwrap_or(0);
        OUTBOX_IN_FLIGHT.saturating_sub(used)
    }

    /// True when no row of this sender is on its way.
    pub(super) fn is_idle(&self, sender: Option<PublicKey>) -> bool {
        !self.by_sender.lock().contains_key(&sender)
    }

    /// Waits until nothing is on its way.
    pub(super) async fn is_empty(&self) {
        let mut total = self.total.subscribe();
        // The sender lives as long as `self`.
        let _closed = total.wait_for(|total| *total == 0).await;
    }

    fn add(&self, sender: Option<PublicKey>) {
        *self.by_sender.lock().entry(sender).or_insert(0) += 1;
        self.total.send_modify(|total| *total += 1);
    }

    fn remove(&self, sender: Option<PublicKey>) {
        let mut by_sender = self.by_sender.lock();
        if let Some(used) = by_sender.get_mut(&sender) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                by_sender.remove(&sender);
            }
        }
        drop(by_sender);
        self.total.send_modify(|total| *total = total.saturating_sub(1));
    }
}

/// The place of one row among those on their way; given back when the attempt ends, however it ends.
struct Slot {
    mesh: Arc<Mesh>,
    sender: Option<PublicKey>,
    is_given_back: bool,
}

impl Slot {
    fn take(mesh: &Arc<Mesh>, sender: Option<PublicKey>) -> Self {
        mesh.in_flight.add(sender);
        Self { mesh: Arc::clone(mesh), sender, is_given_back: false }
    }

    /// Lets the worker look for the next row.
    fn give_back(&mut self) {
        if !std::mem::replace(&mut self.is_given_back, true) {
            self.mesh.in_flight.remove(self.sender);
        }
        self.mesh.wake.notify_one();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Runs until the mesh stops draining.
pub(super) async fn run(mesh: Arc<Mesh>) {
    let mut flush = Flush::default();
    let mut net_at = Instant::now();
    let mut is_net_due = true;
    while !mesh.stop_draining.is_cancelled() {
        let pause = match step(&mesh, &mut flush, is_net_due).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(mesh = %mesh.slug, error = %Causes(&error), "outbox_unavailable");
                Some(STORAGE_PAUSE)
            }
        };
        if is_net_due {
            net_at = clock::next_tick(DUE_QUERY_INTERVAL);
        }
        let deadline = pause.map_or(net_at, |pause| net_at.min(Instant::now() + pause));
        is_net_due = tokio::select! {
            biased;
            () = mesh.stop_draining.cancelled() => return,
            () = tokio::time::sleep_until(net_at) => true,
            () = mesh.wake.notified() => false,
            () = tokio::time::sleep_until(deadline) => false,
        };
    }
}

/// Claims and starts what can be sent; answers how long to wait for the next deadline.
async fn step(
    mesh: &Arc<Mesh>,
    flush: &mut Flush,
    is_net_due: bool,
) -> Result<Option<Duration>, StorageError> {
    let outbox = &mesh.context.outbox;
    if is_net_due {
        mesh.expire_rows().await?;
        flush.tend(mesh).await?;
    }
    let senders = mesh.open_senders();
    let rows = outbox.claim_due(&mesh.slug, &senders, clock::now()).await?;
    if rows.is_empty() {
        let Some(due) = outbox.next_due(&mesh.slug, &senders).await? else { return Ok(None) };
        let wait = due.since(clock::now());
        if wait.is_zero() {
            // The head of a line has just come due, or its time is over and the rows behind it may go.
            mesh.expire_rows().await?;
        }
        return Ok(Some(wait.max(LEAST_PAUSE)));
    }
    for row in rows {
        let slot = Slot::take(mesh, row.sender_session_pubkey);
        let mesh = Arc::clone(mesh);
        mesh.tasks.clone().spawn(async move { attempt(mesh, row, slot).await });
    }
    Ok(Some(LOOK_AGAIN))
}

/// One attempt, whose panic costs only an attempt of its row.
async fn attempt(mesh: Arc<Mesh>, row: OutboundRow, slot: Slot) {
    let row = match rekeyed(&mesh, row).await {
        Ok(row) => row,
        Err((row, outcome)) => return settle(&mesh, row, Attempt::failed(outcome), slot).await,
    };
    let id = row.id.clone();
    let sent = AssertUnwindSafe(send(&mesh, &row)).catch_unwind().await;
    let outcome = sent.unwrap_or_else(|_panic| {
        tracing::error!(mesh = %mesh.slug, id = %id, "send_attempt_panicked");
        Attempt::failed(Outcome::Retry(
            Reason::new("internal", "the attempt failed unexpectedly"),
            None,
        ))
    });
    settle(&mesh, row, outcome, slot).await;
}

/// An attempt that has ended.
struct Attempt {
    outcome: Outcome,
    ack: Ack,
    left_out: Vec<MemberId>,
    /// The connection it was made on, and how often that had opened by then.
    on: Option<(Connection, u64)>,
}

impl Attempt {
    fn failed(outcome: Outcome) -> Self {
        Self { outcome, ack: Ack::default(), left_out: Vec::new(), on: None }
    }

    /// True when the socket broke under it and the next one is open already.
    fn is_overtaken(&self) -> bool {
        self.on.as_ref().is_some_and(|(connection, opens)| {
            connection.is_open() && connection.counters().opens > *opens
        })
    }
}

async fn send(mesh: &Arc<Mesh>, row: &OutboundRow) -> Attempt {
    crash_point("drain.after_inflight_before_write");
    let Some((connection, keys)) = mesh.sender_of(row) else {
        return Attempt::failed(Outcome::Release);
    };
    let (wrapped_keys, left_out) = if row.body.content_key.is_some() {
        match wraps(mesh, row, keys).await {
            Ok((wrapped_keys, left_out)) => (Some(wrapped_keys), left_out),
            Err(error) => return Attempt::failed(of_error(&error)),
        }
    } else {
        (None, Vec::new())
    };
    let keys_bytes: usize = wrapped_keys.iter().flatten().map(|wrapped| wrapped.key.len()).sum();
    let frame_bytes = row.body.ciphertext.len() + keys_bytes;
    let frame = frame_of(row, wrapped_keys, mesh.negotiated().max_age);
    let opens = connection.counters().opens;
    let answer = connection
        .send_message_then(frame, SEND_ACK_TIMEOUT, || crash_point("drain.after_write_before_ack"))
        .await;
    match answer {
        Ok(ack) => Attempt { outcome: of_ack(&ack, facts_of(row)), ack, left_out, on: None },
        Err(RequestError::Disconnected) if is_too_big(&connection, frame_bytes) => {
            let reason = Reason::new(
                "payload_too_large",
                "the broker closed the connection over this frame",
            );
            Attempt::failed(Outcome::Dead(reason))
        }
        Err(error @ RequestError::Disconnected) => {
            Attempt { on: Some((connection, opens)), ..Attempt::failed(of_error(&error)) }
        }
        Err(error) => Attempt::failed(of_error(&error)),
    }
}

/// The frame of a row.
pub(super) fn frame_of(
    row: &OutboundRow,
    wrapped_keys: Option<Vec<WrappedKey>>,
    max_age: Duration,
) -> Send {
    Send {
        target_spec: row.target_spec.to_string(),
        priority: Some(row.priority.as_str().to_owned()),
        nonce: row.body.nonce.as_str().into(),
        ciphertext: row.body.ciphertext.as_str().into(),
        id: Some(row.client_message_id.clone()),
        client_message_id: Some(row.client_message_id.clone()),
        request_fingerprint: Some(row.fingerprint.to_hex()),
        mentions: (!row.mentions.is_empty()).then(|| row.mentions.clone()),
        reply_to_id: row.reply_to_id.clone(),
        body_version: u8::try_from(row.body.body_version).ok(),
        wrapped_keys,
        key_epoch: row.body.key_epoch,
        expires_at: asked_expiry(row, max_age),
        hops: Some(row.hops),
    }
}

/// What the decision about an answer needs to know of a row.
pub(super) fn facts_of(row: &OutboundRow) -> RowFacts {
    RowFacts {
        attempts: row.attempts,
        body_version: u8::try_from(row.body.body_version).unwrap_or(u8::MAX),
        is_group: matches!(row.target_spec, TargetSpec::Everyone | TargetSpec::Group(_)),
    }
}

/// Content keys for the audience of this moment.
async fn wraps(
    mesh: &Arc<Mesh>,
    row: &OutboundRow,
    keys: Arc<KeyPair>,
) -> Result<(Vec<WrappedKey>, Vec<MemberId>), RequestError> {
    // Whoever joined before the message was accepted gets a key.
    let view = mesh.roster.view();
    let is_newer = view.asked_at.is_some_and(|asked_at| asked_at > row.enqueued_at);
    if !is_newer || mesh.roster.age().is_none_or(|age| age > AUDIENCE_MAX_AGE) {
        let fetched = tokio::time::timeout(AUDIENCE_WAIT, mesh.refresh.now()).await;
        if mesh.roster.age().is_none() {
            return Err(match fetched {
                Ok(Err(error)) => error,
                _ => RequestError::Timeout,
            });
        }
    }
    let audience = audience(&row.target_spec, &mesh.roster.view(), mesh.member.public);
    let content_key = row.body.content_key.clone().unwrap_or_default();
    if audience.members.len() <= WRAPS_INLINE {
        let wrapped = wrap_keys(&content_key, &keys, &audience.members, &mesh.shared_keys);
        return Ok((wrapped, audience.left_out));
    }
    let (mesh, members) = (Arc::clone(mesh), audience.members);
    let wrapping =
        blocking::run(move || wrap_keys(&content_key, &keys, &members, &mesh.shared_keys));
    let wrapped = wrapping.await.ok_or(RequestError::Encode)?;
    Ok((wrapped, audience.left_out))
}

/// The expiry the sender asked for; an outbox row's own age limit is no expiry of the message.
fn asked_expiry(row: &OutboundRow, max_age: Duration) -> Option<i64> {
    let least_age = max_age.min(Duration::from_secs(OUTBOX_MAX_AGE_DEFAULT_HOURS * 3600));
    let life = row.expires_at.since(row.enqueued_at);
    (life < least_age).then(|| row.expires_at.as_millis())
}

fn is_too_big(connection: &Connection, frame_bytes: usize) -> bool {
    let last_close = connection.state().last_close;
    frame_bytes > LEGACY_FRAME_MAX_BYTES && last_close.is_some_and(|close| close.code == TOO_BIG)
}

/// Writes the outcome down, again and again until the disk takes it: the row would stay in flight for ever otherwise.
///
/// The worker is woken as soon as the outcome is in the writer's queue: its next claim runs behind it in the same
/// transaction, so a line of messages costs one commit for each, not two.
async fn settle(mesh: &Arc<Mesh>, row: OutboundRow, attempt: Attempt, mut slot: Slot) {
    if matches!(attempt.outcome, Outcome::Done | Outcome::Duplicate { .. }) {
        crash_point("drain.after_ack_before_done");
    }
    loop {
        let mut writing = std::pin::pin!(write_outcome(mesh, &row, &attempt));
        let written = match futures_util::poll!(&mut writing) {
            std::task::Poll::Ready(written) => written,
            std::task::Poll::Pending => {
                slot.give_back();
                writing.await
            }
        };
        match written {
            Ok(()) => return slot.give_back(),
            Err(error) => {
                let error = Causes(&error);
                tracing::warn!(mesh = %mesh.slug, id = %row.id, %error, "outbox_outcome_not_written");
            }
        }
        tokio::select! {
            biased;
            // After the next start the row is sent again, and the broker knows its id.
            () = mesh.stop.cancelled() => return,
            () = tokio::time::sleep(STORAGE_PAUSE) => {}
        }
    }
}

async fn write_outcome(
    mesh: &Arc<Mesh>,
    row: &OutboundRow,
    attempt: &Attempt,
) -> Result<(), StorageError> {
    let outbox = &mesh.context.outbox;
    match &attempt.outcome {
        Outcome::Done | Outcome::Duplicate { .. } => {
            if attempt.outcome == (Outcome::Duplicate { is_history_gone: true }) {
                tracing::warn!(mesh = %mesh.slug, id = %row.id, "dedupe_history_pruned");
            }
            if let Outcome::Duplicate { is_history_gone } = attempt.outcome {
                mesh.context.figures.known_to_broker(&mesh.slug, is_history_gone);
            }
            let done = Done {
                broker_message_id: Some(attempt.ack.message_id.clone()).filter(|id| !id.is_empty()),
                history_id: attempt.ack.history_id.clone(),
                transport: "broker",
                answer: answer_of(&attempt.ack, &attempt.left_out),
            };
            outbox.done(&row.id, done, clock::now()).await?;
            mesh.count_out(row.sender_session_pubkey);
            mesh.announce(EventKind::MessageSent, sent_event(row, attempt));
            if let Some(parent) = &row.reply_to_id {
                mesh.reply_accepted(parent).await;
            }
        }
        Outcome::Dead(reason) => {
            if let Some(theirs) = &attempt.ack.broker_fingerprint_prefix {
                // Somebody used our id for another message; that must not go unnoticed.
                let ours = row.fingerprint.prefix();
                tracing::error!(
                    mesh = %mesh.slug, id = %row.id, client_message_id = %row.client_message_id,
                    daemon_fingerprint_prefix = %ours, broker_fingerprint_prefix = %theirs,
                    "idempotency_conflict"
                );
            }
            mesh.announce_dead(outbox.dead(&row.id, &reason.code, &reason.text).await?);
        }
        Outcome::Retry(reason, after) => {
            let wait = match after {
                // A new connection is no reason to wait, and has waited itself.
                None if attempt.is_overtaken() => Duration::ZERO,
                _ => retry_wait(row.attempts, *after, &mut clock::jitter()),
            };
            tracing::debug!(mesh = %mesh.slug, id = %row.id, code = %reason.code, "send_retry");
            let at = clock::now().plus(wait);
            outbox.retry(&row.id, at, &reason.code, &reason.text).await?;
        }
        Outcome::Release => outbox.release(std::slice::from_ref(&row.id)).await?,
        Outcome::Reseal(reason) => match resealed(&mesh.roster.view(), mesh.member.public, row) {
            Ok(body) => outbox.reseal(&row.id, body, &reason.code, clock::now()).await?,
            Err(text) => mesh.announce_dead(outbox.dead(&row.id, &reason.code, &text).await?),
        },
    }
    if let Some(word) = attempt.outcome.word() {
        mesh.context.figures.sent(&mesh.slug, &row.target_spec, "broker", word);
    }
    Ok(())
}

/// The encrypted form of a row whose plaintext form the broker refused.
pub(super) fn resealed(
    view: &RosterView,
    own_member: PublicKey,
    row: &OutboundRow,
) -> Result<SealedBody, String> {
    let text = std::str::from_utf8(&row.payload).map_err(|error| error.to_string())?;
    let meta: Option<Meta> = row.meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok());
    let draft = Draft { target: &row.target_spec, text, meta: meta.as_ref(), hops: row.hops };
    let sealed = reseal_group(&draft, view, own_member).map_err(|error| error.message)?;
    Ok(sealed.into())
}

/// What the broker said beside its ids, and whom we left out ourselves.
pub(super) fn answer_of(ack: &Ack, left_out: &[MemberId]) -> BrokerAnswer {
    BrokerAnswer {
        recipient_online: ack.recipient_online,
        rerouted_to: ack.rerouted_to,
        recipients: ack.recipients,
        held: ack.held.filter(|count| *count > 0),
        skipped_no_key: ack.skipped_no_key.filter(|count| *count > 0),
        unreadable_by: ack.unreadable_by.clone().unwrap_or_default(),
        left_out: left_out.to_vec(),
        duplicate: ack.duplicate == Some(true),
    }
}

fn sent_event(row: &OutboundRow, attempt: &Attempt) -> Map<String, Value> {
    let mut data = object(json!({
        "id": row.id,
        "client_message_id": row.client_message_id,
        "broker_message_id": attempt.ack.message_id,
        "target": row.target_spec,
        "transport": "broker",
    }));
    let answer = answer_of(&attempt.ack, &attempt.left_out);
    data.extend(object(serde_json::to_value(answer).unwrap_or_default()));
    data
}

impl Mesh {
    /// Gives up what has waited too long.
    async fn expire_rows(&self) -> Result<(), StorageError> {
        let rows = self.context.outbox.expire(&self.slug, clock::now()).await?;
        self.context.figures.gave_up_for_age(&self.slug, rows.len());
        self.announce_dead(rows);
        Ok(())
    }

    /// The connection of this sender has opened: its rows that failed with the last one go out now.
    pub(super) fn hurry(self: &Arc<Self>, sender: Option<PublicKey>) {
        let mesh = Arc::clone(self);
        self.tasks.spawn(async move {
            let outbox = &mesh.context.outbox;
            if let Err(error) = outbox.reconnected(&mesh.slug, sender, clock::now()).await {
                // They keep their own times.
                tracing::warn!(mesh = %mesh.slug, error = %Causes(&error), "outbox_unavailable");
            }
        });
    }

    /// The identities whose connection is open, and how many rows each may still take.
    fn open_senders(&self) -> Vec<ClaimFrom> {
        let mut senders: Vec<Option<PublicKey>> = Vec::new();
        if self.is_open() {
            senders.push(None);
        }
        let sessions = self.sessions.lock();
        for (key, link) in sessions.iter() {
            if link.connection.lock().as_ref().is_some_and(Connection::is_open) {
                senders.push(Some(*key));
            }
        }
        drop(sessions);
        senders
            .into_iter()
            .map(|sender| ClaimFrom { sender, free: self.in_flight.free(sender) })
            .collect()
    }

    /// The connection a row must go out on, and the key it is sealed with. Never another identity's: the ciphertext
    /// binds the sender's key.
    fn sender_of(&self, row: &OutboundRow) -> Option<(Connection, Arc<KeyPair>)> {
        match row.sender_session_pubkey {
            None => Some((self.control()?, Arc::clone(self.voice()))),
            Some(key) => {
                let sessions = self.sessions.lock();
                let link = sessions.get(&key)?;
                let connection = link.connection.lock().clone()?;
                Some((connection, Arc::clone(&link.keys)))
            }
        }
    }
}

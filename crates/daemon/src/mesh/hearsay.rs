//! Receipts about our own messages, as others send them: checked, kept in the outbox row, told (daemon spec §10.7).
//! Nothing that cannot be believed is shown or stored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::EventKind;
use claudemesh_protocol::limits::{RECEIPT_EVIDENCE_MAX_CHARS, RECEIPT_PATH_MAX_CHARS};
use claudemesh_protocol::receipt::asserted_by;
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::wire::{Receipt, ReceiptState};
use claudemesh_protocol::{PublicKey, SignatureBytes, Timestamp, canonical};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::announce::object;
use super::{Mesh, receipt};
use crate::clock;
use crate::inbox::Answerer;
use crate::outbox::Recorded;
use crate::storage::Causes;

/// Receipts that wait to be stored; further ones are dropped, `message status` asks the broker.
const WAITING_MAX: usize = 4_096;
/// Receipts stored side by side, so that they share a commit.
const AT_ONCE: usize = 128;
/// How long the roster is waited for when a recipient is not in it.
const ROSTER_WAIT: Duration = Duration::from_secs(3);
/// Least time between two fetches for that: strangers must not make us fetch for ever.
const ROSTER_PAUSE: Duration = Duration::from_secs(5);

/// The receipts of one mesh on their way in.
#[derive(Default)]
pub(super) struct Hearsay {
    waiting: Mutex<VecDeque<Receipt>>,
    wake: Notify,
    /// When the roster was fetched last for a recipient that was not in it.
    asked_at: Mutex<Option<Instant>>,
}

impl Mesh {
    /// Takes a receipt from a connection; its reader does not wait for the database.
    pub(super) fn hear(&self, receipt: Receipt) {
        let mut waiting = self.hearsay.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            tracing::debug!(mesh = %self.slug, "receipt_dropped");
            return;
        }
        waiting.push_back(receipt);
        drop(waiting);
        self.hearsay.wake.notify_one();
    }

    async fn judge_receipt(&self, receipt: Receipt) -> Option<Receipt> {
        if self.is_of_own_device(&receipt) {
            self.answered_on_another_device(&receipt).await;
        }
        if !self.is_credible(&receipt).await {
            tracing::debug!(mesh = %self.slug, state = receipt.state.as_str(), "receipt_not_credible");
            return None;
        }
        let (receipt, former) = self.about_present_key(receipt);
        match self.context.outbox.record_receipt(&self.slug, &receipt, former).await {
            Ok(Recorded::Newer) => Some(receipt),
            Ok(Recorded::NotNewer | Recorded::NoSuchRow) => None,
            Err(error) => {
                tracing::warn!(mesh = %self.slug, error = %Causes(&error), "receipt_not_stored");
                None
            }
        }
    }

    /// Believes a receipt by the roster as it stands, or by a fresh one: whoever has just changed its key is not in the old
    /// one.
    async fn is_credible(&self, receipt: &Receipt) -> bool {
        let is_credible = || receipt::is_credible(receipt, &self.id, &self.roster.view());
        if is_credible() || self.roster.view().knows(receipt.recipient) {
            return is_credible();
        }
        let may_ask = {
            let mut asked_at = self.hearsay.asked_at.lock();
            let may_ask = asked_at.is_none_or(|at| at.elapsed() >= ROSTER_PAUSE);
            if may_ask {
                *asked_at = Some(Instant::now());
            }
            may_ask
        };
        let fetched = async {
            if may_ask {
                self.refresh.now().await
            } else {
                // One that was asked for already may bring this recipient, too: several receipts of a new session come at
                // once.
                self.refresh.under_way().await
            }
        };
        matches!(tokio::time::timeout(ROSTER_WAIT, fetched).await, Ok(Ok(()))) && is_credible()
    }

    /// A receipt about a member that changed its key is kept under the present one, whichever it names, with what was said
    /// under the keys before.
    fn about_present_key(&self, receipt: Receipt) -> (Receipt, Vec<PublicKey>) {
        let at = Timestamp::from_millis(receipt.at);
        match self.roster.view().succession(receipt.recipient, at) {
            Some((present, former)) => (Receipt { recipient: present, ..receipt }, former),
            None => (receipt, Vec::new()),
        }
    }

    /// Another device of our member speaks about a message that we have, too (wire spec §4.3).
    fn is_of_own_device(&self, receipt: &Receipt) -> bool {
        let own = self.member.public;
        let signature = receipt.signature.as_deref().map(str::parse::<SignatureBytes>);
        let Some(Ok(signature)) = signature else { return false };
        if receipt.recipient != own {
            return false;
        }
        let at = Timestamp::from_millis(receipt.at);
        let (id, state) = (&receipt.broker_message_id, receipt.state.as_str());
        let text = canonical::receipt(&self.id, id, own, state, at);
        claudemesh_crypto::statement::verify(text, own, &signature).is_ok()
    }

    async fn answered_on_another_device(&self, receipt: &Receipt) {
        if receipt.state != ReceiptState::Answered {
            return;
        }
        let name = receipt.evidence.as_deref();
        let name = name.map(|name| sanitized_line(name, RECEIPT_EVIDENCE_MAX_CHARS));
        let id = receipt.broker_message_id.as_str();
        let by = Answerer::OtherDevice(name);
        if let Err(error) = self.context.inbox.settle(&self.slug, id, by, clock::now()).await {
            tracing::warn!(mesh = %self.slug, error = %Causes(&error), "answer_not_recorded");
        }
    }

    fn announce_receipt(&self, receipt: &Receipt) {
        let by = match &receipt.signature {
            None => "broker",
            Some(_) => asserted_by(receipt.state),
        };
        let mut data = object(json!({
            "client_message_id": receipt.client_message_id,
            "broker_message_id": receipt.broker_message_id,
            "recipient": receipt.recipient,
            "state": receipt.state,
            "assertedBy": by,
            "at": Timestamp::from_millis(receipt.at).to_iso(),
        }));
        for (name, text, max_chars) in [
            ("path", &receipt.path, RECEIPT_PATH_MAX_CHARS),
            ("evidence", &receipt.evidence, RECEIPT_EVIDENCE_MAX_CHARS),
            ("reason", &receipt.reason, RECEIPT_PATH_MAX_CHARS),
        ] {
            if let Some(text) = text {
                data.insert(name.to_owned(), sanitized_line(text, max_chars).into());
            }
        }
        self.announce(EventKind::Receipt, data);
    }
}

/// Stores and tells receipts until the mesh stops.
pub(super) async fn run(mesh: Arc<Mesh>) {
    loop {
        tokio::select! {
            biased;
            () = mesh.stop.cancelled() => return,
            () = mesh.hearsay.wake.notified() => {}
        }
        loop {
            let batch: Vec<Receipt> = {
                let mut waiting = mesh.hearsay.waiting.lock();
                let count = waiting.len().min(AT_ONCE);
                waiting.drain(..count).collect()
            };
            if batch.is_empty() {
                break;
            }
            let judged = batch.into_iter().map(|receipt| mesh.judge_receipt(receipt));
            for receipt in futures_util::future::join_all(judged).await.into_iter().flatten() {
                mesh.announce_receipt(&receipt);
            }
        }
    }
}

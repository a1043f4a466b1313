//! How far the messages of this outbox came, as their recipients say: the newest state of each, kept in the row (daemon
//! spec §10.7, §11.1).

use std::collections::BTreeMap;

use claudemesh_ipc::api::RecipientProgress;
use claudemesh_protocol::limits::{RECEIPT_EVIDENCE_MAX_CHARS, RECEIPT_PATH_MAX_CHARS};
use claudemesh_protocol::receipt::{self, Progress};
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::wire::Receipt;
use claudemesh_protocol::{PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::Outbox;
use crate::storage::{Columns as _, StorageError, decode_error};

/// What [`Outbox::record_receipt`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The message came further than was known; the row says so now.
    Newer,
    /// The row knows as much or more.
    NotNewer,
    /// No row of ours is about that message.
    NoSuchRow,
}

/// The newest state of each recipient, by its key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Receipts(BTreeMap<PublicKey, Entry>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The broker's id the receipt names; checked against the row's own once that is known.
    message: String,
    #[serde(flatten)]
    progress: Progress,
    /// Unix milliseconds of the state that is shown.
    at: i64,
    asserted_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Entry {
    /// A later word that gives another reason; a side state may come back, so an older one is told by its time.
    fn waits_otherwise(&self, receipt: &Receipt) -> bool {
        let line = |text: &String| sanitized_line(text, RECEIPT_EVIDENCE_MAX_CHARS);
        receipt.at >= self.at && receipt.reason.as_ref().map(line) != self.reason
    }
}

impl Outbox {
    /// Keeps what a receipt says when it says more than the row knows; states move forward only (wire spec §3.1), also
    /// over a power failure: what was shown once nobody says again, so it is on disk before it is shown. The caller has
    /// checked that the receipt can be believed. What was said about `former`, keys that its recipient had before, is about
    /// the recipient from then on.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn record_receipt(
        &self,
        mesh: &str,
        receipt: &Receipt,
        former: Vec<PublicKey>,
    ) -> Result<Recorded, StorageError> {
        let (mesh, receipt) = (mesh.to_owned(), receipt.clone());
        self.write(move |conn| Box::pin(record(conn, mesh, receipt, former))).await
    }
}

async fn record(
    conn: &mut SqliteConnection,
    mesh: String,
    receipt: Receipt,
    former: Vec<PublicKey>,
) -> Result<Recorded, StorageError> {
    // A receipt may overtake the ack; its row has no broker id yet, and is found by the id that we gave it.
    let sql = "SELECT seq, receipts FROM outbox WHERE mesh=$1 AND broker_message_id=$2 \
               UNION ALL SELECT seq, receipts FROM outbox WHERE mesh=$1 AND client_message_id=$3 \
               AND broker_message_id IS NULL LIMIT 1";
    let found = sqlx::query(sql)
        .bind(&mesh)
        .bind(receipt.broker_message_id.as_str())
        .bind(&receipt.client_message_id)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = found else { return Ok(Recorded::NoSuchRow) };
    let mut receipts = Receipts::of_row(&row)?;
    receipts.inherit(receipt.recipient, &former);
    if !receipts.take(receipt) {
        return Ok(Recorded::NotNewer);
    }
    receipts.write(conn, row.column("seq")?).await?;
    Ok(Recorded::Newer)
}

/// Forgets what was said about other messages than `broker_message_id` before the row had that id: the broker's id is
/// what a recipient signs, ours it may only have guessed.
pub(super) async fn settle(
    conn: &mut SqliteConnection,
    id: &str,
    broker_message_id: Option<&str>,
) -> Result<(), StorageError> {
    let sql = "SELECT seq, receipts FROM outbox WHERE id=$1 AND receipts IS NOT NULL";
    let Some(row) = sqlx::query(sql).bind(id).fetch_optional(&mut *conn).await? else {
        return Ok(());
    };
    let mut receipts = Receipts::of_row(&row)?;
    let before = receipts.0.len();
    receipts.0.retain(|_, entry| Some(entry.message.as_str()) == broker_message_id);
    if receipts.0.len() != before {
        receipts.write(conn, row.column("seq")?).await?;
    }
    Ok(())
}

impl Receipts {
    pub(super) fn of_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let Some(json) = row.column::<Option<&str>>("receipts")? else {
            return Ok(Self::default());
        };
        serde_json::from_str(json).map_err(|error| decode_error("receipts", error))
    }

    /// What was said about a former key of a recipient is about the recipient.
    fn inherit(&mut self, present: PublicKey, former: &[PublicKey]) {
        for key in former {
            if let Some(entry) = self.0.remove(key) {
                self.0.entry(present).or_insert(entry);
            }
        }
    }

    /// True when the receipt says more than is known.
    fn take(&mut self, receipt: Receipt) -> bool {
        let message = receipt.broker_message_id.as_str().to_owned();
        let known = self.0.get(&receipt.recipient).filter(|entry| entry.message == message);
        let before = known.map(|entry| entry.progress).unwrap_or_default();
        let progress = match before.after(receipt.state) {
            Some(progress) => progress,
            // `accepted` is where everything begins, but it is news while nothing is known.
            None if known.is_none() && before.shown() == receipt.state => before,
            // It still waits, for something else.
            None if before.side == Some(receipt.state)
                && !before.is_final()
                && known.is_some_and(|entry| entry.waits_otherwise(&receipt)) =>
            {
                before
            }
            None => return false,
        };
        let asserted_by = match receipt.signature {
            None => "broker",
            Some(_) => receipt::asserted_by(receipt.state),
        };
        let cut = |text: Option<String>, chars| text.map(|text| sanitized_line(&text, chars));
        let entry = Entry {
            message,
            progress,
            at: receipt.at,
            asserted_by: asserted_by.to_owned(),
            path: cut(receipt.path, RECEIPT_PATH_MAX_CHARS),
            evidence: cut(receipt.evidence, RECEIPT_EVIDENCE_MAX_CHARS),
            reason: cut(receipt.reason, RECEIPT_EVIDENCE_MAX_CHARS),
        };
        self.0.insert(receipt.recipient, entry);
        true
    }

    async fn write(&self, conn: &mut SqliteConnection, seq: i64) -> Result<(), StorageError> {
        let json =
            serde_json::to_string(self).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        sqlx::query("UPDATE outbox SET receipts=$2 WHERE seq=$1")
            .bind(seq)
            .bind(json)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// As the local API shows them.
    pub(super) fn into_view(self) -> Vec<RecipientProgress> {
        let shown = self.0.into_iter().map(|(recipient, entry)| RecipientProgress {
            recipient,
            state: entry.progress.shown(),
            at: Timestamp::from_millis(entry.at).to_iso(),
            asserted_by: entry.asserted_by,
            path: entry.path,
            evidence: entry.evidence,
            reason: entry.reason,
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::MessageId;
    use claudemesh_protocol::wire::ReceiptState;

    use super::*;

    fn said(state: ReceiptState, recipient: u8, at: i64) -> Receipt {
        Receipt {
            broker_message_id: MessageId::new("Q"),
            client_message_id: "c".to_owned(),
            recipient: PublicKey::from_bytes([recipient; 32]),
            state,
            path: None,
            evidence: None,
            reason: Some("bu\u{1b}sy".to_owned()),
            at,
            signature: Some(String::new()),
            asserted_by: None,
        }
    }

    /// Daemon spec §10.7: the newest state of each recipient, forward only by rank.
    #[test]
    fn receipts_move_forward_only_for_each_recipient() {
        use ReceiptState as S;
        let mut receipts = Receipts::default();
        assert!(receipts.take(said(S::Accepted, 1, 1)), "the first word about a recipient");
        for (state, recipient, is_news) in [
            (S::Accepted, 1, false),
            (S::Held, 1, true),
            (S::Held, 1, false),
            (S::OnDevice, 1, true),
            (S::OnDevice, 2, true),
            (S::InContext, 1, true),
            (S::Handed, 1, false),
            (S::Held, 1, false),
            (S::Refused, 2, true),
            (S::Answered, 2, false),
        ] {
            assert_eq!(receipts.take(said(state, recipient, 7)), is_news, "{state:?} {recipient}");
        }
        let view = receipts.into_view();
        let shown: Vec<_> = view.iter().map(|row| (row.state, row.asserted_by.as_str())).collect();
        assert_eq!(shown, [(S::InContext, "agent_record"), (S::Refused, "recipient_daemon")]);
        assert_eq!(view[0].at, "1970-01-01T00:00:00.007Z");
        assert!(!view[0].reason.as_deref().unwrap().contains('\u{1b}'));
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let mut receipts = Receipts::default();
        receipts.take(said(ReceiptState::Held, 1, 1));
        let json = serde_json::to_string(&receipts).unwrap();
        assert_eq!(serde_json::from_str::<Receipts>(&json).unwrap(), receipts);
    }
}

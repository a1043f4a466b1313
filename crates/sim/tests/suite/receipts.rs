//! What a sender was shown of a receipt outlives a power failure of its machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claudemesh_crypto::fingerprint::{Request, of_request};
use claudemesh_daemon::clock::now;
use claudemesh_daemon::outbox::{NewRow, Outbox, Recorded, SealedBody};
use claudemesh_protocol::canonical::DestinationKind;
use claudemesh_protocol::wire::{Receipt, ReceiptState};
use claudemesh_protocol::{MessageId, Priority, PublicKey, TargetSpec};
use claudemesh_sqlite::Durability;
use claudemesh_sqlite::simulation::{Disk, install};
use futures_util::future::BoxFuture;
use tempfile::TempDir;

const MESH: &str = "dev";
const ID: &str = "letter";
const RECIPIENT: PublicKey = PublicKey::from_bytes([1; 32]);

/// Remembers how much of one database's log a power failure leaves.
struct Synced {
    file: PathBuf,
    length: AtomicU64,
}

impl Disk for Synced {
    fn before_commit<'d>(&'d self, _: &'d Path, _: Durability) -> BoxFuture<'d, ()> {
        Box::pin(async {})
    }

    fn is_full(&self, _: &Path) -> bool {
        false
    }

    fn committed(&self, file: &Path, durability: Durability) {
        if durability == Durability::Full && file == self.file {
            let log = fs::metadata(log_of(file)).map_or(0, |log| log.len());
            self.length.store(log, Ordering::Relaxed);
        }
    }

    fn before_answer<'d>(&'d self, _: &'d Path) -> BoxFuture<'d, ()> {
        Box::pin(async {})
    }

    fn before_read<'d>(&'d self, _: &'d Path) -> BoxFuture<'d, ()> {
        Box::pin(async {})
    }

    fn closed(&self, _: &Path) {}
}

fn log_of(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push("-wal");
    name.into()
}

fn row() -> NewRow {
    let request = Request {
        destination_kind: DestinationKind::Dm,
        destination_ref: &RECIPIENT.to_hex(),
        reply_to_id: None,
        priority: Priority::Next,
        meta: None,
        body: ID,
    };
    NewRow {
        client_message_id: ID.to_owned(),
        fingerprint: of_request(&request).unwrap(),
        mesh: MESH.to_owned(),
        to_raw: RECIPIENT.to_hex(),
        destination_kind: DestinationKind::Dm,
        target_spec: TargetSpec::Key(RECIPIENT),
        channel: "dm",
        priority: Priority::Next,
        payload: ID.as_bytes().to_vec().into(),
        meta: None,
        reply_to_id: None,
        mentions: Vec::new(),
        body: SealedBody {
            nonce: "n".to_owned(),
            ciphertext: "c".to_owned(),
            body_version: 1,
            content_key: None,
            key_epoch: None,
            sealed_by: None,
        },
        sender_session_pubkey: None,
        hops: 0,
        enqueued_at: now(),
        expires_at: now().plus(Duration::from_hours(1)),
    }
}

fn said(state: ReceiptState) -> Receipt {
    Receipt {
        broker_message_id: MessageId::new("Q"),
        client_message_id: ID.to_owned(),
        recipient: RECIPIENT,
        state,
        path: None,
        evidence: None,
        reason: None,
        at: 1_000,
        signature: Some("checked before".to_owned()),
        asserted_by: None,
    }
}

/// Daemon §10.7, wire §3.1: forward only. Nobody repeats to a sender what it knew once.
#[tokio::test]
async fn a_receipt_that_was_shown_outlives_a_power_failure() {
    let dir = TempDir::new().unwrap();
    let (file, left) = (dir.path().join("outbox.db"), dir.path().join("left.db"));
    let synced = Arc::new(Synced { file: file.clone(), length: AtomicU64::default() });
    let disk: Arc<dyn Disk> = synced.clone();
    let _disk = install(disk);
    let outbox = Outbox::open(&file, None, now()).await.unwrap();
    outbox.accept(row()).await.unwrap();
    for state in [ReceiptState::OnDevice, ReceiptState::Handed] {
        assert_eq!(
            outbox.record_receipt(MESH, &said(state), Vec::new()).await.unwrap(),
            Recorded::Newer
        );
        fs::copy(&file, &left).unwrap();
        fs::copy(log_of(&file), log_of(&left)).unwrap();
        let log = fs::OpenOptions::new().write(true).open(log_of(&left)).unwrap();
        log.set_len(synced.length.load(Ordering::Relaxed)).unwrap();
        let after = Outbox::open(&left, None, now()).await.unwrap();
        assert_eq!(after.by_id(ID).await.unwrap()[0].receipts[0].state, state);
        after.close().await;
        fs::remove_file(&left).unwrap();
    }
    outbox.close().await;
}

//! The queue by itself: which row is next, and when.

use std::time::Duration;

use claudemesh_crypto::fingerprint::{Request, of_request};
use claudemesh_daemon::clock::now;
use claudemesh_daemon::outbox::operator::COMPACT_AFTER;
use claudemesh_daemon::outbox::{
    Accepted, ClaimFrom, Done, MIGRATIONS, NewRow, OutboundRow, Outbox, Recorded, SealedBody,
};
use claudemesh_ipc::api::RowStatus;
use claudemesh_protocol::canonical::DestinationKind;
use claudemesh_protocol::wire::{Receipt, ReceiptState};
use claudemesh_protocol::{MessageId, Priority, PublicKey, TargetSpec, Timestamp};
use claudemesh_sqlite::{Database, Options};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;

const MESH: &str = "dev";
const MEMBER: ClaimFrom = ClaimFrom { sender: None, free: 8 };

fn row(id: &str, target: u8, at: Timestamp) -> NewRow {
    let target = PublicKey::from_bytes([target; 32]);
    let request = Request {
        destination_kind: DestinationKind::Dm,
        destination_ref: &target.to_hex(),
        reply_to_id: None,
        priority: Priority::Next,
        meta: None,
        body: id,
    };
    NewRow {
        client_message_id: id.to_owned(),
        fingerprint: of_request(&request).unwrap(),
        mesh: MESH.to_owned(),
        to_raw: target.to_hex(),
        destination_kind: DestinationKind::Dm,
        target_spec: TargetSpec::Key(target),
        channel: "dm",
        priority: Priority::Next,
        payload: id.as_bytes().to_vec().into(),
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
        enqueued_at: at,
        expires_at: at.plus(Duration::from_hours(1)),
    }
}

/// A clock that was set back by an hour must not delay by an hour what was to be tried again in a moment.
#[tokio::test]
async fn a_clock_set_back_delays_nothing() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let outbox = Outbox::open(&dir.path().join("outbox.db"), None, start).await.unwrap();
    outbox.accept(row("one", 1, start)).await.unwrap();
    let set_back = start.minus(Duration::from_hours(1));
    let claimed = outbox.claim_due(MESH, &[MEMBER], set_back).await.unwrap();
    assert_eq!(claimed.len(), 1);
}

/// Daemon §11.3: a row behind one that backs off waits for that one.
#[tokio::test]
async fn the_next_time_is_that_of_the_heads_of_lines() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let outbox = Outbox::open(&dir.path().join("outbox.db"), None, start).await.unwrap();
    assert_eq!(outbox.next_due(MESH, &[MEMBER]).await.unwrap(), None);
    for (id, target) in [("first", 1), ("behind", 1), ("other", 2)] {
        outbox.accept(row(id, target, start)).await.unwrap();
    }
    assert_eq!(outbox.next_due(MESH, &[MEMBER]).await.unwrap(), Some(start));
    let claimed = outbox.claim_due(MESH, &[MEMBER], start).await.unwrap();
    let ids: Vec<_> = claimed.iter().map(|row| row.client_message_id.as_str()).collect();
    assert_eq!(ids, ["first", "other"]);
    assert_eq!(outbox.next_due(MESH, &[MEMBER]).await.unwrap(), None, "both heads are on the way");
    let (soon, later) = (start.plus(Duration::from_secs(2)), start.plus(Duration::from_secs(9)));
    outbox.retry(&claimed[0].id, later, "unavailable", "busy").await.unwrap();
    assert_eq!(outbox.next_due(MESH, &[MEMBER]).await.unwrap(), Some(later));
    outbox.retry(&claimed[1].id, soon, "unavailable", "busy").await.unwrap();
    assert_eq!(outbox.next_due(MESH, &[MEMBER]).await.unwrap(), Some(soon));
    let full = ClaimFrom { free: 0, ..MEMBER };
    let session = ClaimFrom { sender: Some(PublicKey::from_bytes([9; 32])), free: 8 };
    assert_eq!(outbox.next_due(MESH, &[full, session]).await.unwrap(), None, "nobody carries them");
    outbox.close().await;
}

/// Daemon §11.3, §11.4: what failed with the last connection goes out on the next one; what the broker refused for now,
/// and other senders' rows, keep their time.
#[tokio::test]
async fn a_new_connection_ends_the_wait_of_what_the_last_one_lost() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let outbox = Outbox::open(&dir.path().join("outbox.db"), None, start).await.unwrap();
    let session = PublicKey::from_bytes([9; 32]);
    let failures = ["broker_disconnected", "ack_timeout", "rate_limited", "unavailable"];
    for (target, id) in (1..).zip(failures) {
        outbox.accept(row(id, target, start)).await.unwrap();
    }
    let of_session = NewRow { sender_session_pubkey: Some(session), ..row("session", 1, start) };
    outbox.accept(of_session).await.unwrap();
    let later = start.plus(Duration::from_secs(30));
    let senders = [MEMBER, ClaimFrom { sender: Some(session), free: 8 }];
    for row in outbox.claim_due(MESH, &senders, start).await.unwrap() {
        let code = row.client_message_id.replace("session", "broker_disconnected");
        outbox.retry(&row.id, later, &code, "failed").await.unwrap();
    }
    outbox.reconnected(MESH, None, start).await.unwrap();
    let due = |rows: Vec<OutboundRow>| -> Vec<String> {
        rows.into_iter().map(|row| row.client_message_id).collect()
    };
    let claimed = outbox.claim_due(MESH, &senders, start).await.unwrap();
    assert_eq!(due(claimed), ["broker_disconnected", "ack_timeout"]);
    outbox.reconnected(MESH, Some(session), start).await.unwrap();
    assert_eq!(due(outbox.claim_due(MESH, &senders, start).await.unwrap()), ["session"]);
    assert_eq!(due(outbox.claim_due(MESH, &senders, later).await.unwrap()), failures[2..]);
    outbox.close().await;
}

fn said(id: &str, message: &str, recipient: u8, state: ReceiptState) -> Receipt {
    Receipt {
        broker_message_id: MessageId::new(message),
        client_message_id: id.to_owned(),
        recipient: PublicKey::from_bytes([recipient; 32]),
        state,
        path: Some("hook".to_owned()),
        evidence: None,
        reason: None,
        at: 1_000,
        signature: Some("checked before".to_owned()),
        asserted_by: Some("whoever".to_owned()),
    }
}

/// Daemon §10.7: the newest state of each recipient is kept in the row, forward only; a receipt may overtake the ack,
/// and one that names another message's broker id does not count once the row has its own.
#[tokio::test]
async fn receipts_are_kept_with_their_row() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("outbox.db");
    let start = now();
    let outbox = Outbox::open(&path, None, start).await.unwrap();
    outbox.accept(row("a", 1, start)).await.unwrap();
    let claimed = outbox.claim_due(MESH, &[MEMBER], start).await.unwrap().remove(0);
    let record = async |outbox: &Outbox, receipt: Receipt| {
        outbox.record_receipt(MESH, &receipt, Vec::new()).await.unwrap()
    };
    assert_eq!(
        record(&outbox, said("b", "Q", 1, ReceiptState::OnDevice)).await,
        Recorded::NoSuchRow
    );
    assert_eq!(record(&outbox, said("a", "Q", 1, ReceiptState::OnDevice)).await, Recorded::Newer);
    assert_eq!(
        record(&outbox, said("a", "other", 2, ReceiptState::OnDevice)).await,
        Recorded::Newer
    );
    let done = Done { broker_message_id: Some("Q".to_owned()), ..Done::default() };
    outbox.done(&claimed.id, done, start).await.unwrap();
    let shown = async |outbox: &Outbox| outbox.by_id("a").await.unwrap().remove(0).receipts;
    let kept = shown(&outbox).await;
    assert_eq!(kept.len(), 1, "what another message\'s receipt said is forgotten");
    assert_eq!(
        (kept[0].state, kept[0].asserted_by.as_str()),
        (ReceiptState::OnDevice, "recipient_daemon")
    );
    assert_eq!(record(&outbox, said("x", "Q", 1, ReceiptState::Handed)).await, Recorded::Newer);
    assert_eq!(
        record(&outbox, said("x", "Q", 1, ReceiptState::OnDevice)).await,
        Recorded::NotNewer
    );
    assert_eq!(
        record(&outbox, said("a", "other", 1, ReceiptState::Answered)).await,
        Recorded::NoSuchRow
    );
    outbox.close().await;
    let outbox = Outbox::open(&path, None, start).await.unwrap();
    let kept = shown(&outbox).await;
    assert_eq!((kept[0].state, kept[0].path.as_deref()), (ReceiptState::Handed, Some("hook")));
    outbox.close().await;
}

/// Daemon §11.7: rows that have been done for 30 days lose their text; their ids stay used.
#[tokio::test]
async fn old_rows_lose_their_text_and_keep_their_ids() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let outbox = Outbox::open(&dir.path().join("outbox.db"), None, start).await.unwrap();
    for (target, id) in [(1, "old"), (2, "young"), (3, "waits")] {
        outbox.accept(row(id, target, start)).await.unwrap();
    }
    let days = |days: u64| Duration::from_hours(24 * days);
    for claimed in outbox.claim_due(MESH, &[MEMBER], start).await.unwrap() {
        match claimed.client_message_id.as_str() {
            "old" => outbox.done(&claimed.id, Done::default(), start).await.unwrap(),
            "young" => {
                outbox.done(&claimed.id, Done::default(), start.plus(days(1))).await.unwrap();
            }
            _ => outbox.retry(&claimed.id, start, "unavailable", "x").await.unwrap(),
        }
    }
    let at = start.plus(days(30) + Duration::from_hours(1));
    let freed = outbox.compact(COMPACT_AFTER, at).await.unwrap();
    assert_eq!((freed.rows, freed.bytes), (1, 4), "three letters and a ciphertext of one");
    assert_eq!(outbox.compact(COMPACT_AFTER, at).await.unwrap().rows, 0);
    let bytes = async |id: &str| outbox.by_id(id).await.unwrap().remove(0).payload_bytes;
    assert_eq!((bytes("old").await, bytes("young").await, bytes("waits").await), (0, 5, 5));
    let again = outbox.accept(row("old", 1, at)).await.unwrap();
    assert!(matches!(again, Accepted::Existing(row) if row.status == RowStatus::Done));
    outbox.close().await;
}

/// Daemon §11.6: what was in flight at a crash is pending again, half a second later, one attempt more.
#[tokio::test]
async fn what_was_in_flight_at_a_crash_is_sent_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("outbox.db");
    let start = now();
    let outbox = Outbox::open(&path, None, start).await.unwrap();
    outbox.accept(row("a", 1, start)).await.unwrap();
    outbox.claim_due(MESH, &[MEMBER], start).await.unwrap();
    outbox.close().await;
    let outbox = Outbox::open(&path, None, start).await.unwrap();
    let item = outbox.by_id("a").await.unwrap().remove(0);
    assert_eq!((item.status, item.attempts), (RowStatus::Pending, 1));
    let due = outbox.next_due(MESH, &[MEMBER]).await.unwrap();
    assert_eq!(due, Some(start.plus(Duration::from_millis(500))));
    assert_eq!(outbox.open_rows(), 1);
    outbox.close().await;
}

/// Daemon §11.5: a row whose time is over is dead and never sent afterwards.
#[tokio::test]
async fn rows_past_their_time_are_given_up() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let outbox = Outbox::open(&dir.path().join("outbox.db"), None, start).await.unwrap();
    outbox.accept(row("a", 1, start)).await.unwrap();
    let late = start.plus(Duration::from_hours(1));
    assert!(outbox.claim_due(MESH, &[MEMBER], late).await.unwrap().is_empty());
    let dead = outbox.expire(MESH, late).await.unwrap().remove(0);
    assert_eq!(
        (dead.status, dead.last_error_code.as_deref()),
        (RowStatus::Dead, Some("max_age_exceeded"))
    );
    assert_eq!(outbox.open_rows(), 0);
    outbox.close().await;
}

/// Daemon spec §11.1: a database of the release before is taken over; of its rows nobody knows who sealed them.
#[tokio::test]
async fn rows_of_the_release_before_do_not_say_who_sealed_them() {
    let dir = TempDir::new().unwrap();
    let (path, start) = (dir.path().join("outbox.db"), now());
    let older = Database::open(Options::new(&path)).await.unwrap();
    older.migrate(&MIGRATIONS[..2]).await.unwrap();
    older.close().await;
    let insert = "INSERT INTO outbox (id, client_message_id, request_fingerprint, mesh, to_raw, \
                  destination_kind, target_spec, priority, payload, nonce, ciphertext, body_version, \
                  enqueued_at, expires_at, next_attempt_at, status) \
                  VALUES ('1','old',zeroblob(32),'dev','x','dm',$1,'next','text','n','c',1,$2,$3,$2,'pending')";
    let options = SqliteConnectOptions::new().filename(&path);
    let mut conn = options.connect().await.unwrap();
    sqlx::query(insert)
        .bind(PublicKey::from_bytes([1; 32]).to_hex())
        .bind(start.as_millis())
        .bind(start.plus(Duration::from_hours(1)).as_millis())
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    let outbox = Outbox::open(&path, None, start).await.unwrap();
    let key = PublicKey::from_bytes([7; 32]);
    let later = start.plus(Duration::from_secs(1));
    let mut new = row("new", 2, later);
    new.body.sealed_by = Some(key);
    outbox.accept(new).await.unwrap();
    let claimed = outbox.claim_due(MESH, &[MEMBER], later).await.unwrap();
    let sealed: Vec<_> =
        claimed.iter().map(|row| (row.client_message_id.as_str(), row.body.sealed_by)).collect();
    assert_eq!(sealed, [("old", None), ("new", Some(key))]);
    let body = SealedBody { sealed_by: Some(key), ..claimed[0].body.clone() };
    outbox.rekeyed(&claimed[0].id, &body).await.unwrap();
    outbox.release(&[claimed[0].id.clone()]).await.unwrap();
    let again = outbox.claim_due(MESH, &[MEMBER], later).await.unwrap();
    assert_eq!((again[0].body.sealed_by, again[0].attempts), (Some(key), 0));
    outbox.close().await;
}

/// What waits is left to the machine that has the same rows; other meshes, and what is done, stay.
#[tokio::test]
async fn what_waits_on_a_mesh_is_aborted_for_another_machine() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let outbox = Outbox::open(&dir.path().join("outbox.db"), None, start).await.unwrap();
    for (id, target) in [("one", 1), ("two", 2)] {
        outbox.accept(row(id, target, start)).await.unwrap();
    }
    outbox.accept(NewRow { mesh: "other".to_owned(), ..row("three", 3, start) }).await.unwrap();
    assert_eq!(outbox.abort_mesh(MESH, "remint", start).await.unwrap(), 2);
    assert_eq!(outbox.open_rows(), 1);
    assert_eq!(outbox.claim_due(MESH, &[MEMBER], start).await.unwrap().len(), 0);
    assert_eq!(outbox.claim_due("other", &[MEMBER], start).await.unwrap().len(), 1);
    assert_eq!(outbox.abort_mesh(MESH, "remint", start).await.unwrap(), 0);
    outbox.close().await;
}

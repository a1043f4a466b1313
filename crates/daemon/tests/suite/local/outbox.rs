//! The queue by itself: which row is next, and when.

use std::time::Duration;

use claudemesh_crypto::fingerprint::{Request, of_request};
use claudemesh_daemon::clock::now;
use claudemesh_daemon::outbox::{ClaimFrom, NewRow, Outbox, SealedBody};
use claudemesh_protocol::canonical::DestinationKind;
use claudemesh_protocol::{Priority, PublicKey, TargetSpec, Timestamp};
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
        },
        sender_session_pubkey: None,
        hops: 0,
        enqueued_at: at,
        expires_at: at.plus(Duration::from_hours(1)),
    }
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

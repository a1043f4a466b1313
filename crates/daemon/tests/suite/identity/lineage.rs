//! What others make of a member that changed its key: those who were away, and those who wrote to it before
//! (wire spec §3.1, §5.18).

use std::sync::Arc;

use claudemesh_ipc::api::{OutboxQuery, RowStatus, SendRequest};
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::wire::ReceiptState;
use tempfile::TempDir;

use super::rotation::{home_of, opened, own_key, received, rotate};
use crate::local::world::{letter, register};
use crate::mesh::node::{Node, SLUG, World, event, until};

/// What the sender's outbox knows about how far a message came, by recipient.
async fn progress(node: &Node, id: &str) -> Vec<(PublicKey, ReceiptState)> {
    let receipts = node.outbox.by_id(id).await.unwrap().remove(0).receipts;
    receipts.into_iter().map(|receipt| (receipt.recipient, receipt.state)).collect()
}

/// Wire spec §5.18: who was away while a key changed, twice, believes what was sent under the keys before, because the
/// roster shows how both keys signed each change. Nothing of it is in the file that the peer keeps between runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_away_believes_the_keys_before() {
    let world = World::new(2).await;
    let dir = Arc::new(TempDir::new().unwrap());
    let bob = Node::start_in(Arc::clone(&dir), world.entry(1)).await;
    bob.connected().await;
    bob.stop().await;
    let home = home_of(&world);
    let running = home.start().await;
    let client = running.client();
    opened(&client).await;
    let (session, _) = register(&running, SLUG, 1, |_| {}).await;
    let to_bob = world.key(1).to_hex();
    let mut keys = vec![own_key(&home)];
    for n in 0..2 {
        client.send(&letter(&to_bob, &format!("member {n}"))).await.unwrap();
        session.send(&letter(&to_bob, &format!("session {n}"))).await.unwrap();
        until("both are out", async || {
            client
                .outbox(&OutboxQuery::default())
                .await
                .unwrap()
                .items
                .iter()
                .all(|row| row.status == RowStatus::Done)
        })
        .await;
        rotate(&client).await;
        opened(&client).await;
        keys.push(own_key(&home));
    }
    client.send(&letter(&to_bob, "with the last key")).await.unwrap();
    let state = dir.path().join(format!("mesh-state-{SLUG}.json"));
    if state.exists() {
        std::fs::remove_file(&state).unwrap();
    }
    let bob = Node::start_in(Arc::clone(&dir), world.entry(1)).await;
    let items = bob.receives(5).await;
    let own = own_key(&home);
    for item in &items {
        assert!(item.sender_verified, "{:?}", item.body);
        assert_eq!(item.sender_member_pubkey, own.to_hex(), "{:?}", item.body);
    }
    let signed_by: Vec<_> = items.iter().map(|item| item.sender_pubkey.clone()).collect();
    for key in &keys {
        assert!(signed_by.contains(&key.to_hex()), "one came under each key");
    }
    until("the chain is written down", async || {
        std::fs::read_to_string(&state)
            .is_ok_and(|text| keys[..2].iter().all(|key| text.contains(&key.to_hex())))
    })
    .await;
    bob.stop().await;
    running.shutdown().await;
}

/// Wire spec §3.1: what was handed over under the old key is answered under the new one: broker and sender know that it is
/// about the same message, and show one recipient.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_go_on_after_the_key_has_changed() {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = home_of(&world);
    let running = home.start().await;
    let client = running.client();
    opened(&client).await;
    let old = own_key(&home);
    let id = bob.send_to_key(old, "before").await;
    let before = received(&client, 1).await.remove(0);
    until("bob knows where it is", async || {
        progress(&bob, &id).await == [(old, ReceiptState::OnDevice)]
    })
    .await;
    rotate(&client).await;
    opened(&client).await;
    let new = own_key(&home);
    let after = bob.send_to_key(old, "to the old key").await;
    let mut told = bob.subscribe();
    let reply = SendRequest {
        reply_to_id: Some(before.broker_message_id.clone().unwrap()),
        ..letter(&world.key(1).to_hex(), "an answer")
    };
    client.send(&reply).await.unwrap();
    until("the answer is shown for the one recipient", async || {
        progress(&bob, &id).await == [(new, ReceiptState::Answered)]
    })
    .await;
    loop {
        let receipt = event(&mut told, "receipt").await;
        if receipt["state"] == "answered" {
            assert_eq!(receipt["recipient"], new.to_hex());
            break;
        }
    }
    received(&client, 2).await;
    until("what went to the old key afterwards is there, too", async || {
        let progress = progress(&bob, &after).await;
        progress.iter().any(|(key, state)| (*key, *state) == (new, ReceiptState::OnDevice))
    })
    .await;
    assert_eq!(progress(&bob, &after).await.len(), 1, "one recipient");
    running.shutdown().await;
}

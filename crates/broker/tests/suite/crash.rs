//! The broker's process dies at a chosen point of the road of one message. Whatever the point, the sender's retry and
//! the receiver's dedupe make it one message.

use std::time::Duration;

use serde_json::{Value, json};

use crate::peers::{Person, Socket};
use crate::world::{PATIENCE, World};

/// Signal number of an abort.
const SIGABRT: i32 = 6;

fn message(bob: &Person) -> Value {
    json!({ "targetSpec": bob.key.public(), "client_message_id": "c1" })
}

/// What a receiver does that keeps what it has shown: it confirms everything, and shows what is new.
#[derive(Default)]
struct Shown(Vec<Value>);

impl Shown {
    fn take(&mut self, push: &Value) {
        if !self.0.contains(&push["client_message_id"]) {
            self.0.push(push["client_message_id"].clone());
        }
    }

    async fn take_and_confirm(&mut self, socket: &mut Socket, pushes: &[Value]) {
        for push in pushes {
            self.take(push);
            socket.confirm(push).await;
        }
    }
}

/// The road of one message with a broker that died somewhere on it.
struct Road {
    world: World,
    alice: Person,
    bob: Person,
    shown: Shown,
    was_acked: bool,
}

impl Road {
    /// Sends while the point is armed, until the broker has died of it; the receiver confirms what it gets.
    async fn broken_at(point: &str) -> Self {
        Box::pin(Self::broken_by(point, &format!("{point}=return"))).await
    }

    /// As [`Road::broken_at`], with these points armed.
    async fn broken_by(point: &str, points: &str) -> Self {
        let mut world = World::start().await;
        let mut people = world.mesh_of(&["alice", "bob"]).await.into_iter();
        let (alice, bob) = (people.next().unwrap(), people.next().unwrap());
        let server = world.move_apart(points).await;
        let mut receiver = world.daemon(&bob).await;
        let mut sender = world.daemon(&alice).await;
        sender.post("1", message(&bob)).await;
        let mut shown = Shown::default();
        if point == "broker.client_ack.before_commit" {
            let push = receiver.push().await;
            shown.take_and_confirm(&mut receiver, &[push]).await;
        }
        for push in receiver.last_pushes().await {
            shown.take(&push);
        }
        let was_acked = sender.was_acked("1").await;
        assert_eq!(server.end_signal().await, Some(SIGABRT), "the broker must die at {point}");
        Self { world, alice, bob, shown, was_acked }
    }

    /// True when the store has the message after the crash.
    async fn is_stored(&mut self) -> bool {
        self.world.resume().await;
        let store = self.world.broker().broker().store();
        assert_eq!(store.orphaned_dedupe_rows().await.unwrap(), 0);
        store.lookup_dedupe(&self.bob.mesh, "c1").await.unwrap().is_some()
    }

    /// Everybody comes back, the sender tries again: one message is shown, and nothing is left. Answers the status of
    /// the retry.
    async fn mended(mut self, is_stored: bool) -> u64 {
        let mut receiver = self.world.daemon(&self.bob).await;
        if is_stored {
            let push = receiver.push().await;
            self.shown.take_and_confirm(&mut receiver, &[push]).await;
        }
        let mut sender = self.world.daemon(&self.alice).await;
        let retried = sender.message(message(&self.bob)).await;
        assert_eq!(retried["queued"], true, "{retried}");
        let status = retried["status"].as_u64().unwrap();
        assert_eq!(retried["duplicate"] == true, status == 200, "{retried}");
        if !is_stored {
            let push = receiver.push().await;
            self.shown.take_and_confirm(&mut receiver, &[push]).await;
        }
        assert_eq!(self.shown.0, [json!("c1")]);
        self.until_nothing_is_open().await;
        assert_eq!(receiver.pushes_so_far().await, Vec::<Value>::new());
        status
    }

    async fn until_nothing_is_open(&self) {
        let store = self.world.broker().broker().store();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let open = store.backlog_total().await.unwrap();
            if open.held + open.claimed == 0 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "the confirmation is not kept");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// SND-5.
#[tokio::test]
async fn a_broker_killed_before_the_commit_has_nothing_and_takes_the_retry() {
    let mut road = Box::pin(Road::broken_at("broker.accept.before_commit")).await;
    assert!(!road.was_acked && road.shown.0.is_empty());
    assert!(!road.is_stored().await);
    assert_eq!(Box::pin(road.mended(false)).await, 201);
}

/// SND-5.
#[tokio::test]
async fn a_broker_killed_after_the_commit_delivers_after_its_restart() {
    // The push was ahead of the commit, and may or may not have left the process.
    let mut road = Box::pin(Road::broken_at("broker.after_commit_before_push")).await;
    assert!(!road.was_acked);
    assert!(road.is_stored().await);
    assert_eq!(Box::pin(road.mended(true)).await, 200);
}

/// SND-5.
#[tokio::test]
async fn a_broker_killed_between_push_and_ack_calls_the_retry_a_duplicate() {
    let mut road = Box::pin(Road::broken_at("broker.after_push_before_ack")).await;
    assert!(!road.was_acked);
    assert!(road.is_stored().await);
    assert_eq!(Box::pin(road.mended(true)).await, 200);
}

/// SND-5, the receiver's side: a confirmation that was lost brings the message again, never a second one.
#[tokio::test]
async fn a_broker_killed_before_a_confirmation_is_kept_pushes_again() {
    let mut road = Box::pin(Road::broken_at("broker.client_ack.before_commit")).await;
    assert_eq!(road.shown.0, [json!("c1")]);
    assert!(road.is_stored().await);
    assert_eq!(road.world.broker().broker().store().backlog_total().await.unwrap().held, 1);
    assert_eq!(Box::pin(road.mended(true)).await, 200);
}

/// SND-5, DLV-9: the push may be out, and the commit is not: nothing is stored, and the retry makes it one message.
#[tokio::test]
async fn a_broker_killed_inside_the_commit_takes_the_retry() {
    let mut road = Box::pin(Road::broken_at("store.before_message")).await;
    assert!(!road.was_acked);
    assert!(!road.is_stored().await);
    assert_eq!(Box::pin(road.mended(false)).await, 201);
}

/// SND-5, DLV-9: the push is ahead of the commit, which may be on the disk or not.
#[tokio::test]
async fn a_broker_killed_after_an_early_push_has_the_message_or_takes_the_retry() {
    let mut road = Box::pin(Road::broken_at("broker.after_push_before_commit")).await;
    assert!(!road.was_acked);
    let is_stored = road.is_stored().await;
    let status = Box::pin(road.mended(is_stored)).await;
    assert_eq!(status, if is_stored { 200 } else { 201 });
}

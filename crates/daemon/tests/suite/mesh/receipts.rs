//! Receipts, as recipient and as sender, and what forgers of them get (daemon spec §10.7, wire spec §3.1).

use std::time::Duration;

use claudemesh_crypto::{KeyPair, direct};
use claudemesh_daemon::clock;
use claudemesh_daemon::inbox::{Answerer, Scope, SessionScope, Stamp};
use claudemesh_daemon::sessions::{Report, Session};
use claudemesh_ipc::api::EventKind;
use claudemesh_ipc::api::inbox::ANSWERED_ELSEWHERE;
use claudemesh_ipc::api::session::HookEvent;
use claudemesh_protocol::wire::{Receipt, ReceiptState};
use claudemesh_protocol::{MemberId, MessageId, PublicKey, SignatureBytes, Timestamp, canonical};
use serde_json::{Value, json};

use super::fake_broker::{FakeBroker, Peer, modern_features, serving};
use super::node::{Node, SLUG, entry, event, until};
use crate::local::world::{Home, register};

struct Scene {
    me: KeyPair,
    alice: KeyPair,
    broker: FakeBroker,
    node: Node,
    peer: Peer,
}

fn features() -> Value {
    let mut features = modern_features();
    features["receipts"] = json!({"params": {"version": 1}});
    features
}

async fn scene() -> Scene {
    let (me, alice) = (KeyPair::generate(), KeyPair::generate());
    let broker = FakeBroker::new(vec![(me.public(), "me"), (alice.public(), "alice")]).await;
    let member = MemberId::new("me");
    let node = Node::start(entry(&broker.mesh, &member, me.clone(), &broker.url())).await;
    let peer = broker.accept(features()).await;
    Scene { me, alice, broker, node, peer }
}

/// A direct message as a broker pushes it.
fn push(mesh: &str, id: &str, sender: &KeyPair, to: PublicKey, text: &str) -> Value {
    let sealed = direct::seal(text.as_bytes(), sender, to).unwrap();
    json!({
        "type": "push", "messageId": format!("Q-{id}"), "meshId": mesh,
        "senderPubkey": sender.public(), "senderMemberPubkey": sender.public(), "senderName": "alice",
        "priority": "next", "nonce": sealed.nonce.to_b64(), "ciphertext": sealed.ciphertext_b64(),
        "createdAt": clock::now().to_iso(), "client_message_id": id, "targetSpec": to,
    })
}

async fn receipt(peer: &mut Peer) -> Receipt {
    let waited = tokio::time::timeout(Duration::from_secs(10), peer.wait_for("receipt"));
    serde_json::from_value(waited.await.expect("a receipt comes")).unwrap()
}

impl Scene {
    async fn push(&mut self, id: &str) {
        let push = push(self.broker.mesh.as_str(), id, &self.alice, self.me.public(), "hello");
        self.peer.send(&push).await;
        assert_eq!(self.peer.wait_for("client_ack").await["clientMessageId"], id);
    }

    /// State and reason of the next receipt, which is about `id` and signed by us.
    async fn said(&mut self, id: &str) -> (ReceiptState, Option<String>) {
        let receipt = receipt(&mut self.peer).await;
        self.check(&receipt, id, self.me.public());
        (receipt.state, receipt.reason)
    }

    fn check(&self, receipt: &Receipt, id: &str, recipient: PublicKey) {
        let message = MessageId::new(format!("Q-{id}"));
        assert_eq!((&receipt.broker_message_id, receipt.recipient), (&message, recipient));
        assert_eq!((receipt.client_message_id.as_str(), &receipt.asserted_by), (id, &None));
        let at = Timestamp::from_millis(receipt.at);
        let mesh = &self.broker.mesh;
        let text = canonical::receipt(mesh, &message, recipient, receipt.state.as_str(), at);
        let signature: SignatureBytes = receipt.signature.as_ref().unwrap().parse().unwrap();
        claudemesh_crypto::statement::verify(text, self.me.public(), &signature).unwrap();
    }

    /// A receipt about a message of ours to alice.
    fn signed(&self, id: &str, state: ReceiptState, recipient: PublicKey, by: &KeyPair) -> Value {
        let (message, at) = (MessageId::new("Q1"), clock::now());
        let mesh = &self.broker.mesh;
        let text = canonical::receipt(mesh, &message, recipient, state.as_str(), at).unwrap();
        json!({
            "type": "receipt", "brokerMessageId": "Q1", "clientMessageId": id, "recipient": recipient,
            "state": state, "at": at.as_millis(), "signature": by.sign(text.as_bytes()).to_hex(),
            "assertedBy": "recipient_daemon",
        })
    }

    /// Marks a message as given to a session, as the local API does.
    async fn give(&self, session: &Session, id: &str) {
        let items = self.node.received().await;
        let row = items.iter().find(|item| item.client_message_id == id).unwrap().id.clone();
        let scope = Scope::Session(SessionScope {
            mesh: SLUG.to_owned(),
            session_id: session.session_id.clone(),
            key: session.key(),
            member_key: self.me.public(),
            registered_at: session.registered_at,
        });
        let inbox = &self.node.inbox;
        let marked = inbox.mark(&scope, &[row], Stamp::pushed(), clock::now()).await.unwrap();
        self.node.mesh().handed(marked.handed, "channel", &session.display_name);
    }
}

/// Daemon spec §13 Accept 2: `next` DM to a `working` session: receipt `held: busy` until it is handed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_a_busy_session_is_held_until_it_is_handed() {
    let mut scene = scene().await;
    let session = scene.node.register("builder", None, vec![]);
    let _session_peer = scene.broker.accept_session(features()).await;
    session.activity.hook(Report { event: Some(HookEvent::Prompt), ..Report::default() });
    scene.push("later").await;
    assert_eq!(scene.said("later").await, (ReceiptState::OnDevice, None));
    assert_eq!(scene.said("later").await, (ReceiptState::Held, Some("busy".to_owned())));
    scene.give(&session, "later").await;
    let handed = receipt(&mut scene.peer).await;
    scene.check(&handed, "later", scene.me.public());
    assert_eq!(handed.state, ReceiptState::Handed);
    assert_eq!(
        (handed.path.as_deref(), handed.evidence.as_deref()),
        (Some("channel"), Some("builder"))
    );
    // Given once more, nothing is said.
    scene.give(&session, "later").await;
    scene.push("next").await;
    assert_eq!(scene.said("next").await.0, ReceiptState::OnDevice);
}

/// daemon §10.7: what does not open is `unreadable`, and never more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_open_is_said_to_be_unreadable() {
    let mut scene = scene().await;
    let session = scene.node.register("builder", None, vec![]);
    let _session_peer = scene.broker.accept_session(features()).await;
    let mut bad = push(
        scene.broker.mesh.as_str(),
        "bad",
        &scene.alice,
        KeyPair::generate().public(),
        "for somebody else",
    );
    bad["targetSpec"] = json!(scene.me.public());
    scene.peer.send(&bad).await;
    assert_eq!(scene.said("bad").await.0, ReceiptState::Unreadable);
    scene.give(&session, "bad").await;
    scene.push("good").await;
    assert_eq!(scene.said("good").await.0, ReceiptState::OnDevice);
}

/// daemon §10.7: `answered` when the broker has a reply that names the id, not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_said_when_the_broker_has_it() {
    let mut scene = scene().await;
    scene.push("question").await;
    assert_eq!(scene.said("question").await.0, ReceiptState::OnDevice);
    let by = Answerer::Session { id: "s".to_owned(), name: "builder".to_owned() };
    assert!(scene.node.inbox.settle(SLUG, "Q-question", by.clone(), clock::now()).await.unwrap());
    assert!(!scene.node.inbox.settle(SLUG, "Q-question", by, clock::now()).await.unwrap());
    let alice = scene.alice.public().to_hex();
    let sending = scene.node.reply(&alice, "the answer", "Q-question");
    serving(&mut scene.peer, sending).await;
    let frame = scene.peer.wait_for("send").await;
    assert_eq!(frame["replyToId"], "Q-question");
    let ack =
        json!({"type": "ack", "id": frame["id"], "messageId": "Q9", "queued": true, "status": 201});
    scene.peer.send(&ack).await;
    let answered = receipt(&mut scene.peer).await;
    scene.check(&answered, "question", scene.me.public());
    assert_eq!(
        (answered.state, answered.evidence.as_deref()),
        (ReceiptState::Answered, Some("builder"))
    );
}

/// daemon §10.7: never queued on disk: after a restart the current state is sent once for rows younger than a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_state_is_said_once() {
    let mut scene = scene().await;
    let session = scene.node.register("builder", None, vec![]);
    let _session_peer = scene.broker.accept_session(features()).await;
    for id in ["stored", "given"] {
        scene.push(id).await;
        assert_eq!(scene.said(id).await.0, ReceiptState::OnDevice);
    }
    scene.give(&session, "given").await;
    assert_eq!(scene.said("given").await.0, ReceiptState::Handed);
    drop(scene.peer);
    scene.node = scene.node.restart().await;
    scene.peer = scene.broker.accept(features()).await;
    let mut said = [receipt(&mut scene.peer).await, receipt(&mut scene.peer).await];
    said.sort_by(|left, right| left.client_message_id.cmp(&right.client_message_id));
    scene.check(&said[0], "given", scene.me.public());
    assert_eq!((said[0].state, said[0].path.as_deref()), (ReceiptState::Handed, Some("channel")));
    assert_eq!(said[1].state, ReceiptState::OnDevice);
    // A connection that merely comes back says nothing again.
    drop(scene.peer);
    scene.peer = scene.broker.accept(features()).await;
    scene.push("new").await;
    assert_eq!(scene.said("new").await.0, ReceiptState::OnDevice);
}

/// daemon §10.7: only at brokers that take receipts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_the_feature_hears_no_receipts() {
    let mut scene = scene().await;
    drop(scene.peer);
    scene.peer = scene.broker.accept(modern_features()).await;
    scene.push("quiet").await;
    scene.node.receives(1).await;
    let asked = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.node.send(&scene.alice.public().to_hex(), "sentinel").await;
        std::future::pending::<()>().await;
    };
    let frames = async {
        loop {
            let frame = scene.peer.next().await;
            assert_ne!(frame["type"], "receipt", "{frame}");
            if frame["type"] == "send" {
                return;
            }
        }
    };
    tokio::select! {
        () = asked => {}
        () = frames => {}
    }
}

/// daemon §10.7 Accept, forged receipts: only what the recipient's member signed, or what the broker may know itself, is
/// kept and told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_receipts_are_neither_kept_nor_told() {
    let mut scene = scene().await;
    let mut events = scene.node.subscribe();
    let to = scene.alice.public();
    let key = to.to_hex();
    let sending = scene.node.send(&key, "hi");
    let id = serving(&mut scene.peer, sending).await;
    let frame = scene.peer.wait_for("send").await;
    let ack =
        json!({"type": "ack", "id": frame["id"], "messageId": "Q1", "queued": true, "status": 201});
    scene.peer.send(&ack).await;
    scene.node.sent_everything().await;
    let stranger = KeyPair::generate();
    let mut changed = scene.signed(&id, ReceiptState::OnDevice, to, &scene.alice);
    changed["state"] = json!("answered");
    let mut moved = scene.signed(&id, ReceiptState::Handed, scene.me.public(), &scene.alice);
    moved["recipient"] = json!(to);
    let mut unsigned = scene.signed(&id, ReceiptState::InContext, to, &scene.alice);
    unsigned.as_object_mut().unwrap().remove("signature");
    let mut rubbish = scene.signed(&id, ReceiptState::Handed, to, &scene.alice);
    rubbish["signature"] = json!("00");
    let mut other_row = scene.signed("not-ours", ReceiptState::OnDevice, to, &scene.alice);
    other_row["brokerMessageId"] = json!("Q2");
    for forged in [
        scene.signed(&id, ReceiptState::Answered, to, &stranger),
        scene.signed(&id, ReceiptState::Answered, stranger.public(), &stranger),
        scene.signed(&id, ReceiptState::TurnEnded, to, &scene.me),
        changed,
        moved,
        unsigned,
        rubbish,
        other_row,
    ] {
        scene.peer.send(&forged).await;
    }
    let genuine = scene.signed(&id, ReceiptState::OnDevice, to, &scene.alice);
    for _ in 0..3 {
        scene.peer.send(&genuine).await;
    }
    scene.peer.send(&scene.signed(&id, ReceiptState::Handed, to, &scene.alice)).await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let data = event(&mut events, EventKind::Receipt.as_str()).await;
        assert_eq!(data["assertedBy"], "recipient_daemon");
        told.push(data["state"].as_str().unwrap().to_owned());
    }
    assert_eq!(told, ["on_device", "handed"], "nothing else, nothing twice");
}

/// README 52: what another device of the member says counts when the member signed it: the message needs no answer here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_on_another_device_settles_the_message_here() {
    let mut scene = scene().await;
    scene.push("question").await;
    let me = scene.me.public();
    let answered = |by: &KeyPair| {
        let mut frame = scene.signed("question", ReceiptState::Answered, me, by);
        let (message, at) = (MessageId::new("Q-question"), clock::now());
        let text = canonical::receipt(&scene.broker.mesh, &message, me, "answered", at).unwrap();
        frame["brokerMessageId"] = json!(message);
        frame["at"] = json!(at.as_millis());
        frame["signature"] = json!(by.sign(text.as_bytes()).to_hex());
        frame["evidence"] = json!("laptop");
        frame
    };
    let (forged, genuine) = (answered(&scene.alice), answered(&scene.me));
    scene.peer.send(&forged).await;
    scene.push("second").await;
    assert_eq!(scene.node.receives(2).await[0].state, None);
    scene.peer.send(&genuine).await;
    until("the message is answered elsewhere", async || {
        scene.node.received().await[0].state.as_deref() == Some(ANSWERED_ELSEWHERE)
    })
    .await;
    let item = scene.node.received().await.remove(0);
    assert_eq!(item.answered_by.as_deref(), Some("laptop"));
}

/// daemon §8.4, agents §1.8: a message that was on the device when its session ended is `session_gone`, and on its way to
/// the member from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_says_so_about_what_it_was_never_handed() {
    let (me, alice) = (KeyPair::generate(), KeyPair::generate());
    let broker = FakeBroker::new(vec![(me.public(), "me"), (alice.public(), "alice")]).await;
    let home = Home::new();
    let mut joined = entry(&broker.mesh, &MemberId::new("me"), me.clone(), &broker.url());
    joined.slug = "dev".to_owned();
    home.join_as(joined);
    let running = home.start().await;
    let mut control = broker.accept(features()).await;
    let (client, reply) = register(&running, "dev", 1, |_| {}).await;
    let key = reply.session_pubkey.unwrap();
    let mut session = broker.accept_session(features()).await;
    session.send(&push(broker.mesh.as_str(), "in-flight", &alice, key, "hello")).await;
    session.wait_for("client_ack").await;
    let stored = receipt(&mut session).await;
    assert_eq!((stored.state, stored.recipient), (ReceiptState::OnDevice, key));
    client.deregister_session().await.unwrap();
    let gone = receipt(&mut control).await;
    assert_eq!((gone.state, gone.recipient), (ReceiptState::SessionGone, key));
    let moved = receipt(&mut control).await;
    assert_eq!((moved.state, moved.recipient), (ReceiptState::OnDevice, me.public()));
    assert_eq!(moved.client_message_id, "in-flight");
    running.shutdown().await;
}

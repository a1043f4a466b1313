//! What a bad or old broker, or a bad sender behind a good one, may try.

use claudemesh_crypto::{KeyPair, attestation, direct};
use claudemesh_daemon::clock;
use claudemesh_ipc::api::{Decrypt, MeshStatus};
use claudemesh_protocol::MemberId;
use claudemesh_protocol::encoding::{b64, b64_decode};
use serde_json::{Value, json};
use std::time::Duration;

use super::fake_broker::{FakeBroker, Peer, modern_features};
use super::node::{Node, entry, event, until};

struct Scene {
    me: KeyPair,
    alice: KeyPair,
    broker: FakeBroker,
    node: Node,
    peer: Peer,
}

async fn scene() -> Scene {
    let (me, alice) = (KeyPair::generate(), KeyPair::generate());
    let broker = FakeBroker::new(vec![(me.public(), "me"), (alice.public(), "alice")]).await;
    let node =
        Node::start(entry(&broker.mesh, &MemberId::new("me"), me.clone(), &broker.url())).await;
    let peer = broker.accept(modern_features()).await;
    Scene { me, alice, broker, node, peer }
}

impl Scene {
    fn push(&self, id: &str, sender: &KeyPair, text: &str) -> Value {
        let sealed = direct::seal(text.as_bytes(), sender, self.me.public()).unwrap();
        json!({
            "type": "push", "messageId": format!("Q-{id}"), "meshId": self.broker.mesh,
            "senderPubkey": sender.public(), "senderMemberPubkey": self.alice.public(), "senderName": "alice",
            "priority": "next", "nonce": sealed.nonce.to_b64(), "ciphertext": sealed.ciphertext_b64(),
            "createdAt": clock::now().to_iso(), "client_message_id": id, "targetSpec": self.me.public(),
        })
    }
}

/// daemon §15 Accept 2: a forged sender under a member's name is unverified and shown by its key; a session of that
/// member with its attestation is verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_sender_is_never_shown_under_a_members_name() {
    let mut scene = scene().await;
    let stranger = KeyPair::generate();
    let forged = scene.push("forged", &stranger, "I am alice");
    scene.peer.send(&forged).await;
    let ack = scene.peer.wait_for("client_ack").await;
    assert_eq!(ack["clientMessageId"], "forged");
    let item = scene.node.receives(1).await.remove(0);
    assert!(!item.sender_verified);
    assert_eq!(item.sender_member_pubkey, "");
    assert_eq!(item.sender_name, stranger.public().short(16));
    let session = KeyPair::generate();
    let mut attested = scene.push("attested", &session, "really alice");
    let expires_at = clock::now().plus(Duration::from_hours(1));
    let proof = attestation::mint(&scene.alice, session.public(), expires_at, None);
    attested["senderAttestation"] = serde_json::to_value(&proof).unwrap();
    scene.peer.send(&attested).await;
    scene.peer.wait_for("client_ack").await;
    let item = scene.node.receives(2).await.remove(1);
    assert!(item.sender_verified);
    assert_eq!(
        (item.sender_name.as_str(), item.sender_member_pubkey),
        ("alice", scene.alice.public().to_hex())
    );
}

/// daemon §15 Accept 1: tampered ciphertext: a row with `decrypt=failed`, body null, acknowledged; the event says
/// so too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_text_is_kept_marked_and_acknowledged() {
    let mut scene = scene().await;
    let mut events = scene.node.subscribe();
    let mut push = scene.push("tampered", &scene.alice, "hello");
    let mut bytes = b64_decode(push["ciphertext"].as_str().unwrap()).unwrap();
    bytes[0] ^= 1;
    push["ciphertext"] = json!(b64(&bytes));
    scene.peer.send(&push).await;
    assert_eq!(scene.peer.wait_for("client_ack").await["brokerMessageId"], "Q-tampered");
    let item = scene.node.receives(1).await.remove(0);
    assert_eq!((item.decrypt, item.body), (Decrypt::Failed, None));
    let told = event(&mut events, "message").await;
    assert_eq!((&told["decrypt"], &told["body"]), (&json!("failed"), &Value::Null));
}

/// Daemon spec §13.2: duplicates are acknowledged and silent, wrong types are acknowledged and dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_and_rubbish_are_acknowledged_and_not_shown() {
    let mut scene = scene().await;
    let push = scene.push("twice", &scene.alice, "hello");
    for _ in 0..2 {
        scene.peer.send(&push).await;
        assert_eq!(scene.peer.wait_for("client_ack").await["clientMessageId"], "twice");
    }
    scene
        .peer
        .send(
            &json!({"type": "push", "messageId": "Q-bad", "client_message_id": "bad", "hops": {}}),
        )
        .await;
    assert_eq!(scene.peer.wait_for("client_ack").await["clientMessageId"], "bad");
    let mut own = scene.push("echo", &scene.me, "my own");
    own["senderMemberPubkey"] = json!(scene.me.public());
    scene.peer.send(&own).await;
    assert_eq!(scene.peer.wait_for("client_ack").await["clientMessageId"], "echo");
    scene.node.receives(1).await;
}

/// Daemon spec §13.2: a message whose sender is not in the roster yet, pushed again when it is, is one message, proved
/// the second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivery_after_the_sender_became_known_is_not_shown_twice() {
    let mut scene = scene().await;
    scene.peer.members.retain(|(_, name)| *name == "me");
    let push = scene.push("early", &scene.alice, "hello");
    scene.peer.send(&push).await;
    scene.peer.wait_for("client_ack").await;
    let early = scene.node.receives(1).await.remove(0);
    assert!(!early.sender_verified);
    // The broker restarts before the acknowledgement counts.
    scene.peer.members.push((scene.alice.public(), "alice"));
    let members = scene.peer.members.clone();
    drop(scene.peer);
    let mut peer = scene.broker.accept(modern_features()).await;
    peer.members = members;
    peer.send(&push).await;
    peer.wait_for("client_ack").await;
    let item = scene.node.receives(1).await.remove(0);
    assert_eq!((item.id, item.sender_verified), (early.id, true));
    assert_eq!(
        (item.sender_name.as_str(), item.sender_member_pubkey),
        ("alice", scene.alice.public().to_hex())
    );
}

/// Daemon spec §13 Accept 5: somebody who sends another's id first does not suppress the other's message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_id_suppresses_nothing() {
    let mut scene = scene().await;
    let thief = scene.push("same-id", &KeyPair::generate(), "stolen");
    let owner = scene.push("same-id", &scene.alice, "genuine");
    for push in [&thief, &owner] {
        scene.peer.send(push).await;
        scene.peer.wait_for("client_ack").await;
    }
    let bodies: Vec<_> =
        scene.node.receives(2).await.into_iter().filter_map(|item| item.body).collect();
    assert_eq!(bodies, ["stolen", "genuine"]);
}

/// Daemon spec §18 Accept 2: wrong parameters of a required feature close with 4010 and disable the mesh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_a_required_feature_is_refused() {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let node = Node::start(entry(&broker.mesh, &MemberId::new("me"), me, &broker.url())).await;
    let mut features = modern_features();
    features["client_message_id_dedupe"]["params"]["dedupe_retention_days"] = json!(2);
    let mut peer = broker.accept(features).await;
    let mut closed = peer.next().await;
    while closed.get("close").is_none() {
        closed = peer.next().await;
    }
    assert_eq!(closed["close"], 4010);
    let reason: Value = serde_json::from_str(closed["reason"].as_str().unwrap()).unwrap();
    assert_eq!(reason["kind"], "feature_param_below_floor");
    until("the mesh is disabled", async || {
        let health = node.mesh().health();
        health.status == MeshStatus::Disabled
            && health.disabled_reason == Some("feature_param_below_floor")
    })
    .await;
}

/// Daemon spec §18 Accept 2: a broker without features is a legacy broker; direct messages work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_broker_carries_direct_messages() {
    let (me, alice) = (KeyPair::generate(), KeyPair::generate());
    let broker = FakeBroker::new(vec![(me.public(), "me"), (alice.public(), "alice")]).await;
    let node =
        Node::start(entry(&broker.mesh, &MemberId::new("me"), me.clone(), &broker.url())).await;
    let mut peer = broker.accept(Value::Null).await;
    node.send(&alice.public().to_hex(), "hi").await;
    let frame = peer.wait_for("send").await;
    assert!(node.mesh().health().is_legacy);
    let sealed = direct::Sealed::from_b64(
        frame["nonce"].as_str().unwrap(),
        frame["ciphertext"].as_str().unwrap(),
    )
    .unwrap();
    assert_eq!(direct::open(&sealed, me.public(), &alice).unwrap(), b"hi");
    peer.send(&json!({"type": "ack", "id": frame["id"], "messageId": "Q1", "queued": true})).await;
    node.sent_everything().await;
}

/// Daemon spec §11.4: an ack that is lost leads to the same frame again, under the same id and fingerprint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_ack_repeats_the_same_message() {
    let mut scene = scene().await;
    scene.node.send(&scene.alice.public().to_hex(), "once").await;
    let first = scene.peer.wait_for("send").await;
    drop(scene.peer);
    let mut peer = scene.broker.accept(modern_features()).await;
    let second = peer.wait_for("send").await;
    assert_eq!(first, second);
    let ack = json!({
        "type": "ack", "id": second["id"], "messageId": "Q1", "queued": true, "duplicate": true, "status": 200,
        "history_available": true,
    });
    peer.send(&ack).await;
    scene.node.sent_everything().await;
}

/// Daemon spec §11.4: a permanent refusal kills the row and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_refusal_kills_the_row() {
    let mut scene = scene().await;
    let mut events = scene.node.subscribe();
    let id = scene.node.send(&scene.alice.public().to_hex(), "no").await;
    let frame = scene.peer.wait_for("send").await;
    let error = "forbidden: blocked by recipient grants";
    scene
        .peer
        .send(&json!({"type": "ack", "id": frame["id"], "messageId": "", "queued": false, "error": error}))
        .await;
    let told = event(&mut events, "outbox_dead").await;
    assert_eq!(
        (&told["client_message_id"], &told["last_error_code"]),
        (&json!(id), &json!("forbidden"))
    );
}

/// daemon §13.2: frames with wrong types are dropped, counted and acknowledged, whatever is wrong with them; what follows
/// comes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_with_wrong_types_are_dropped_counted_and_acknowledged() {
    let mut scene = scene().await;
    let wrong: [(&str, Value); 8] = [
        ("hops", json!(-1)),
        ("hops", json!("many")),
        ("priority", json!(7)),
        ("nonce", json!(["x"])),
        ("ciphertext", json!(null)),
        ("mentions", json!("all")),
        ("bodyVersion", json!({})),
        ("senderPubkey", json!("not a key")),
    ];
    for (n, (field, value)) in wrong.iter().enumerate() {
        let id = format!("wrong-{n}");
        let mut push = scene.push(&id, &scene.alice, "hello");
        push[*field] = value.clone();
        push["unknownField"] = json!({"is": "tolerated"});
        scene.peer.send(&push).await;
        assert_eq!(
            scene.peer.wait_for("client_ack").await["clientMessageId"],
            json!(id),
            "{field}"
        );
    }
    assert_eq!(scene.node.mesh().dropped().invalid, wrong.len() as u64);
    let good = scene.push("good", &scene.alice, "hello");
    scene.peer.send(&good).await;
    assert_eq!(scene.node.receives(1).await[0].client_message_id, "good");
}

/// daemon §7.4, rule 5: what a removed member, or its session, still sends is dropped and acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_not_heard_any_more() {
    let mut scene = scene().await;
    scene.peer.members.retain(|(_, name)| *name == "me");
    let removal = json!({
        "type": "push", "messageId": "E1", "meshId": scene.broker.mesh, "senderPubkey": "system", "priority": "low",
        "nonce": "", "ciphertext": "", "createdAt": clock::now().to_iso(), "subtype": "system",
        "event": "member_revoked", "eventData": {"pubkey": scene.alice.public(), "memberId": "alice"},
    });
    scene.peer.send(&removal).await;
    let session = KeyPair::generate();
    let expires_at = clock::now().plus(Duration::from_hours(1));
    let proof = attestation::mint(&scene.alice, session.public(), expires_at, None);
    let mut attested = scene.push("by-session", &session, "hello");
    attested["senderAttestation"] = serde_json::to_value(&proof).unwrap();
    let direct = scene.push("by-member", &scene.alice, "hello");
    for push in [direct, attested] {
        scene.peer.send(&push).await;
        scene.peer.wait_for("client_ack").await;
    }
    assert_eq!(scene.node.mesh().dropped().removed, 2);
    assert!(scene.node.received().await.is_empty());
}

/// daemon §15, §7.5: a message that came before the roster knew its sender becomes verified when the roster does, also
/// after a restart, and is not shown again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_is_proved_when_the_roster_comes() {
    let mut scene = scene().await;
    scene.peer.members.retain(|(_, name)| *name == "me");
    let push = scene.push("early", &scene.alice, "hello");
    scene.peer.send(&push).await;
    scene.peer.wait_for("client_ack").await;
    assert!(!scene.node.receives(1).await[0].sender_verified);
    drop(scene.peer);
    let node = scene.node.restart().await;
    let mut peer = scene.broker.accept(modern_features()).await;
    let proved = until("the sender is proved", async || node.received().await[0].sender_verified);
    super::fake_broker::serving(&mut peer, proved).await;
    let item = node.receives(1).await.remove(0);
    assert_eq!(
        (item.sender_name.as_str(), item.sender_member_pubkey),
        ("alice", scene.alice.public().to_hex())
    );
}

/// daemon §10.6: a stopped loop is told once, however often the broker says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_loop_is_told_once() {
    let mut scene = scene().await;
    let mut events = scene.node.subscribe();
    let stop = |until: &str| {
        json!({
            "type": "push", "messageId": "E1", "meshId": scene.broker.mesh, "senderPubkey": "system",
            "priority": "low", "nonce": "", "ciphertext": "", "createdAt": clock::now().to_iso(),
            "subtype": "system", "event": "loop_stopped",
            "eventData": {"pair": [scene.me.public(), scene.alice.public()], "hops": 13, "count": 41, "until": until},
        })
    };
    let (first, second) = (stop("2026-01-01T00:10:00.000Z"), stop("2026-01-01T01:00:00.000Z"));
    for frame in [&first, &first, &first, &second] {
        scene.peer.send(frame).await;
    }
    let told = event(&mut events, "loop_stopped").await;
    assert_eq!((&told["hops"], &told["count"]), (&json!(13), &json!(41)));
    let next = event(&mut events, "loop_stopped").await;
    assert_eq!(next["until"], "2026-01-01T01:00:00.000Z");
}

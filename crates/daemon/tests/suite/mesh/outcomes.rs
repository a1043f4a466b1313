//! What becomes of rows: the table of broker answers on the wire, rows without a sender, rows of an older client, and
//! what an operator does about the dead (daemon spec §11).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claudemesh_crypto::KeyPair;
use claudemesh_daemon::Running;
use claudemesh_daemon::mesh::{AgeSettings, Sender};
use claudemesh_ipc::api::{OutboxItem, OutboxQuery, RequeueRequest, RowStatus, SendRequest};
use claudemesh_protocol::MemberId;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use super::fake_broker::{FakeBroker, Peer, modern_features, serving};
use super::node::{Node, entry, event, until};
use crate::local::world::{Home, code, letter};

fn refused(frame: &Value, error: &str) -> Value {
    json!({"type": "ack", "id": frame["id"], "messageId": "", "queued": false, "error": error})
}

fn accepted(frame: &Value) -> Value {
    json!({"type": "ack", "id": frame["id"], "messageId": "Q1", "queued": true, "status": 201})
}

async fn row(node: &Node, id: &str) -> OutboxItem {
    node.outbox.by_id(id).await.unwrap().remove(0)
}

/// Daemon spec §11.4: answers on the wire, and the row, its code and its event afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_its_outcome() {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let node = Node::start(entry(&broker.mesh, &MemberId::new("me"), me, &broker.url())).await;
    let mut peer = broker.accept(modern_features()).await;
    let mut events = node.subscribe();
    for (error, code) in [
        ("loop_stopped: forbidden, hops 13", "loop_stopped"),
        ("idempotency_conflict: invalid reuse of client_message_id", "idempotency_conflict"),
        ("idempotency_key_reused", "idempotency_conflict"),
        ("target_not_found: invalid target", "target_not_found"),
        ("payload too large: 70000 bytes > MAX_MESSAGE_BYTES=65536", "payload_too_large"),
        ("blocked by recipient grants (sender lacks dm capability)", "forbidden"),
    ] {
        let id = node.send(&KeyPair::generate().public().to_hex(), "no").await;
        let frame = peer.wait_for("send").await;
        peer.send(&refused(&frame, error)).await;
        let told = event(&mut events, "outbox_dead").await;
        assert_eq!(
            (&told["client_message_id"], &told["last_error_code"]),
            (&json!(id), &json!(code))
        );
        assert_eq!(row(&node, &id).await.status, RowStatus::Dead, "{error}");
    }
    for (error, code) in [
        ("rate_limited: max 300 msg/min (burst 60) — slow down", "rate_limited"),
        ("queue_full: later", "queue_full"),
        ("no connected peer for target (not online)", "recipient_offline"),
        ("a_code_of_tomorrow: forbidden and invalid", "a_code_of_tomorrow"),
    ] {
        let id = node.send(&KeyPair::generate().public().to_hex(), "later").await;
        let first = peer.wait_for("send").await;
        let mut ack = refused(&first, error);
        if code == "rate_limited" {
            ack["retry_after_ms"] = json!(1_500);
        }
        let asked_at = tokio::time::Instant::now();
        peer.send(&ack).await;
        let second = peer.wait_for("send").await;
        assert_eq!(first, second, "the same frame, id and fingerprint");
        let least = if code == "rate_limited" { 1_500 } else { 375 };
        assert!(asked_at.elapsed() >= Duration::from_millis(least), "{error}");
        let waiting = row(&node, &id).await;
        assert_eq!((waiting.attempts, waiting.last_error_code.as_deref()), (1, Some(code)));
        peer.send(&accepted(&second)).await;
        serving(
            &mut peer,
            until("it is done", async || row(&node, &id).await.status == RowStatus::Done),
        )
        .await;
    }
}

/// Daemon spec §11.4: what the broker says beside its ids is kept and told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_adds_is_kept_in_the_row_and_told() {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let node = Node::start(entry(&broker.mesh, &MemberId::new("me"), me, &broker.url())).await;
    let mut peer = broker.accept(modern_features()).await;
    let mut events = node.subscribe();
    let (to, member) = (KeyPair::generate().public(), KeyPair::generate().public());
    let id = node.send(&to.to_hex(), "hi").await;
    let frame = peer.wait_for("send").await;
    let mut ack = accepted(&frame);
    for (name, value) in [
        ("rerouted_to", json!(member)),
        ("recipient_online", json!(false)),
        ("held", json!(1)),
        ("recipients", json!(1)),
        ("unreadable_by", json!(["m1"])),
    ] {
        ack[name] = value;
    }
    peer.send(&ack).await;
    let told = event(&mut events, "message_sent").await;
    let answer = row(&node, &id).await.answer.unwrap();
    assert_eq!(answer.rerouted_to, Some(member));
    assert_eq!((answer.recipient_online, answer.held), (Some(false), Some(1)));
    for name in ["rerouted_to", "recipient_online", "held", "recipients", "unreadable_by"] {
        assert_eq!(told[name], ack[name], "{name}");
    }
}

/// Daemon spec §11.3: rows of a session whose key is gone for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_session_that_is_gone_are_given_up() {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let mesh_entry = entry(&broker.mesh, &MemberId::new("me"), me, &broker.url());
    let dir = Arc::new(TempDir::new().unwrap());
    let node = Node::start_in(Arc::clone(&dir), mesh_entry.clone()).await;
    let to = KeyPair::generate().public().to_hex();
    let id = node.send_as(&to, "who?", Sender::Session(Arc::new(KeyPair::generate()))).await;
    assert_eq!(row(&node, &id).await.status, RowStatus::Pending, "ten minutes have not passed");
    node.stop().await;
    let ages = AgeSettings { sender_gone: Duration::ZERO, ..AgeSettings::default() };
    let node = Node::start_with(dir, mesh_entry, ages).await;
    until("it is given up", async || row(&node, &id).await.status == RowStatus::Dead).await;
    assert_eq!(row(&node, &id).await.last_error_code.as_deref(), Some("sender_session_gone"));
    node.stop().await;
}

/// A daemon with its local API at a scripted broker.
struct Scene {
    home: Home,
    running: Running,
    broker: FakeBroker,
    peer: Peer,
}

async fn scene(prepare: impl AsyncFnOnce(&Home)) -> Scene {
    let me = KeyPair::generate();
    let broker = FakeBroker::new(vec![(me.public(), "me")]).await;
    let home = Home::new();
    home.join_as(entry(&broker.mesh, &MemberId::new("me"), me, &broker.url()));
    prepare(&home).await;
    let running = home.start().await;
    let peer = broker.accept(modern_features()).await;
    Scene { home, running, broker, peer }
}

impl Scene {
    /// Waits until the row of this client id is in a state.
    async fn is(&mut self, id: &str, status: RowStatus) {
        let client = self.running.client();
        let reached = until("the row is there", async || {
            client.outbox_row(id).await.is_ok_and(|reply| reply.row.status == status)
        });
        serving(&mut self.peer, reached).await;
    }
}

/// Daemon spec §11 Accept 5: requeue of a dead DM: wire capture shows targetSpec = the peer, ciphertext not equal base64 of the
/// payload, never `*`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requeued_message_goes_sealed_to_its_peer() {
    let mut scene = scene(async |_| {}).await;
    let client = scene.running.client();
    let to = KeyPair::generate().public().to_hex();
    let request = SendRequest {
        client_message_id: Some("first".to_owned()),
        meta: serde_json::from_value(json!({"a": 1})).ok(),
        ..letter(&to, "secret")
    };
    client.send(&request).await.unwrap();
    let first = scene.peer.wait_for("send").await;
    scene.peer.send(&refused(&first, "forbidden: not yet")).await;
    scene.is("first", RowStatus::Dead).await;
    let requeue = RequeueRequest {
        id: "first".to_owned(),
        new_client_message_id: Some("second".to_owned()),
        ..RequeueRequest::default()
    };
    let reply = client.outbox_requeue(&requeue).await.unwrap();
    assert_eq!(reply.new_client_message_id, "second");
    let second = scene.peer.wait_for("send").await;
    assert_eq!(second["targetSpec"], to.as_str());
    assert_eq!(second["id"], "second");
    assert_ne!(second["ciphertext"], STANDARD.encode("secret"));
    assert_ne!(second["ciphertext"], first["ciphertext"]);
    assert_ne!(second["nonce"], first["nonce"]);
    assert_eq!(second["request_fingerprint"], first["request_fingerprint"], "the same request");
    scene.peer.send(&accepted(&second)).await;
    scene.is("second", RowStatus::Done).await;
    let shown = client.outbox_row("second").await.unwrap();
    let ids = [reply.aborted_row_id.clone(), reply.new_row_id.clone()];
    assert_eq!((shown.chain.as_slice(), &shown.row.id), (ids.as_slice(), &reply.new_row_id));
    let old = client.outbox_row("first").await.unwrap();
    assert_eq!((old.row.status, old.chain.as_slice()), (RowStatus::Aborted, ids.as_slice()));
    assert_eq!(old.row.superseded_by.as_deref(), Some(reply.new_row_id.as_str()));
    assert_eq!(old.row.aborted_by.as_deref(), Some("operator"));
    // Done and aborted rows stay as they are.
    for id in ["first", "second"] {
        let again = RequeueRequest { id: id.to_owned(), ..RequeueRequest::default() };
        assert_eq!(code(client.outbox_requeue(&again).await), "row_finished");
        assert_eq!(code(client.outbox_drop(id).await), "row_finished");
    }
    scene.running.shutdown().await;
}

/// Daemon spec §11.8: with `keep_target` the sealed body stays; a row on its way is replaced by force only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_on_its_way_is_replaced_by_force_only() {
    let mut scene = scene(async |_| {}).await;
    let client = scene.running.client();
    let to = KeyPair::generate().public().to_hex();
    client
        .send(&SendRequest { client_message_id: Some("slow".to_owned()), ..letter(&to, "hi") })
        .await
        .unwrap();
    let first = scene.peer.wait_for("send").await;
    let plain = RequeueRequest { id: "slow".to_owned(), ..RequeueRequest::default() };
    assert_eq!(code(client.outbox_requeue(&plain).await), "row_inflight");
    assert_eq!(code(client.outbox_drop("slow").await), "row_inflight");
    let forced = RequeueRequest { force: true, keep_target: true, ..plain.clone() };
    let taken = RequeueRequest { new_client_message_id: Some("slow".to_owned()), ..forced.clone() };
    assert_eq!(code(client.outbox_requeue(&taken).await), "idempotency_conflict");
    let reply = client.outbox_requeue(&forced).await.unwrap();
    let second = scene.peer.wait_for("send").await;
    assert_eq!(second["id"], reply.new_client_message_id.as_str());
    assert_eq!(second["ciphertext"], first["ciphertext"], "as it was sealed");
    // The late answer to the old one changes nothing.
    scene.peer.send(&accepted(&first)).await;
    scene.peer.send(&accepted(&second)).await;
    scene.is(&reply.new_client_message_id, RowStatus::Done).await;
    assert_eq!(client.outbox_row("slow").await.unwrap().row.status, RowStatus::Aborted);
    let patched = RequeueRequest { payload: Some(String::new()), ..plain };
    assert_eq!(code(client.outbox_requeue(&patched).await), "row_finished");
    assert_eq!(code(client.outbox_row("nowhere").await), "not_found");
    scene.running.shutdown().await;
}

/// Daemon spec §18.4: a member who was removed: sends are refused, what waits is kept, and goes out when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_told_and_its_rows_are_kept() {
    let mut scene = scene(async |_| {}).await;
    let client = scene.running.client();
    let to = KeyPair::generate().public().to_hex();
    let query = claudemesh_ipc::api::EventsQuery {
        kinds: Some("revocation".to_owned()),
        ..claudemesh_ipc::api::EventsQuery::default()
    };
    let mut events = client.events(&query, None).await.unwrap();
    client
        .send(&SendRequest { client_message_id: Some("kept".to_owned()), ..letter(&to, "hi") })
        .await
        .unwrap();
    scene.peer.wait_for("send").await;
    scene.peer.close(4002, "banned").await;
    let told = tokio::time::timeout(Duration::from_secs(10), events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(told.kind.as_str(), "revocation");
    until("the mesh is disabled", async || {
        let health = client.health().await.unwrap();
        health.meshes[0].disabled_reason.as_deref() == Some("revoked")
    })
    .await;
    assert_eq!(code(client.send(&letter(&to, "no")).await), "member_revoked");
    until("the row is back in the queue", async || {
        client.outbox_row("kept").await.unwrap().row.status == RowStatus::Pending
    })
    .await;
    client.reload().await.unwrap();
    scene.peer = scene.broker.accept(modern_features()).await;
    let frame = scene.peer.wait_for("send").await;
    assert_eq!(frame["id"], "kept");
    scene.peer.send(&accepted(&frame)).await;
    scene.is("kept", RowStatus::Done).await;
    scene.running.shutdown().await;
}

/// The outbox of an older client: rows that went to everybody had no columns for where they go.
const OLDER_CLIENT: &str = "
CREATE TABLE outbox (
  id TEXT PRIMARY KEY, client_message_id TEXT NOT NULL UNIQUE, request_fingerprint BLOB NOT NULL,
  payload BLOB NOT NULL, enqueued_at INTEGER NOT NULL, attempts INTEGER DEFAULT 0,
  next_attempt_at INTEGER NOT NULL, status TEXT NOT NULL, last_error TEXT, delivered_at INTEGER,
  broker_message_id TEXT, mesh TEXT, target_spec TEXT, nonce TEXT, ciphertext TEXT, priority TEXT
);
CREATE INDEX outbox_pending ON outbox(status, next_attempt_at);
INSERT INTO outbox (id, client_message_id, request_fingerprint, payload, enqueued_at, next_attempt_at, status)
  VALUES ('r1', 'c1', zeroblob(32), 'to nobody in particular', 1, 1, 'pending'),
         ('r2', 'c2', zeroblob(32), 'half way', 1, 1, 'inflight'),
         ('r3', 'c3', zeroblob(32), 'was sent', 1, 1, 'done');
INSERT INTO outbox (id, client_message_id, request_fingerprint, payload, enqueued_at, next_attempt_at, status,
                    mesh, target_spec, nonce, ciphertext, priority)
  VALUES ('r4', 'c4', zeroblob(32), 'everybody', 1, 1, 'pending', 'home', '*', 'bm9uY2U=', 'ZXZlcnlib2R5', 'now');
";

/// Daemon spec §11 Accept 7: reference-schema database file imports without broadcasting anything (fake broker sees 0 sends).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_clients_outbox_is_taken_over_without_sending_it() {
    let mut scene = scene(async |home: &Home| {
        home.settings("");
        let options =
            SqliteConnectOptions::new().filename(home.paths.outbox_file()).create_if_missing(true);
        let mut conn = options.connect().await.unwrap();
        sqlx::raw_sql(OLDER_CLIENT).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    })
    .await;
    let client = scene.running.client();
    let rows = client.outbox(&OutboxQuery::default()).await.unwrap().items;
    let states: Vec<_> = rows
        .iter()
        .rev()
        .map(|row| (row.client_message_id.as_str(), row.status, row.last_error_code.as_deref()))
        .collect();
    let dead = Some("legacy_unroutable");
    assert_eq!(
        states,
        [
            ("c1", RowStatus::Dead, dead),
            ("c2", RowStatus::Dead, dead),
            ("c3", RowStatus::Done, None),
            ("c4", RowStatus::Dead, dead),
        ]
    );
    // Nor does an operator send it to everybody by mistake.
    let requeue = RequeueRequest { id: "c1".to_owned(), ..RequeueRequest::default() };
    assert_eq!(code(client.outbox_requeue(&requeue).await), "mesh_not_attached");
    let to = KeyPair::generate().public().to_hex();
    let mark = SendRequest { client_message_id: Some("mark".to_owned()), ..letter(&to, "now") };
    client.send(&mark).await.unwrap();
    let first = scene.peer.wait_for("send").await;
    assert_eq!(first["id"], "mark", "nothing was sent before it");
    scene.peer.send(&accepted(&first)).await;
    scene.is("mark", RowStatus::Done).await;
    scene.running.shutdown().await;
    let running = scene.home.start().await;
    assert_eq!(running.client().outbox(&OutboxQuery::default()).await.unwrap().items.len(), 5);
    running.shutdown().await;
}

//! The accept algorithm of a send (daemon spec §10.4) and a full disk (§11.7).

use claudemesh_daemon::Running;
use claudemesh_daemon::storage::StorageError;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::{OutboxQuery, RowStatus, SendRequest};
use serde_json::Value;

use super::world::{Home, code, letter, raw, register, some_key, until};

async fn set_status(running: &Running, id: &str, status: &'static str) {
    let id = id.to_owned();
    running
        .daemon()
        .context()
        .outbox
        .database()
        .write(move |conn| {
            Box::pin(async move {
                let sql = "UPDATE outbox SET status=$1, broker_message_id=CASE $1 WHEN 'done' THEN 'b1' END, \
                           history_id=CASE $1 WHEN 'done' THEN 'h1' END, last_error='too old' \
                           WHERE client_message_id=$2";
                sqlx::query(sql).bind(status).bind(id).execute(conn).await?;
                Ok::<_, StorageError>(())
            })
        })
        .await
        .unwrap();
}

fn named(to: &str, message: &str, id: &str) -> SendRequest {
    SendRequest { client_message_id: Some(id.to_owned()), ..letter(to, message) }
}

async fn rows(client: &Client) -> usize {
    let query = OutboxQuery { limit: Some(500), ..OutboxQuery::default() };
    client.outbox(&query).await.unwrap().items.len()
}

/// Daemon spec §10 Accept 1: the 11-row table as a parameterised test (each × both senders); 409 prefixes equal the first 8 bytes.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_repeated_ids_holds_for_both_senders() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let (session, _) = register(&running, "dev", 1, |_| {}).await;
    for (sender, client) in [("member", running.client()), ("session", session)] {
        let to = some_key();
        for status in RowStatus::ALL {
            let id = format!("{sender}-{}", status.as_str());
            let first = client.send(&named(&to, "hi", &id)).await.unwrap();
            assert_eq!((first.status, first.target.as_str()), (RowStatus::Pending, to.as_str()));
            set_status(&running, &id, status.as_str()).await;
            let query = OutboxQuery { limit: Some(1), ..OutboxQuery::default() };
            let before = client.outbox(&query).await.unwrap().items.remove(0);
            let same = client.send(&named(&to, "hi", &id)).await;
            match status {
                RowStatus::Pending | RowStatus::Inflight => {
                    let reply = same.unwrap();
                    assert_eq!((reply.status, reply.duplicate), (*status, false));
                }
                RowStatus::Done => {
                    let reply = same.unwrap();
                    assert!(reply.duplicate);
                    assert_eq!(reply.broker_message_id.as_deref(), Some("b1"));
                    assert_eq!(reply.history_id.as_deref(), Some("h1"));
                }
                RowStatus::Dead | RowStatus::Aborted => {
                    let error = same.unwrap_err();
                    let error = error.api().unwrap();
                    let detail = format!("outbox_{}_fingerprint_match", status.as_str());
                    assert_eq!(
                        (error.status, error.extra("detail").unwrap()),
                        (409, &Value::from(detail))
                    );
                    let reason = (*status == RowStatus::Dead).then(|| Value::from("too old"));
                    assert_eq!(error.extra("reason"), reason.as_ref());
                }
            }
            let error = client.send(&named(&to, "other", &id)).await.unwrap_err();
            let error = error.api().unwrap();
            assert_eq!((error.status, error.body.error.as_str()), (409, "idempotency_conflict"));
            assert_eq!(error.extra("row_status").unwrap(), status.as_str());
            let detail = format!("outbox_{}_fingerprint_mismatch", status.as_str());
            assert_eq!(error.extra("detail").unwrap(), detail.as_str());
            let prefix = error.extra("daemon_fingerprint_prefix").unwrap();
            assert_eq!(prefix, before.request_fingerprint_prefix.as_str());
            let after = client.outbox(&query).await.unwrap().items.remove(0);
            assert_eq!(after, before, "no state is mutated by a repeated id");
        }
    }
    running.shutdown().await;
}

/// Daemon spec §10 Accept 2: 64 threads POST the same cmid + body at once: one row; one 202 insert, others 202/200; different
/// bodies: one 202, the rest 409.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_sends_of_one_id_make_one_row() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let (client, to) = (running.client(), some_key());
    let same: Vec<_> = (0..64).map(|_| named(&to, "hi", "same")).collect();
    let answers =
        futures_util::future::join_all(same.iter().map(|letter| client.send(letter))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(rows(&client).await, 1);
    let bodies: Vec<_> = (0..64).map(|n| named(&to, &n.to_string(), "other")).collect();
    let answers =
        futures_util::future::join_all(bodies.iter().map(|letter| client.send(letter))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let refused = answers.into_iter().filter(Result::is_err).map(code);
    assert!(refused.into_iter().all(|code| code == "idempotency_conflict"));
    assert_eq!(rows(&client).await, 2);
    running.shutdown().await;
}

/// Daemon spec §10 Accept 7: message of exactly `max_bytes` accepted; +1 byte → 413 and no row.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_is_taken_and_one_byte_more_is_not() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let (client, to) = (running.client(), some_key());
    let error = client.send(&letter(&to, &"x".repeat(65_536))).await.unwrap_err();
    let error = error.api().unwrap();
    assert_eq!((error.status, error.body.error.as_str()), (413, "payload_too_large"));
    let max = usize::try_from(error.extra("max_bytes").unwrap().as_u64().unwrap()).unwrap();
    assert_eq!(code(client.send(&letter(&to, &"x".repeat(max + 1))).await), "payload_too_large");
    assert_eq!(rows(&client).await, 0);
    client.send(&letter(&to, &"x".repeat(max))).await.unwrap();
    assert_eq!(rows(&client).await, 1);
    running.shutdown().await;
}

/// Daemon spec §10 Accept 5: `to:"cafe12"` with no such name → 404. Targets that cannot be resolved consume no id.
#[tokio::test(flavor = "multi_thread")]
async fn unresolved_targets_are_named_and_consume_no_id() {
    let home = Home::new();
    let own = home.join("dev");
    let running = home.start().await;
    let client = running.client();
    let own = own.public().to_hex();
    for (to, expected) in [
        ("nobody", "target_not_found"),
        ("cafe12", "target_not_found"),
        ("other:ann", "target_not_found"),
        ("#topic", "topic_not_found"),
        ("@a b", "invalid_target"),
        (own.as_str(), "self_target"),
    ] {
        assert_eq!(code(client.send(&named(to, "hi", "free")).await), expected, "{to}");
    }
    let to_self = SendRequest { to_self: true, ..letter(&own, "hi") };
    assert_eq!(code(client.send(&to_self).await), "target_not_found");
    client.send(&named(&format!("dev:{}", some_key()), "hi", "free")).await.unwrap();
    home.join("two");
    client.reload().await.unwrap();
    let error = client.send(&letter(&some_key(), "which mesh?")).await.unwrap_err();
    let error = error.api().unwrap();
    assert_eq!(error.body.error, "mesh_required");
    assert_eq!(error.extra("attached").unwrap(), &serde_json::json!(["dev", "two"]));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bodies_are_refused_with_their_field() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    for (body, status, expected) in [
        ("{", 400, "invalid_json"),
        ("{\"to\":\"a\"}", 400, "\"field\":\"message\""),
        ("{\"to\":\"a\",\"message\":\"b\",\"x\":1}", 400, "\"field\":\"x\""),
        ("{\"to\":\"a\",\"message\":7}", 400, "invalid_field"),
        ("{\"to\":\"a\",\"message\":\"b\",\"priority\":\"soon\"}", 400, "invalid_field"),
    ] {
        let head = format!(
            "POST /v1/send HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}",
            body.len()
        );
        let (found, answer) = raw(running.socket(), &head, body).await;
        assert!(found == status && answer.contains(expected), "{body}: {answer}");
        assert!(answer.contains("request_id"), "{answer}");
    }
    let (found, answer) = raw(
        running.socket(),
        "POST /v1/send HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2000000",
        "",
    )
    .await;
    assert!(found == 413 && answer.contains("1048576"), "{answer}");
    running.shutdown().await;
}

/// Daemon §11.7: the queue limit: 507 `insufficient_storage`, and room again when it empties.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_until_it_empties() {
    let home = Home::new();
    home.join("dev");
    home.settings("[outbox]\nmax_queue_rows = 20\n");
    let running = home.start().await;
    let (client, to) = (running.client(), some_key());
    for _ in 0..19 {
        client.send(&letter(&to, "x")).await.unwrap();
    }
    assert_eq!(code(client.send(&letter(&to, "x")).await), "insufficient_storage");
    running.daemon().context().outbox.mesh_left("dev").await.unwrap();
    client.send(&letter(&to, "x")).await.unwrap();
    running.shutdown().await;
}

/// Daemon spec §11 Accept 6: fill the disk (small tmpfs; here a page limit of the database): 507, no corruption, and sends are taken again after space is freed.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers() {
    let home = Home::new();
    home.join("dev");
    home.settings("[outbox]\nmax_pages = 60\n");
    let running = home.start().await;
    let (client, to, text) = (running.client(), some_key(), "x".repeat(8_000));
    let mut accepted = 0;
    let refused = loop {
        match client.send(&letter(&to, &text)).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100, "the page limit does not hold");
    };
    assert_eq!(refused.api().unwrap().status, 507);
    let health = client.health().await.unwrap();
    assert!(health.ok && health.degraded, "{health:?}");
    assert_eq!(
        code(client.events(&claudemesh_ipc::api::EventsQuery::default(), None).await),
        "degraded"
    );
    assert_eq!(rows(&client).await, accepted);
    let database = running.daemon().context().outbox.database().clone();
    database
        .write(|conn| {
            Box::pin(async move {
                sqlx::query("DELETE FROM outbox WHERE seq > 1").execute(conn).await?;
                Ok::<_, StorageError>(())
            })
        })
        .await
        .unwrap();
    until("a send is taken", || async { client.send(&letter(&to, &text)).await.is_ok() }).await;
    assert!(!client.health().await.unwrap().degraded);
    running.shutdown().await;
    let running = home.start().await;
    assert_eq!(rows(&running.client()).await, 2);
    running.shutdown().await;
}

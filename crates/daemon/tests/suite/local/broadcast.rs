//! `POST /v1/broadcast` and `GET /v1/compat` (daemon spec §9.6, §9.7).

use claudemesh_ipc::api::OutboxQuery;
use claudemesh_ipc::api::send::BroadcastRequest;
use claudemesh_protocol::capability::CapabilitySet;

use super::world::{Home, code, raw, register};

fn saying(scope: Option<&str>, message: &str) -> BroadcastRequest {
    let scope = scope.map(str::to_owned);
    BroadcastRequest { message: message.to_owned(), scope, ..BroadcastRequest::default() }
}

/// A broadcast is a send: durable, repeatable under its id, and in need of the capability.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_a_send_to_many() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let client = running.client();
    let mut all = saying(None, "to all");
    all.client_message_id = Some("broadcast-once-1".to_owned());
    let sent = client.broadcast(&all).await.unwrap();
    assert_eq!((sent.target.as_str(), sent.mesh.as_str()), ("*", "dev"));
    assert_eq!(client.broadcast(&all).await.unwrap().client_message_id, sent.client_message_id);
    let group = client.broadcast(&saying(Some("@ops"), "to some")).await.unwrap();
    assert_eq!(group.target, "@ops");
    let rows = client.outbox(&OutboxQuery::default()).await.unwrap().items;
    assert_eq!(rows.len(), 2, "{rows:?}");
    for wrong in ["Mou", "", "@", "#general", "ops"] {
        assert_eq!(
            code(client.broadcast(&saying(Some(wrong), "x")).await),
            "invalid_field",
            "{wrong}"
        );
    }
    assert_eq!(code(client.broadcast(&saying(None, "")).await), "invalid_field");
    let head = "POST /v1/broadcast HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 26";
    let (status, answer) = raw(running.socket(), head, "{\"message\":\"x\",\"to\":\"Mou\"}").await;
    assert!(status == 400 && answer.contains("\"field\":\"to\""), "{answer}");
    let caps = CapabilitySet::parse(["dm"]).ok();
    let (session, _) = register(&running, "dev", 1, |request| request.caps = caps).await;
    assert_eq!(code(session.broadcast(&all).await), "forbidden");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_says_what_it_works_with() {
    let home = Home::new();
    let running = home.start().await;
    let (compat, version) =
        (running.client().compat().await.unwrap(), running.client().version().await.unwrap());
    assert_eq!(compat.daemon, version.daemon_version);
    assert_eq!(
        compat.required_broker_features,
        ["client_message_id_dedupe", "concurrent_connection_policy"]
    );
    assert!(!compat.compatible_brokers.is_empty() && !compat.compatible_sdks.ts.is_empty());
    for feature in ["state", "search", "inbox_fts", "metrics", "compat"] {
        assert!(version.ipc_features.iter().any(|known| known == feature), "{feature}");
    }
    running.shutdown().await;
    home.settings("[inbox]\nfts = false\n");
    let running = home.start().await;
    let features = running.client().version().await.unwrap().ipc_features;
    assert!(!features.contains(&"inbox_fts".to_owned()), "{features:?}");
    running.shutdown().await;
}

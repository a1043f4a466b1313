//! What sessions count, as `mesh stats` shows it to everybody.

use std::sync::Arc;
use std::time::Duration;

use claudemesh_daemon::Running;
use claudemesh_daemon::mesh::{AgeSettings, Listing};
use claudemesh_ipc::Client;
use claudemesh_ipc::api::EventsQuery;
use claudemesh_ipc::api::session::Heartbeat;
use claudemesh_protocol::ops::OperationKind as Op;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::world::{HOME, done, op};
use crate::local::world::{Home, register};
use crate::mesh::node::{Node, World, until};

const TOOLS: Heartbeat = Heartbeat { status: None, tool_calls: 3, errors: 1, client: None };

async fn connected(running: &Running, byte: u8) -> (Client, String) {
    let (client, reply) = register(running, HOME, byte, |_| {}).await;
    let key = reply.session_pubkey.unwrap().to_hex();
    until("the session is open", async || {
        let session = client.session().await.unwrap();
        session.broker_status.is_some_and(|status| status.as_str() == "open")
    })
    .await;
    (client, key)
}

/// The counters of a presence as `mesh.stats` gives them; null while the broker was told none, or does not answer.
async fn stats(client: &Client, key: &str) -> Value {
    // While the mesh is not open yet there is no answer.
    let Ok(reply) = op(client, Op::MeshStats, json!({})).await else { return Value::Null };
    let rows = reply.result["peers"].as_array().unwrap().clone();
    rows.into_iter()
        .find(|row| row["pubkey"] == key)
        .map_or(Value::Null, |mut row| row["stats"].take())
}

/// MCP spec §6, counters; VIS-2 seen from the session: they go on over its return and over a restart of the daemon, and
/// what was told twice counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_counts_on_where_it_stopped() {
    let world = World::new(2).await;
    let bob = Node::open(world.entry(1)).await;
    let home = Home::new();
    home.join_as(world.entry(0));
    let running = home.start().await;
    let (client, key) = connected(&running, 1).await;
    until("bob sees the session", async || {
        let peers = bob.mesh().peers(Listing::Addressable).await;
        peers.is_ok_and(|peers| peers.peers.iter().any(|row| row.pubkey.to_hex() == key))
    })
    .await;
    bob.send(&key, "to the session").await;
    until("it came in", async || {
        let unread = done(&client, Op::MessageInbox, json!({ "mark_seen": false })).await;
        unread["messages"] != json!([])
    })
    .await;
    let query = EventsQuery { kinds: Some("message_sent".to_owned()), ..EventsQuery::default() };
    let mut events = client.events(&query, None).await.unwrap();
    let to = json!({ "to": world.key(1).to_hex(), "message": "from the session" });
    done(&client, Op::MessageSend, to).await;
    bob.receives(1).await;
    events.next().await.unwrap().expect("the broker took it");
    client.heartbeat(&TOOLS).await.unwrap();
    let counted = |stats: &Value| {
        ["messagesIn", "messagesOut", "toolCalls", "errors"].map(|name| stats[name].as_u64())
    };
    let expected = [Some(1), Some(1), Some(3), Some(1)];

    // The session leaves and comes back: it says so at once what it had counted.
    client.deregister_session().await.unwrap();
    until("the broker keeps them", async || {
        let kept = format!("peer_state WHERE session_pubkey = '{key}' AND cumulative_stats LIKE '%\"toolCalls\":3%'");
        world.count(&kept).await == 1
    })
    .await;
    let (client, again) = connected(&running, 1).await;
    assert_eq!(again, key);
    until("the counters are there again", async || {
        counted(&stats(&client, &key).await) == expected
    })
    .await;

    // The daemon starts anew.
    client.heartbeat(&TOOLS).await.unwrap();
    running.shutdown().await;
    let running = home.start().await;
    let client = running.client();
    until("the counters go on", async || {
        counted(&stats(&client, &key).await) == [Some(1), Some(1), Some(6), Some(2)]
    })
    .await;
    running.shutdown().await;
    bob.stop().await;
}

/// Wire spec §3.2: told again and again, with the time since the session began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_told_at_every_turn() {
    let world = World::new(1).await;
    let every = Duration::from_millis(400);
    let dir = Arc::new(TempDir::new().unwrap());
    let ana = Node::start_counting(dir, world.entry(0), AgeSettings::default(), every).await;
    ana.connected().await;
    let session = ana.register("counting", None, Vec::new());
    ana.session_open(&session).await;
    let told = async || {
        let peers = ana.mesh().peers(Listing::Addressable).await.ok()?;
        let row = peers.peers.into_iter().find(|row| Some(row.pubkey) == session.key())?;
        row.stats
    };
    for calls in 1..=2_u64 {
        session.activity.counters.tools(1, 0);
        until("the broker knows", async || {
            told().await.is_some_and(|stats| stats.tool_calls == Some(calls))
        })
        .await;
    }
    until("time passes", async || told().await.is_some_and(|stats| stats.uptime >= Some(1))).await;
    ana.stop().await;
}

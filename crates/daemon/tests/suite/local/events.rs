//! The event stream over the socket (daemon spec §14).

use claudemesh_ipc::EventStream;
use claudemesh_ipc::api::{EventKind, EventScope, EventsQuery, RecipientKind};

use super::inbox::{item, put};
use super::world::{Home, code, register};

/// The next messages, by client id.
async fn messages(events: &mut EventStream, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let event = events.next().await.unwrap().expect("the stream goes on");
        if event.kind == EventKind::Message {
            found.push(event.data["client_message_id"].as_str().unwrap().to_owned());
        }
    }
    found
}

/// Daemon spec §14 Accept 1: sessions A,B on one daemon: each subscriber's stream equals the oracle set.
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_told_apart_by_session() {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    let (a, a_reply) = register(&running, "dev", 1, |_| {}).await;
    let (b, b_reply) = register(&running, "dev", 2, |_| {}).await;
    let query = EventsQuery::default();
    let mut at_a = a.events(&query, None).await.unwrap();
    let mut at_b = b.events(&query, None).await.unwrap();
    let of_member = EventsQuery { scope: Some(EventScope::Member), ..EventsQuery::default() };
    let mut at_member = running.client().events(&of_member, None).await.unwrap();
    for n in 0..30 {
        let (key, kind) = match n % 3 {
            0 => (a_reply.session_pubkey.unwrap(), RecipientKind::Session),
            1 => (b_reply.session_pubkey.unwrap(), RecipientKind::Session),
            _ => (member.public(), RecipientKind::Member),
        };
        put(&running, item(key, kind, &n.to_string())).await;
    }
    let expected = |keep: &dyn Fn(usize) -> bool| -> Vec<String> {
        (0..30).filter(|n| keep(*n)).map(|n| n.to_string()).collect()
    };
    assert_eq!(messages(&mut at_a, 20).await, expected(&|n| n % 3 != 1));
    assert_eq!(messages(&mut at_b, 20).await, expected(&|n| n % 3 != 0));
    assert_eq!(messages(&mut at_member, 10).await, expected(&|n| n % 3 == 2));
    let no_session = EventsQuery { scope: Some(EventScope::Session), ..EventsQuery::default() };
    assert_eq!(code(running.client().events(&no_session, None).await), "unknown_session");
    running.shutdown().await;
}

/// Daemon spec §14 Accept 2: subscriber killed and restarted with `Last-Event-ID` during traffic: no gap, no duplicate.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_subscriber_misses_nothing() {
    let home = Home::new();
    let member = home.join("dev");
    let running = home.start().await;
    let (client, query) = (running.client(), EventsQuery::default());
    let mut events = client.events(&query, None).await.unwrap();
    let mut found = Vec::new();
    for n in 0..60 {
        put(&running, item(member.public(), RecipientKind::Member, &n.to_string())).await;
        if n % 7 == 3 {
            found.extend(messages(&mut events, 2).await);
            let last = events.last_event_id().unwrap().to_owned();
            drop(events);
            events = client.events(&query, Some(&last)).await.unwrap();
        }
    }
    let rest = 60 - found.len();
    found.extend(messages(&mut events, rest).await);
    assert_eq!(found, (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
    running.shutdown().await;
    // What was told last comes before the end.
    while let Ok(Some(_)) = events.next().await {}
    let running = home.start().await;
    let last = events.last_event_id().unwrap().to_owned();
    let mut events = running.client().events(&query, Some(&last)).await.unwrap();
    let first = events.next().await.unwrap().unwrap();
    assert_eq!(
        (first.kind, first.data["reason"].as_str()),
        (EventKind::Lagged, Some("unknown_id"))
    );
    running.shutdown().await;
}

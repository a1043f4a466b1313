//! The upper rungs of the ladder: in context, turn ended, and no further than the record goes.

use std::time::Duration;

use claudemesh_daemon::clock::now;
use claudemesh_daemon::inbox::Standing;
use claudemesh_ipc::api::inbox::SeenRequest;
use claudemesh_ipc::api::session::{DeliveryPath, HookEvent, PathState};
use claudemesh_ipc::api::{EventsQuery, InboxQuery};
use claudemesh_protocol::wire::ReceiptState;
use serde_json::json;

use super::stage::{Agent, FIRST, Stage, asked, ended, noise, shown};
use crate::mesh::node::{SLUG, until};

/// Agents spec §1.8, daemon spec §10.7: `in_context` and `turn_ended` from the agent's own record, with the way it took and
/// where that stands; forward only, once, and the same after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_record_shows_is_said_and_a_restart_says_as_much() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let agent = stage.agent(&running, FIRST).await;
    agent.hook(HookEvent::Start).await;
    let id = stage.send(&running, agent.key, "hello").await;
    let item = agent.takes(HookEvent::Prompt, "hello").await;
    let handed = stage.comes(&id, ReceiptState::Handed).await;
    assert_eq!(handed.path.as_deref(), Some("hook:prompt"));
    agent.record.append(&[noise(), shown(&item)]);
    agent.record_is(PathState::Readable).await;
    assert_eq!(stage.progress(&id).await.unwrap().state, ReceiptState::Handed, "nobody was asked");
    agent.record.append(&[asked()]);
    let in_context = stage.comes(&id, ReceiptState::InContext).await;
    assert_eq!(in_context.asserted_by, "agent_record");
    assert_eq!(in_context.path.as_deref(), Some("hook:prompt"));
    assert_eq!(in_context.evidence.as_deref(), Some("transcript 0a1b2c3d, session 1"));
    agent.record.append(&[noise(), asked(), ended()]);
    let turn_ended = stage.comes(&id, ReceiptState::TurnEnded).await;
    assert_eq!(turn_ended.evidence, in_context.evidence);
    running.shutdown().await;

    let running = stage.home.start().await;
    let inbox = &running.daemon().context().inbox;
    let since = now().minus(Duration::from_hours(1));
    let standings = inbox.standings(SLUG, agent.key, since).await.unwrap();
    let expected = Standing::TurnEnded {
        path: "hook:prompt".to_owned(),
        evidence: Some("transcript 0a1b2c3d, session 1".to_owned()),
    };
    assert_eq!(standings.into_iter().map(|(_, standing)| standing).collect::<Vec<_>>(), [expected]);
    running.shutdown().await;
}

/// Agents spec §1.8: what a daemon that was away did not read, the next one reads, from where the last one stopped, without
/// a hook that names the record again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_the_last_run_stopped() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let agent = stage.agent(&running, FIRST).await;
    agent.hook(HookEvent::Start).await;
    let mut ids = Vec::new();
    for text in ["one", "two"] {
        ids.push(stage.send(&running, agent.key, text).await);
        let item = agent.takes(HookEvent::Prompt, text).await;
        agent.record.append(&[shown(&item)]);
        if text == "one" {
            agent.record.append(&[asked()]);
            stage.comes(&ids[0], ReceiptState::InContext).await;
        }
    }
    running.shutdown().await;
    agent.record.append(&[asked(), ended()]);
    let running = stage.home.start().await;
    for id in &ids {
        stage.comes(id, ReceiptState::TurnEnded).await;
    }
    running.shutdown().await;
}

/// Daemon spec §13.2, agents spec §1.8: of a message to a member that two sessions have, the first record counts and names
/// its session; frames of messages that a session was never handed prove nothing about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sessions_the_first_record_counts() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let [one, two]: [Agent; 2] =
        [stage.agent(&running, FIRST).await, stage.agent(&running, FIRST + 1).await];
    for agent in [&one, &two] {
        agent.hook(HookEvent::Start).await;
    }
    let shared = stage.send(&running, stage.member(), "to you").await;
    let own = stage.send(&running, one.key, "to the first").await;
    let items = one.hook(HookEvent::Prompt).await.messages;
    assert_eq!(items.len(), 2, "{items:?}");
    let copy = two.takes(HookEvent::Prompt, "to you").await;
    // The second has seen all of it somewhere, and was handed one.
    let everything: Vec<_> = items.iter().chain([&copy]).map(shown).chain([asked()]).collect();
    two.record.append(&everything);
    let in_context = stage.comes(&shared, ReceiptState::InContext).await;
    assert_eq!(in_context.evidence.as_deref(), Some("transcript 0a1b2c3d, session 2"));
    let ends: Vec<_> = items.iter().map(shown).chain([asked(), ended()]).collect();
    one.record.append(&ends);
    stage.comes(&own, ReceiptState::TurnEnded).await;
    let ended = stage.comes(&shared, ReceiptState::TurnEnded).await;
    assert_eq!(ended.evidence.as_deref(), Some("transcript 0a1b2c3d, session 1"));
    running.shutdown().await;
}

/// Agents spec §1.2: what is known about the ways to a session is shown with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_shows_the_ways_to_its_agent() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let agent = stage.agent(&running, FIRST).await;
    assert_eq!(agent.path(DeliveryPath::Hooks).await, None);
    assert_eq!(agent.path(DeliveryPath::Channel).await, None);
    agent.hook(HookEvent::Start).await;
    assert_eq!(agent.path(DeliveryPath::Hooks).await, Some(PathState::Listening));
    agent.record_is(PathState::Readable).await;
    let events = agent.client.events(&EventsQuery::default(), None).await;
    assert_eq!(agent.path(DeliveryPath::Channel).await, Some(PathState::Unknown));
    // A message that was pushed there and stands in the record shows that the agent listens.
    let id = stage.send(&running, agent.key, "pushed").await;
    let peek = InboxQuery { mark_seen: Some(false), ..InboxQuery::default() };
    let item = agent.client.inbox(&peek).await.unwrap().items.remove(0);
    let seen = SeenRequest { ids: vec![item.id.clone()], pushed: true, ..SeenRequest::default() };
    // The agent may be faster than its server's word that it has pushed.
    agent.record.append(&[shown(&item), asked()]);
    agent.client.inbox_seen(&seen).await.unwrap();
    let in_context = stage.comes(&id, ReceiptState::InContext).await;
    assert_eq!(in_context.path.as_deref(), Some("channel"));
    assert_eq!(agent.path(DeliveryPath::Channel).await, Some(PathState::Listening));
    drop(events);
    running.shutdown().await;
}

/// Daemon spec §10.6: only what a person typed ends a chain of automatic answers, and only the record says who typed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_types_ends_a_chain_of_answers() {
    let stage = Stage::new().await;
    let running = stage.home.start().await;
    let agent = stage.agent(&running, FIRST).await;
    agent.hook(HookEvent::Start).await;
    stage.send(&running, agent.key, "hello").await;
    agent.takes(HookEvent::Prompt, "hello").await;
    let session = running.daemon().context().sessions.by_key(SLUG, &agent.key).unwrap();
    assert_eq!(session.next_hops(), 1);
    let typed = |kind: &str| {
        json!({ "type": "user", "timestamp": now().plus(Duration::from_secs(10)).to_iso(),
                "origin": { "kind": kind }, "message": { "content": "go on" } })
    };
    agent.record.append(&[typed("task-notification"), noise()]);
    agent.hook(HookEvent::Tool).await;
    assert_eq!(session.next_hops(), 1);
    agent.record.append(&[typed("human")]);
    until("the chain is over", async || session.next_hops() == 0).await;
    running.shutdown().await;
}

//! After the storm: waiting until nothing is on its way, and looking at what living processes show.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use claudemesh_ipc::Client;
use claudemesh_ipc::api::{InboxQuery, OutboxQuery};

use super::plan::Pace;
use super::say;
use super::storm::{Storm, every_victim, process};
use super::system::System;
use super::traffic;

/// How long everything may take to arrive after the last fault.
const PATIENCE: Duration = Duration::from_mins(3);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Time for everybody to be connected again after a cut.
const RECONNECT: Duration = Duration::from_secs(20);
/// Descriptors a process may have more of than before the cuts: sockets that close a moment later.
const DESCRIPTOR_SLACK: usize = 4;
/// Connections to a PostgreSQL server that the broker opens when it needs them, and keeps.
const POOL_MAX: usize = 10;

/// Waits until every outbox is empty and every delivery taken; what still waits after that, if anything.
pub async fn settle(system: &mut System, storm: &mut Storm) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut next_words = Instant::now() + Duration::from_secs(5);
    loop {
        storm.revive(system).await;
        storm.heal(system).await;
        for victim in every_victim() {
            process(system, victim).start();
        }
        let waiting = waiting(system).await;
        if waiting.is_empty() || Instant::now() > deadline {
            return waiting;
        }
        if Instant::now() > next_words {
            next_words += Duration::from_secs(5);
            say(format_args!("settling: {}", waiting.join("; ")));
        }
        traffic::rest(system).await;
        tokio::time::sleep(LOOK).await;
    }
}

async fn waiting(system: &System) -> Vec<String> {
    let mut waiting = Vec::new();
    for person in &system.people {
        let client = person.client();
        for status in ["pending", "inflight"] {
            let query = OutboxQuery {
                status: Some(status.to_owned()),
                limit: Some(500),
                ..OutboxQuery::default()
            };
            match client.outbox(&query).await {
                Ok(page) if page.items.is_empty() => {}
                Ok(page) => {
                    let (count, first) = (page.items.len(), &page.items[page.items.len() - 1]);
                    waiting.push(format!(
                        "{} rows of {} {status}, the oldest {} after {} attempts: {}",
                        count,
                        person.name,
                        first.client_message_id,
                        first.attempts,
                        first.last_error.as_deref().unwrap_or("no error"),
                    ));
                }
                Err(error) => waiting.push(format!("{}: {error}", person.name)),
            }
        }
    }
    match system.engine.open_deliveries().await {
        Some(0) => {}
        Some(open) => waiting.push(format!("{open} deliveries open")),
        None => waiting.push("the broker's database does not answer".to_owned()),
    }
    if waiting.is_empty() {
        let missing = system.missing().await;
        waiting.extend(missing.into_iter().map(|(name, status)| format!("{name} is {status}")));
    }
    waiting
}

/// Rows in the longest outbox, as far as daemons answer; at most 500.
pub async fn backlog(system: &System) -> usize {
    let mut longest = 0;
    for person in &system.people {
        let client = person.client().with_timeout(LOOK);
        let query = OutboxQuery {
            status: Some("pending".to_owned()),
            limit: Some(500),
            ..OutboxQuery::default()
        };
        if let Ok(page) = client.outbox(&query).await {
            longest = longest.max(page.items.len());
        }
    }
    longest
}

/// Cuts every connection again and again; whose descriptors grow has a leak.
pub async fn cut_and_count(system: &mut System, pace: Pace) -> Vec<String> {
    let before = descriptors(system);
    let pool = if system.engine.server().is_some() { POOL_MAX } else { 0 };
    let broker = system.broker.name().to_owned();
    let slack = |name: &str| DESCRIPTOR_SLACK + if name == broker { pool } else { 0 };
    let mut faults = Vec::new();
    for _ in 0..if pace == Pace::Brief { 2 } else { 15 } {
        for person in &system.people {
            person.proxy.cut();
        }
        // The cut is noticed when the first connection is gone.
        tokio::time::sleep(LOOK).await;
        let deadline = Instant::now() + RECONNECT;
        while !system.is_connected().await {
            if Instant::now() > deadline {
                for (name, status) in system.missing().await {
                    faults.push(format!("{name} is {status} after a cut"));
                }
                system.note_threads();
                return faults;
            }
            tokio::time::sleep(LOOK / 5).await;
        }
    }
    let deadline = Instant::now() + RECONNECT;
    loop {
        let after = descriptors(system);
        let grown: Vec<String> = after
            .iter()
            .filter(|(name, count)| **count > before[*name] + slack(name))
            .map(|(name, count)| format!("{name} has {count} descriptors, before {}", before[name]))
            .collect();
        if grown.is_empty() || Instant::now() > deadline {
            faults.extend(grown);
            return faults;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn descriptors(system: &mut System) -> BTreeMap<String, usize> {
    every_victim()
        .map(|victim| {
            let process = process(system, victim);
            (process.name().to_owned(), process.descriptors())
        })
        .collect()
}

/// What a session's listing shows more than once.
pub async fn list_twice(system: &System) -> Vec<String> {
    let mut twice = Vec::new();
    for person in &system.people {
        for session in &person.sessions {
            let client = person.client().with_token(Some(session.token.clone()));
            match list(&client).await {
                Ok(counts) => {
                    let doubles = counts.into_iter().filter(|(_, count)| *count > 1);
                    twice.extend(doubles.map(|((_, id), count)| {
                        format!("{id} is listed {count} times to {}", session.name)
                    }));
                }
                Err(error) => twice.push(format!("{} cannot list: {error}", session.name)),
            }
        }
    }
    twice
}

async fn list(
    client: &Client,
) -> Result<BTreeMap<(String, String), u32>, claudemesh_ipc::IpcError> {
    let mut counts = BTreeMap::new();
    let mut cursor = None;
    loop {
        let query = InboxQuery {
            limit: Some(500),
            cursor: cursor.take(),
            mark_seen: Some(false),
            ..InboxQuery::default()
        };
        let page = client.inbox(&query).await?;
        for item in page.items {
            let key = (item.sender_member_pubkey, item.client_message_id);
            *counts.entry(key).or_default() += 1;
        }
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(counts),
        }
    }
}

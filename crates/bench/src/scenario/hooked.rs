//! Messages that come in beside a hook that is slow: who receives never waits for hooks (daemon spec §16.5).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use claudemesh_ipc::api::{EventKind, EventsQuery};

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::daemon_process::{Daemon, write_private};
use crate::figure::{Figure, latency};
use crate::peer::{Body, Peer, Presence};

/// Messages, and how many of them a second.
const MESSAGES: usize = 10_000;
const RATE: u32 = 1_000;

/// From the moment a message is sent until its receiver's daemon has stored it and says so: without hooks, and with one
/// that takes a second for each.
pub(super) async fn receive(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut figures = latency("no hook", crowd(options, false).await?);
    figures.extend(latency("slow hook", crowd(options, true).await?));
    Ok(figures)
}

async fn crowd(options: &Options, has_hook: bool) -> anyhow::Result<Vec<Duration>> {
    let broker = BrokerProcess::start(options, 2).await?;
    let daemon = Daemon::start_with(options, &broker, 0, |paths| {
        if !has_hook {
            return Ok(());
        }
        let hooks = paths.hooks_dir();
        let sections =
            "[on-message]\nenabled = true\nnetwork_policy = \"allow\"\nfs_policy = \"rw\"\n";
        write_private(&hooks.join("hooks.toml"), sections, 0o600)?;
        write_private(&hooks.join("on-message"), "#!/bin/sh\nsleep 1\n", 0o700)
    })
    .await?;
    let [own, other] = broker.members.as_slice() else { bail!("two members are needed") };
    let peer = Peer::connect(&broker, other, Presence::Announced).await?;
    let (body, target) =
        (Body::sealed(&other.keys, own.keys.public())?, own.keys.public().to_hex());
    let query = EventsQuery { kinds: Some("message".to_owned()), ..EventsQuery::default() };
    let mut events = daemon.client.events(&query, None).await?;
    let began = Instant::now();
    let sending = async {
        let mut sent = Vec::with_capacity(MESSAGES);
        for number in 0..MESSAGES {
            let at = Duration::from_secs(1) / RATE * u32::try_from(number).unwrap_or(u32::MAX);
            tokio::time::sleep_until((began + at).into()).await;
            sent.push(Instant::now());
            peer.send(&target, &number.to_string(), &body).await?;
        }
        anyhow::Ok(sent)
    };
    let receiving = async {
        let mut received = HashMap::with_capacity(MESSAGES);
        while received.len() < MESSAGES {
            let event = events.next().await?.context("the stream ended")?;
            if event.kind != EventKind::Message {
                bail!("the stream was too slow: {:?}", event.kind);
            }
            let id = event.data.get("client_message_id").and_then(serde_json::Value::as_str);
            let number: usize = id.context("a message without an id")?.parse()?;
            received.insert(number, Instant::now());
        }
        anyhow::Ok(received)
    };
    let (sent, received) = tokio::try_join!(sending, receiving)?;
    let took = |(number, at): (usize, &Instant)| received.get(&number).map(|heard| *heard - *at);
    Ok(sent.iter().enumerate().filter_map(took).collect())
}

//! What waited: draining held messages on connect, and starting with many stored ones.

use std::time::{Duration, Instant};

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::figure::{Figure, millis};
use crate::peer::{Body, Event, Peer, Presence};

/// 10,000 messages wait for an absent member; the time from its connect to the last of them.
pub(super) async fn held(options: &Options) -> anyhow::Result<Vec<Figure>> {
    const MESSAGES: usize = 10_000;
    let broker = BrokerProcess::start(options, 2).await?;
    store(&broker, MESSAGES).await?;
    let Some(receiver) = broker.members.get(1) else { return Ok(Vec::new()) };
    let start = Instant::now();
    let mut peer = Peer::connect(&broker, receiver, Presence::Announced).await?;
    peer.receive(MESSAGES).await?;
    Ok(vec![
        Figure::new("connect to last push s", start.elapsed().as_secs_f64()),
        Figure::new("broker RSS MiB", broker.rss_mib()?),
    ])
}

/// The time from exec to listening with 1,000,000 stored messages, after a kill.
pub(super) async fn start(options: &Options) -> anyhow::Result<Vec<Figure>> {
    const MESSAGES: usize = 1_000_000;
    let mut broker = BrokerProcess::start(options, 2).await?;
    store(&broker, MESSAGES).await?;
    let elapsed = broker.restart().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(vec![
        Figure::new("exec to listening ms", millis(elapsed)),
        Figure::new("idle RSS MiB", broker.rss_mib()?),
    ])
}

/// Stores messages for the second member, who is away.
async fn store(broker: &BrokerProcess, messages: usize) -> anyhow::Result<()> {
    const WINDOW: usize = 512;
    let (Some(from), Some(to)) = (broker.members.first(), broker.members.get(1)) else {
        return Ok(());
    };
    let mut sender = Peer::connect(broker, from, Presence::Announced).await?;
    let target = to.keys.public().to_hex();
    let body = Body::direct(256);
    let (mut sent, mut acked) = (0, 0);
    while acked < messages {
        while sent < messages && sent - acked < WINDOW {
            sender.send(&target, &format!("h-{sent}"), &body).await?;
            sent += 1;
        }
        if let Event::Acked { .. } = sender.next().await? {
            acked += 1;
        }
    }
    Ok(())
}

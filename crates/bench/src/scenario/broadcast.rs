//! One encrypted broadcast to everybody else: when the last one has it.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::figure::{Figure, latency, millis};
use crate::peer::{Body, Event, Presence, connect_all};

/// Broadcasts measured in one run.
const ROUNDS: usize = 10;

/// `receivers` present peers receive [`ROUNDS`] broadcasts, one after the other.
pub(super) async fn to(options: &Options, receivers: usize) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, receivers + 1).await?;
    let mut peers = connect_all(&broker, receivers + 1, Presence::Announced).await?;
    let Some(mut sender) = peers.pop() else { return Ok(Vec::new()) };
    let keys: Vec<_> = peers.iter().map(|peer| peer.key).collect();
    let body = Body::group(256, &keys);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (mut last, mut acks) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let start = Instant::now();
        sender.send("*", &format!("b-{round}"), &body).await?;
        let arrivals = try_join_all(peers.iter_mut().map(|peer| peer.receive(1))).await?;
        let latest = arrivals.iter().flat_map(|one| one.values()).max().copied().unwrap_or(start);
        last.push(latest.saturating_duration_since(start));
        while !matches!(sender.next().await?, Event::Acked { .. }) {}
        acks.push(start.elapsed());
    }
    last.sort_unstable();
    let mut figures = latency("last receiver", last.clone());
    figures.push(Figure::new("worst ms", last.last().copied().map_or(0.0, millis)));
    Ok(figures)
}

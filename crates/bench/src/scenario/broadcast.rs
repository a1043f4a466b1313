//! One encrypted broadcast to everybody else: when the last one has it.

use std::time::{Duration, Instant};

use claudemesh_protocol::PublicKey;
use futures_util::future::try_join_all;

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::figure::{Figure, latency, millis};
use crate::peer::{Body, Event, Peer, Presence, Stalled, connect_all};

/// Broadcasts measured in one run.
const ROUNDS: usize = 20;

/// Messages and their size that a stalled receiver is sent beforehand: more than the broker pushes without an ack, and
/// more bytes than the sockets between them hold.
const BEFORE: usize = 300;
const BEFORE_BYTES: usize = 8 * 1024;

/// `receivers` present peers receive [`ROUNDS`] broadcasts, one after the other. `stalled` more are addressed like the
/// others; they read nothing and have had more than they can take.
pub(super) async fn to(
    options: &Options,
    receivers: usize,
    stalled: usize,
) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, receivers + 1 + stalled).await?;
    let mut mute = Vec::with_capacity(stalled);
    for member in broker.members.iter().skip(receivers + 1) {
        mute.push(Stalled::connect(&broker, member).await?);
    }
    let mut peers = connect_all(&broker, receivers + 1, Presence::Announced).await?;
    let Some(mut sender) = peers.pop() else { return Ok(Vec::new()) };
    let mute: Vec<_> = mute.iter().map(|peer| peer.key).collect();
    fill(&mut sender, &mute).await?;
    let keys: Vec<_> = peers.iter().map(|peer| peer.key).chain(mute).collect();
    let body = Body::group(256, &keys);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let cpu_before = broker.cpu()?;
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
    let cpu = broker.cpu()?.saturating_sub(cpu_before);
    last.sort_unstable();
    let mut figures = latency("last receiver", last.clone());
    figures.push(Figure::new("worst ms", last.last().copied().map_or(0.0, millis)));
    figures.extend(latency("ack", acks));
    figures.push(Figure::new(
        "broker CPU ms/broadcast",
        millis(cpu) / f64::from(u32::try_from(ROUNDS).unwrap_or(u32::MAX)),
    ));
    Ok(figures)
}

/// Sends the stalled ones what they will not read.
async fn fill(sender: &mut Peer, mute: &[PublicKey]) -> anyhow::Result<()> {
    let body = Body::direct(BEFORE_BYTES);
    for (number, key) in mute.iter().enumerate() {
        let target = key.to_hex();
        for message in 0..BEFORE {
            sender.send(&target, &format!("f{number}-{message}"), &body).await?;
        }
        for _ in 0..BEFORE {
            while !matches!(sender.next().await?, Event::Acked { .. }) {}
        }
    }
    Ok(())
}

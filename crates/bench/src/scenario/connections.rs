//! Connections: how fast they are made, and what an idle one costs.

use std::time::{Duration, Instant};

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::figure::{Figure, per_second};
use crate::peer::{Presence, connect_all};

/// New connections with a full signed handshake.
pub(super) async fn handshakes(options: &Options) -> anyhow::Result<Vec<Figure>> {
    const PEERS: usize = 4_000;
    raise_descriptor_limit()?;
    let broker = BrokerProcess::start(options, PEERS).await?;
    let start = Instant::now();
    let peers = connect_all(&broker, PEERS, Presence::Unannounced).await?;
    let figures = vec![Figure::new("hello accepted /s", per_second(peers.len(), start.elapsed()))];
    drop(peers);
    Ok(figures)
}

/// Memory and CPU of the broker with 10,000 connections that say nothing.
pub(super) async fn idle(options: &Options) -> anyhow::Result<Vec<Figure>> {
    const PEERS: usize = 10_000;
    const WATCHED: Duration = Duration::from_secs(10);
    raise_descriptor_limit()?;
    let broker = BrokerProcess::start(options, PEERS).await?;
    let before = broker.rss_mib()?;
    let peers = connect_all(&broker, PEERS, Presence::Unannounced).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = broker.rss_mib()?;
    let cpu_before = broker.cpu()?;
    tokio::time::sleep(WATCHED).await;
    let busy = broker.cpu()?.saturating_sub(cpu_before);
    drop(peers);
    Ok(vec![
        Figure::new("broker RSS before MiB", before),
        Figure::new("broker RSS MiB", after),
        Figure::new("KiB per connection", (after - before) * 1024.0 / 10_000.0),
        Figure::new("% of a core", busy.as_secs_f64() / WATCHED.as_secs_f64() * 100.0),
    ])
}

/// Both ends of every connection are on this machine; the child inherits the limit.
pub(super) fn raise_descriptor_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}

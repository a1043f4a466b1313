//! Direct messages: as fast as pairs can, in closed loops, and as a flood.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::figure::{Figure, latency, millis, per_second};
use crate::peer::{Body, Event, Peer, Presence, Stalled, connect_all};

/// Sends of one peer that may wait for their ack in the open-loop measurements.
const WINDOW: usize = 64;

/// `pairs` senders, each to a receiver of its own, `each` messages with a window of unacknowledged ones.
pub(super) async fn pairs(
    options: &Options,
    pairs: usize,
    each: usize,
    bytes: usize,
) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, pairs * 2).await?;
    let mut senders = connect_all(&broker, pairs * 2, Presence::Announced).await?;
    let receivers = senders.split_off(pairs);
    let targets: Vec<String> = receivers.iter().map(|peer| peer.key.to_hex()).collect();
    settle(&mut senders).await;
    let cpu_before = broker.cpu()?;
    let start = Instant::now();
    let sending =
        senders.iter_mut().zip(&targets).enumerate().map(|(number, (peer, target))| async move {
            send_windowed(peer, std::slice::from_ref(target), each, bytes, number).await
        });
    let receiving =
        receivers.into_iter().map(|mut peer| async move { peer.receive(each).await.map(|_| ()) });
    let (sent, received) = tokio::join!(try_join_all(sending), try_join_all(receiving));
    let acked_in = sent?.into_iter().max().unwrap_or_default();
    received?;
    let delivered_in = start.elapsed();
    let total = pairs * each;
    Ok(vec![
        Figure::new("accepted /s", per_second(total, acked_in)),
        Figure::new("delivered /s", per_second(total, delivered_in)),
        Figure::new(
            "broker CPU ms/message",
            millis(broker.cpu()?.saturating_sub(cpu_before)) / as_f64(total),
        ),
    ])
}

/// 100 peers, each with one message in flight to the next one.
pub(super) async fn closed_loop(options: &Options) -> anyhow::Result<Vec<Figure>> {
    const PEERS: usize = 100;
    const ROUNDS: usize = 100;
    let broker = BrokerProcess::start(options, PEERS).await?;
    let mut peers = connect_all(&broker, PEERS, Presence::Announced).await?;
    settle(&mut peers).await;
    let keys: Vec<String> = peers.iter().map(|peer| peer.key.to_hex()).collect();
    let body = Body::direct(256);
    let epoch = Instant::now();
    let loops = peers.iter_mut().enumerate().map(|(number, peer)| {
        let target = keys.get((number + 1) % PEERS).cloned().unwrap_or_default();
        let body = &body;
        async move {
            let (mut acked, mut pushed, mut times) = (0, 0, Vec::with_capacity(ROUNDS));
            peer.send(&target, &stamp(number, 0, epoch), body).await?;
            while acked < ROUNDS || pushed < ROUNDS {
                match peer.next().await? {
                    Event::Acked { .. } => {
                        acked += 1;
                        if acked < ROUNDS {
                            peer.send(&target, &stamp(number, acked, epoch), body).await?;
                        }
                    }
                    Event::Pushed { id, at } => {
                        pushed += 1;
                        times.push(at.saturating_duration_since(sent_at(&id, epoch)));
                    }
                }
            }
            anyhow::Ok(times)
        }
    });
    let times: Vec<Duration> = try_join_all(loops).await?.into_iter().flatten().collect();
    let mut figures = latency("push", times);
    figures.push(Figure::new("messages /s", per_second(PEERS * ROUNDS, epoch.elapsed())));
    Ok(figures)
}

/// 100 peers, 1,000 messages each to all others in turn, as fast as acknowledgements allow; `stalled` more are sent to
/// like the others and never read.
pub(super) async fn flood(options: &Options, stalled: usize) -> anyhow::Result<Vec<Figure>> {
    const PEERS: usize = 100;
    const EACH: usize = 1_000;
    let broker = BrokerProcess::start(options, PEERS + stalled).await?;
    let mut mute = Vec::with_capacity(stalled);
    for member in broker.members.iter().skip(PEERS) {
        mute.push(Stalled::connect(&broker, member).await?);
    }
    let mut peers = connect_all(&broker, PEERS, Presence::Announced).await?;
    settle(&mut peers).await;
    let mut keys: Vec<String> = peers.iter().map(|peer| peer.key.to_hex()).collect();
    keys.extend(mute.iter().map(|peer| peer.key.to_hex()));
    let everyone = keys.len();
    let targets: Vec<Vec<String>> = (0..PEERS)
        .map(|number| {
            (1..everyone).filter_map(|step| keys.get((number + step) % everyone).cloned()).collect()
        })
        .collect();
    let expected: usize = targets
        .iter()
        .map(|targets| {
            let is_heard = |target: &String| mute.iter().all(|peer| peer.key.to_hex() != *target);
            targets.iter().cycle().take(EACH).filter(|target| is_heard(target)).count()
        })
        .sum();
    let start = Instant::now();
    let work =
        peers.iter_mut().zip(&targets).enumerate().map(|(number, (peer, targets))| async move {
            send_windowed(peer, targets, EACH, 256, number).await
        });
    // Each waits for its own acks and reads pushes on the way.
    try_join_all(work).await?;
    let mut received: usize = 0;
    for peer in &mut peers {
        received += peer.pushed_so_far();
    }
    while received < expected {
        let mut progress = 0;
        for peer in &mut peers {
            progress += peer.drain_ready();
        }
        received += progress;
        if progress == 0 {
            anyhow::ensure!(
                start.elapsed() < Duration::from_mins(2),
                "only {received} of {expected} arrived"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let total = PEERS * EACH;
    Ok(vec![
        Figure::new("all delivered s", start.elapsed().as_secs_f64()),
        Figure::new("broker RSS MiB", broker.rss_mib()?),
        Figure::new("broker CPU ms/message", millis(broker.cpu()?) / as_f64(total)),
        Figure::new(
            "stored MiB",
            as_f64(usize::try_from(broker.stored_bytes() >> 20).unwrap_or(usize::MAX)),
        ),
    ])
}

/// Sends `each` messages round robin to `targets`; returns the time until the last ack.
async fn send_windowed(
    peer: &mut Peer,
    targets: &[String],
    each: usize,
    bytes: usize,
    number: usize,
) -> anyhow::Result<Duration> {
    let body = Body::direct(bytes);
    let start = Instant::now();
    let (mut sent, mut acked) = (0, 0);
    while acked < each {
        while sent < each && sent - acked < WINDOW {
            let Some(target) = targets.get(sent % targets.len().max(1)) else { break };
            peer.send(target, &format!("m{number}-{sent}"), &body).await?;
            sent += 1;
        }
        if let Event::Acked { .. } = peer.next().await? {
            acked += 1;
        }
    }
    Ok(start.elapsed())
}

/// Lets the announcements of the others arrive before time is taken.
async fn settle(peers: &mut [Peer]) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    for peer in peers {
        peer.drain_ready();
    }
}

fn stamp(number: usize, round: usize, epoch: Instant) -> String {
    format!("c{number}-{round}-{}", epoch.elapsed().as_nanos())
}

fn sent_at(id: &str, epoch: Instant) -> Instant {
    let nanos = id.rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    epoch + Duration::from_nanos(nanos)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

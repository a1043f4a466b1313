//! A light flow: how long one message takes when nothing else happens.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::figure::{Figure, latency};
use crate::peer::{Body, Event, Presence, connect_all};

/// Messages sent, one every 20 ms.
const MESSAGES: usize = 300;

/// Send to push and send to ack at 50 messages per second.
pub(super) async fn flow(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, 2).await?;
    let mut peers = connect_all(&broker, 2, Presence::Announced).await?;
    let (Some(mut receiver), Some(mut sender)) = (peers.pop(), peers.pop()) else {
        return Ok(Vec::new());
    };
    let body = Body::direct(256);
    let target = receiver.key.to_hex();
    let (mut sent, mut acked) = (HashMap::new(), HashMap::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut number = 0;
    while acked.len() < MESSAGES {
        tokio::select! {
            _ = ticks.tick(), if number < MESSAGES => {
                let id = format!("light-{number}");
                number += 1;
                sent.insert(id.clone(), Instant::now());
                sender.send(&target, &id, &body).await?;
            }
            event = sender.next() => {
                if let Event::Acked { id, at } = event? {
                    acked.insert(id, at);
                }
            }
        }
    }
    let arrived = receiver.receive(MESSAGES).await?;
    let since_sent = |times: &HashMap<String, Instant>| -> Vec<Duration> {
        times.iter().filter_map(|(id, at)| sent.get(id).map(|start| *at - *start)).collect()
    };
    let mut figures = latency("push", since_sent(&arrived));
    figures.extend(latency("ack", since_sent(&acked)));
    Ok(figures)
}

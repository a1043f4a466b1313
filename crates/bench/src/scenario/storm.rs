//! A reconnect storm: the broker was killed, and every daemon comes back in the moment it listens again.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::{join_all, try_join_all};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::connections::raise_descriptor_limit;
use crate::Options;
use crate::broker_process::{BrokerProcess, Member};
use crate::figure::{Figure, millis, quantile};
use crate::peer::{ANSWER_DEADLINE, Presence, greet, open};

/// Wait after a refused connection.
const RETRY: Duration = Duration::from_millis(10);
/// How long events are listened for after the storm.
const QUIET: Duration = Duration::from_millis(500);

type Socket = WebSocketStream<TcpStream>;

/// `members` daemons in each of `meshes` meshes. With `asks`, each asks for the peers and the roster as a daemon does
/// after its hello.
pub(super) async fn reconnect(
    options: &Options,
    meshes: usize,
    members: usize,
    asks: bool,
) -> anyhow::Result<Vec<Figure>> {
    raise_descriptor_limit()?;
    let mut broker = BrokerProcess::start_meshes(options, meshes, members).await?;
    let daemons = std::mem::take(&mut broker.members);
    let (sockets, before) = connect_in_turn(&broker.ws_url, &daemons).await?;
    let to_listening = broker.restart().await?;
    drop(sockets);
    let cpu_before = broker.cpu()?;
    let start = Instant::now();
    let storm = daemons.iter().map(|member| come_back(&broker.ws_url, member, start, asks));
    let mut back = try_join_all(storm).await?;
    let cpu = broker.cpu()?.saturating_sub(cpu_before);
    let kept = back.iter().zip(&before).filter(|(now, before)| now.presence == **before).count();
    let heard: usize =
        join_all(back.iter_mut().map(|one| events(&mut one.socket))).await.iter().sum();
    let mut figures = vec![Figure::new("exec to listening ms", millis(to_listening))];
    let mut greeted: Vec<Duration> = back.iter().map(|one| one.greeted).collect();
    greeted.sort_unstable();
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("last", 1.0)] {
        let what = format!("listening to hello_ack {name} ms");
        figures.push(Figure::new(what, millis(quantile(&greeted, share))));
    }
    if asks {
        let answered = back.iter().filter_map(|one| one.answered).max().unwrap_or_default();
        figures.push(Figure::new("listening to last roster ms", millis(answered)));
    }
    figures.push(Figure::new("broker CPU ms per hello", millis(cpu) / as_f64(daemons.len())));
    figures.push(Figure::new("broker RSS MiB", broker.rss_mib()?));
    figures.push(Figure::new("presences not kept", as_f64(daemons.len() - kept)));
    figures.push(Figure::new("events heard", as_f64(heard)));
    Ok(figures)
}

/// The first life: everybody connects, a few at once; answers the sockets, which the broker is killed beneath, and the
/// presence ids.
async fn connect_in_turn(
    url: &str,
    members: &[Member],
) -> anyhow::Result<(Vec<Socket>, Vec<String>)> {
    let connects = futures_util::stream::iter(members).map(|member| async move {
        let mut socket = open(url).await?;
        let presence = greet(&mut socket, &member.mesh, member, Presence::Announced).await?;
        anyhow::Ok((socket, presence))
    });
    let connected: Vec<_> = connects.buffered(64).collect().await;
    let mut sockets = Vec::with_capacity(connected.len());
    let mut presences = Vec::with_capacity(connected.len());
    for one in connected {
        let (socket, presence) = one?;
        sockets.push(socket);
        presences.push(presence);
    }
    Ok((sockets, presences))
}

/// One daemon that has come back.
struct Back {
    socket: Socket,
    presence: String,
    greeted: Duration,
    answered: Option<Duration>,
}

async fn come_back(url: &str, member: &Member, start: Instant, asks: bool) -> anyhow::Result<Back> {
    let mut socket = loop {
        match open(url).await {
            Ok(socket) => break socket,
            Err(_) if start.elapsed() < ANSWER_DEADLINE => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(error),
        }
    };
    let presence = greet(&mut socket, &member.mesh, member, Presence::Announced).await?;
    let greeted = start.elapsed();
    let answered = if asks { Some(ask(&mut socket, start).await?) } else { None };
    Ok(Back { socket, presence, greeted, answered })
}

async fn ask(socket: &mut Socket, start: Instant) -> anyhow::Result<Duration> {
    for word in ["list_peers", "list_members"] {
        let frame = format!(r#"{{"type":"{word}","_reqId":"{word}"}}"#);
        socket.send(Message::text(frame)).await?;
    }
    let mut waiting = 2;
    while waiting > 0 {
        let message =
            tokio::time::timeout(ANSWER_DEADLINE, socket.next()).await?.context("closed")??;
        if let Message::Text(text) = message {
            // The answers are long; their type stands in the first bytes or, after the rows, in the last ones.
            let is_answer = text.contains(r#""_reqId":"list_"#);
            waiting -= usize::from(is_answer);
        }
    }
    Ok(start.elapsed())
}

/// Events about peers that were told within a while.
async fn events(socket: &mut Socket) -> usize {
    let mut heard = 0;
    let listening = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                heard += usize::from(text.contains(r#""event":"peer_"#));
            }
        }
    };
    let _ = tokio::time::timeout(QUIET, listening).await;
    heard
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

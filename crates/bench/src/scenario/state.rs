//! Shared state: small entries written and read by several connections, each with a window of requests under way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::figure::{Figure, millis, per_second};
use crate::peer::{ANSWER_DEADLINE, Presence, greet, open};

/// Connections that ask at once, one member each.
const CONNECTIONS: usize = 16;
/// Requests of one connection that wait for their answers.
const WINDOW: usize = 64;
/// Entries: each connection has as many of its own as it has requests under way.
const KEYS: usize = CONNECTIONS * WINDOW;
const WRITES_EACH: usize = 1_500;
const READS_EACH: usize = 10_000;

/// The part of an answer that tells which request it is for.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(rename = "type")]
    word: &'a str,
    #[serde(default, rename = "_reqId")]
    req_id: Option<&'a str>,
}

/// Writes, then reads of what was written.
pub(super) async fn entries(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, CONNECTIONS).await?;
    let mut sockets = Vec::with_capacity(CONNECTIONS);
    for member in broker.members.iter().take(CONNECTIONS) {
        let mut socket = open(&broker.ws_url).await?;
        greet(&mut socket, &broker.mesh, member, Presence::Unannounced).await?;
        sockets.push(socket);
    }
    let set = |key: usize, id: usize| {
        format!(
            r#"{{"type":"set_state","_reqId":"{id}","key":"bench-{key}","value":{{"n":{id},"text":"a small value"}}}}"#
        )
    };
    let get = |key: usize, id: usize| {
        format!(r#"{{"type":"get_state","_reqId":"{id}","key":"bench-{key}"}}"#)
    };
    let cpu_before = broker.cpu()?;
    let written_in = all(&mut sockets, WRITES_EACH, "ack", set).await?;
    let cpu_between = broker.cpu()?;
    let read_in = all(&mut sockets, READS_EACH, "state_result", get).await?;
    let per_request = |cpu: Duration, each: usize| {
        millis(cpu) / per_second(CONNECTIONS * each, Duration::from_secs(1))
    };
    Ok(vec![
        Figure::new("set /s", per_second(CONNECTIONS * WRITES_EACH, written_in)),
        Figure::new("get /s", per_second(CONNECTIONS * READS_EACH, read_in)),
        Figure::new(
            "broker CPU ms/set",
            per_request(cpu_between.saturating_sub(cpu_before), WRITES_EACH),
        ),
        Figure::new(
            "broker CPU ms/get",
            per_request(broker.cpu()?.saturating_sub(cpu_between), READS_EACH),
        ),
    ])
}

/// `each` requests on every connection; answers how long they took in all.
async fn all(
    sockets: &mut [WebSocketStream<TcpStream>],
    each: usize,
    word: &str,
    frame: impl Fn(usize, usize) -> String,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let frame = &frame;
    let asking = sockets.iter_mut().enumerate().map(|(number, socket)| async move {
        let key = |id: usize| (number * WINDOW + id % WINDOW) % KEYS;
        ask(socket, each, word, |id| frame(key(id), id)).await
    });
    try_join_all(asking).await?;
    Ok(began.elapsed())
}

/// Keeps [`WINDOW`] requests under way until `each` are answered by a frame of this word.
async fn ask(
    socket: &mut WebSocketStream<TcpStream>,
    each: usize,
    word: &str,
    frame: impl Fn(usize) -> String,
) -> anyhow::Result<()> {
    let (mut sent, mut answered) = (0, 0);
    while answered < each {
        while sent < each && sent - answered < WINDOW {
            socket.feed(Message::text(frame(sent))).await?;
            sent += 1;
        }
        socket.flush().await?;
        loop {
            let message = tokio::time::timeout(ANSWER_DEADLINE, socket.next())
                .await
                .context("no answer within a minute")?
                .context("the connection has ended")??;
            let Message::Text(text) = message else { continue };
            let answer: Answer<'_> = serde_json::from_str(&text)?;
            if answer.req_id.is_some() {
                ensure!(answer.word == word, "refused: {text}");
                answered += 1;
                break;
            }
        }
    }
    Ok(())
}

//! The bell of an idle session: from the message's acceptance by the sender's daemon to the end of the process that wakes the
//! agent, over two daemons and a broker.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use claudemesh_ipc::api::session::{DeliveryPath, PathState};
use claudemesh_ipc::api::{InboxQuery, RegisterRequest};
use claudemesh_ipc::{Client, SessionToken};
use serde_json::json;

use crate::Options;
use crate::broker_process::BrokerProcess;
use crate::daemon_process::Daemon;
use crate::figure::{Figure, latency};

/// Wakings measured.
const ROUNDS: usize = 100;
/// Longest wait for a bell to be armed, and for its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(5);
/// Exit code that wakes the agent.
const WAKE: i32 = 2;
/// The session.
const SESSION: &str = "00000000-0000-4000-8000-000000000001";

/// Wakes a session again and again.
pub(super) async fn wakes(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let broker = BrokerProcess::start(options, 2).await?;
    let sender = Daemon::start_as(options, &broker, 0).await?;
    let woken = Daemon::start_as(options, &broker, 1).await?;
    let token = SessionToken::from_bytes(&[1; 32]);
    let session = woken.client.clone().with_token(Some(token.clone()));
    let (mesh, name) = ("bench".to_owned(), "woken".to_owned());
    let request =
        RegisterRequest::stored(token, SESSION.to_owned(), mesh, name, std::process::id());
    session.register_session(&request).await?;
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        times.push(wake(options, &sender, &woken, &session, round).await?);
        // Read, so that the next bell waits for the next message.
        session.inbox(&InboxQuery::default()).await?;
    }
    Ok(latency("accepted -> woken", times))
}

async fn wake(
    options: &Options,
    sender: &Daemon,
    woken: &Daemon,
    session: &Client,
    round: usize,
) -> anyhow::Result<Duration> {
    let mut bell = tokio::process::Command::new(&options.binary)
        .args(["hook", "claude", "bell"])
        .env_clear()
        .env("HOME", woken.home())
        .stdin(stdin()?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting a bell")?;
    let began = Instant::now();
    while !is_armed(session).await? {
        if began.elapsed() > PATIENCE {
            bail!("the bell is not armed after {PATIENCE:?}");
        }
        tokio::time::sleep(STEP).await;
    }
    sender.send(round).await?;
    let accepted = Instant::now();
    let ended =
        tokio::time::timeout(PATIENCE, bell.wait()).await.context("the bell is silent")??;
    let took = accepted.elapsed();
    if ended.code() != Some(WAKE) {
        bail!("the bell ended with {ended}");
    }
    Ok(took)
}

/// What the agent says to its hook.
fn stdin() -> anyhow::Result<Stdio> {
    let (read_end, mut write_end) = std::io::pipe()?;
    write_end.write_all(json!({ "session_id": SESSION }).to_string().as_bytes())?;
    Ok(read_end.into())
}

async fn is_armed(session: &Client) -> anyhow::Result<bool> {
    let view = session.session().await?;
    let is = |path: &claudemesh_ipc::api::session::PathView| {
        path.path == DeliveryPath::Bell && path.state == PathState::Armed
    };
    Ok(view.paths.iter().any(is))
}

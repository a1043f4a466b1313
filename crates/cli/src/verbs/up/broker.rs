//! The embedded broker as a background process: found, started, restarted on another address, stopped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use claudemesh_broker::data_dir::BrokerRecord;
use claudemesh_daemon::home::file;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;
use tokio::time::{Instant, sleep, timeout};

use super::listen::Listen;
use crate::context::Context;
use crate::detach;
use crate::failure::{Failure, Outcome};
use crate::verbs::daemon::{Stopped, terminate};

/// Time for one health answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Step between two looks.
const STEP: Duration = Duration::from_millis(15);
/// Exit code of a broker whose port is taken.
const EXIT_PORT_TAKEN: i32 = 98;
/// Exit code of a broker whose data directory another one serves.
const EXIT_LOCKED: i32 = 75;
/// Lines of its log that are quoted when it does not start.
const LOG_LINES: usize = 2;

/// A broker that answers.
pub(in crate::verbs) struct Found {
    /// What it says about itself.
    pub(in crate::verbs) record: BrokerRecord,
    /// True when this call started it.
    pub(in crate::verbs) was_started: bool,
}

/// The data directory of this user's broker.
///
/// # Errors
/// Exit 10 without a home directory.
pub(in crate::verbs) fn data_dir(context: &Context) -> Outcome<PathBuf> {
    context.environment.broker_dir().ok_or_else(|| {
        Failure::new(ErrorCode::Io, "HOME is not set: cannot tell where the broker keeps its data")
    })
}

/// The broker of `dir`, when it answers with its own key.
async fn running(context: &Context, dir: &Path) -> Option<BrokerRecord> {
    let record = BrokerRecord::read(&dir.join("broker.json"))?;
    let http = context.http(&record.url).ok()?;
    let health = timeout(HEALTH_TIMEOUT, http.health()).await.ok()?.ok()?;
    (health.broker_pubkey.as_deref() == Some(record.broker_pubkey.as_str())).then_some(record)
}

/// Finds the broker where it is wanted, or starts it there.
///
/// # Errors
/// Exit 4 when it does not come up within 10 s, with its last log line.
pub(super) async fn ensure(context: &Context, dir: &Path, listen: &Listen) -> Outcome<Found> {
    if let Some(record) = running(context, dir).await {
        if listen.is_met_by(&record.listen) {
            listen.remember(dir, &record.listen)?;
            return Ok(Found { record, was_started: false });
        }
        stop(dir).await?;
    }
    let record = start(context, dir, listen).await?;
    listen.remember(dir, &record.listen)?;
    Ok(Found { record, was_started: true })
}

async fn start(context: &Context, dir: &Path, listen: &Listen) -> Outcome<BrokerRecord> {
    let log = dir.join("broker.log");
    let deadline = Instant::now() + limits::BROKER_START_BUDGET;
    let mut port = listen.port;
    loop {
        port = if is_served(dir) { port } else { listen.free_port(port)? };
        let log_length = detach::length(&log);
        let mut child =
            detach::start(&["broker", "serve"], &log, &context.environment, |command| {
                configure(command, dir, listen, port);
            })?;
        match wait(context, dir, &mut child, deadline).await {
            Ended::Ready(record) => return Ok(*record),
            // Between the look and the start somebody else took it.
            Ended::Exited(Some(EXIT_PORT_TAKEN)) if !listen.is_port_fixed => {
                port = port.saturating_add(1);
            }
            ended => return Err(not_started(&ended, &log, log_length)),
        }
    }
}

/// The settings of the broker are its environment.
pub(super) fn configure(command: &mut Command, dir: &Path, listen: &Listen, port: u16) {
    command
        .env("STORAGE_PROFILE", "embedded")
        .env("DATA_DIR", dir)
        .env("BROKER_BIND", listen.address.to_string())
        .env("BROKER_PORT", port.to_string());
}

/// How a start ended.
enum Ended {
    Ready(Box<BrokerRecord>),
    Exited(Option<i32>),
    TimedOut,
}

/// Waits until the broker of `dir` answers. A child that gives way to another broker is no failure.
async fn wait(context: &Context, dir: &Path, child: &mut Child, deadline: Instant) -> Ended {
    let mut gave_way = false;
    loop {
        if let Some(record) = running(context, dir).await {
            return Ended::Ready(Box::new(record));
        }
        if !gave_way && let Ok(Some(status)) = child.try_wait() {
            match status.code() {
                Some(EXIT_LOCKED) => gave_way = true,
                code => return Ended::Exited(code),
            }
        }
        if Instant::now() >= deadline {
            return Ended::TimedOut;
        }
        sleep(STEP).await;
    }
}

fn not_started(ended: &Ended, log: &Path, log_length: u64) -> Failure {
    let message = match ended {
        Ended::TimedOut => {
            format!("the broker did not answer within {} s", limits::BROKER_START_BUDGET.as_secs())
        }
        _ => "the broker did not start".to_owned(),
    };
    let mut failure = Failure::new(ErrorCode::BrokerUnavailable, message);
    for line in detach::last_words(log, log_length, LOG_LINES) {
        failure = failure.detail(line);
    }
    failure.action(format!("read {}", log.display()))
}

/// A broker holds the data directory, whether it answers or not.
fn is_served(dir: &Path) -> bool {
    file::is_locked(&dir.join("broker.lock")).unwrap_or(false)
}

/// Stops the broker of `dir` with SIGTERM. Its lock tells whether it lives: a process id alone may be somebody else's.
///
/// # Errors
/// Exit 4 when it does not stop within 10 s, exit 10 when its files cannot be read.
pub(in crate::verbs) async fn stop(dir: &Path) -> Outcome<Stopped> {
    if !is_served(dir) {
        return Ok(Stopped::NotRunning);
    }
    let lock = dir.join("broker.lock");
    let deadline = Instant::now() + limits::BROKER_STOP_BUDGET;
    let mut pid = None;
    while is_served(dir) {
        // A broker that is just starting writes its process id a moment after it took the lock.
        if pid.is_none() {
            pid = std::fs::read_to_string(&lock).ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid {
                terminate(pid);
            }
        }
        if Instant::now() >= deadline {
            let seconds = limits::BROKER_STOP_BUDGET.as_secs();
            return Err(Failure::new(
                ErrorCode::Timeout,
                format!("the broker did not stop within {seconds} s"),
            )
            .action(format!(
                "kill -9 {}",
                pid.map_or_else(|| "<pid>".to_owned(), |pid| pid.to_string())
            )));
        }
        sleep(STEP).await;
    }
    Ok(Stopped::Was(pid))
}

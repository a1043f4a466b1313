//! `up --foreground`: broker and daemon as children of this process, until Ctrl-C (CLI spec §5.6).

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use claudemesh_broker::data_dir::BrokerRecord;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::limits;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::broker::{self, Found};
use super::listen::Listen;
use super::{DaemonState, FIELDS, after_broker, report, take_lock};
use crate::context::Context;
use crate::detach;
use crate::environment::NO_AUTOSPAWN;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::UpArgs;
use crate::link::Probe;
use crate::output::{Document, Report, Screen};
use crate::verbs::daemon::terminate;

/// Step between two looks at the children.
const STEP: Duration = Duration::from_millis(50);

/// Runs until a signal or the end of a child.
///
/// # Errors
/// As the background form; exit 6 when broker or daemon run in the background already.
pub(super) async fn run(context: &Context, args: &UpArgs) -> Outcome<Report> {
    let dir = broker::data_dir(context)?;
    let lock = take_lock(&dir).await?;
    let is_daemon_up = !matches!(context.probe().await?, Probe::Down);
    if is_daemon_up
        || claudemesh_daemon::home::file::is_locked(&dir.join("broker.lock")).unwrap_or(false)
    {
        return Err(Failure::of_word(
            "already_running",
            "broker or daemon run in the background already",
        )
        .exit(ExitCode::AlreadyExists)
        .action("claudemesh down"));
    }
    let listen = Listen::decide(context, args, &dir)?;
    let mut children = Children::default();
    let outcome = Box::pin(serve(context, args, &dir, &listen, &mut children, lock)).await;
    children.stop().await;
    outcome
}

async fn serve(
    context: &Context,
    args: &UpArgs,
    dir: &Path,
    listen: &Listen,
    children: &mut Children,
    lock: claudemesh_daemon::home::file::FileLock,
) -> Outcome<Report> {
    let no_signal = |error: std::io::Error| Failure::io("cannot listen for signals", &error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut stop = signal(SignalKind::terminate()).map_err(no_signal)?;
    let port = listen.free_port(listen.port)?;
    let mut command = detach::own_program(&["broker", "serve"], &context.environment)?;
    broker::configure(&mut command, dir, listen, port);
    let record = children.start("broker", command, || read_record(context, dir)).await?;
    listen.remember(dir, &record.listen)?;
    let steps = after_broker(context, args, dir, &record).await?;
    let mut command = detach::own_program(
        &["daemon", "up", "--foreground", "--persistent"],
        &context.environment,
    )?;
    command.env(NO_AUTOSPAWN, "1");
    let daemon = children.start("daemon", command, || daemon_state(context)).await?;
    drop(lock);
    let found = Found { record, was_started: true };
    context.out.report(&report(&found, &steps.account, &steps.mesh, &daemon), FIELDS);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = stop.recv() => break,
            () = sleep(STEP) => {}
        }
        if let Some(name) = children.ended() {
            return Err(Failure::new(
                ErrorCode::Unavailable,
                format!("the {name} stopped by itself"),
            ));
        }
    }
    Ok(Report::new(Document::Raw(String::new()), Screen::new()))
}

async fn read_record(context: &Context, dir: &Path) -> Option<BrokerRecord> {
    let record = BrokerRecord::read(&dir.join("broker.json"))?;
    let health = context.http(&record.url).ok()?.health().await.ok()?;
    (health.broker_pubkey.as_deref() == Some(record.broker_pubkey.as_str())).then_some(record)
}

async fn daemon_state(context: &Context) -> Option<DaemonState> {
    match context.probe().await {
        Ok(Probe::Up(version)) => Some(DaemonState {
            pid: version.pid,
            version: version.daemon_version,
            was_started: true,
        }),
        _ => None,
    }
}

/// The children, in the order they were started.
#[derive(Default)]
struct Children(Vec<(&'static str, Child)>);

impl Children {
    /// Starts one and waits until `ready` answers.
    async fn start<T, F: Future<Output = Option<T>>>(
        &mut self,
        name: &'static str,
        mut command: std::process::Command,
        ready: impl Fn() -> F,
    ) -> Outcome<T> {
        use std::os::unix::process::CommandExt as _;

        // Ctrl-C reaches this process only; it stops the children in order.
        command
            .process_group(0)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        let child = command
            .spawn()
            .map_err(|error| Failure::io(format!("cannot start the {name}"), &error))?;
        self.0.push((name, child));
        let deadline = Instant::now() + limits::BROKER_START_BUDGET;
        loop {
            if let Some(value) = ready().await {
                return Ok(value);
            }
            if self.ended().is_some() || Instant::now() >= deadline {
                return Err(Failure::new(
                    ErrorCode::Unavailable,
                    format!("the {name} did not start"),
                ));
            }
            sleep(STEP).await;
        }
    }

    /// The name of a child that is gone.
    fn ended(&mut self) -> Option<&'static str> {
        self.0.iter_mut().find_map(|(name, child)| child.try_wait().ok().flatten().map(|_| *name))
    }

    /// Stops them, the last started first; one that does not listen to SIGTERM is killed.
    async fn stop(&mut self) {
        while let Some((_, mut child)) = self.0.pop() {
            if child.try_wait().ok().flatten().is_none() {
                terminate(child.id());
            }
            let deadline = Instant::now() + limits::BROKER_STOP_BUDGET;
            while child.try_wait().ok().flatten().is_none() {
                if Instant::now() >= deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                sleep(STEP).await;
            }
        }
    }
}

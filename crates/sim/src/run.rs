//! Running one seed, on a thread and a runtime of its own.

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::broker_node::SimClock;
use crate::disk::SimDisk;
use crate::trace::Trace;
use crate::world::World;
use crate::{rows, verdict, weather};

/// Pause between two looks at the receipts during the storm.
const RECEIPT_LOOK: Duration = Duration::from_secs(20);
/// Stack of the simulating thread, in bytes: debug builds of nested futures are large.
const STACK_BYTES: usize = 16 * 1024 * 1024;
/// Virtual time after which a run counts as stuck.
const RUN_MAX: Duration = Duration::from_hours(4);

/// Real time after which it does: a run takes seconds. Virtual time cannot tell, it waits for tasks to have nothing to do.
const STUCK_AFTER: Duration = Duration::from_mins(5);

/// What a run is given besides its seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A known bug to switch on, one of [`crate::PLANTED_BUGS`].
    pub planted: Option<&'static str>,
    /// Keep every line of the trace instead of the last ones.
    pub whole_trace: bool,
}

/// How a run went.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was violated; empty after a clean run.
    pub violations: Vec<String>,
    /// Hash over the whole trace: equal for two runs of one seed.
    pub digest: String,
    /// The last lines of the trace.
    pub trace: Vec<String>,
    /// Letters that were written.
    pub letters: usize,
    /// Virtual time that passed.
    pub virtual_time: Duration,
}

/// Runs one seed from begin to end. Blocks; other seeds may run on other threads meanwhile. One that is stuck is reported and
/// left behind with its thread.
pub fn run(seed: u64, options: Options) -> Report {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("seed {seed}"))
        .stack_size(STACK_BYTES)
        .spawn(move || tell.send(run_here(seed, options)));
    let ended = thread.map_err(|error| error.to_string()).and_then(|_thread| {
        told.recv_timeout(STUCK_AFTER).map_err(|error| match error {
            RecvTimeoutError::Disconnected => "the simulation panicked".to_owned(),
            RecvTimeoutError::Timeout => {
                format!(
                    "not over after {STUCK_AFTER:?}: a task spins, and virtual time stands still"
                )
            }
        })
    });
    ended.unwrap_or_else(|error| Report {
        seed,
        violations: vec![error],
        digest: String::new(),
        trace: Vec::new(),
        letters: 0,
        virtual_time: Duration::ZERO,
    })
}

fn run_here(seed: u64, options: Options) -> Report {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let (mut report, ended) = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(simulate(seed, options));
            runtime.shutdown_background();
            ended
        }
        Err(error) => (empty(seed), Err(error.into())),
    };
    if let Err(error) = ended {
        report.violations.push(format!("the run could not be judged: {error:#}"));
    }
    report
}

fn empty(seed: u64) -> Report {
    Report {
        seed,
        violations: Vec::new(),
        digest: String::new(),
        trace: Vec::new(),
        letters: 0,
        virtual_time: Duration::ZERO,
    }
}

async fn simulate(seed: u64, options: Options) -> (Report, anyhow::Result<()>) {
    let trace = Arc::new(Trace::new(options.whole_trace));
    let disk = SimDisk::new(seed, Arc::clone(&trace));
    let daemon_clock = SimClock::new();
    let (clock, ticking) = (Arc::clone(&daemon_clock), disk.clone());
    let _randomness = claudemesh_crypto::random::simulation::begin(seed);
    let _clock = claudemesh_client::clock::simulation::install(Arc::new(move || clock.now_ms()));
    let _disk = claudemesh_sqlite::simulation::install(ticking);
    claudemesh_sqlite::plant(options.planted);
    let mut report = empty(seed);
    let begun = tokio::time::Instant::now();
    let lived = live(seed, &trace, daemon_clock, disk, &mut report);
    let ended = match tokio::time::timeout(RUN_MAX, Box::pin(lived)).await {
        Ok(ended) => ended,
        Err(_elapsed) => Err(anyhow::anyhow!("it was not over after {RUN_MAX:?} of virtual time")),
    };
    report.virtual_time = begun.elapsed();
    report.digest = trace.digest();
    report.trace = trace.lines();
    (report, ended)
}

async fn live(
    seed: u64,
    trace: &Arc<Trace>,
    clock: Arc<SimClock>,
    disk: Arc<SimDisk>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let home = home()?;
    let world = World::build(seed, home.path(), Arc::clone(trace), clock, disk).await?;
    let watching = async {
        loop {
            tokio::time::sleep(RECEIPT_LOOK).await;
            verdict::watch_receipts(&world).await;
            if let Err(error) = rows::watch(&world) {
                world.ledger.violated(format!("the deliveries cannot be read: {error:#}"));
            }
        }
    };
    let attacking = async {
        match &world.attacker {
            Some(attacker) => attacker.attack(&world).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = weather::storm(&world) => {}
        () = watching => {}
        () = attacking => {}
    }
    world.calm_down().await;
    let judged = verdict::judge(&world).await;
    world.trace.note(&format!("over after {:?}", world.elapsed()));
    report.letters = world.ledger.letters().len();
    report.violations = world.ledger.violations();
    judged
}

/// A folder in memory where there is one.
fn home() -> std::io::Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("cm-sim-");
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }
}

/// Runs a future of a database to its end on this thread.
pub(crate) fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    claudemesh_sqlite::simulation::drive(future)
}

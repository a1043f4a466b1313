//! `claudemesh-sim`: runs seeds, one after the other on each core, and says how to repeat the one that failed.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use claudemesh_sim::{Options, PLANTED_BUGS, Report};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 60;

/// Simulates whole meshes with faults.
#[derive(Parser)]
struct Arguments {
    /// Seeds to run, beginning with --from.
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone and print its whole trace.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Threads; the default is one per core.
    #[arg(long)]
    threads: Option<usize>,
    /// Plant this bug; the run then succeeds when it is found.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(PLANTED_BUGS))]
    plant: Option<String>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Daemons show their directory to their own member: it stands in the trace. Elsewhere it would be another trace.
    if let Err(error) = std::env::set_current_dir("/") {
        let _ = writeln!(std::io::stderr(), "cannot change to /: {error}");
    }
    let planted = arguments
        .plant
        .as_deref()
        .and_then(|name| PLANTED_BUGS.iter().copied().find(|known| *known == name));
    let mut out = std::io::stdout().lock();
    // A closed standard output ends nothing that matters.
    if let Some(seed) = arguments.seed {
        let report = claudemesh_sim::run(seed, Options { planted, whole_trace: true });
        for line in &report.trace {
            let _ = writeln!(out, "{line}");
        }
        let _ = writeln!(out, "{}", summary(&report));
        for violation in &report.violations {
            let _ = writeln!(out, "violated: {violation}");
        }
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let started = Instant::now();
    drop(out);
    let seeds = run_many(&arguments, planted);
    let took = started.elapsed().as_secs_f64();
    let failed = seeds.len();
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{} seeds in {took:.1} s, {failed} failed: {seeds:?}", arguments.seeds);
    match (planted, failed) {
        (None, 0) | (Some(_), 1..) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// What a failure shows: the end of the trace, what was violated, how to run it again.
fn tell(report: &Report, planted: Option<&'static str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\n{}", summary(report));
    let skipped = report.trace.len().saturating_sub(TRACE_LINES);
    for line in report.trace.iter().skip(skipped) {
        let _ = writeln!(out, "  {line}");
    }
    for violation in &report.violations {
        let _ = writeln!(out, "violated: {violation}");
    }
    let plant = planted.map(|name| format!(" PLANT={name}")).unwrap_or_default();
    let _ = writeln!(out, "again: make sim SEED={}{plant}", report.seed);
}

/// Runs the seeds; answers those that failed.
fn run_many(arguments: &Arguments, planted: Option<&'static str>) -> Vec<u64> {
    let threads = arguments
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let failed = Mutex::new(Vec::new());
    let bar = ProgressBar::new(arguments.seeds);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left {msg}")
    {
        bar.set_style(style);
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= arguments.seeds || is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let options = Options { planted, whole_trace: false };
                    let report = claudemesh_sim::run(arguments.from + place, options);
                    bar.inc(1);
                    if !report.violations.is_empty() {
                        is_over.store(!arguments.keep_going, Ordering::Relaxed);
                        let mut failed = failed.lock();
                        failed.push(report.seed);
                        bar.set_message(format!("{} failed", failed.len()));
                        bar.suspend(|| tell(&report, planted));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failed = failed.into_inner();
    failed.sort_unstable();
    failed
}

fn summary(report: &Report) -> String {
    format!(
        "seed {}: {} letters, {} s of virtual time, trace {}, {} violations",
        report.seed,
        report.letters,
        report.virtual_time.as_secs(),
        report.digest.get(..16).unwrap_or_default(),
        report.violations.len()
    )
}

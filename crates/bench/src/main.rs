//! `claudemesh-bench`: starts a broker in a process of its own, loads it, and prints one table of figures.
//!
//! It speaks the wire format by itself and shares nothing with the `client` crate, so that what it measures is the
//! broker. Figures are medians over the runs with their spread; nothing here passes or fails.

mod broker_process;
mod daemon_process;
mod disk;
mod figure;
mod peer;
mod process;
mod scenario;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

use crate::figure::Report;

/// Measures a broker and prints a table.
#[derive(Debug, Parser)]
#[command(name = "claudemesh-bench", version)]
pub(crate) struct Options {
    /// The `claudemesh` binary whose broker is measured.
    #[arg(long, env = "CLAUDEMESH_BENCH_BINARY", default_value = "target/release/claudemesh")]
    binary: PathBuf,
    /// Runs of each measurement; the table shows median, minimum and maximum.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only measurements whose name contains this text.
    #[arg(long)]
    only: Option<String>,
    /// Also measure the flood and the broadcast with one receiver in fifty that connects and never reads.
    #[arg(long)]
    stalled: bool,
    /// PostgreSQL address; without it the broker stores in SQLite.
    #[arg(long)]
    database_url: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let report = runtime.block_on(measure(&options))?;
    report.print(options.json)
}

async fn measure(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new(disk::fdatasync_times()?);
    for scenario in scenario::ALL.iter().filter(|scenario| options.stalled || !scenario.is_stalled)
    {
        if options.only.as_ref().is_some_and(|only| !scenario.name.contains(only.as_str())) {
            continue;
        }
        for run in 1..=options.runs.max(1) {
            progress(scenario.name, run, options.runs);
            let figures = (scenario.run)(options)
                .await
                .with_context(|| format!("measuring {}", scenario.name))?;
            report.add(scenario.name, scenario.target, figures);
        }
    }
    Ok(report)
}

/// Says on standard error what is measured now.
fn progress(name: &str, run: usize, runs: usize) {
    let _ = writeln!(std::io::stderr(), "measuring {name} ({run}/{runs})");
}

//! The hook that agents run at each of their events: whole processes, without a daemon, with one that never answers, and with
//! one that does (agents spec §1.6b, §1.10 scenario 16).

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::command_line::Machine;
use crate::Options;
use crate::figure::{Figure, latency};

/// Runs without a daemon.
const RUNS: usize = 1_000;
/// Runs that all last as long as a hook may.
const HUNG_RUNS: usize = 100;
/// What the agent says each time.
const TOLD: &[u8] = br#"{"session_id":"6f1b2c3d-0000-4000-8000-0123456789ab","cwd":"/","hook_event_name":"PostToolUse","tool_name":"Bash","tool_use_id":"toolu_1","tool_input":{"command":"true"},"tool_response":{"stdout":"","stderr":""}}"#;

/// p50, p99 and the longest of whole processes.
pub(super) async fn processes(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let home = tempfile::tempdir()?;
    let mut figures = figures("no daemon", RUNS, &options.binary, home.path())?;
    let dir = home.path().join(".claudemesh/daemon");
    std::fs::create_dir_all(&dir)?;
    let hung = UnixListener::bind(dir.join("daemon.sock"))?;
    figures.extend(self::figures("hung daemon", HUNG_RUNS, &options.binary, home.path())?);
    drop(hung);
    tokio::task::yield_now().await;
    let machine = Machine::start(&options.binary)?;
    figures.extend(self::figures("daemon", RUNS, &options.binary, machine.home())?);
    Ok(figures)
}

fn figures(what: &str, runs: usize, binary: &Path, home: &Path) -> anyhow::Result<Vec<Figure>> {
    let times = (0..runs).map(|_| run(binary, home)).collect::<anyhow::Result<Vec<_>>>()?;
    let longest = times.iter().max().copied().unwrap_or_default();
    let mut figures = latency(what, times);
    figures.push(Figure::new(format!("{what} longest ms"), crate::figure::millis(longest)));
    Ok(figures)
}

/// One hook, from its start to its end; it must succeed and say nothing.
fn run(binary: &Path, home: &Path) -> anyhow::Result<Duration> {
    let mut command = Command::new(binary);
    command.args(["hook", "claude", "PostToolUse"]).env_clear().env("HOME", home);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().context("starting a hook")?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended already does not read.
        let _ = stdin.write_all(TOLD);
    }
    let output = child.wait_with_output()?;
    let took = began.elapsed();
    if !output.status.success() {
        bail!("a hook ended with {}", output.status);
    }
    ensure!(output.stdout.is_empty() && output.stderr.is_empty(), "a hook spoke: {output:?}");
    Ok(took)
}

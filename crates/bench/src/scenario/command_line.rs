//! Whole processes of the command line: from their start to their end, on a machine with a mesh, a daemon and a broker.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::Options;
use crate::figure::{Figure, latency};

/// Runs of each command line.
const RUNS: usize = 200;

/// What is measured: name in the table, words.
const LINES: [(&str, &[&str]); 7] = [
    ("--version", &["--version"]),
    ("--help", &["--help"]),
    ("state set --help", &["state", "set", "--help"]),
    ("state get", &["state", "get", "bench"]),
    ("state set", &["state", "set", "bench", "1"]),
    ("peers", &["peers"]),
    ("inbox", &["inbox", "--peek"]),
];

/// p50 and p99 of whole processes, beside those of a process that does nothing.
pub(super) async fn processes(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let machine = Machine::start(&options.binary)?;
    let mut figures = latency("/bin/true", times(RUNS, || Command::new("/bin/true"))?);
    for (name, words) in LINES {
        figures.extend(latency(name, times(RUNS, || machine.command(words))?));
        tokio::task::yield_now().await;
    }
    Ok(figures)
}

/// How long each of so many processes took.
fn times(runs: usize, command: impl Fn() -> Command) -> anyhow::Result<Vec<std::time::Duration>> {
    (0..runs)
        .map(|_| {
            let mut command = command();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let began = Instant::now();
            let status = command.status().context("starting a process")?;
            let took = began.elapsed();
            if !status.success() {
                bail!("{command:?} ended with {status}");
            }
            Ok(took)
        })
        .collect()
}

/// A HOME with broker, daemon and a mesh; both are stopped when it goes.
pub(super) struct Machine<'a> {
    binary: &'a Path,
    home: TempDir,
}

impl<'a> Machine<'a> {
    pub(super) fn start(binary: &'a Path) -> anyhow::Result<Self> {
        let machine = Self { binary, home: tempfile::tempdir()? };
        for words in [&["up", "--listen", "127.0.0.1:0"][..], &["state", "set", "bench", "1"]] {
            let output = machine.command(words).output().context("starting the machine")?;
            if !output.status.success() {
                bail!("{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(machine)
    }

    /// Its HOME.
    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        command.args(words).env_clear().env("HOME", self.home.path()).env("LANG", "C.UTF-8");
        command
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Nobody is left to tell; what cannot be stopped ends with the machine.
        let _ = self.command(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

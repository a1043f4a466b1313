//! One process of an agent: its own group, so that nothing of it outlives the rig, and a deadline.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Pause between two looks at a process.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Why a rig could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RigError {
    /// A file or process could not be made.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It took too long; what it had printed.
    #[error("{what} did not end in {patience:?}; stdout:\n{stdout}\nstderr:\n{stderr}")]
    TooLong {
        /// What ran.
        what: String,
        /// How long it had.
        patience: Duration,
        /// Printed so far.
        stdout: String,
        /// Printed so far.
        stderr: String,
    },
    /// Something waited for did not happen; what the screen showed.
    #[error("never: {what}; the screen:\n{screen}")]
    Never {
        /// What was waited for.
        what: String,
        /// The screen at the end.
        screen: String,
    },
    /// A program is not installed.
    #[error("{0} is not installed; run scripts/agents-setup")]
    Missing(&'static str),
}

impl RigError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// Runs to its end, or kills the whole group at the deadline.
pub(super) fn run(mut command: Command, patience: Duration) -> Result<Ran, RigError> {
    let what = PathBuf::from(command.get_program()).display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let begun = Instant::now();
    let child = command.spawn().map_err(RigError::io(format!("cannot start {what}")))?;
    let mut group = Group(child);
    let stdout = reader(group.0.stdout.take());
    let stderr = reader(group.0.stderr.take());
    let status = loop {
        let ended = group.0.try_wait().map_err(RigError::io(format!("cannot wait for {what}")))?;
        if ended.is_some() || begun.elapsed() >= patience {
            break ended;
        }
        std::thread::sleep(POLL);
    };
    let took = begun.elapsed();
    // What it left behind still holds the pipes.
    drop(group);
    let (stdout, stderr) = (text_of(stdout), text_of(stderr));
    match status {
        Some(status) => Ok(Ran { code: status.code(), stdout, stderr, took }),
        None => Err(RigError::TooLong { what, patience, stdout, stderr }),
    }
}

/// A process and all it has started; killed when dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It is gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

fn reader(pipe: Option<impl io::Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read so far is worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn text_of(reader: JoinHandle<String>) -> String {
    reader.join().unwrap_or_default()
}

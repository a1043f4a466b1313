//! One real process that is started, killed, stopped, and started again.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

/// The mark by which `scripts/test` finds processes that a killed test run left behind.
const MARK: &str = "CLAUDEMESH_TEST_RUN";

/// A process and how to start it. It dies with the value.
pub struct Process {
    name: String,
    log: PathBuf,
    recipe: Box<dyn Fn() -> Command + Send + Sync>,
    child: Option<Child>,
    armed: Option<&'static str>,
    is_frozen: bool,
    is_stopping: bool,
    has_stopped: bool,
}

/// How a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// At the crash point it was armed with.
    AtPoint(&'static str),
    /// It was asked to, and ended in order.
    Stopped,
    /// It stopped on its own: an answer to a fault it could not live with.
    Alone { code: i32, signal: i32 },
}

impl Process {
    /// A process that is not started yet; its output is appended to `<name>.log` in `logs`.
    pub fn new(
        name: &str,
        logs: &Path,
        recipe: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Self {
        let log = logs.join(format!("{name}.log"));
        let recipe = Box::new(recipe);
        let (name, child, armed) = (name.to_owned(), None, None);
        let (is_frozen, is_stopping, has_stopped) = (false, false, false);
        Self { name, log, recipe, child, armed, is_frozen, is_stopping, has_stopped }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// True when it runs and will take its own life.
    pub fn is_armed(&self) -> bool {
        self.child.is_some() && self.armed.is_some()
    }

    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it; nothing to do when it runs.
    pub fn start(&mut self) {
        self.start_armed(None, 0);
    }

    /// Starts it so that it takes its own life at `point`, the time after `passes` it came by.
    pub fn start_armed(&mut self, point: Option<&'static str>, passes: u32) {
        if self.child.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = (self.recipe)();
        if let Some(point) = point {
            let passes = if passes == 0 { String::new() } else { format!("{passes}*off->") };
            command.env("FAILPOINTS", format!("{point}={passes}1*return->off"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.armed = point;
        self.is_stopping = false;
        self.child = Some(command.spawn().unwrap());
    }

    /// `kill -9`; nothing to do when it is down.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.is_frozen = false;
    }

    /// How it ended, once, when it did.
    pub fn ended(&mut self) -> Option<Ended> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        self.is_frozen = false;
        let signal = status.signal().unwrap_or(0);
        match self.armed.take() {
            _ if self.is_stopping && status.code() == Some(0) => Some(Ended::Stopped),
            Some(point) if signal == Signal::ABORT.as_raw() => Some(Ended::AtPoint(point)),
            _ => Some(Ended::Alone { code: status.code().unwrap_or(-1), signal }),
        }
    }

    /// `SIGTERM`: it is asked to end.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        (self.is_stopping, self.has_stopped) = (true, true);
    }

    /// True when it was ever asked to end.
    pub fn has_stopped(&self) -> bool {
        self.has_stopped
    }

    /// `SIGSTOP`: it is there and does nothing.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        self.is_frozen = self.child.is_some();
    }

    /// `SIGCONT`.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
        self.is_frozen = false;
    }

    /// Open files and sockets.
    pub fn descriptors(&self) -> usize {
        let Some(pid) = self.pid() else { return 0 };
        std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            signal_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Signals any process of ours; one that has just ended is no failure.
pub fn signal_process(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The program under test with a clean environment. Writing beyond a file size limit is an error to it, not a signal.
pub fn program(home: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_claudemesh")]);
    command.env_clear().env("HOME", home).env("LANG", "C.UTF-8").current_dir(home);
    for name in ["PATH", MARK] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null());
    command
}

//! One process of a hook (daemon spec §16.5): begun through [`super::runner`], fed, read within its limits, ended with its
//! whole group. Nothing here waits for longer than it was told to, whatever the script does.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use claudemesh_protocol::limits::{HOOK_KILL_AFTER, HOOK_SHUTDOWN_GRACE};
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::runner::{Plan, RUN_HOOK};
use crate::blocking;
use crate::sessions::{Processes as _, SystemProcesses};

/// How long the streams of a script that has ended may stay open before its group is asked to end.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How often a process is looked at where the system tells nobody of its end.
const POLL: Duration = Duration::from_millis(20);
/// How long an ended group may take to be gone: it cannot refuse, but the kernel may be busy with it.
const GONE_WAIT: Duration = Duration::from_secs(5);
/// Bytes read at once.
const CHUNK_BYTES: usize = 8 * 1024;

/// The program that begins hooks: our own, with a hidden first word.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The program.
    pub program: PathBuf,
    /// Its first words.
    pub words: Vec<OsString>,
    /// What the kernel is asked for.
    pub isolation: Isolation,
}

/// Whether hooks can be kept from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Where a try at the start of the daemon succeeds.
    #[default]
    Tried,
    /// Never: for tests of machines where it is not to be had.
    Missing,
}

impl Default for Runner {
    fn default() -> Self {
        // A daemon whose own program has no path runs no hooks; each run says so.
        let program = std::env::current_exe().unwrap_or_default();
        Self { program, words: vec![RUN_HOOK.into()], isolation: Isolation::Tried }
    }
}

/// What is run, and within which limits.
pub(super) struct Job {
    /// How the process is made.
    pub(super) plan: Plan,
    /// Its environment, complete.
    pub(super) env: Vec<(String, OsString)>,
    /// Where it starts.
    pub(super) dir: PathBuf,
    /// What it reads.
    pub(super) input: Vec<u8>,
    /// Bytes kept of either stream.
    pub(super) output_limit: usize,
    /// How long it may take.
    pub(super) timeout: Duration,
    /// Whether what the script started ends with it.
    pub(super) ends_group: bool,
}

/// How a run went.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Exit code.
    pub(super) exit: Option<i32>,
    /// Signal that ended it.
    pub(super) signal: Option<i32>,
    /// It took too long.
    pub(super) timed_out: bool,
    /// The daemon stopped.
    pub(super) stopped: bool,
    /// From its start to its end.
    pub(super) duration: Duration,
    /// What came on standard output, up to the limit.
    pub(super) stdout: Vec<u8>,
    /// What came on standard error, up to the limit.
    pub(super) stderr: Vec<u8>,
    /// Bytes of standard output, all of them.
    pub(super) stdout_bytes: u64,
    /// Bytes of standard error, all of them.
    pub(super) stderr_bytes: u64,
}

impl Ended {
    /// Some output was not kept.
    pub(super) fn is_truncated(&self) -> bool {
        self.stdout_bytes > self.stdout.len() as u64 || self.stderr_bytes > self.stderr.len() as u64
    }
}

/// Runs a job to its end; `ended` is called as soon as the script itself has ended, when what it started may still be there.
///
/// # Errors
/// The process could not be started.
pub(super) async fn run(
    runner: &Runner,
    job: Job,
    stopping: &CancellationToken,
    script_ended: impl FnOnce() + Send,
) -> io::Result<Ended> {
    let mut command = Command::new(&runner.program);
    command
        .args(&runner.words)
        .args(job.plan.words())
        .env_clear()
        .envs(job.env)
        .current_dir(&job.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let began = Instant::now();
    let mut group = blocking::run(move || Group::start(&mut command, job.ends_group))
        .await
        .ok_or_else(|| io::Error::other("the start panicked"))??;
    let (stdin, stdout, stderr) = group.streams()?;
    let gone = group.gone();
    tokio::pin!(gone);
    let mut ended = Ended::default();
    let (mut out, mut err) = (Kept::new(job.output_limit), Kept::new(job.output_limit));
    {
        let streams = async {
            tokio::join!(feed(stdin, &job.input), out.read(stdout), err.read(stderr));
        };
        tokio::pin!(streams);
        let mut are_closed = false;
        let deadline = tokio::time::sleep(job.timeout);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                () = &mut gone => break,
                () = stopping.cancelled(), if !ended.stopped => ended.stopped = true,
                () = &mut deadline => ended.timed_out = true,
                () = &mut streams, if !are_closed => { are_closed = true; continue; }
            }
            // It is over, one way or the other: first asked, then not asked any more.
            group.signal(Signal::TERM);
            let grace = if ended.stopped { HOOK_SHUTDOWN_GRACE } else { HOOK_KILL_AFTER };
            let patience = tokio::time::sleep(grace);
            tokio::pin!(patience);
            let mut is_stopping = ended.stopped;
            loop {
                tokio::select! {
                    biased;
                    () = &mut gone => break,
                    () = &mut patience => {
                        group.signal(Signal::KILL);
                        let _late = tokio::time::timeout(GONE_WAIT, &mut gone).await;
                        break;
                    }
                    () = stopping.cancelled(), if !is_stopping => {
                        is_stopping = true;
                        let sooner = Instant::now() + HOOK_SHUTDOWN_GRACE;
                        if sooner < patience.deadline() {
                            patience.as_mut().reset(sooner);
                        }
                    }
                    () = &mut streams, if !are_closed => are_closed = true,
                }
            }
            break;
        }
        ended.duration = began.elapsed();
        script_ended();
        // What the script left behind may hold the streams; it has no longer than a script that is asked to end.
        if !are_closed {
            are_closed = tokio::time::timeout(LAST_WORDS, &mut streams).await.is_ok();
        }
        if job.ends_group {
            group.signal(Signal::TERM);
            if !are_closed && !ended.timed_out && !ended.stopped {
                let _left = tokio::select! {
                    biased;
                    () = stopping.cancelled() => false,
                    done = tokio::time::timeout(HOOK_KILL_AFTER, &mut streams) => done.is_ok(),
                };
            }
        }
    }
    let status = blocking::run(move || group.end()).await.unwrap_or_default();
    if let Some(status) = status {
        use std::os::unix::process::ExitStatusExt as _;
        (ended.exit, ended.signal) = (status.code(), status.signal());
    }
    (ended.stdout_bytes, ended.stderr_bytes) = (out.total, err.total);
    (ended.stdout, ended.stderr) = (out.bytes, err.bytes);
    Ok(ended)
}

/// The processes of one run. The script stays unburied until the end, so that its number, which is that of the group, is
/// given to nobody else.
struct Group {
    child: Option<Child>,
    pid: Pid,
    is_signalled_whole: bool,
}

impl Group {
    fn start(command: &mut Command, is_signalled_whole: bool) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Self { child: Some(child), pid, is_signalled_whole })
    }

    fn streams(&mut self) -> io::Result<(ChildStdin, ChildStdout, ChildStderr)> {
        let missing = || io::Error::other("a stream is missing");
        let child = self.child.as_mut().ok_or_else(missing)?;
        Ok((
            ChildStdin::from_std(child.stdin.take().ok_or_else(missing)?)?,
            ChildStdout::from_std(child.stdout.take().ok_or_else(missing)?)?,
            ChildStderr::from_std(child.stderr.take().ok_or_else(missing)?)?,
        ))
    }

    /// Ends with the script, which is not buried by it.
    fn gone(&self) -> BoxFuture<'static, ()> {
        let pid = self.pid;
        let number = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or_default();
        match SystemProcesses::default().watch(number) {
            Some(watched) => watched,
            None => Box::pin(async move {
                let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
                while matches!(rustix::process::waitid(WaitId::Pid(pid), look), Ok(None)) {
                    tokio::time::sleep(POLL).await;
                }
            }),
        }
    }

    fn signal(&self, signal: Signal) {
        if self.child.is_none() {
            return;
        }
        if self.is_signalled_whole && rustix::process::kill_process_group(self.pid, signal).is_ok()
        {
            return;
        }
        // It has not made its group yet. A process that has ended takes no signal, and that is all there can be wrong.
        let _ = rustix::process::kill_process(self.pid, signal);
    }

    /// Ends what is left, then buries the script. Blocks until the kernel has let go of it.
    fn end(mut self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.child.take()?.wait();
        status.map_err(|error| tracing::warn!(%error, "hook_not_waited_for")).ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            // Its end is certain; whoever dropped the run must not wait for it.
            let _ = child.try_wait();
        }
    }
}

async fn feed(mut stdin: ChildStdin, input: &[u8]) {
    // A hook need not read what it is told.
    let _ = stdin.write_all(input).await;
    let _ = stdin.shutdown().await;
}

/// The beginning of a stream, and how long all of it was.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    total: u64,
}

impl Kept {
    const fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, total: 0 }
    }

    async fn read(&mut self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            self.total += count as u64;
            let room = self.limit.saturating_sub(self.bytes.len()).min(count);
            self.bytes.extend_from_slice(chunk.get(..room).unwrap_or_default());
        }
    }
}

/// Whether a process like this one can be kept from the network, by trying it.
pub(super) async fn can_leave_network(runner: &Runner) -> bool {
    let plan = Plan { is_probe: true, no_network: true, ..Plan::default() };
    try_out(runner, plan).await
}

/// Whether `bwrap` works here, by trying it.
pub(super) async fn can_bubblewrap(runner: &Runner) -> bool {
    if !Path::new(super::runner::BUBBLEWRAP_PROGRAM).exists() {
        return false;
    }
    let plan = Plan {
        no_network: true,
        bubblewrap: Some(super::section::FsPolicy::Readonly),
        program: "/bin/true".into(),
        ..Plan::default()
    };
    try_out(runner, plan).await
}

async fn try_out(runner: &Runner, plan: Plan) -> bool {
    const PROBE_TIME: Duration = Duration::from_secs(5);
    if runner.isolation == Isolation::Missing {
        return false;
    }
    let job = Job {
        plan,
        env: Vec::new(),
        dir: "/".into(),
        input: Vec::new(),
        output_limit: 0,
        timeout: PROBE_TIME,
        ends_group: true,
    };
    let never = CancellationToken::new();
    matches!(run(runner, job, &never, || ()).await, Ok(ended) if ended.exit == Some(0))
}

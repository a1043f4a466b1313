//! The daemon as a process of its own: this test program started again, with a single hidden test as its main.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use claudemesh_daemon::Options;
use claudemesh_ipc::{Client, Paths};

use super::world::{Home, until};

/// Set in the child.
const ROLE: &str = "CLAUDEMESH_TEST_ROLE";

/// The child's main; skipped in an ordinary run.
#[test]
fn daemon_process() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut options = Options::from_env(Paths::from_env().unwrap());
    options.hook_runner = crate::hooks::runner();
    let code = runtime.block_on(claudemesh_daemon::run_for_code(options));
    drop(runtime);
    #[expect(clippy::exit, reason = "the exit code is what is tested")]
    std::process::exit(i32::from(code));
}

/// A daemon process; killed when dropped.
pub struct DaemonProcess {
    child: Child,
    client: Client,
}

pub fn command(home: &Home) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "local::process::daemon_process", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        .env(ROLE, "daemon")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

impl DaemonProcess {
    /// Starts one and waits until it answers.
    pub async fn start(home: &Home, failpoints: &str) -> Self {
        let child = command(home).env("CLAUDEMESH_FAILPOINTS", failpoints).spawn().unwrap();
        let client = Client::new(home.paths.socket().unwrap());
        let pid = child.id();
        until("the daemon answers", || async {
            client.version().await.is_ok_and(|version| version.pid == pid)
        })
        .await;
        Self { child, client }
    }

    pub const fn client(&self) -> &Client {
        &self.client
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        ended(&mut self.child).await
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a child, at most 15 s.
pub async fn ended(child: &mut Child) -> ExitStatus {
    for _ in 0..1_500 {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = child.kill();
    panic!("the process did not end");
}

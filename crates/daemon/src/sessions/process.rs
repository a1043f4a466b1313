//! Looking at other processes without starting any: alive, ours, since when, and when they end (daemon spec §8.4).

use std::os::fd::OwnedFd;

use futures_util::future::BoxFuture;
use rustix::process::{Pid, PidfdFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How the registry looks at processes; tests bring their own.
pub trait Processes: Send + Sync {
    /// It runs, whoever owns it.
    fn is_alive(&self, pid: u32) -> bool;

    /// It runs and belongs to our user.
    fn is_ours(&self, pid: u32) -> bool;

    /// An opaque text that no other process with this number has: `<os>:<boot>:<ticks>`.
    fn start_time(&self, pid: u32) -> Option<String>;

    /// Ends with the process; `None` where the system cannot tell.
    fn watch(&self, pid: u32) -> Option<BoxFuture<'static, ()>>;
}

/// The processes of this machine.
pub struct SystemProcesses {
    boot_id: Option<String>,
}

impl SystemProcesses {
    /// Reads the boot id.
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self { boot_id: boot_id.map(|text| text.trim().to_owned()) }
    }
}

impl Default for SystemProcesses {
    fn default() -> Self {
        Self::new()
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

impl Processes for SystemProcesses {
    fn is_alive(&self, pid: u32) -> bool {
        let Some(pid) = as_pid(pid) else { return false };
        !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
    }

    fn is_ours(&self, pid: u32) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let uid = rustix::process::geteuid().as_raw();
        match std::fs::metadata(format!("/proc/{pid}")) {
            Ok(meta) => meta.uid() == uid,
            // Without /proc: only our own processes take a signal.
            Err(_) => {
                as_pid(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
            }
        }
    }

    fn start_time(&self, pid: u32) -> Option<String> {
        /// Field 22 of `proc_pid_stat(5)`, counted after the closing parenthesis of field 2.
        const START_TICKS: usize = 22 - 3;
        /// Field 3.
        const STATE: usize = 0;
        let boot_id = self.boot_id.as_ref()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may itself contain spaces and parentheses.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        if matches!(fields.get(STATE), Some(&("Z" | "X"))) {
            return None;
        }
        let ticks: u64 = fields.get(START_TICKS)?.parse().ok()?;
        Some(format!("linux:{boot_id}:{ticks}"))
    }

    fn watch(&self, pid: u32) -> Option<BoxFuture<'static, ()>> {
        let fd: OwnedFd = rustix::process::pidfd_open(as_pid(pid)?, PidfdFlags::empty()).ok()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor is what it asks for"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE).ok()?;
        Some(Box::pin(async move {
            // An error cannot happen to a pidfd; if it did, the sweep decides.
            let _ = fd.readable().await;
        }))
    }
}

/// Whether the process left its terminal, as every daemon does that runs in the background; also one that is gone by now.
///
/// A process whose session was begun outside of our pid namespace, as under a container's shell, has session 0: it does
/// not lead it.
#[must_use]
pub fn leads_its_session(pid: u32) -> bool {
    let Some(pid) = as_pid(pid) else { return true };
    match nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get()))) {
        Ok(leader) => leader.as_raw() == pid.as_raw_nonzero().get(),
        Err(error) => error == nix::errno::Errno::ESRCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_ours_and_has_a_start_time() {
        let processes = SystemProcesses::new();
        let pid = std::process::id();
        assert!(processes.is_alive(pid) && processes.is_ours(pid));
        assert!(processes.start_time(pid).unwrap().starts_with("linux:"));
        assert_eq!(processes.start_time(pid), processes.start_time(pid));
        assert!(!processes.is_alive(0) && !processes.is_alive(u32::MAX));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed() {
        let processes = SystemProcesses::new();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let ended = processes.watch(pid).unwrap();
        child.kill().unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), ended).await.unwrap();
        // Not waited for yet: a zombie has no start time, so the sweep drops it too.
        assert_eq!(processes.start_time(pid), None);
        child.wait().unwrap();
        assert!(!processes.is_alive(pid));
    }

    /// The test runs itself once more as the first process of a pid namespace, where its session has no number.
    #[test]
    fn who_has_a_foreign_session_leads_none() {
        const INSIDE: &str = "CLAUDEMESH_TEST_INSIDE_NAMESPACE";
        if std::env::var_os(INSIDE).is_some() {
            assert_eq!(std::process::id(), 1);
            assert!(!leads_its_session(1));
            return;
        }
        assert!(leads_its_session(0) && leads_its_session(u32::MAX), "gone by now");
        let unshare = ["--user", "--map-root-user", "--pid", "--fork"];
        let probe = std::process::Command::new("unshare").args(unshare).arg("true").output();
        if !probe.is_ok_and(|probe| probe.status.success()) {
            eprintln!("skipped: no pid namespaces here");
            return;
        }
        let inside = std::process::Command::new("unshare")
            .args(unshare)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "sessions::process::tests::who_has_a_foreign_session_leads_none"])
            .env(INSIDE, "yes")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&inside.stdout);
        assert!(inside.status.success() && said.contains("1 passed"), "{said}");
    }
}

//! A disk that can be full: a small volume of its own where we may mount one, else a limit on the size of the process's
//! files, which needs no rights.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Size of a volume that is not full. Memory is taken only for what is written.
const VOLUME_BYTES: u64 = 2 << 30;

/// Where a process keeps its files.
pub enum Disk {
    /// A volume mounted here; a full one answers `ENOSPC`.
    Volume(PathBuf),
    /// The ordinary disk; a full one answers `EFBIG`, from files that would grow.
    Ordinary(PathBuf),
}

impl Disk {
    /// A disk at an empty directory. Its name in the list of mounts carries the mark of the test run, by which
    /// `scripts/test` finds what a killed run left mounted.
    pub fn at(directory: &Path) -> Self {
        Self::mounted(directory, 700)
    }

    /// As [`Disk::at`], for a process of another user, who has a directory below.
    pub fn open_to_all(directory: &Path) -> Self {
        Self::mounted(directory, 711)
    }

    fn mounted(directory: &Path, mode: u32) -> Self {
        let mark = std::env::var("CLAUDEMESH_TEST_RUN").unwrap_or_default();
        let is_mounted = rustix::process::geteuid().is_root()
            && run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("mode={mode},size={VOLUME_BYTES}")])
                .arg(format!("claudemesh-chaos-{mark}"))
                .arg(directory));
        if is_mounted {
            Self::Volume(directory.to_owned())
        } else {
            Self::Ordinary(directory.to_owned())
        }
    }

    /// Leaves `slack_bytes` on the disk of process `pid`.
    pub fn fill(&self, pid: Option<u32>, slack_bytes: u64) {
        match self {
            Self::Volume(directory) => {
                let Ok(stat) = rustix::fs::statvfs(directory) else { return };
                let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
                resize(directory, used + slack_bytes);
            }
            Self::Ordinary(directory) => {
                limit_files(pid, Some(largest_file(directory) + slack_bytes));
            }
        }
    }

    /// Makes room again.
    pub fn free(&self, pid: Option<u32>) {
        match self {
            Self::Volume(directory) => resize(directory, VOLUME_BYTES),
            Self::Ordinary(_) => limit_files(pid, None),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Volume(directory) = self {
            run(Command::new("umount").arg("--lazy").arg(directory));
        }
    }
}

fn resize(directory: &Path, bytes: u64) {
    // Whole pages; refused when the process has written more meanwhile, and then the disk is not full this time.
    let bytes = bytes.next_multiple_of(4096);
    run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(directory));
}

fn limit_files(pid: Option<u32>, bytes: Option<u64>) {
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // A process that has just ended has no limits to set.
        let _ = prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None });
    }
}

fn largest_file(directory: &Path) -> u64 {
    let mut largest = 0;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let size = if metadata.is_dir() { largest_file(&entry.path()) } else { metadata.len() };
        largest = largest.max(size);
    }
    largest
}

fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

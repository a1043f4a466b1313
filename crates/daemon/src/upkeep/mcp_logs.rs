//! Logs that MCP servers left behind (daemon spec §2): one goes a week after its last line, or a day after it when its
//! server has ended.

use std::path::Path;
use std::time::Duration;

use claudemesh_protocol::limits::MCP_LOG_KEEP;

use crate::sessions::{Processes as _, SystemProcesses};

/// How long the log of a server that has ended is kept, for whoever looks into it.
const KEEP_AFTER_END: Duration = Duration::from_hours(24);

/// Removes what has had its time; what cannot be looked at stays. Blocks.
pub(super) fn prune(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let processes = SystemProcesses::new();
    let mut removed = 0;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(pid_of) else { continue };
        let Some(age) = age_of(&entry.path()) else { continue };
        let is_over = age > MCP_LOG_KEEP || age > KEEP_AFTER_END && !processes.is_alive(pid);
        if is_over && std::fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(removed, "mcp_logs_pruned");
    }
}

/// The process of `mcp-<pid>.log`.
fn pid_of(name: &str) -> Option<u32> {
    name.strip_prefix("mcp-")?.strip_suffix(".log")?.parse().ok()
}

/// Time since the last line; of files only, never of what a link leads to.
fn age_of(path: &Path) -> Option<Duration> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    meta.modified().ok().filter(|_| meta.is_file())?.elapsed().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn old_logs_go_and_those_of_living_servers_stay_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::process::id();
        // No process has this number: it is above what a system gives out.
        let dead = 0x7fff_ffff_u32;
        let hour = Duration::from_hours(1);
        for (name, age, stays) in [
            (format!("mcp-{own}.log"), hour * 100, true),
            (format!("mcp-{dead}.log"), hour * 23, true),
            (format!("mcp-{}.log", dead - 1), hour * 25, false),
            (format!("mcp-{}.log", dead - 2), hour * 24 * 8, false),
            ("mcp-.log".to_owned(), hour * 24 * 80, true),
            ("daemon.log".to_owned(), hour * 24 * 80, true),
        ] {
            let path = dir.path().join(&name);
            File::create(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
            prune(dir.path());
            assert_eq!(path.exists(), stays, "{name}");
        }
        let path = dir.path().join(format!("mcp-{own}.log"));
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::now() - hour * 24 * 8)
            .unwrap();
        prune(dir.path());
        assert!(!path.exists(), "a week is a week");
    }
}

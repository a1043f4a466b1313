//! What a process costs the machine, read from `/proc`.

use std::time::Duration;

use anyhow::Context as _;

/// Resident memory, in MiB.
pub(crate) fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .context("VmRSS")?;
    Ok(kib / 1024.0)
}

/// CPU time used so far.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().context("process statistics")?;
    let field = |index: usize| {
        after_name.split_whitespace().nth(index).and_then(|text| text.parse::<u64>().ok())
    };
    // Fields 14 and 15 of proc(5), user and system time; the name takes the first two.
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system).context("CPU time")?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(ticks.saturating_mul(1000) / per_second))
}

/// How often the threads it has went to sleep of their own will so far; what changes between two looks was awake.
pub(crate) fn switches(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        let switches = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .and_then(|number| number.trim().parse::<u64>().ok());
        sum += switches.context("context switches")?;
    }
    Ok(sum)
}

//! What the processes cost while the soak lasts, and the bounds they keep.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cost::{cpu, rss_mib, switches};
use crate::chaos::storm::{every_victim, process};
use crate::chaos::system::System;

/// Memory of a daemon, in MiB (daemon spec §1.5).
const DAEMON_RSS_MAX: f64 = 256.0;
/// Memory of the broker, in MiB.
const BROKER_RSS_MAX: f64 = 512.0;
/// Memory a process may have more of than when it was warm, in MiB.
const RSS_GROWTH_MAX: f64 = 64.0;
/// Files and sockets it may have more of: calls and connections of a moment.
const DESCRIPTORS_GROWTH_MAX: usize = 24;
/// Write-ahead log of a database, in MiB: it is copied back at 16 and keeps at most 32.
const LOG_MAX: f64 = 64.0;
/// Age of a process that is warm.
const WARM: Duration = Duration::from_mins(1);

/// One look at a process.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    rss_mib: f64,
    descriptors: usize,
    log_mib: f64,
    cpu: Duration,
    switches: u64,
}

/// A process from one start to its next.
struct Life {
    pid: u32,
    since: Instant,
    warm: Option<Cost>,
    now: Cost,
    /// At the last line.
    told: Cost,
}

/// All processes.
#[derive(Default)]
pub struct Meter {
    lives: BTreeMap<String, Life>,
    faults: BTreeMap<String, String>,
    told_at: Option<Instant>,
}

impl Meter {
    /// Looks at every process that runs.
    pub fn look(&mut self, system: &mut System) {
        let mut logs: Vec<Vec<PathBuf>> =
            vec![vec![system.engine.directory().join("broker.db-wal")]];
        logs.extend(system.people.iter().map(|person| {
            let dir = person.paths.daemon_dir();
            vec![dir.join("outbox.db-wal"), dir.join("inbox.db-wal")]
        }));
        for (victim, logs) in every_victim().zip(logs) {
            let process = process(system, victim);
            let Some(pid) = process.pid() else { continue };
            // One that ends at this moment has nothing to show.
            let (Ok(rss_mib), Ok(cpu), Ok(switches)) = (rss_mib(pid), cpu(pid), switches(pid))
            else {
                continue;
            };
            let descriptors = process.descriptors();
            let log_mib = logs.iter().map(|log| mib(log)).fold(0.0, f64::max);
            let cost = Cost { rss_mib, descriptors, log_mib, cpu, switches };
            let name = process.name().to_owned();
            self.judge(&name, pid, cost);
        }
    }

    fn judge(&mut self, name: &str, pid: u32, cost: Cost) {
        let life = self.lives.entry(name.to_owned()).or_insert_with(|| Life::new(pid));
        if life.pid != pid {
            *life = Life::new(pid);
        }
        life.now = cost;
        if life.warm.is_none() && life.since.elapsed() > WARM {
            life.warm = Some(cost);
        }
        let mut fault = |what: &str, is: f64, bound: f64| {
            if is > bound {
                let said = format!("{name} has {is:.1} {what}, bound {bound:.1}");
                self.faults.insert(format!("{name} {what}"), said);
            }
        };
        let most = if name == "broker" { BROKER_RSS_MAX } else { DAEMON_RSS_MAX };
        fault("MiB of memory", cost.rss_mib, most);
        fault("MiB of write-ahead log", cost.log_mib, LOG_MAX);
        if let Some(warm) = life.warm {
            fault("MiB more memory than warm", cost.rss_mib - warm.rss_mib, RSS_GROWTH_MAX);
            let bound = warm.descriptors + DESCRIPTORS_GROWTH_MAX;
            let count = |descriptors: usize| f64::from(u32::try_from(descriptors).unwrap());
            fault("descriptors", count(cost.descriptors), count(bound));
        }
    }

    /// A part of the line of a minute: memory, descriptors, log, and what was used since the last line.
    pub fn line(&mut self) -> String {
        let since = self.told_at.replace(Instant::now()).map_or(WARM, |at| at.elapsed());
        let mut line = String::new();
        for (name, life) in &mut self.lives {
            let used =
                life.now.cpu.saturating_sub(life.told.cpu).as_secs_f64() / since.as_secs_f64();
            let switched = life.now.switches.saturating_sub(life.told.switches);
            let switched = f64::from(u32::try_from(switched).unwrap()) / since.as_secs_f64();
            let Cost { rss_mib, descriptors, log_mib, .. } = life.now;
            let percent = used * 100.0;
            life.told = life.now;
            write!(
                line,
                "\n      {name:<6} {rss_mib:>6.1} MiB {descriptors:>3} fds {log_mib:>5.1} MiB log {percent:>5.1} % CPU {switched:>6.0} switches/s"
            )
            .unwrap();
        }
        line
    }

    /// Bounds that were passed.
    pub fn faults(self) -> Vec<String> {
        self.faults.into_values().collect()
    }
}

impl Life {
    fn new(pid: u32) -> Self {
        let cost = Cost::default();
        Self { pid, since: Instant::now(), warm: None, now: cost, told: cost }
    }
}

#[test]
fn what_grows_beyond_its_bound_is_named() {
    let mut meter = Meter::default();
    let cost = Cost { rss_mib: 50.0, descriptors: 30, log_mib: 16.0, ..Cost::default() };
    meter.judge("ana", 1, cost);
    meter.lives.get_mut("ana").unwrap().warm = Some(cost);
    meter.judge("ana", 1, Cost { rss_mib: 113.0, descriptors: 54, log_mib: 64.0, ..cost });
    assert!(meter.faults.is_empty(), "{:?}", meter.faults);
    meter.judge("ana", 1, Cost { rss_mib: 115.0, descriptors: 55, log_mib: 65.0, ..cost });
    assert_eq!(meter.faults.len(), 3, "{:?}", meter.faults);
    // Another process begins anew.
    meter.judge("ben", 2, Cost { rss_mib: 255.0, ..cost });
    assert_eq!(meter.faults.len(), 3, "{:?}", meter.faults);
    meter.judge("ben", 2, Cost { rss_mib: 257.0, ..cost });
    assert_eq!(meter.faults().len(), 4);
}

fn mib(file: &Path) -> f64 {
    let bytes = std::fs::metadata(file).map_or(0, |meta| meta.len());
    f64::from(u32::try_from(bytes / 1024).unwrap()) / 1024.0
}

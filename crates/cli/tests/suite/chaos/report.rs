//! What a run tells: a table for people, one line of JSON for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use super::fault::BROKER_POINTS;
use super::plan::Plan;
use super::say;
use super::verdict::Verdict;
use crate::kills::points::POINTS;

/// First word of the report of a run that comes by every point sooner or later.
pub const CHAOS: &str = "chaos";

/// What the storm did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Processes killed: from outside, at crash points, and servers.
    pub kills: u32,
    /// Faults begun, by kind.
    pub faults: BTreeMap<&'static str, u32>,
    /// Crash points at which a process died.
    pub points: BTreeMap<&'static str, u32>,
    /// Processes that gave up by themselves and were started again.
    pub ended_alone: u32,
    /// Looks at databases.
    pub checks: u32,
    /// What those looks found, and processes that broke.
    pub damage: Vec<String>,
}

/// Everything about one run.
pub struct Report<'a> {
    pub title: &'a str,
    pub plan: &'a Plan,
    pub tally: &'a Tally,
    pub verdict: &'a Verdict,
    pub stormed: Duration,
    pub settled: Option<Duration>,
    pub figures: BTreeMap<&'static str, u64>,
}

impl Report<'_> {
    /// Prints the table.
    pub fn print(&self) {
        let plan = self.plan;
        let minutes = self.stormed.as_secs_f64() / 60.0;
        say(format_args!(
            "\n{} on {}, {minutes:.1} minutes, seed {}",
            self.title,
            plan.engine.as_str(),
            plan.seed
        ));
        let line = |name: &str, value: String| say(format_args!("  {name:<56}{value:>10}"));
        for (kind, count) in &self.tally.faults {
            line(kind, count.to_string());
        }
        for (point, count) in &self.tally.points {
            line(&format!("died at {point}"), count.to_string());
        }
        let missed: Vec<&str> = every_point()
            .into_iter()
            .filter(|name| !self.tally.points.contains_key(name))
            .collect();
        if !missed.is_empty() && self.title == CHAOS {
            say(format_args!("  points nobody died at: {}", missed.join(", ")));
        }
        line("processes killed", self.tally.kills.to_string());
        line("processes that gave up by themselves", self.tally.ended_alone.to_string());
        line("databases looked at", self.tally.checks.to_string());
        for (name, value) in &self.figures {
            line(name, value.to_string());
        }
        let settled =
            self.settled.map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
        line("settled after", settled);
        for (name, faults) in self.verdict.all() {
            line(name, faults.len().to_string());
        }
        line("damage", self.tally.damage.len().to_string());
        for (name, faults) in self.verdict.all() {
            for fault in faults.iter().take(12) {
                say(format_args!("  {name}: {fault}"));
            }
        }
        for fault in self.tally.damage.iter().take(12) {
            say(format_args!("  damage: {fault}"));
        }
    }

    /// Appends the line for programs.
    pub fn write(&self) {
        let Some(path) = &self.plan.report else { return };
        let verdict: BTreeMap<&str, usize> =
            self.verdict.all().map(|(name, faults)| (name, faults.len())).collect();
        let document = serde_json::json!({
            "run": self.title,
            "engine": self.plan.engine.as_str(),
            "seed": self.plan.seed,
            "seconds": self.stormed.as_secs(),
            "kills": self.tally.kills,
            "faults": self.tally.faults,
            "crash_points": self.tally.points,
            "ended_alone": self.tally.ended_alone,
            "databases_checked": self.tally.checks,
            "damage": self.tally.damage.len(),
            "figures": self.figures,
            "settled_ms": self.settled.map(|time| u64::try_from(time.as_millis()).unwrap()),
            "verdict": verdict,
        });
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{document}").unwrap();
    }
}

fn every_point() -> BTreeSet<&'static str> {
    BROKER_POINTS.iter().copied().chain(POINTS.iter().map(|point| point.name)).collect()
}

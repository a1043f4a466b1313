//! What a run is to do, read from the environment: engine, seed, minutes, kills, where the report goes.

use std::path::PathBuf;
use std::time::Duration;

/// Which database the broker stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    Sqlite,
    Postgres,
}

impl EngineKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// How often something happens, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Seconds in all: short faults, few messages.
    Brief,
    /// Minutes: also long absences, by which sessions end and their messages move.
    Long,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub engine: EngineKind,
    /// Draws faults and messages. Processes run in real time, so a seed brings the same faults, not the same interleaving.
    pub seed: u64,
    /// The storm lasts at least this long …
    pub duration: Duration,
    /// … and until so many processes were killed.
    pub kills: u32,
    pub pace: Pace,
    /// JSON reports are appended here, one line a run.
    pub report: Option<PathBuf>,
}

impl Plan {
    /// A run that fits into every test run.
    pub fn brief(engine: EngineKind, kills: u32) -> Self {
        Self {
            engine,
            seed: seed(),
            duration: Duration::ZERO,
            kills,
            pace: Pace::Brief,
            report: report(),
        }
    }

    /// The runs `make chaos` asks for: `CLAUDEMESH_CHAOS_MINUTES` (2), `_ENGINE` (`both`), `_KILLS` (0).
    pub fn long() -> Vec<Self> {
        let minutes: f64 = variable("MINUTES").map_or(2.0, |text| text.parse().unwrap());
        let kills = variable("KILLS").map_or(0, |text| text.parse().unwrap());
        let engines = match variable("ENGINE").as_deref() {
            None | Some("both") => vec![EngineKind::Sqlite, EngineKind::Postgres],
            Some("sqlite") => vec![EngineKind::Sqlite],
            Some("postgres") => vec![EngineKind::Postgres],
            Some(other) => panic!("ENGINE is sqlite, postgres or both, not {other}"),
        };
        let seed = seed();
        let plan = |engine| Self {
            engine,
            seed,
            duration: Duration::from_secs_f64(minutes * 60.0),
            kills,
            pace: Pace::Long,
            report: report(),
        };
        engines.into_iter().map(plan).collect()
    }
}

fn seed() -> u64 {
    variable("SEED").map_or_else(rand::random, |text| text.parse().unwrap())
}

fn report() -> Option<PathBuf> {
    variable("REPORT").map(PathBuf::from)
}

/// `CLAUDEMESH_CHAOS_<name>`; empty counts as not set, because `make` passes on what it was not given.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(format!("CLAUDEMESH_CHAOS_{name}")).ok().filter(|text| !text.is_empty())
}

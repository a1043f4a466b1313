//! The faults: what may happen, how often, how it is begun, and how it ends.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::agent::Leave;
use super::plan::{EngineKind, Pace};
use super::proxy::Weather;
use super::system::{ABSENT, SESSIONS};
use crate::kills::points;

/// Points at which the broker takes its own life.
pub const BROKER_POINTS: &[&str] = &[
    "broker.accept.before_commit",
    "broker.after_commit_before_push",
    "broker.after_push_before_ack",
    "broker.after_push_before_commit",
    "broker.client_ack.before_commit",
    "store.after_announce_before_message",
    "store.after_dedupe_before_message",
];
/// Points of the writer of SQLite databases: only a broker on SQLite comes by, and every daemon.
const WRITER_POINTS: &[&str] = &["commit.before_fsync", "commit.after_fsync_before_reply"];

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Broker,
    Daemon(usize),
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// `kill -9`; up again after the pause.
    Kill { victim: Victim, pause: Duration },
    /// `SIGTERM`; up again after a moment.
    Stop { victim: Victim },
    /// Armed to die at a point.
    CrashPoint { victim: Victim, point: &'static str, passes: u32 },
    /// Everything at once, as when the power goes.
    KillAll { pause: Duration },
    /// `SIGSTOP` and, later, `SIGCONT`.
    Freeze { victim: Victim, pause: Duration },
    /// The disk takes so many bytes more.
    DiskFull { victim: Victim, slack_bytes: u64, pause: Duration },
    /// Every connection of a daemon ends.
    Cut { person: usize },
    /// … after so many bytes, somewhere in a frame.
    Truncate { person: usize, bytes: usize },
    /// The network of one daemon is bad for a while.
    Weather { person: usize, weather: Weather, pause: Duration },
    /// The one who is mostly absent looks in.
    Visit { pause: Duration },
    /// A daemon is away for so long that its sessions end.
    Away { person: usize, pause: Duration },
    /// A session works for a while, so that messages wait for it; then it ends, and comes back.
    EndSession { person: usize, number: usize, leave: Leave, busy: Duration, pause: Duration },
    /// `kill -9` of the database server.
    ServerKill { pause: Duration },
    /// `kill -9` of one of its backends.
    BackendKill { choice: usize },
    /// Its operator stops it.
    ServerStop { pause: Duration },
    /// The disk below its data takes so many bytes more.
    ServerDiskFull { slack_bytes: u64, pause: Duration },
}

impl Fault {
    /// The line of the report it is counted in.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Kill { victim: Victim::Broker, .. } => "kill -9 of the broker",
            Self::Kill { .. } => "kill -9 of a daemon",
            Self::Stop { .. } => "polite stop",
            Self::CrashPoint { .. } => "armed crash point",
            Self::KillAll { .. } => "kill -9 of everything",
            Self::Freeze { .. } => "frozen process",
            Self::DiskFull { victim: Victim::Broker, .. } => "full disk of the broker",
            Self::DiskFull { .. } => "full disk of a daemon",
            Self::Cut { .. } => "cut connections",
            Self::Truncate { .. } => "cut inside a frame",
            Self::Weather { weather: Weather::Delay(_), .. } => "slow network",
            Self::Weather { weather: Weather::Throttle(_), .. } => "narrow network",
            Self::Weather { weather: Weather::BlackHole, .. } => "black hole",
            Self::Weather { weather: Weather::Refuse, .. } => "refused connections",
            Self::Weather { .. } => "stalled network",
            Self::Visit { .. } => "visit of the absent one",
            Self::Away { .. } => "long absence",
            Self::EndSession { leave: Leave::Said, .. } => "session that ends",
            Self::EndSession { .. } => "session whose process ends",
            Self::ServerKill { .. } => "kill -9 of the database server",
            Self::BackendKill { .. } => "kill -9 of a database backend",
            Self::ServerStop { .. } => "stop of the database server",
            Self::ServerDiskFull { .. } => "full disk of the database server",
        }
    }
}

/// What has to be undone, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Healing {
    pub at: Instant,
    pub cure: Cure,
}

/// How a fault ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cure {
    Start(Victim),
    Thaw(Victim),
    FreeDisk(Victim),
    ClearWeather(usize),
    StartServer,
    FreeServerDisk,
    /// The session of a person ends, then comes back.
    EndSession {
        person: usize,
        number: usize,
        leave: Leave,
        pause: Duration,
    },
    ReturnSession {
        person: usize,
        number: usize,
    },
    /// The visitor goes without a word.
    EndVisit,
}

/// Draws faults.
pub struct Dice {
    pub random: StdRng,
    engine: EngineKind,
    pace: Pace,
}

impl Dice {
    pub fn new(random: StdRng, engine: EngineKind, pace: Pace) -> Self {
        Self { random, engine, pace }
    }

    /// The pause before the next fault.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(50..700))
    }

    /// The pause before a process that ended by itself is started again.
    pub fn downtime(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(0..800))
    }

    fn span(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        // Short runs have no time for long faults.
        let shrink = if self.pace == Pace::Brief { 4 } else { 1 };
        Duration::from_millis(self.random.random_range(from_ms..to_ms) / shrink)
    }

    fn person(&mut self) -> usize {
        self.random.random_range(0..ABSENT)
    }

    fn victim(&mut self) -> Victim {
        if self.random.random_bool(0.4) { Victim::Broker } else { Victim::Daemon(self.person()) }
    }

    fn crash_point(&mut self) -> Fault {
        let victim = self.victim();
        let points: Vec<&'static str> = match (victim, self.engine) {
            (Victim::Broker, EngineKind::Postgres) => BROKER_POINTS.to_vec(),
            (Victim::Broker, EngineKind::Sqlite) => [BROKER_POINTS, WRITER_POINTS].concat(),
            (Victim::Daemon(_), _) => points::everyday().collect(),
        };
        let point = points[self.random.random_range(0..points.len())];
        // Some points are passed rarely; everything else happens all the time.
        let is_rare =
            ["sessions.", "requeue.", "prune."].iter().any(|rare| point.starts_with(rare));
        let passes = if is_rare { 0 } else { self.random.random_range(0..8) };
        Fault::CrashPoint { victim, point, passes }
    }

    fn weather(&mut self) -> Fault {
        let (weather, pause) = match self.random.random_range(0..6) {
            0 | 1 => {
                let delay = Duration::from_millis(self.random.random_range(5..300));
                (Weather::Delay(delay), self.span(1_000, 6_000))
            }
            2 => (
                Weather::Throttle(self.random.random_range(4_000..60_000)),
                self.span(1_000, 6_000),
            ),
            3 => (Weather::Stall, self.span(500, 9_000)),
            4 => (Weather::BlackHole, self.span(500, 9_000)),
            _ => (Weather::Refuse, self.span(500, 4_000)),
        };
        Fault::Weather { person: self.person(), weather, pause }
    }

    fn disk_full(&mut self) -> Fault {
        let slack_bytes = self.random.random_range(0..128 * 1024);
        Fault::DiskFull { victim: self.victim(), slack_bytes, pause: self.span(1_000, 5_000) }
    }

    fn server_fault(&mut self) -> Fault {
        match self.random.random_range(0..7) {
            0 | 1 => Fault::ServerKill { pause: self.span(0, 3_000) },
            2 | 3 => Fault::BackendKill { choice: self.random.random_range(0..64) },
            4 | 5 => {
                // A log segment that is begun takes more than this.
                let slack_bytes = self.random.random_range(0..8 * 1024 * 1024);
                Fault::ServerDiskFull { slack_bytes, pause: self.span(1_000, 5_000) }
            }
            _ => Fault::ServerStop { pause: self.span(0, 3_000) },
        }
    }

    fn end_session(&mut self) -> Fault {
        let leave = if self.random.random_bool(0.5) { Leave::Said } else { Leave::ProcessEnds };
        Fault::EndSession {
            person: self.person(),
            number: self.random.random_range(0..SESSIONS),
            leave,
            busy: self.span(1_500, 6_000),
            pause: self.span(1_000, 8_000),
        }
    }

    /// The next fault.
    pub fn roll(&mut self) -> Fault {
        let is_server = self.engine == EngineKind::Postgres;
        match self.random.random_range(0..100) {
            0..14 if is_server => self.server_fault(),
            24..30 => self.end_session(),
            0..30 => Fault::Kill { victim: self.victim(), pause: self.span(0, 2_000) },
            30..60 => self.crash_point(),
            60..63 => Fault::KillAll { pause: self.span(0, 2_000) },
            63..68 => Fault::Freeze { victim: self.victim(), pause: self.span(500, 9_000) },
            68..73 => self.disk_full(),
            73..80 => Fault::Cut { person: self.person() },
            80..87 => {
                let bytes = self.random.random_range(0..30_000);
                Fault::Truncate { person: self.person(), bytes }
            }
            87..97 => self.weather(),
            97..99 => Fault::Visit { pause: self.span(2_000, 12_000) },
            _ if self.pace == Pace::Long => {
                let pause = Duration::from_secs(self.random.random_range(38..50));
                Fault::Away { person: self.person(), pause }
            }
            _ => Fault::Cut { person: self.person() },
        }
    }
}

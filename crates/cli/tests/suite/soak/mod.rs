//! Soak: a broker, four daemons and six sessions talk at an even pace for as long as is asked for, while processes are
//! killed, stopped and cut off now and then; nothing is lost, nothing comes twice, nobody stays away, and nothing grows
//! (daemon spec §26).
//!
//! `make soak MINUTES=60`; a line a minute, see CONTRIBUTING.md.

#[path = "../../../../bench/src/process.rs"]
mod cost;
mod meter;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chaos::fault::{Dice, Fault, Victim};
use crate::chaos::plan::{EngineKind, Pace, Plan, variable};
use crate::chaos::storm::{Storm, process};
use crate::chaos::system::{ABSENT, System};
use crate::chaos::traffic::Traffic;
use crate::chaos::{Ending, Outcome, reckon, say};
use meter::Meter;

/// Minutes without other orders.
const MINUTES: f64 = 60.0;
/// Mean pause of each of nine speakers between two messages.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause between two looks at who is connected.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks at what processes cost.
const LOOK: Duration = Duration::from_secs(5);
/// Between two lines.
const LINE: Duration = Duration::from_mins(1);
/// Between two ends of a process, in seconds.
const END_EVERY: (f64, f64) = (60.0, 600.0);
/// Between two cuts of a daemon's connections, in seconds.
const CUT_EVERY: (f64, f64) = (20.0, 120.0);
/// How long a daemon or session may be without its connection while the broker is there (daemon spec §26).
const AWAY_MAX: Duration = Duration::from_secs(35);

/// Daemon spec §26: the soak loses nothing, repeats nothing, and keeps its bounds.
#[test]
#[ignore = "an hour: make soak"]
fn an_even_pace_for_long_loses_nothing_and_grows_nothing() {
    let minutes = variable("MINUTES").map_or(MINUTES, |text| text.parse().unwrap());
    let mut plan = Plan::brief(EngineKind::Sqlite, 0);
    plan.duration = Duration::from_secs_f64(minutes * 60.0);
    plan.pace = Pace::Long;
    say(format_args!("soak for {minutes} minutes: SEED={}", plan.seed));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(soak(&plan));
    assert_eq!(outcome, Outcome::Clean, "run again with MINUTES={minutes} SEED={}", plan.seed);
}

/// Who is without a connection, and since when.
#[derive(Default)]
struct Absences {
    since: BTreeMap<String, Instant>,
    longest: Duration,
    faults: BTreeMap<String, String>,
}

impl Absences {
    async fn look(&mut self, system: &System) {
        let missing: BTreeMap<String, String> = system.missing().await.into_iter().collect();
        self.since.retain(|name, _| missing.contains_key(name));
        for (name, status) in missing {
            let since = *self.since.entry(name.clone()).or_insert_with(Instant::now);
            self.longest = self.longest.max(since.elapsed());
            if since.elapsed() > AWAY_MAX {
                let said = format!("{name} is {status} for more than {} s", AWAY_MAX.as_secs());
                self.faults.insert(name, said);
            }
        }
    }
}

/// Draws what happens when.
struct Calendar {
    random: StdRng,
    /// Short runs have more in less time.
    shrink: f64,
    next_end: Instant,
    next_cut: Instant,
}

impl Calendar {
    fn new(plan: &Plan) -> Self {
        let shrink = (plan.duration.as_secs_f64() / (MINUTES * 60.0)).clamp(0.05, 1.0);
        let random = StdRng::seed_from_u64(plan.seed.rotate_left(16));
        let now = Instant::now();
        let mut calendar = Self { random, shrink, next_end: now, next_cut: now };
        calendar.next_end = now + calendar.pause(END_EVERY);
        calendar.next_cut = now + calendar.pause(CUT_EVERY);
        calendar
    }

    fn pause(&mut self, (from, to): (f64, f64)) -> Duration {
        Duration::from_secs_f64(self.random.random_range(from..to) * self.shrink)
    }

    fn victim(&mut self) -> Victim {
        if self.random.random_bool(0.3) {
            Victim::Broker
        } else {
            Victim::Daemon(self.random.random_range(0..=ABSENT))
        }
    }
}

async fn soak(plan: &Plan) -> Outcome {
    let mut system = System::start(plan).await;
    process(&mut system, Victim::Daemon(ABSENT)).start();
    let traffic = Traffic::start(&system, plan.seed, PAUSE);
    let dice = Dice::new(StdRng::seed_from_u64(plan.seed), plan.engine, plan.pace);
    let (mut storm, mut calendar) = (Storm::new(dice), Calendar::new(plan));
    let (mut meter, mut absences) = (Meter::default(), Absences::default());
    let started = Instant::now();
    let (mut next_look, mut next_line) = (started, started + LINE);
    while started.elapsed() < plan.duration {
        tokio::time::sleep(TICK).await;
        storm.revive(&mut system).await;
        storm.heal(&mut system).await;
        if system.broker.is_up() {
            absences.look(&system).await;
        } else {
            absences.since.clear();
        }
        let now = Instant::now();
        if now >= calendar.next_end {
            end_somebody(&mut system, &mut storm, &mut calendar).await;
            calendar.next_end = now + calendar.pause(END_EVERY);
        }
        if now >= calendar.next_cut {
            let person = calendar.random.random_range(0..=ABSENT);
            storm.cause(&mut system, Fault::Cut { person }).await;
            calendar.next_cut = now + calendar.pause(CUT_EVERY);
        }
        if now >= next_look {
            meter.look(&mut system);
            next_look = now + LOOK;
        }
        if now >= next_line {
            let minutes = started.elapsed().as_secs() / 60;
            let (said, costs) = (traffic.counters.line(), meter.line());
            say(format_args!("{minutes:>4} min  {:>3} kills  {said}{costs}", storm.tally.kills));
            next_line += LINE;
        }
    }
    let longest = u64::try_from(absences.longest.as_millis()).unwrap();
    let figures = BTreeMap::from([("longest time without a connection, in ms", longest)]);
    let faults = meter.faults().into_iter().chain(absences.faults.into_values()).collect();
    let ending = Ending { title: "soak", plan, started, faults, figures };
    reckon(ending, system, storm, traffic).await
}

/// A process is killed, or a daemon is asked to end; either is up again after a moment.
async fn end_somebody(system: &mut System, storm: &mut Storm, calendar: &mut Calendar) {
    let victim = calendar.victim();
    if victim != Victim::Broker && calendar.random.random_bool(0.4) {
        storm.cause(system, Fault::Stop { victim }).await;
        return;
    }
    let pause = Duration::from_millis(calendar.random.random_range(0..3_000));
    storm.cause(system, Fault::Kill { victim, pause }).await;
}

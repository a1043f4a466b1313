//! Kills: a real daemon dies at each of its crash points while people talk, as often as is asked for; nothing that was
//! accepted is lost, nothing is shown twice, every file is whole, and the next start needs no clean-up.
//!
//! `make kills KILLS=500` runs the long form; see CONTRIBUTING.md.

mod death;
mod drill;
pub mod points;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::chaos::fault::{Dice, Victim};
use crate::chaos::plan::{EngineKind, Plan, variable};
use crate::chaos::storm::{Storm, process};
use crate::chaos::system::{ABSENT, System};
use crate::chaos::traffic::Traffic;
use crate::chaos::{Ending, Outcome, reckon, say};
use drill::Drill;
use points::POINTS;

/// Deaths at each point in a long run.
const EACH: usize = 10;
/// Mean pause of each of nine speakers between two messages.
const PAUSE: Duration = Duration::from_millis(500);

/// Issue 5: `kill -9` of the daemon at each crash point loses nothing and shows nothing twice.
#[test]
fn a_death_at_each_point_loses_nothing_and_repeats_nothing() {
    run(POINTS.len());
}

/// Issue 5: `kill -9` of the daemon at each crash point, 10 times each; `make kills KILLS=500` for more.
#[test]
#[ignore = "takes minutes: make test-all, make kills"]
fn deaths_at_every_point_lose_nothing_and_repeat_nothing() {
    run(variable("KILLS").map_or(EACH * POINTS.len(), |text| text.parse().unwrap()));
}

fn run(deaths: usize) {
    let plan = Plan::brief(EngineKind::Sqlite, 0);
    say(format_args!("{deaths} deaths: SEED={}", plan.seed));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(drill(&plan, deaths));
    assert_eq!(outcome, Outcome::Clean, "run again with KILLS={deaths} SEED={}", plan.seed);
}

async fn drill(plan: &Plan, deaths: usize) -> Outcome {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let deaths = death::schedule(&mut random, deaths);
    let mut system = System::start(plan).await;
    // Nobody kills this one, and everybody writes to it.
    process(&mut system, Victim::Daemon(ABSENT)).start();
    let traffic = Traffic::start(&system, plan.seed, PAUSE);
    let mut storm = Storm::new(Dice::new(random, plan.engine, plan.pace));
    let started = Instant::now();
    let mut drill = Drill::default();
    for death in &deaths {
        drill.pass(&mut system, &mut storm, &traffic, death).await;
    }
    let figures = BTreeMap::from([
        ("slowest start after a death, in ms", drill.slowest_start_ms()),
        ("changes of member keys", system.people.iter().map(|one| one.keys.len() as u64 - 1).sum()),
    ]);
    let ending = Ending { title: "kills", plan, started, faults: drill.faults, figures };
    reckon(ending, system, storm, traffic).await
}

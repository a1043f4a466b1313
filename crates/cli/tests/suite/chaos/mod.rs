//! Chaos: real processes are killed, frozen, cut off and starved of disk while people talk; afterwards everything that
//! was accepted must be where it belongs, once, in order, and every database whole.
//!
//! A few kills run with every test run. `make chaos MINUTES=10` runs the long form on both engines; see CONTRIBUTING.md.

mod agent;
pub mod disk;
pub mod engine;
pub mod fault;
mod ladder;
pub mod operator;
pub mod plan;
pub mod process;
pub mod proxy;
pub mod report;
pub mod settle;
pub mod storm;
pub mod system;
pub mod traffic;
pub mod verdict;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use fault::Dice;
use plan::{EngineKind, Pace, Plan};
use report::Report;
use storm::Storm;
use system::System;
use traffic::{MARKER, Traffic};

/// Says something to whoever watches the run.
pub fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Issue 3: a short run is part of every test run.
#[test]
fn a_few_kills_on_sqlite_lose_nothing_and_repeat_nothing() {
    run(&[Plan::brief(EngineKind::Sqlite, 8)]);
}

/// Issue 3: a short run is part of every test run.
#[test]
fn a_few_kills_on_postgres_lose_nothing_and_repeat_nothing() {
    if !claudemesh_testkit::postgres::is_skipped() {
        run(&[Plan::brief(EngineKind::Postgres, 4)]);
    }
}

/// Issue 3: `make chaos MINUTES=10`, zero lost, zero twice.
#[test]
#[ignore = "takes minutes: make chaos"]
fn minutes_of_chaos_lose_nothing_and_repeat_nothing() {
    run(&Plan::long());
}

/// Runs one plan after the other, also when one fails.
fn run(plans: &[Plan]) {
    let mut failed = Vec::new();
    for plan in plans {
        let engine = plan.engine.as_str();
        say(format_args!("chaos on {engine}: CLAUDEMESH_CHAOS_SEED={}", plan.seed));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        if runtime.block_on(storm_over(plan)) == Outcome::Faulty {
            failed.push(format!("ENGINE={engine} SEED={}", plan.seed));
        }
    }
    assert!(failed.is_empty(), "run again with {failed:?}");
}

/// How a run went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Clean,
    Faulty,
}

async fn storm_over(plan: &Plan) -> Outcome {
    let mut system = System::start(plan).await;
    let pause = Duration::from_millis(if plan.pace == Pace::Brief { 60 } else { 120 });
    let traffic = Traffic::start(&system, plan.seed, pause);
    let mut storm = Storm::new(Dice::new(StdRng::seed_from_u64(plan.seed), plan.engine, plan.pace));
    let started = Instant::now();
    storm.blow(&mut system, &traffic, plan).await;
    reckon(
        Ending {
            title: report::CHAOS,
            plan,
            started,
            faults: Vec::new(),
            figures: BTreeMap::new(),
        },
        system,
        storm,
        traffic,
    )
    .await
}

/// What a run knows about itself when it comes to its end.
pub struct Ending<'a> {
    /// First word of the report.
    pub title: &'a str,
    pub plan: &'a Plan,
    pub started: Instant,
    /// What was seen to be wrong until now.
    pub faults: Vec<String>,
    /// Further lines of the report.
    pub figures: BTreeMap<&'static str, u64>,
}

/// Ends every fault, waits until everything has arrived, stops, compares what was said with what is there, and reports.
pub async fn reckon(
    ending: Ending<'_>,
    mut system: System,
    mut storm: Storm,
    mut traffic: Traffic,
) -> Outcome {
    let Ending { title, plan, started, faults, mut figures } = ending;
    let stormed = started.elapsed();
    storm.calm(&mut system).await;
    traffic.pause(false);
    let sent = traffic.stop_sending().await;
    let calm = Instant::now();
    let waiting = settle::settle(&mut system, &mut storm).await;
    let settled = waiting.is_empty().then(|| calm.elapsed());
    let leaks = settle::cut_and_count(&mut system, plan.pace).await;
    let listed_twice = settle::list_twice(&system).await;
    let counters = std::sync::Arc::clone(&traffic.counters);
    let spoken = traffic.stop(sent).await;
    system.stop();
    for person in 0..system.people.len() {
        system.learn_key(person);
    }
    let mut verdict = verdict::judge(&system, &spoken).await;
    for index in 0..system.people.len() {
        verdict.wrong.extend(system.check_daemon(index).await);
    }
    verdict.wrong.extend(system.check_broker().await);
    verdict.twice.extend(listed_twice);
    verdict.wrong.extend(faults);
    verdict.wrong.extend(leaks);
    verdict.wrong.extend(waiting);
    verdict.wrong.extend(verdict::find_text(&system, MARKER));
    verdict.wrong.extend(verdict::find_secrets(&system));
    let deliveries = system.engine.deliveries().await;
    let again = deliveries.iter().filter(|delivery| delivery.attempt > 1).count();
    let moved = deliveries.iter().filter(|delivery| delivery.rerouted_from.is_some()).count();
    let connections: u64 = system.people.iter().map(|person| person.proxy.connections()).sum();
    figures.extend([
        ("messages accepted", counters.accepted.load(Ordering::Relaxed)),
        ("tries of sending", counters.tries.load(Ordering::Relaxed)),
        ("repeats under the same id", counters.repeats.load(Ordering::Relaxed)),
        ("other texts refused under a used id", counters.conflicts.load(Ordering::Relaxed)),
        ("announced to sessions", counters.events.load(Ordering::Relaxed)),
        ("deliveries", u64::try_from(deliveries.len()).unwrap()),
        ("deliveries pushed more than once", u64::try_from(again).unwrap()),
        ("deliveries that went from an ended session to its member", u64::try_from(moved).unwrap()),
        ("deliveries that waited for a session when it ended", verdict.moved),
        ("rows put back under another id", counters.requeued.load(Ordering::Relaxed)),
        ("rows that lost their text", counters.pruned.load(Ordering::Relaxed)),
        ("received without proof of the sender", verdict.unproven),
        ("receipts known to senders", system.ladder.count()),
        ("connections made", connections),
    ]);
    let tally = &storm.tally;
    let report = Report { title, plan, tally, verdict: &verdict, stormed, settled, figures };
    report.print();
    report.write();
    if verdict.is_clean() && storm.tally.damage.is_empty() {
        return Outcome::Clean;
    }
    // The database goes with the test.
    let rows: Vec<String> = deliveries.iter().map(engine::Delivery::line).collect();
    std::fs::write(system.root().join("deliveries"), rows.concat()).unwrap();
    system.keep();
    Outcome::Faulty
}

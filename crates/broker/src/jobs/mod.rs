//! Periodic work that has no deadline of its own: each job has a name, a period with jitter, a metric and a stop.
//!
//! What has deadlines (leases, claims, status decay, message expiry) runs in the timer loop of `delivery`.

mod upkeep;

use std::time::Duration;

use claudemesh_crypto::random;
use claudemesh_protocol::Timestamp;
use claudemesh_store::StoreError;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::state::Broker;

/// Share of the period by which a run may come earlier, so that replicas do not work in step.
const JITTER: f64 = 0.1;

/// Names of all jobs, for the metrics.
pub(crate) const NAMES: &[&str] =
    &["gauges", "unbound_members", "quiet_addresses", "audit_heads", "purge", "cleanup", "dedupe"];

/// One day.
const DAY: Duration = Duration::from_hours(24);
/// Hour of the day, UTC, at which nightly jobs run (broker spec §3.5).
const NIGHT: Duration = Duration::from_hours(3);
/// Longest sleep: a machine that was suspended, or whose clock was set, looks at the time again after that.
const SLEEP_MAX: Duration = Duration::from_hours(1);

/// How often a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rhythm {
    /// With this period, less some jitter.
    Every(Duration),
    /// At [`NIGHT`].
    Nightly,
}

/// One periodic thing.
struct Job {
    name: &'static str,
    rhythm: Rhythm,
    run: fn(Broker) -> BoxFuture<'static, Result<(), StoreError>>,
}

const JOBS: &[Job] = &[
    Job {
        name: "gauges",
        rhythm: Rhythm::Every(Duration::from_secs(30)),
        run: |broker| Box::pin(upkeep::gauges(broker)),
    },
    Job {
        name: "unbound_members",
        rhythm: Rhythm::Every(Duration::from_mins(1)),
        run: |broker| Box::pin(upkeep::unbound_members(broker)),
    },
    Job {
        name: "quiet_addresses",
        rhythm: Rhythm::Every(Duration::from_mins(5)),
        run: |broker| {
            upkeep::quiet_addresses(&broker);
            Box::pin(std::future::ready(Ok(())))
        },
    },
    Job {
        name: "audit_heads",
        // How late a head may be; each mesh is signed once an hour.
        rhythm: Rhythm::Every(Duration::from_mins(5)),
        run: |broker| Box::pin(async move { broker.sign_audit_heads().await }),
    },
    Job {
        name: "purge",
        rhythm: Rhythm::Every(Duration::from_mins(10)),
        run: |broker| Box::pin(upkeep::purge(broker)),
    },
    Job {
        name: "cleanup",
        rhythm: Rhythm::Every(Duration::from_hours(1)),
        run: |broker| Box::pin(upkeep::cleanup(broker)),
    },
    Job { name: "dedupe", rhythm: Rhythm::Nightly, run: |broker| Box::pin(upkeep::dedupe(broker)) },
];

/// Starts every job; each ends when the broker stops, between two runs or at the next await of one.
pub(crate) fn start(broker: &Broker) {
    for job in JOBS {
        let stopping = broker.stopping().clone();
        let run = repeat(job, broker.clone());
        broker.spawn(async move {
            // A run dropped half way loses nothing: each step of it is one transaction.
            let _stopped_or_never = stopping.run_until_cancelled(run).await;
        });
    }
}

async fn repeat(job: &'static Job, broker: Broker) {
    tokio::time::sleep(first_wait(job.rhythm)).await;
    loop {
        let outcome = (job.run)(broker.clone()).await;
        if let Err(error) = &outcome {
            tracing::warn!(job = job.name, %error, "a periodic job failed; it runs again");
        }
        broker.metrics().job_ran(job.name, outcome.is_ok());
        match job.rhythm {
            Rhythm::Every(period) => {
                tokio::time::sleep(period.mul_f64(1.0 - JITTER * fraction())).await;
            }
            Rhythm::Nightly => wait_until(&broker, next_night(broker.now())).await,
        }
    }
}

/// Sleeps until the broker's clock says so, at most a day.
async fn wait_until(broker: &Broker, due: Timestamp) {
    let mut most = DAY;
    loop {
        let left = due.since(broker.now()).min(most);
        if left.is_zero() {
            return;
        }
        let step = left.min(SLEEP_MAX);
        tokio::time::sleep(step).await;
        most = most.saturating_sub(step);
    }
}

/// The next time it is [`NIGHT`] after `now`.
fn next_night(now: Timestamp) -> Timestamp {
    let day_ms = i64::try_from(DAY.as_millis()).unwrap_or(i64::MAX);
    let midnight = now.as_millis() - now.as_millis().rem_euclid(day_ms);
    let tonight = Timestamp::from_millis(midnight).plus(NIGHT);
    if tonight > now { tonight } else { tonight.plus(DAY) }
}

/// The first run comes soon, so that a broker which restarts often, or sleeps at night, still does its upkeep, but not
/// during the start.
fn first_wait(rhythm: Rhythm) -> Duration {
    const LEAST: Duration = Duration::from_secs(1);
    const SPREAD: Duration = Duration::from_mins(1);
    let spread = match rhythm {
        Rhythm::Every(period) => period.min(SPREAD),
        Rhythm::Nightly => SPREAD,
    };
    LEAST + spread.mul_f64(fraction())
}

/// A random number from 0 to below 1.
fn fraction() -> f64 {
    StdRng::from_seed(random::bytes()).random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_is_three_o_clock_utc_and_always_ahead() {
        let at = |text| Timestamp::parse_iso(text).unwrap();
        let night = at("2026-03-01T03:00:00.000Z");
        for (now, next) in [
            ("2026-02-28T03:00:00.000Z", night),
            ("2026-02-28T23:59:59.999Z", night),
            ("2026-03-01T02:59:59.999Z", night),
            ("2026-03-01T03:00:00.000Z", night.plus(Duration::from_hours(24))),
        ] {
            assert_eq!(next_night(at(now)), next, "{now}");
        }
    }

    #[test]
    fn every_job_has_its_metric() {
        let names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        assert_eq!(names, NAMES);
    }
}

//! Periodic work that has no deadline of its own: each job has a name, a period with jitter, a metric and a stop.
//!
//! What has deadlines (leases, claims, status decay, message expiry) runs in the timer loop of `delivery`.

mod upkeep;

use std::time::Duration;

use claudemesh_store::StoreError;
use futures_util::future::BoxFuture;
use rand::RngExt as _;

use crate::state::Broker;

/// Share of the period by which a run may come earlier, so that replicas do not work in step.
const JITTER: f64 = 0.1;

/// Names of all jobs, for the metrics.
pub(crate) const NAMES: &[&str] =
    &["gauges", "unbound_members", "quiet_addresses", "purge", "cleanup", "dedupe"];

/// One periodic thing.
struct Job {
    name: &'static str,
    period: Duration,
    run: fn(Broker) -> BoxFuture<'static, Result<(), StoreError>>,
}

const JOBS: &[Job] = &[
    Job {
        name: "gauges",
        period: Duration::from_secs(30),
        run: |broker| Box::pin(upkeep::gauges(broker)),
    },
    Job {
        name: "unbound_members",
        period: Duration::from_mins(1),
        run: |broker| Box::pin(upkeep::unbound_members(broker)),
    },
    Job {
        name: "quiet_addresses",
        period: Duration::from_mins(5),
        run: |broker| {
            upkeep::quiet_addresses(&broker);
            Box::pin(std::future::ready(Ok(())))
        },
    },
    Job {
        name: "purge",
        period: Duration::from_mins(10),
        run: |broker| Box::pin(upkeep::purge(broker)),
    },
    Job {
        name: "cleanup",
        period: Duration::from_hours(1),
        run: |broker| Box::pin(upkeep::cleanup(broker)),
    },
    Job {
        name: "dedupe",
        period: Duration::from_hours(24),
        run: |broker| Box::pin(upkeep::dedupe(broker)),
    },
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
    let mut wait = first_wait(job.period);
    loop {
        tokio::time::sleep(wait).await;
        let outcome = (job.run)(broker.clone()).await;
        if let Err(error) = &outcome {
            tracing::warn!(job = job.name, %error, "a periodic job failed; it runs again");
        }
        broker.metrics().job_ran(job.name, outcome.is_ok());
        wait = job.period.mul_f64(1.0 - JITTER * rand::rng().random::<f64>());
    }
}

/// The first run comes soon, so that a broker which restarts often still does its upkeep, but not during the start.
fn first_wait(period: Duration) -> Duration {
    const LEAST: Duration = Duration::from_secs(1);
    const SPREAD: f64 = 60.0;
    LEAST + Duration::from_secs_f64(SPREAD.min(period.as_secs_f64()) * rand::rng().random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_its_metric() {
        let names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        assert_eq!(names, NAMES);
    }
}

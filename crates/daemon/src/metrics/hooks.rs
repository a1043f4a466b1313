//! What the hooks counted, in the form of the registry.

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::{Counters, Labels, labels};
use crate::hooks::{DURATION_BUCKETS, HookMetrics};

/// A histogram that was counted elsewhere.
#[derive(Debug, Default)]
struct Timings(Mutex<Timed>);

/// Sum in seconds, count, and how many lie within each bound and not within the one before.
#[derive(Debug, Clone, Default)]
struct Timed {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

impl Timed {
    fn of(hook: &HookMetrics) -> Self {
        let counted: u64 = hook.duration_buckets.iter().sum();
        let bounds = DURATION_BUCKETS.into_iter().chain([f64::INFINITY]);
        let beyond = hook.duration_count.saturating_sub(counted);
        let counts = hook.duration_buckets.into_iter().chain([beyond]);
        Self {
            sum: hook.duration_sum.as_secs_f64(),
            count: hook.duration_count,
            buckets: bounds.zip(counts).collect(),
        }
    }
}

impl TypedMetric for Timings {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Timings {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let timed = self.0.lock();
        encoder.encode_histogram::<NoLabelSet>(timed.sum, timed.count, &timed.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Registers the figures of all hooks.
pub(super) fn register(hooks: &[HookMetrics], registry: &mut Registry) {
    let invocations = Counters::default();
    let durations = Family::<Labels, Timings>::default();
    let (calls, unenforceable, dropped) =
        (Counters::default(), Counters::default(), Counters::default());
    for hook in hooks {
        let name = hook.hook.as_str();
        let count = |counters: &Counters, label: &'static str, word: &str, number: u64| {
            let labels = labels(&[("hook", name), (label, word)]);
            counters.get_or_create(&labels).inc_by(number);
        };
        for (exit, number) in &hook.invocations {
            count(&invocations, "exit", exit, *number);
        }
        for (scope, number) in &hook.capability_calls {
            count(&calls, "scope", scope, *number);
        }
        for (reason, number) in &hook.unenforceable {
            count(&unenforceable, "reason", reason, *number);
        }
        let labels = labels(&[("hook", name)]);
        *durations.get_or_create(&labels).0.lock() = Timed::of(hook);
        dropped.get_or_create(&labels).inc_by(hook.dropped);
    }
    registry.register(
        "cm_daemon_hook_invocations",
        "Runs of hooks, by how they ended",
        invocations,
    );
    registry.register("cm_daemon_hook_duration_seconds", "Time of a hook's run", durations);
    registry.register(
        "cm_daemon_hook_capability_calls",
        "Calls of hooks to the local API, by scope",
        calls,
    );
    registry.register(
        "cm_daemon_hook_unenforceable",
        "Runs whose restrictions this system could not enforce",
        unenforceable,
    );
    registry.register("cm_daemon_hook_dropped", "Runs that were pushed out of the queue", dropped);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn runs_are_told_in_buckets_that_include_each_other() {
        let mut buckets = [0; DURATION_BUCKETS.len()];
        (buckets[0], buckets[2]) = (2, 1);
        let hook = HookMetrics {
            hook: "home/on-dm".to_owned(),
            invocations: BTreeMap::from([("ok", 4)]),
            duration_buckets: buckets,
            duration_count: 4,
            duration_sum: Duration::from_millis(61_071),
            dropped: 3,
            ..HookMetrics::default()
        };
        let mut registry = Registry::default();
        register(&[hook], &mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "cm_daemon_hook_invocations_total{hook=\"home/on-dm\",exit=\"ok\"} 4",
            "cm_daemon_hook_duration_seconds_sum{hook=\"home/on-dm\"} 61.071",
            "cm_daemon_hook_duration_seconds_count{hook=\"home/on-dm\"} 4",
            "cm_daemon_hook_duration_seconds_bucket{le=\"+Inf\",hook=\"home/on-dm\"} 4",
            "cm_daemon_hook_dropped_total{hook=\"home/on-dm\"} 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing from\n{text}");
        }
        let last = DURATION_BUCKETS[DURATION_BUCKETS.len() - 1];
        let within = format!("bucket{{le=\"{last:?}\",hook=\"home/on-dm\"}} 3");
        assert!(text.contains(&within), "{within}: {text}");
    }
}

//! What hooks did, in numbers (daemon spec §22). The names of hooks are bounded by the user's own files.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::name::HookName;

/// Upper bounds of the buckets of [`HookMetrics::duration_buckets`], in seconds; what took longer is in none of them.
pub const DURATION_BUCKETS: [f64; 9] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];

/// The figures of one hook, since the start of the daemon.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HookMetrics {
    /// Its name: `<stem>`, or `<slug>/<stem>`.
    pub hook: String,
    /// Runs by how they ended: `ok`, `failed`, `signal`, `timeout`, `stopped` or `not_run`
    /// (`cm_daemon_hook_invocations_total`).
    pub invocations: BTreeMap<&'static str, u64>,
    /// Runs whose time is within the bound of the same place in [`DURATION_BUCKETS`]; each counts in one only
    /// (`cm_daemon_hook_duration_seconds`).
    pub duration_buckets: [u64; DURATION_BUCKETS.len()],
    /// Runs that were timed.
    pub duration_count: u64,
    /// Their time, all together.
    pub duration_sum: Duration,
    /// Calls with its tokens that were let through, by scope, and `refused` ones
    /// (`cm_daemon_hook_capability_calls_total`).
    pub capability_calls: BTreeMap<&'static str, u64>,
    /// Runs whose policy could not be enforced, by reason (`cm_daemon_hook_unenforceable_total`).
    pub unenforceable: BTreeMap<&'static str, u64>,
    /// Runs that were pushed out of the queue (`cm_daemon_hook_dropped_total`).
    pub dropped: u64,
    /// Replies that were not sent, because there were too many.
    pub muted_replies: u64,
}

/// The figures of all hooks.
#[derive(Default)]
pub(super) struct Figures {
    by_hook: Mutex<BTreeMap<HookName, HookMetrics>>,
}

impl Figures {
    /// Changes the figures of one hook.
    pub(super) fn of(&self, hook: &HookName, change: impl FnOnce(&mut HookMetrics)) {
        change(self.by_hook.lock().entry(hook.clone()).or_default());
    }

    /// Counts a run.
    pub(super) fn ran(&self, hook: &HookName, how: &'static str, duration: Option<Duration>) {
        self.of(hook, |figures| {
            *figures.invocations.entry(how).or_default() += 1;
            let Some(duration) = duration else { return };
            figures.duration_count += 1;
            figures.duration_sum += duration;
            let seconds = duration.as_secs_f64();
            let bucket = DURATION_BUCKETS.iter().zip(&mut figures.duration_buckets);
            if let Some((_, count)) = bucket.into_iter().find(|(bound, _)| seconds <= **bound) {
                *count += 1;
            }
        });
    }

    /// All of them, in the order of the hooks' names.
    pub(super) fn all(&self) -> Vec<HookMetrics> {
        let by_hook = self.by_hook.lock();
        let named = |(hook, figures): (&HookName, &HookMetrics)| HookMetrics {
            hook: hook.to_string(),
            ..figures.clone()
        };
        let mut all: Vec<_> = by_hook.iter().map(named).collect();
        all.sort_by(|left, right| left.hook.cmp(&right.hook));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_in_one_bucket() {
        let figures = Figures::default();
        let hook = HookName::parse("home/on-dm").unwrap();
        for millis in [1, 10, 60, 61_000] {
            figures.ran(&hook, "ok", Some(Duration::from_millis(millis)));
        }
        figures.ran(&hook, "not_run", None);
        let all = figures.all();
        assert_eq!((all.len(), all[0].hook.as_str()), (1, "home/on-dm"));
        assert_eq!(all[0].duration_buckets, [2, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            (all[0].duration_count, all[0].duration_sum),
            (4, Duration::from_millis(61_071))
        );
        assert_eq!(all[0].invocations, BTreeMap::from([("ok", 4), ("not_run", 1)]));
    }
}

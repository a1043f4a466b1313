//! Fifty seeds, in groups that run side by side.

use std::ops::Range;

use claudemesh_sim::{Options, run};

fn clean(seeds: Range<u64>) {
    for seed in seeds {
        let report = run(seed, Options::default());
        let last = report.trace.len().saturating_sub(40);
        assert!(
            report.violations.is_empty(),
            "seed {seed}, again with: make sim SEED={seed}\n{}\n{}",
            report.violations.join("\n"),
            report.trace[last..].join("\n")
        );
        assert!(report.letters > 10, "seed {seed} sent {} letters", report.letters);
    }
}

#[test]
fn seeds_0_to_9_are_clean() {
    clean(0..10);
}

#[test]
fn seeds_10_to_19_are_clean() {
    clean(10..20);
}

#[test]
fn seeds_20_to_29_are_clean() {
    clean(20..30);
}

#[test]
fn seeds_30_to_39_are_clean() {
    clean(30..40);
}

#[test]
fn seeds_40_to_49_are_clean() {
    clean(40..50);
}

/// Every frame on every link at the same virtual time, and everything else in the trace.
#[test]
fn a_seed_runs_the_same_way_twice() {
    for seed in [1, 7] {
        let first = run(seed, Options::default());
        let second = run(seed, Options::default());
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_ne!(first.digest, run(seed + 1_000, Options::default()).digest);
    }
}

//! The simulation finds bugs: known ones, planted by a switch that only its build has.

use std::ops::Range;

use claudemesh_sim::{Options, PLANTED_BUGS, run};

/// Seeds within which each must be found, from the first one.
const SEEDS_MAX: u64 = 200;

fn found_within(planted: &'static str, seeds: Range<u64>) {
    assert!(PLANTED_BUGS.contains(&planted));
    let found = seeds.clone().find(|seed| {
        let report = run(*seed, Options { planted: Some(planted), whole_trace: false });
        !report.violations.is_empty()
    });
    assert!(found.is_some(), "{planted} was not found within the seeds {seeds:?}");
}

/// Where each was found first, and two seeds more for a road that has moved a little since: another first seed is no
/// fault, and `make sim PLANT=…` tells it.
#[test]
fn an_ack_before_the_commit_is_found_at_once_in_the_broker() {
    found_within("broker.ack_before_commit", 1..4);
}

/// As above.
#[test]
fn an_ack_before_the_commit_is_found_at_once_in_the_daemon() {
    found_within("daemon.client_ack_before_commit", 7..10);
}

/// As above.
#[test]
fn an_inbox_that_stores_repeats_is_found_at_once() {
    found_within("daemon.inbox_not_unique", 0..3);
}

#[test]
#[ignore = "long: as many seeds as it takes"]
fn every_planted_bug_is_found_from_the_first_seed_on() {
    for planted in PLANTED_BUGS {
        found_within(planted, 0..SEEDS_MAX);
    }
}

//! The simulation finds bugs: known ones, planted by a switch that only its build has.

use claudemesh_sim::{Options, PLANTED_BUGS, run};

/// Seeds within which each must be found.
const SEEDS_MAX: u64 = 200;

fn found_within_limit(planted: &'static str) {
    assert!(PLANTED_BUGS.contains(&planted));
    let found = (0..SEEDS_MAX).find(|seed| {
        let report = run(*seed, Options { planted: Some(planted), whole_trace: false });
        !report.violations.is_empty()
    });
    assert!(found.is_some(), "{planted} was not found within {SEEDS_MAX} seeds");
}

#[test]
#[ignore = "long: as many seeds as it takes"]
fn a_broker_that_acks_before_the_commit_is_found() {
    found_within_limit("broker.ack_before_commit");
}

#[test]
#[ignore = "long: as many seeds as it takes"]
fn a_daemon_that_acks_before_the_commit_is_found() {
    found_within_limit("daemon.client_ack_before_commit");
}

#[test]
fn an_inbox_that_stores_repeats_is_found() {
    found_within_limit("daemon.inbox_not_unique");
}

//! The priority gate against the table of broker spec §3.4, and sets of priorities against sets.

use std::collections::BTreeSet;

use claudemesh_core::gate::{Gatekeeper, Priorities, open_for};
use claudemesh_core::queue::{KeyQueue, Route};
use claudemesh_protocol::{PeerStatus, Priority};
use proptest::prelude::*;

/// The table in its own words: what is deliverable at once.
fn table(status: PeerStatus, gatekeeper: Gatekeeper) -> &'static [&'static str] {
    match (status.as_str(), gatekeeper) {
        ("idle", _) => &["now", "next", "low"],
        (_, Gatekeeper::Daemon) => &["now", "next"],
        (_, Gatekeeper::Broker) => &["now"],
    }
}

fn words(set: Priorities) -> BTreeSet<&'static str> {
    set.iter().map(Priority::as_str).collect()
}

fn set_of(bits: u8) -> (Priorities, BTreeSet<&'static str>) {
    let chosen = Priority::ALL.iter().filter(|priority| bits >> (**priority as u8) & 1 == 1);
    chosen.fold((Priorities::NONE, BTreeSet::new()), |(set, mut names), priority| {
        names.insert(priority.as_str());
        (set.with(*priority), names)
    })
}

/// What happens at the gate of one recipient, who reads everything that passes.
#[derive(Debug, Clone, Copy)]
enum Step {
    Message(usize),
    Status(usize),
    /// Its connection ends; another one comes, of a client that gates itself or not.
    Leave,
    Return(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_usize..3).prop_map(Step::Message),
        3 => (0_usize..3).prop_map(Step::Status),
        1 => Just(Step::Leave),
        2 => any::<bool>().prop_map(Step::Return),
    ]
}

proptest! {
    #[test]
    fn sets_of_priorities_are_sets(one in 0_u8..8, other in 0_u8..8) {
        let ((one, one_names), (other, other_names)) = (set_of(one), set_of(other));
        let both: BTreeSet<_> = one_names.union(&other_names).copied().collect();
        prop_assert_eq!(words(one.or(other)), both);
        prop_assert_eq!(one.is_empty(), one_names.is_empty());
        for priority in Priority::ALL {
            prop_assert_eq!(one.allows(*priority), one_names.contains(priority.as_str()));
        }
    }

    /// DLV-2: over random lives of a recipient, exactly what the table allows passes at once, what it does not waits, and
    /// waits no longer than until the gate opens; within a priority nothing passes what waits.
    #[test]
    fn what_the_table_closes_waits_until_it_opens(steps in prop::collection::vec(step(), 0..80)) {
        let (mut status, mut connection) = (PeerStatus::Idle, None);
        let mut queue = KeyQueue::default();
        let mut waiting: Vec<(&str, u32)> = Vec::new();
        let mut sent = 0;
        for step in steps {
            match step {
                Step::Message(index) => {
                    let priority = Priority::ALL[index];
                    let name = priority.as_str();
                    let open = connection.map_or(Priorities::NONE, |keeper| open_for(status, keeper));
                    let may_pass = connection.is_some_and(|keeper| table(status, keeper).contains(&name))
                        && waiting.iter().all(|(other, _)| *other != name);
                    let route = queue.route(priority, open);
                    prop_assert_eq!(route == Route::Direct, may_pass, "{} while {}", name, status);
                    if route == Route::Held {
                        queue.committed(priority);
                        waiting.push((name, sent));
                    }
                    sent += 1;
                }
                Step::Status(index) => status = PeerStatus::ALL[index],
                Step::Leave => connection = None,
                Step::Return(is_own) => {
                    connection = Some(if is_own { Gatekeeper::Daemon } else { Gatekeeper::Broker });
                }
            }
            let Some(keeper) = connection else { continue };
            let open = open_for(status, keeper);
            let due: Vec<_> =
                waiting.iter().filter(|(name, _)| table(status, keeper).contains(name)).copied().collect();
            prop_assert_eq!(queue.begin_drain(open), !due.is_empty());
            if due.is_empty() {
                continue;
            }
            let count = |wanted: &str| {
                u32::try_from(due.iter().filter(|(name, _)| *name == wanted).count()).unwrap()
            };
            queue.end_step(open, 100, [count("now"), count("next"), count("low")]);
            queue.end_drain();
            waiting.retain(|row| !due.contains(row));
            prop_assert_eq!(queue.held_total(), waiting.len() as u64);
        }
    }
}

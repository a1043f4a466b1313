//! The life of one delivery row against the list of what happened to it (broker spec §1.3, §3.4).

use std::time::Duration;

use claudemesh_core::delivery::{DeliveryEvent, DeliveryState, claim_lease};
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::limits::{CLAIM_LEASE, CLAIM_LEASE_MAX};
use proptest::prelude::*;

use crate::time::{at, step_ms};

/// After that long nobody wants the message any more.
const EXPIRES_AFTER: Duration = Duration::from_mins(90);

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The recipient's queue is drained.
    Drain,
    /// Its socket ends.
    Cut,
    /// An ack of whatever push.
    Ack,
    /// The sender is banned, or the row doubles another one.
    Drop,
    /// The clock moves, and the broker looks for what is due.
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Drain),
        2 => Just(Step::Cut),
        1 => Just(Step::Ack),
        1 => Just(Step::Drop),
        8 => step_ms(0..120_000).prop_map(Step::Pass),
    ]
}

/// The rules under test, put together as a broker does.
struct Row {
    state: DeliveryState,
    attempt: u32,
    claimed_until: Option<Timestamp>,
}

impl Row {
    fn happens(&mut self, event: DeliveryEvent) -> bool {
        let Some(next) = self.state.after(event) else { return false };
        self.state = next;
        if next != DeliveryState::Claimed {
            self.claimed_until = None;
        }
        true
    }

    fn take(&mut self, step: Step, now: Timestamp) {
        match step {
            Step::Drain => {
                if self.happens(DeliveryEvent::Claim) {
                    self.attempt += 1;
                    self.claimed_until = Some(now.plus(claim_lease(CLAIM_LEASE, self.attempt)));
                }
            }
            Step::Cut => drop(self.happens(DeliveryEvent::Release)),
            Step::Ack => drop(self.happens(DeliveryEvent::Ack)),
            Step::Drop => drop(self.happens(DeliveryEvent::Drop)),
            Step::Pass(_) => {
                if self.claimed_until.is_some_and(|until| until <= now) {
                    self.happens(DeliveryEvent::Release);
                }
                // A claimed row past its time may be being stored right now.
                if self.state == DeliveryState::Held && now >= at(0).plus(EXPIRES_AFTER) {
                    self.happens(DeliveryEvent::Expire);
                }
            }
        }
    }
}

/// The same, looked up each time in everything that ever happened, in milliseconds: the first fate is the last one, and
/// a row is on its way when the last claim has neither been cut off nor run out.
fn by_the_list(list: &[(Step, i64)]) -> (&'static str, u32) {
    let (mut attempts, mut on_its_way_until) = (0_u32, None::<i64>);
    for (step, now) in list {
        match step {
            Step::Ack => return ("delivered", attempts),
            Step::Drop => return ("dropped", attempts),
            Step::Drain if on_its_way_until.is_none() => {
                attempts += 1;
                let mut lease = 30_000;
                for _ in 1..attempts {
                    lease = (lease * 2).min(600_000);
                }
                on_its_way_until = Some(now + lease);
            }
            Step::Drain => {}
            Step::Cut => on_its_way_until = None,
            Step::Pass(_) => {
                on_its_way_until = on_its_way_until.filter(|until| until > now);
                if on_its_way_until.is_none() && *now >= 90 * 60_000 {
                    return ("expired", attempts);
                }
            }
        }
    }
    (if on_its_way_until.is_some() { "claimed" } else { "held" }, attempts)
}

proptest! {
    /// DLV-1: drains, lost sockets, acks early and late, clocks that jump: the row is where the list says, is tried as
    /// often, and once it has ended nothing moves it.
    #[test]
    fn the_life_of_a_row_agrees_with_the_list(steps in prop::collection::vec(step(), 0..120)) {
        let mut row = Row { state: DeliveryState::Held, attempt: 0, claimed_until: None };
        let (mut list, mut now) = (Vec::new(), 0);
        for step in steps {
            if let Step::Pass(millis) = step {
                now += millis;
            }
            let before = row.state;
            row.take(step, at(now));
            list.push((step, now));
            prop_assert_eq!((row.state.as_str(), row.attempt), by_the_list(&list));
            prop_assert!(!before.is_final() || row.state == before);
            prop_assert_eq!(row.claimed_until.is_some(), row.state == DeliveryState::Claimed);
            prop_assert!(before.may_become(row.state));
        }
    }

    /// `may_become` says nothing else than: some events lead there. Looked for by walking blindly.
    #[test]
    fn what_a_row_may_become_is_what_events_make_of_it(
        from in 0_usize..5,
        events in prop::collection::vec(0_usize..5, 0..12),
    ) {
        let all = DeliveryEvent::ALL;
        let start = DeliveryState::ALL[from];
        let end = events.iter().fold(start, |state, event| state.after(all[*event]).unwrap_or(state));
        prop_assert!(start.may_become(end));
        prop_assert_eq!(DeliveryState::ALL.iter().filter(|state| start.may_become(**state)).count() == 1, start.is_final());
    }

    /// Never shorter than before, never longer than the limit, exactly twice as long in between.
    #[test]
    fn each_claim_waits_twice_as_long(first_ms in 1_u64..1_000_000, attempt in 1_u32..u32::MAX) {
        let first = Duration::from_millis(first_ms);
        let (this, next) = (claim_lease(first, attempt), claim_lease(first, attempt + 1));
        let limit = CLAIM_LEASE_MAX.max(first);
        prop_assert_eq!(claim_lease(first, 1), first);
        prop_assert_eq!(next, (this * 2).min(limit));
    }
}

//! Token buckets against a bucket that is filled drop by drop (broker spec §3.1 step 3).

use std::time::Duration;

use claudemesh_core::rate::{RateLimit, TokenBucket};
use proptest::prelude::*;

use crate::time::{at, step_ms};

#[derive(Debug, Clone, Copy)]
enum Step {
    Take,
    /// The last request was a repeat.
    GiveBack,
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Take),
        1 => Just(Step::GiveBack),
        4 => step_ms(0..5_000).prop_map(Step::Pass),
    ]
}

/// Everything that ever went in or out of one bucket, in drops: 60,000 to a token, so that nothing is rounded.
struct Flow {
    full: i64,
    moves: Vec<i64>,
    seen_ms: i64,
}

const TOKEN: i64 = 60_000;

impl Flow {
    /// What is in it: it was never more than full, so since no moment may more have gone out than a full bucket and what
    /// came in since.
    fn level(&self) -> i64 {
        let mut since = 0;
        let every_moment = self.moves.iter().rev().map(|moved| {
            since += moved;
            self.full + since
        });
        every_moment.fold(self.full, i64::min)
    }
}

proptest! {
    /// What is accepted is what the flow allows, to the last drop, whatever the clock does; who is told to wait is let in
    /// after exactly that time.
    #[test]
    fn requests_agree_with_the_flow(
        burst in 1_u32..20,
        per_minute in 1_u32..1_000,
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let limit = RateLimit { burst, per_minute };
        let mut bucket = TokenBucket::full(limit, at(0));
        let mut flow = Flow { full: i64::from(burst) * TOKEN, moves: Vec::new(), seen_ms: 0 };
        let mut now = 0;
        for step in steps {
            match step {
                Step::Pass(millis) => now += millis,
                Step::GiveBack => {
                    bucket.give_back(limit);
                    flow.moves.push(TOKEN);
                }
                Step::Take => {
                    flow.moves.push((now - flow.seen_ms).max(0) * i64::from(per_minute));
                    flow.seen_ms = now;
                    let level = flow.level();
                    let taken = bucket.take(limit, at(now));
                    prop_assert_eq!(taken.is_ok(), level >= TOKEN, "{} drops", level);
                    let Err(exhausted) = taken else {
                        flow.moves.push(-TOKEN);
                        continue;
                    };
                    let wait = i64::try_from(exhausted.retry_after.as_millis()).unwrap();
                    prop_assert!(wait >= 1 && exhausted.retry_after <= Duration::from_mins(1));
                    let (mut sooner, mut later) = (bucket, bucket);
                    prop_assert!(sooner.take(limit, at(now + wait - 1)).is_err());
                    prop_assert_eq!(later.take(limit, at(now + wait)), Ok(()));
                }
            }
        }
    }
}

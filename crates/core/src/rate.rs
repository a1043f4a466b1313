//! Token buckets: a burst, and a refill per minute (broker spec §3.1 step 3).

use std::time::Duration;

use claudemesh_protocol::Timestamp;

/// Parts of a token. A millisecond brings as many as the limit allows requests per minute, so that nothing is ever lost to
/// rounding, however slow the refill and however often somebody asks.
const TOKEN: u64 = 60_000;

/// How much one caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests at once.
    pub burst: u32,
    /// Requests per minute in the long run.
    pub per_minute: u32,
}

/// The budget of one caller.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    level: u64,
    updated_at: Timestamp,
}

/// The budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// When the next request would be accepted.
    pub retry_after: Duration,
}

fn full(limit: RateLimit) -> u64 {
    u64::from(limit.burst) * TOKEN
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(limit: RateLimit, now: Timestamp) -> Self {
        Self { level: full(limit), updated_at: now }
    }

    /// A clock that went back brings nothing and takes nothing.
    fn refill(&mut self, limit: RateLimit, now: Timestamp) {
        let elapsed = u64::try_from(now.since(self.updated_at).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed.saturating_mul(u64::from(limit.per_minute));
        self.level = self.level.saturating_add(gained).min(full(limit));
        self.updated_at = now;
    }

    /// Takes one token.
    ///
    /// # Errors
    /// [`Exhausted`] when there is none; nothing is taken then.
    pub fn take(&mut self, limit: RateLimit, now: Timestamp) -> Result<(), Exhausted> {
        self.refill(limit, now);
        if let Some(rest) = self.level.checked_sub(TOKEN) {
            self.level = rest;
            return Ok(());
        }
        let wait = (TOKEN - self.level).div_ceil(u64::from(limit.per_minute).max(1));
        Err(Exhausted { retry_after: Duration::from_millis(wait) })
    }

    /// Gives one token back: the request turned out to be a repeat of one that was paid for.
    pub fn give_back(&mut self, limit: RateLimit) {
        self.level = (self.level + TOKEN).min(full(limit));
    }

    /// When the bucket was last used.
    pub const fn last_used(&self) -> Timestamp {
        self.updated_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: RateLimit = RateLimit { burst: 10, per_minute: 60 };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn the_burst_is_spent_then_one_per_refill() {
        let mut bucket = TokenBucket::full(LIMIT, at(0));
        for _ in 0..10 {
            assert_eq!(bucket.take(LIMIT, at(0)), Ok(()));
        }
        let refused = bucket.take(LIMIT, at(0)).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(1));
        assert!(bucket.take(LIMIT, at(999)).is_err());
        assert_eq!(bucket.take(LIMIT, at(1_000)), Ok(()));
    }

    #[test]
    fn a_repeat_is_not_charged() {
        let mut bucket = TokenBucket::full(RateLimit { burst: 1, per_minute: 1 }, at(0));
        let limit = RateLimit { burst: 1, per_minute: 1 };
        assert_eq!(bucket.take(limit, at(0)), Ok(()));
        bucket.give_back(limit);
        assert_eq!(bucket.take(limit, at(0)), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_refill(steps in prop::collection::vec(0_i64..500, 1..300)) {
            let mut bucket = TokenBucket::full(LIMIT, at(0));
            let (mut now, mut taken) = (0, 0_i64);
            for step in steps {
                now += step;
                if bucket.take(LIMIT, at(now)).is_ok() {
                    taken += 1;
                }
                prop_assert!(taken <= 10 + now / 1_000);
            }
        }

        #[test]
        fn a_clock_that_jumps_back_neither_pays_nor_blocks(back in 1_i64..1_000_000) {
            let mut bucket = TokenBucket::full(LIMIT, at(0));
            for _ in 0..10 {
                prop_assert!(bucket.take(LIMIT, at(0)).is_ok());
            }
            prop_assert!(bucket.take(LIMIT, at(-back)).is_err());
            prop_assert!(bucket.take(LIMIT, at(-back + 1_000)).is_ok());
        }
    }
}

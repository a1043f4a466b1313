//! The loop guard: two agents that answer each other without end are stopped (wire spec §4.10).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use claudemesh_protocol::limits::{BrokerLimits, LOOP_PAIR_MAX, LOOP_STOP, LOOP_WINDOW};
use claudemesh_protocol::{PublicKey, Timestamp};

/// An unordered pair of session keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair(PublicKey, PublicKey);

impl Pair {
    /// The pair of both, in whichever order.
    pub fn of(one: PublicKey, other: PublicKey) -> Self {
        if one <= other { Self(one, other) } else { Self(other, one) }
    }

    /// Both keys.
    pub const fn keys(self) -> [PublicKey; 2] {
        [self.0, self.1]
    }
}

/// How much two sessions may say to each other before they are stopped (wire spec §4.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopLimits {
    /// Messages of a pair within the window.
    pub messages: usize,
    /// The window.
    pub window: Duration,
    /// How long a stop lasts.
    pub stop: Duration,
}

impl Default for LoopLimits {
    fn default() -> Self {
        Self { messages: LOOP_PAIR_MAX, window: LOOP_WINDOW, stop: LOOP_STOP }
    }
}

impl From<&BrokerLimits> for LoopLimits {
    fn from(limits: &BrokerLimits) -> Self {
        Self {
            messages: limits.loop_pair_messages,
            window: Duration::from_secs(limits.loop_pair_window_seconds),
            stop: Duration::from_secs(limits.loop_stop_seconds),
        }
    }
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// When the stop ends.
    pub until: Timestamp,
    /// Messages counted in the window.
    pub count: usize,
    /// True for the message that caused the stop, so that both sides are told once.
    pub is_new: bool,
}

#[derive(Debug, Default)]
struct Exchange {
    /// Time and sender of the messages in the window, oldest first.
    messages: VecDeque<(Timestamp, PublicKey)>,
    stopped_until: Option<Timestamp>,
}

/// The exchanges of one mesh.
#[derive(Debug, Default)]
pub struct LoopGuard(HashMap<Pair, Exchange>);

impl LoopGuard {
    /// Counts a direct message from `sender` to `recipient`; `hops` as the frame states it.
    ///
    /// A stated 0 is human input of its sender and starts the pair anew; a missing field counts.
    ///
    /// # Errors
    /// [`Stopped`]; the message is not counted then.
    pub fn admit(
        &mut self,
        sender: PublicKey,
        recipient: PublicKey,
        hops: Option<u32>,
        now: Timestamp,
        limits: LoopLimits,
    ) -> Result<(), Stopped> {
        let pair = Pair::of(sender, recipient);
        if hops == Some(0) {
            self.0.remove(&pair);
            return Ok(());
        }
        let exchange = self.0.entry(pair).or_default();
        if let Some(until) = exchange.stopped_until {
            if now < until {
                return Err(Stopped { until, count: exchange.messages.len(), is_new: false });
            }
            *exchange = Exchange::default();
        }
        let start = now.minus(limits.window);
        while exchange.messages.front().is_some_and(|(at, _)| *at <= start) {
            exchange.messages.pop_front();
        }
        let is_mutual = exchange.messages.iter().any(|(_, from)| *from == recipient);
        if exchange.messages.len() >= limits.messages {
            if is_mutual {
                let until = now.plus(limits.stop);
                exchange.stopped_until = Some(until);
                return Err(Stopped { until, count: exchange.messages.len(), is_new: true });
            }
            // One direction only: the last messages are enough to see an answer.
            exchange.messages.pop_front();
        }
        exchange.messages.push_back((now, sender));
        Ok(())
    }

    /// Lifts the stop of a pair and forgets its count. True when it was stopped.
    pub fn lift(&mut self, one: PublicKey, other: PublicKey, now: Timestamp) -> bool {
        self.0
            .remove(&Pair::of(one, other))
            .and_then(|exchange| exchange.stopped_until)
            .is_some_and(|until| now < until)
    }

    /// Forgets pairs that were silent for a whole window.
    pub fn forget_silent(&mut self, now: Timestamp, limits: LoopLimits) {
        let start = now.minus(limits.window);
        self.0.retain(|_, exchange| {
            exchange.stopped_until.is_some_and(|until| now < until)
                || exchange.messages.back().is_some_and(|(at, _)| *at > start)
        });
        self.0.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: PublicKey = PublicKey::from_bytes([1; 32]);
    const BOB: PublicKey = PublicKey::from_bytes([2; 32]);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(10_000 + seconds)
    }

    fn admit(
        guard: &mut LoopGuard,
        from: PublicKey,
        to: PublicKey,
        hops: Option<u32>,
        now: Timestamp,
    ) -> Result<(), Stopped> {
        guard.admit(from, to, hops, now, LoopLimits::default())
    }

    fn chat(guard: &mut LoopGuard, messages: usize) {
        for index in 0..messages {
            let (from, to) = if index % 2 == 0 { (ALICE, BOB) } else { (BOB, ALICE) };
            assert_eq!(admit(guard, from, to, None, at(0)), Ok(()), "{index}");
        }
    }

    /// LOOP-2.
    #[test]
    fn the_message_past_the_limit_stops_the_pair_once() {
        let mut guard = LoopGuard::default();
        chat(&mut guard, LOOP_PAIR_MAX);
        let stopped = admit(&mut guard, ALICE, BOB, Some(41), at(1)).unwrap_err();
        assert_eq!((stopped.is_new, stopped.count, stopped.until), (true, LOOP_PAIR_MAX, at(601)));
        assert!(!admit(&mut guard, BOB, ALICE, None, at(2)).unwrap_err().is_new);
        assert!(guard.lift(BOB, ALICE, at(3)));
        assert_eq!(admit(&mut guard, ALICE, BOB, None, at(3)), Ok(()));
    }

    #[test]
    fn an_operator_sets_the_limits() {
        let limits = LoopLimits {
            messages: 2,
            window: Duration::from_secs(5),
            stop: Duration::from_secs(7),
        };
        let mut guard = LoopGuard::default();
        let mut say = |from, to, second| guard.admit(from, to, None, at(second), limits);
        assert_eq!((say(ALICE, BOB, 0), say(BOB, ALICE, 1)), (Ok(()), Ok(())));
        assert_eq!(say(ALICE, BOB, 2).unwrap_err().until, at(9));
        assert_eq!((say(ALICE, BOB, 9), say(BOB, ALICE, 10)), (Ok(()), Ok(())));
        assert_eq!(say(ALICE, BOB, 15), Ok(()), "the first of the two is out of the window");
    }

    /// LOOP-2.
    #[test]
    fn human_input_and_time_end_a_stop() {
        let mut guard = LoopGuard::default();
        chat(&mut guard, LOOP_PAIR_MAX);
        assert!(admit(&mut guard, ALICE, BOB, None, at(1)).is_err());
        assert_eq!(admit(&mut guard, BOB, ALICE, Some(0), at(2)), Ok(()));
        chat(&mut guard, LOOP_PAIR_MAX);
        assert!(admit(&mut guard, ALICE, BOB, None, at(1)).is_err());
        assert!(admit(&mut guard, ALICE, BOB, None, at(600)).is_err());
        assert_eq!(admit(&mut guard, ALICE, BOB, None, at(601)), Ok(()));
    }

    /// LOOP-2.
    #[test]
    fn a_thousand_messages_one_way_are_not_a_loop() {
        let mut guard = LoopGuard::default();
        for second in 0..1_000 {
            assert_eq!(admit(&mut guard, ALICE, BOB, None, at(second % 7)), Ok(()));
        }
    }

    #[test]
    fn the_window_slides() {
        let mut guard = LoopGuard::default();
        for minute in 0..300 {
            let (from, to) = if minute % 2 == 0 { (ALICE, BOB) } else { (BOB, ALICE) };
            assert_eq!(admit(&mut guard, from, to, None, at(minute * 20)), Ok(()));
        }
        guard.forget_silent(at(100_000), LoopLimits::default());
        assert!(guard.0.is_empty());
    }
}

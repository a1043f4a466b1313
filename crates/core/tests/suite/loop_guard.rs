//! The loop guard against the list of every message of a pair (wire spec §4.10).

use claudemesh_core::loop_guard::{LoopGuard, LoopLimits};
use claudemesh_protocol::PublicKey;
use proptest::prelude::*;

use crate::time::{at, step_ms};

const WINDOW_MS: i64 = 10 * 60_000;
const STOP_MS: i64 = 10 * 60_000;
const PAIR_MAX: usize = 40;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// From one of three sessions to another, that many in a row; with human input or not.
    Send {
        from: u8,
        to: u8,
        messages: u8,
        is_human: bool,
    },
    /// They take turns.
    Chat {
        one: u8,
        other: u8,
        messages: u8,
    },
    Lift {
        one: u8,
        other: u8,
    },
    Forget,
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let pair = || (0_u8..3, 1_u8..3).prop_map(|(one, more)| (one, (one + more) % 3));
    prop_oneof![
        4 => (pair(), 1_u8..6, prop::bool::weighted(0.05))
            .prop_map(|((from, to), messages, is_human)| Step::Send { from, to, messages, is_human }),
        4 => (pair(), 1_u8..30).prop_map(|((one, other), messages)| Step::Chat { one, other, messages }),
        1 => pair().prop_map(|(one, other)| Step::Lift { one, other }),
        1 => Just(Step::Forget),
        5 => step_ms(0..200_000).prop_map(Step::Pass),
    ]
}

fn key(session: u8) -> PublicKey {
    PublicKey::from_bytes([session + 1; 32])
}

fn pair(one: u8, other: u8) -> usize {
    usize::from(one + other - 1)
}

/// One pair, as the specification tells it: all messages that count, and until when it is stopped.
#[derive(Debug, Clone, Default)]
struct Told {
    messages: Vec<(i64, u8)>,
    stopped_until: Option<i64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    Stopped { until: i64, is_new: bool },
}

impl Told {
    fn send(&mut self, from: u8, is_human: bool, now: i64) -> Answer {
        if is_human {
            *self = Self::default();
            return Answer::Taken;
        }
        if let Some(until) = self.stopped_until {
            if now < until {
                return Answer::Stopped { until, is_new: false };
            }
            *self = Self::default();
        }
        // A clock that went back hides younger messages from the front of the list, as it does in the guard: what is
        // dropped is only ever the oldest.
        let fresh = self.messages.iter().position(|(sent, _)| *sent > now - WINDOW_MS);
        self.messages = self.messages.split_off(fresh.unwrap_or(self.messages.len()));
        // The newest forty are what "more than 40" can be about; older ones decide nothing.
        let begin = self.messages.len().saturating_sub(PAIR_MAX);
        let counted = &self.messages[begin..];
        if counted.len() == PAIR_MAX && counted.iter().any(|(_, sender)| *sender != from) {
            self.stopped_until = Some(now + STOP_MS);
            return Answer::Stopped { until: now + STOP_MS, is_new: true };
        }
        self.messages.push((now, from));
        Answer::Taken
    }
}

proptest! {
    /// LOOP-2 over random talk of three sessions, with human input, lifted stops and clocks that jump: the same messages
    /// are taken, each stop is told once and ends when it should, and no pair feels another.
    #[test]
    fn stops_agree_with_the_list(steps in prop::collection::vec(step(), 0..60)) {
        let mut guard = LoopGuard::default();
        let mut told = vec![Told::default(); 3];
        let mut now = 0;
        for step in steps {
            let sends: Vec<(u8, u8, bool)> = match step {
                Step::Send { from, to, messages, is_human } => {
                    (0..messages).map(|_| (from, to, is_human)).collect()
                }
                Step::Chat { one, other, messages } => (0..messages)
                    .map(|turn| if turn % 2 == 0 { (one, other, false) } else { (other, one, false) })
                    .collect(),
                Step::Lift { one, other } => {
                    let model = std::mem::take(&mut told[pair(one, other)]);
                    let was_stopped = model.stopped_until.is_some_and(|until| now < until);
                    prop_assert_eq!(guard.lift(key(one), key(other), at(now)), was_stopped);
                    Vec::new()
                }
                Step::Forget => {
                    // What was silent for a whole window counts for nothing; forgetting it must not show, except that a
                    // clock set back afterwards cannot bring it back.
                    guard.forget_silent(at(now), LoopLimits::default());
                    for model in &mut told {
                        let is_stopped = model.stopped_until.is_some_and(|until| now < until);
                        let is_heard = model.messages.last().is_some_and(|(sent, _)| *sent > now - WINDOW_MS);
                        if !is_stopped && !is_heard {
                            *model = Told::default();
                        }
                    }
                    Vec::new()
                }
                Step::Pass(millis) => {
                    now += millis;
                    Vec::new()
                }
            };
            for (from, to, is_human) in sends {
                let expected = told[pair(from, to)].send(from, is_human, now);
                let answer = match guard.admit(key(from), key(to), is_human.then_some(0), at(now), LoopLimits::default()) {
                    Ok(()) => Answer::Taken,
                    Err(stopped) => {
                        prop_assert_eq!(stopped.count, PAIR_MAX);
                        Answer::Stopped {
                            until: stopped.until.as_millis() - at(0).as_millis(),
                            is_new: stopped.is_new,
                        }
                    }
                };
                prop_assert_eq!(answer, expected, "{} to {} at {}", from, to, now);
            }
        }
    }
}

//! The decisions of a simulation: each part of it draws from a stream of its own, all of them from one seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// One stream of decisions.
pub(crate) struct Dice(StdRng);

impl Dice {
    /// The stream of `part` in the run of `seed`.
    pub(crate) fn new(seed: u64, part: &str) -> Self {
        let mut key = [0; 32];
        let hash = claudemesh_crypto::hash::sha256(format!("{seed}/{part}").as_bytes());
        for (byte, drawn) in key.iter_mut().zip(hash) {
            *byte = drawn;
        }
        Self(StdRng::from_seed(key))
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// A number within the bounds.
    pub(crate) fn number(&mut self, bounds: RangeInclusive<u64>) -> u64 {
        self.0.random_range(bounds)
    }

    /// A place in a list of `len` entries; 0 for an empty one.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        if len == 0 { 0 } else { self.0.random_range(0..len) }
    }

    /// A time of so many milliseconds.
    pub(crate) fn millis(&mut self, bounds: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(bounds))
    }

    /// One entry of a list that is not empty.
    pub(crate) fn pick<'l, T>(&mut self, list: &'l [T]) -> Option<&'l T> {
        let place = self.index(list.len());
        list.get(place)
    }

    /// One entry, each as likely as its weight says.
    pub(crate) fn weighted<T: Copy>(&mut self, choices: &[(u32, T)], otherwise: T) -> T {
        let total: u32 = choices.iter().map(|(weight, _)| weight).sum();
        let mut left = self.0.random_range(0..total.max(1));
        for (weight, choice) in choices {
            if left < *weight {
                return *choice;
            }
            left -= weight;
        }
        otherwise
    }

    /// Sixteen random bytes.
    pub(crate) fn bytes16(&mut self) -> [u8; 16] {
        self.0.random()
    }

    /// Thirty-two random bytes.
    pub(crate) fn bytes32(&mut self) -> [u8; 32] {
        self.0.random()
    }
}

//! Who dies where, and when: drawn from the seed.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::points::{POINTS, Point};
use crate::chaos::system::ABSENT;

/// One death to come.
#[derive(Debug, Clone)]
pub struct Death {
    pub point: &'static Point,
    /// Whose daemon.
    pub person: usize,
    /// It comes by so often before.
    pub passes: u32,
}

/// So many deaths, the same number at each point as far as it goes, in any order.
pub fn schedule(random: &mut StdRng, deaths: usize) -> Vec<Death> {
    let mut schedule: Vec<Death> = POINTS
        .iter()
        .cycle()
        .take(deaths)
        .map(|point| Death {
            point,
            person: random.random_range(0..ABSENT),
            passes: random.random_range(0..point.passes),
        })
        .collect();
    schedule.shuffle(random);
    schedule
}

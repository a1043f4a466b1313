//! The randomness port: ids are drawn through it, so that a simulation can repeat a run.

use claudemesh_protocol::id::random_row_id;

/// A source of uniform bytes.
pub trait Entropy {
    /// Overwrites `buffer`.
    fn fill(&mut self, buffer: &mut [u8]);
}

impl<F: FnMut(&mut [u8])> Entropy for F {
    fn fill(&mut self, buffer: &mut [u8]) {
        self(buffer);
    }
}

/// Draws the text of a fresh row id.
pub fn row_id(entropy: &mut impl Entropy) -> String {
    random_row_id(|buffer| entropy.fill(buffer))
}

//! The one source of secret randomness: the operating system's generator.
//!
//! Functions that tests must be able to repeat take an [`Entropy`] instead of calling this module.

/// Overwrites a buffer with uniform bytes. [`fill`] is the one for production.
pub type Entropy<'a> = &'a mut dyn FnMut(&mut [u8]);

/// Fills `buffer` from the operating system's generator; inside a simulation, from its seed.
///
/// # Panics
/// When the operating system has no randomness to give. Nothing here can go on without it, and no caller could do
/// better than stop.
#[expect(clippy::expect_used, reason = "continuing without randomness would make weak keys")]
pub fn fill(buffer: &mut [u8]) {
    #[cfg(feature = "simulation")]
    if simulation::fill(buffer) {
        return;
    }
    getrandom::fill(buffer).expect("the operating system provides randomness");
}

/// `BYTES` fresh random bytes.
///
/// # Panics
/// As [`fill`].
pub fn bytes<const BYTES: usize>() -> [u8; BYTES] {
    let mut buffer = [0; BYTES];
    fill(&mut buffer);
    buffer
}

/// Draws `count` characters of `alphabet`, each equally likely: bytes that would favour the first ones are drawn again.
pub(crate) fn characters(alphabet: &[u8], count: usize, entropy: Entropy<'_>) -> String {
    let size = alphabet.len().clamp(1, 256);
    let unbiased_below = 256 - 256 % size;
    let mut text = String::with_capacity(count);
    let mut pool = [0_u8; 32];
    while text.len() < count {
        entropy(&mut pool);
        let drawn = pool
            .iter()
            .map(|byte| usize::from(*byte))
            .filter(|value| *value < unbiased_below)
            .filter_map(|value| alphabet.get(value % size))
            .map(|byte| char::from(*byte));
        text.extend(drawn.take(count - text.len()));
    }
    zeroize::Zeroize::zeroize(&mut pool);
    text
}

/// Randomness that a seed repeats, for the thread of a simulation. Never in a release: its keys are guessable.
#[cfg(feature = "simulation")]
pub mod simulation {
    use std::cell::RefCell;

    use crate::hash::sha256;

    thread_local! {
        static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
    }

    /// SHA-256 of seed and counter.
    struct Source {
        seed: u64,
        block: u64,
    }

    /// Everything random of this thread follows from `seed` until the guard is dropped.
    #[must_use = "dropping the guard ends the simulation"]
    pub fn begin(seed: u64) -> Begun {
        SOURCE.set(Some(Source { seed, block: 0 }));
        Begun(())
    }

    /// Gives the thread back to the operating system's generator when dropped.
    pub struct Begun(());

    impl Drop for Begun {
        fn drop(&mut self) {
            SOURCE.set(None);
        }
    }

    /// False outside a simulation.
    pub(super) fn fill(buffer: &mut [u8]) -> bool {
        SOURCE.with_borrow_mut(|source| {
            let Some(source) = source else { return false };
            for chunk in buffer.chunks_mut(32) {
                let mut input = [0; 16];
                let (seed, block) = input.split_at_mut(8);
                seed.copy_from_slice(&source.seed.to_be_bytes());
                block.copy_from_slice(&source.block.to_be_bytes());
                source.block += 1;
                for (byte, drawn) in chunk.iter_mut().zip(sha256(&input)) {
                    *byte = drawn;
                }
            }
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_would_bias_the_draw_are_drawn_again() {
        let mut round = 0;
        let text = characters(b"abc", 4, &mut |pool| {
            round += 1;
            pool.fill(if round == 1 { 255 } else { 2 });
        });
        assert_eq!((round, text.as_str()), (2, "cccc"));
    }

    #[test]
    fn two_draws_differ() {
        assert_ne!(bytes::<32>(), bytes::<32>());
    }
}

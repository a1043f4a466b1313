//! Counted places: requests in flight, open streams. The limit is given at each taking, so that a reload changes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Places of one kind.
#[derive(Default)]
pub(super) struct Slots {
    taken: Arc<AtomicUsize>,
}

/// A taken place; free again when dropped.
pub(super) struct Slot {
    taken: Arc<AtomicUsize>,
}

impl Slots {
    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes a place unless `max` are taken.
    pub(super) fn take(&self, max: usize) -> Option<Slot> {
        let one_more = |taken: usize| (taken < max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Slot { taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_end_at_the_limit_and_come_back() {
        let slots = Slots::default();
        let first = slots.take(2);
        let second = slots.take(2);
        assert!(first.is_some() && second.is_some() && slots.take(2).is_none());
        assert!(slots.take(3).is_some());
        drop(first);
        assert!(slots.take(2).is_some());
    }
}

//! What the broker knows in memory about the waiting rows of one recipient key, so that the order is kept without asking
//! the store for every message (broker spec §3.4: FIFO per recipient and priority class).
//!
//! A message goes straight to its recipient only while nothing older of its class can be waiting; otherwise it is held
//! and a drain brings it. The counts may be too high, never too low: a drain that comes back with less than it asked for
//! corrects them.

use claudemesh_protocol::Priority;

use crate::gate::Priorities;

/// Rows per priority.
pub type Counts = [u32; 3];

/// Where a new message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Stored as claimed and pushed after the commit.
    Direct,
    /// Stored as held; a drain brings it.
    Held,
}

/// The waiting rows of one recipient key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyQueue {
    held: Counts,
    uncommitted: Counts,
    arrivals: Counts,
    releasing: u32,
    is_draining: bool,
    was_woken: bool,
}

fn slot(counts: &mut Counts, priority: Priority) -> &mut u32 {
    let [now, next, low] = counts;
    match priority {
        Priority::Now => now,
        Priority::Next => next,
        Priority::Low => low,
    }
}

fn count(counts: Counts, priority: Priority) -> u32 {
    let [now, next, low] = counts;
    match priority {
        Priority::Now => now,
        Priority::Next => next,
        Priority::Low => low,
    }
}

impl KeyQueue {
    /// The queue of a key with that many rows in the store, whatever their priorities.
    pub fn with_held(rows: u64) -> Self {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        Self { held: [rows; 3], ..Self::default() }
    }

    /// True when nothing is known and nothing runs, so that the entry can be forgotten.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }

    /// Decides for a new message; a held one counts from now on. `open` is what may be pushed to the recipient at this
    /// moment: empty without a socket or without room in it.
    pub fn route(&mut self, priority: Priority, open: Priorities) -> Route {
        let is_clear = !self.is_draining
            && self.releasing == 0
            && count(self.held, priority) == 0
            && count(self.uncommitted, priority) == 0;
        if is_clear && open.allows(priority) {
            return Route::Direct;
        }
        *slot(&mut self.uncommitted, priority) += 1;
        Route::Held
    }

    /// A held message was committed.
    pub fn committed(&mut self, priority: Priority) {
        self.cancelled(priority);
        self.arrived(priority);
    }

    /// A held message was not stored after all.
    pub fn cancelled(&mut self, priority: Priority) {
        let uncommitted = slot(&mut self.uncommitted, priority);
        *uncommitted = uncommitted.saturating_sub(1);
    }

    /// A row that is already in the store became held: it was moved here from another key.
    pub fn arrived(&mut self, priority: Priority) {
        *slot(&mut self.held, priority) += 1;
        *slot(&mut self.arrivals, priority) += 1;
        self.was_woken = true;
    }

    /// `rows` rows of unknown priority became held: moved here from another key, or found in the store.
    pub fn arrived_unknown(&mut self, rows: u64) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        for priority in Priority::ALL {
            let held = slot(&mut self.held, *priority);
            *held = held.saturating_add(rows);
            let arrivals = slot(&mut self.arrivals, *priority);
            *arrivals = arrivals.saturating_add(rows);
        }
        self.was_woken = true;
    }

    /// A claimed row must go back: until [`KeyQueue::released`] nothing younger may be claimed.
    pub fn releasing(&mut self, priority: Priority) {
        self.releasing += 1;
        *slot(&mut self.held, priority) += 1;
        *slot(&mut self.arrivals, priority) += 1;
    }

    /// The release was committed, or given up.
    pub fn released(&mut self) {
        self.releasing = self.releasing.saturating_sub(1);
        self.was_woken = true;
    }

    /// True when a direct push must give way, because something older went back to held meanwhile.
    pub fn must_wait(&self, priority: Priority) -> bool {
        count(self.held, priority) > 0
    }

    /// Starts a drain when there is something to bring; a running one looks again.
    pub fn begin_drain(&mut self, open: Priorities) -> bool {
        if self.is_draining {
            self.was_woken = true;
            return false;
        }
        if self.releasing > 0 || !self.has_held(open) {
            return false;
        }
        self.is_draining = true;
        self.begin_step();
        true
    }

    /// Before each claim of a running drain.
    pub fn begin_step(&mut self) {
        self.arrivals = Counts::default();
        self.was_woken = false;
    }

    /// After a claim that asked for `asked` rows of the priorities `open` and got `claimed`.
    pub fn end_step(&mut self, open: Priorities, asked: usize, claimed: Counts) {
        let total: u64 = claimed.iter().copied().map(u64::from).sum();
        let is_exhausted = total < asked as u64;
        for priority in open.iter() {
            let arrived = count(self.arrivals, priority);
            let held = slot(&mut self.held, priority);
            *held = if is_exhausted {
                arrived
            } else {
                held.saturating_sub(count(claimed, priority)).max(arrived)
            };
        }
    }

    /// True when a running drain should claim again now.
    pub fn wants_more(&self, open: Priorities) -> bool {
        self.releasing == 0 && self.has_held(open)
    }

    /// The drain ends. True when it was woken since its last step, so that the caller tries to begin again.
    pub fn end_drain(&mut self) -> bool {
        self.is_draining = false;
        std::mem::take(&mut self.was_woken)
    }

    /// True when rows of `open` are believed to wait.
    pub fn has_held(&self, open: Priorities) -> bool {
        open.iter().any(|priority| count(self.held, priority) > 0)
    }

    /// Rows believed to wait.
    pub fn held_total(&self) -> u64 {
        self.held.iter().copied().map(u64::from).sum()
    }
}

/// Adds one row of `priority`.
pub fn add(counts: &mut Counts, priority: Priority) {
    *slot(counts, priority) += 1;
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_queue_lets_messages_through_and_a_held_one_stops_its_class() {
        let mut queue = KeyQueue::default();
        assert_eq!(queue.route(Priority::Next, Priorities::ALL), Route::Direct);
        assert_eq!(queue.route(Priority::Next, Priorities::NONE), Route::Held);
        assert_eq!(queue.route(Priority::Next, Priorities::ALL), Route::Held);
        assert_eq!(queue.route(Priority::Now, Priorities::ALL), Route::Direct);
    }

    #[test]
    fn a_release_blocks_younger_rows_until_it_is_committed() {
        let mut queue = KeyQueue::default();
        queue.releasing(Priority::Next);
        assert!(queue.must_wait(Priority::Next));
        assert!(!queue.begin_drain(Priorities::ALL));
        queue.released();
        assert!(queue.begin_drain(Priorities::ALL));
    }

    #[test]
    fn counts_that_are_too_high_are_corrected_by_a_short_claim() {
        let mut queue = KeyQueue::with_held(5);
        assert!(queue.begin_drain(Priorities::ALL));
        queue.end_step(Priorities::ALL, 100, [0, 2, 0]);
        assert!(!queue.wants_more(Priorities::ALL));
        assert!(!queue.end_drain());
        assert!(queue.is_idle());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Send(usize),
        Commit,
        Drain(usize),
        Refuse,
        CommitRelease,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_usize..3).prop_map(Step::Send),
            4 => Just(Step::Commit),
            2 => (1_usize..4).prop_map(Step::Drain),
            1 => Just(Step::Refuse),
            2 => Just(Step::CommitRelease),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a model store: whatever the interleaving of sends, commits, drains and refused pushes, a recipient
        /// sees the messages of one priority in the order they were sent.
        #[test]
        fn order_is_kept_per_priority(steps in steps()) {
            let mut queue = KeyQueue::default();
            let mut sent = 0_u32;
            // The writer's queue in order; the store's held rows; what is on its way back; what was pushed.
            let mut writer: VecDeque<(u32, Priority, Route)> = VecDeque::new();
            let mut store: Vec<(u32, Priority)> = Vec::new();
            let mut going_back: VecDeque<(u32, Priority)> = VecDeque::new();
            let mut pushed: Vec<(u32, Priority)> = Vec::new();
            let mut refuse_next = false;
            for step in steps {
                match step {
                    Step::Send(index) => {
                        let priority = Priority::ALL[index];
                        let route = queue.route(priority, Priorities::ALL);
                        writer.push_back((sent, priority, route));
                        sent += 1;
                    }
                    Step::Commit => match writer.pop_front() {
                        Some((id, priority, Route::Held)) => {
                            queue.committed(priority);
                            store.push((id, priority));
                        }
                        Some((id, priority, Route::Direct)) => {
                            if std::mem::take(&mut refuse_next) || queue.must_wait(priority) {
                                queue.releasing(priority);
                                going_back.push_back((id, priority));
                            } else {
                                pushed.push((id, priority));
                            }
                        }
                        None => {}
                    },
                    Step::Drain(limit) => {
                        if queue.begin_drain(Priorities::ALL) {
                            loop {
                                queue.begin_step();
                                store.sort_unstable();
                                let taken: Vec<_> = store.drain(..limit.min(store.len())).collect();
                                let mut counts = Counts::default();
                                for (_, priority) in &taken {
                                    add(&mut counts, *priority);
                                }
                                queue.end_step(Priorities::ALL, limit, counts);
                                pushed.extend(taken);
                                if !queue.wants_more(Priorities::ALL) {
                                    break;
                                }
                            }
                            queue.end_drain();
                        }
                    }
                    Step::Refuse => refuse_next = true,
                    Step::CommitRelease => {
                        if let Some(row) = going_back.pop_front() {
                            store.push(row);
                            queue.released();
                        }
                    }
                }
            }
            for priority in Priority::ALL {
                let ids: Vec<u32> =
                    pushed.iter().filter(|row| row.1 == *priority).map(|row| row.0).collect();
                prop_assert!(ids.is_sorted(), "{priority}: {ids:?}");
            }
            // Whatever lies in the store is known to be there.
            for (_, priority) in store {
                prop_assert!(queue.must_wait(priority));
            }
        }
    }
}

//! What the broker knows in memory about the waiting rows of one recipient key, so that the order is kept without asking
//! the store for every message (broker spec §3.4: FIFO per recipient and priority class).
//!
//! A message goes straight to its recipient only while nothing older of its class can be waiting, before its commit where
//! pushes may overtake commits, after it otherwise; or it is held and a drain brings it. The counts may be too high, never too low: a drain that comes back with less than it asked for
//! corrects them.

use claudemesh_protocol::Priority;

use crate::gate::Priorities;

/// Rows per priority.
pub type Counts = [u32; 3];

/// Where a new message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Stored as claimed and pushed without a detour, when its turn to be committed comes or right after.
    Direct,
    /// Stored as held; a drain brings it.
    Held,
}

/// The waiting rows of one recipient key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, all private")]
pub struct KeyQueue {
    held: Counts,
    uncommitted: Counts,
    arrivals: Counts,
    releasing: u32,
    is_draining: bool,
    was_woken: bool,
    was_disturbed: bool,
    is_left_behind: bool,
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
        if self.is_clear(priority) && open.allows(priority) {
            return Route::Direct;
        }
        *slot(&mut self.uncommitted, priority) += 1;
        Route::Held
    }

    /// True when nothing of this class waits, or may be about to.
    pub fn is_clear(&self, priority: Priority) -> bool {
        !self.is_draining
            && self.releasing == 0
            && count(self.held, priority) == 0
            && count(self.uncommitted, priority) == 0
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
        self.was_disturbed = self.is_draining;
        *slot(&mut self.held, priority) += 1;
        *slot(&mut self.arrivals, priority) += 1;
    }

    /// The release was committed, or given up.
    pub fn released(&mut self) {
        self.releasing = self.releasing.saturating_sub(1);
        self.was_woken = true;
    }

    /// The session of this key has ended and its rows are being moved to its member: until [`KeyQueue::moved`] nothing
    /// may be pushed to a session that comes back. Or this is the member they are moved to: until
    /// [`KeyQueue::released`] nothing that was sent later may pass them.
    pub fn moving(&mut self) {
        self.releasing += 1;
        self.was_disturbed = self.is_draining;
        self.arrived_unknown(1);
    }

    /// The move has ended. When it failed, the rows are still here, and must not be forgotten.
    pub fn moved(&mut self, is_written: bool) {
        self.released();
        self.is_left_behind = !is_written;
    }

    /// True while the store may have rows of this key that only this queue knows of, though its session has ended.
    pub const fn is_unsettled(&self) -> bool {
        self.releasing > 0 || self.is_left_behind
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
        self.was_disturbed = false;
    }

    /// True when rows went back since the step began: what the claim brought may be younger than they are and must go
    /// back too, even if their release has ended meanwhile.
    pub const fn is_disturbed(&self) -> bool {
        self.was_disturbed
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
        self.was_disturbed = false;
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
    fn nothing_passes_the_rows_of_an_ended_session_that_is_back_before_they_have_moved() {
        let mut queue = KeyQueue::default();
        queue.moving();
        for priority in Priority::ALL {
            assert_eq!(queue.route(*priority, Priorities::ALL), Route::Held);
        }
        assert!(queue.is_unsettled() && !queue.begin_drain(Priorities::ALL));
        queue.moved(false);
        assert!(queue.is_unsettled(), "they are still there");
        assert!(queue.begin_drain(Priorities::ALL));
        let mut queue = KeyQueue::default();
        queue.moving();
        queue.moved(true);
        assert!(!queue.is_unsettled());
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
        /// A transaction takes that many sends and their pushes overtake it.
        Begin(usize),
        /// It ends well.
        Commit,
        /// It ends badly: nothing of it is stored.
        RollBack,
        /// A drain claims at most that many, and later has them.
        Claim(usize),
        Deliver,
        Refuse,
        CommitRelease,
        /// The recipient takes that many pushes in and acknowledges them; the rest of its socket is lost.
        Receive(usize),
        Cut,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0_usize..3).prop_map(Step::Send),
            4 => (1_usize..5).prop_map(Step::Begin),
            4 => Just(Step::Commit),
            1 => Just(Step::RollBack),
            3 => (1_usize..4).prop_map(Step::Claim),
            3 => Just(Step::Deliver),
            1 => Just(Step::Refuse),
            3 => Just(Step::CommitRelease),
            3 => (1_usize..4).prop_map(Step::Receive),
            1 => Just(Step::Cut),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// What the writer of a broker, its store and a recipient make of a queue.
    #[derive(Default)]
    struct Model {
        queue: KeyQueue,
        sent: u32,
        /// The writer's queue in order; what its open transaction has, with the ones nobody took.
        writer: VecDeque<(u32, Priority, Route)>,
        open: Vec<(u32, Priority, Route, bool)>,
        /// The store's held rows, what a drain has claimed of them with the number it asked for, and what is on its way
        /// back to them.
        store: Vec<(u32, Priority)>,
        claimed: Option<(usize, Vec<(u32, Priority)>)>,
        is_draining: bool,
        going_back: VecDeque<(u32, Priority)>,
        /// Pushed and not received; received, first arrivals only; never stored in the end.
        wire: VecDeque<(u32, Priority)>,
        inbox: Vec<(u32, Priority)>,
        lost: Vec<u32>,
        refuse_next: bool,
    }

    impl Model {
        fn take(&mut self, step: Step) {
            match step {
                Step::Send(index) => {
                    let priority = Priority::ALL[index];
                    let route = self.queue.route(priority, Priorities::ALL);
                    self.writer.push_back((self.sent, priority, route));
                    self.sent += 1;
                }
                Step::Begin(count) => self.begin(count),
                Step::Commit => self.commit(),
                Step::RollBack => self.roll_back(),
                Step::Claim(limit) => self.claim(limit),
                Step::Deliver => self.deliver(),
                Step::Receive(count) => self.receive(count),
                Step::Cut => {
                    for (id, priority) in std::mem::take(&mut self.wire) {
                        self.queue.releasing(priority);
                        self.going_back.push_back((id, priority));
                    }
                }
                Step::Refuse => self.refuse_next = true,
                // What was pushed ahead of its commit goes back behind it.
                Step::CommitRelease => {
                    let is_open = |id| self.open.iter().any(|row| row.0 == id);
                    if let Some((id, priority)) = self.going_back.pop_front() {
                        if is_open(id) {
                            self.going_back.push_front((id, priority));
                            return;
                        }
                        if !self.lost.contains(&id) {
                            self.store.push((id, priority));
                        }
                        self.queue.released();
                    }
                }
            }
        }

        fn begin(&mut self, count: usize) {
            if !self.open.is_empty() {
                return;
            }
            let count = count.min(self.writer.len());
            for (id, priority, route) in self.writer.drain(..count) {
                let mut is_refused = false;
                if route == Route::Direct {
                    is_refused =
                        std::mem::take(&mut self.refuse_next) || self.queue.must_wait(priority);
                    if is_refused {
                        self.queue.releasing(priority);
                    } else {
                        self.wire.push_back((id, priority));
                    }
                }
                self.open.push((id, priority, route, is_refused));
            }
        }

        fn commit(&mut self) {
            for (id, priority, route, is_refused) in std::mem::take(&mut self.open) {
                if route == Route::Held {
                    self.queue.committed(priority);
                    self.store.push((id, priority));
                } else if is_refused {
                    self.going_back.push_back((id, priority));
                }
            }
        }

        fn roll_back(&mut self) {
            for (id, priority, route, is_refused) in std::mem::take(&mut self.open) {
                if route == Route::Held {
                    self.queue.cancelled(priority);
                } else if is_refused {
                    self.queue.released();
                }
                self.lost.push(id);
            }
        }

        fn claim(&mut self, limit: usize) {
            if self.claimed.is_some() {
                return;
            }
            if self.is_draining {
                if !self.queue.wants_more(Priorities::ALL) {
                    self.end_drain();
                    return;
                }
                self.queue.begin_step();
            } else if self.queue.begin_drain(Priorities::ALL) {
                self.is_draining = true;
            } else {
                return;
            }
            self.store.sort_unstable();
            let taken = self.store.drain(..limit.min(self.store.len())).collect();
            self.claimed = Some((limit, taken));
        }

        fn deliver(&mut self) {
            let Some((asked, rows)) = self.claimed.take() else { return };
            let is_disturbed = self.queue.is_disturbed();
            let mut counts = Counts::default();
            for (_, priority) in &rows {
                add(&mut counts, *priority);
            }
            self.queue.end_step(Priorities::ALL, asked, counts);
            let mut is_refused = is_disturbed;
            for (id, priority) in rows {
                is_refused |= std::mem::take(&mut self.refuse_next);
                if is_refused {
                    self.queue.releasing(priority);
                    self.going_back.push_back((id, priority));
                } else {
                    self.wire.push_back((id, priority));
                }
            }
            if is_refused || !self.queue.wants_more(Priorities::ALL) {
                self.end_drain();
            }
        }

        fn end_drain(&mut self) {
            self.is_draining = false;
            self.queue.end_drain();
        }

        fn receive(&mut self, count: usize) {
            for row in self.wire.drain(..count.min(self.wire.len())) {
                if !self.inbox.contains(&row) {
                    self.inbox.push(row);
                }
            }
        }

        /// Lets everything come to rest.
        fn settle(&mut self) {
            self.refuse_next = false;
            for _ in 0..1_000 {
                self.commit();
                self.begin(usize::MAX);
                self.commit();
                self.take(Step::CommitRelease);
                self.deliver();
                self.claim(100);
                self.receive(usize::MAX);
            }
        }
    }

    proptest! {
        /// Against a model store: whatever the interleaving of sends, transactions that pushes overtake, failed
        /// commits, drains, refused pushes and lost sockets, a recipient that keeps what it knows sees the messages of
        /// one priority in the order they were sent, and every stored one arrives.
        #[test]
        fn order_is_kept_per_priority(steps in steps()) {
            let mut model = Model::default();
            for step in steps {
                model.take(step);
            }
            // Whatever lies in the store is known to be there.
            for (_, priority) in &model.store {
                prop_assert!(model.queue.must_wait(*priority) || model.is_draining);
            }
            model.settle();
            for priority in Priority::ALL {
                // What was never stored may come or not, and its sender tries again under the same id.
                let ids: Vec<u32> = model
                    .inbox
                    .iter()
                    .filter(|row| row.1 == *priority && !model.lost.contains(&row.0))
                    .map(|row| row.0)
                    .collect();
                prop_assert!(ids.is_sorted(), "{priority}: {ids:?}");
            }
            for id in 0..model.sent {
                let has_come = model.inbox.iter().any(|row| row.0 == id);
                prop_assert!(has_come || model.lost.contains(&id), "{id} is missing");
            }
        }
    }
}

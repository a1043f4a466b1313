//! Runs that wait (daemon spec §16.5): at most 256, the oldest makes room. Whoever tells an event never waits for a hook.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use claudemesh_protocol::limits::HOOK_QUEUE;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Hooks;
use super::event::Occasion;
use super::installed::Hook;
use crate::api::Api;

/// A hook that is to run.
pub(super) struct Run {
    /// Which.
    pub(super) hook: Arc<Hook>,
    /// What it hears.
    pub(super) occasion: Arc<Occasion>,
}

/// What waits, and how much runs.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Run>>,
    running: AtomicUsize,
    changed: Notify,
}

impl Queue {
    /// Adds a run; answers the one that had to make room.
    fn push(&self, run: Run) -> Option<Run> {
        let mut waiting = self.waiting.lock();
        let dropped = if waiting.len() >= HOOK_QUEUE { waiting.pop_front() } else { None };
        waiting.push_back(run);
        drop(waiting);
        self.changed.notify_one();
        dropped
    }

    /// The next run, while fewer than `at_once` run; it runs until its [`Place`] is dropped.
    fn next(self: &Queue, at_once: usize) -> Option<Run> {
        if self.running.load(Ordering::Acquire) >= at_once {
            return None;
        }
        let run = self.waiting.lock().pop_front()?;
        self.running.fetch_add(1, Ordering::AcqRel);
        Some(run)
    }

    /// Forgets what waits.
    pub(super) fn clear(&self) {
        self.waiting.lock().clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.lock().len()
    }
}

/// The place of a run among those that run.
struct Place(Hooks);

impl Drop for Place {
    fn drop(&mut self) {
        let queue = &self.0.shared.queue;
        queue.running.fetch_sub(1, Ordering::AcqRel);
        queue.changed.notify_one();
    }
}

impl Hooks {
    /// Adds a run; never waits.
    pub(super) fn enqueue(&self, run: Run) {
        let Some(dropped) = self.shared.queue.push(run) else { return };
        let name = &dropped.hook.name;
        self.shared.figures.of(name, |figures| figures.dropped += 1);
        if self.is_news(&format!("dropped {name}")) {
            tracing::warn!(hook = %name, waiting = HOOK_QUEUE, "hook_dropped");
        }
    }

    /// Runs what waits, until the daemon stops.
    pub(crate) async fn run(self, api: Arc<Api>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let at_once = shared.settings.get().hooks.concurrency.max(1);
            while let Some(run) = shared.queue.next(at_once) {
                let (place, api) = (Place(self.clone()), Arc::clone(&api));
                shared.tasks.spawn(async move { place.0.carry_out(run, &api).await });
            }
            tokio::select! {
                biased;
                () = shared.stopping.cancelled() => return,
                () = shared.queue.changed.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::tests::item;
    use super::super::name::HookName;
    use super::super::section::Section;
    use super::*;

    fn run(number: usize) -> Run {
        let name = HookName::parse("on-dm").unwrap();
        let hook = Hook { name, path: number.to_string().into(), section: Section::default() };
        let now = claudemesh_protocol::Timestamp::from_millis(0);
        let occasion = Occasion::message(&item("hi"), now).unwrap();
        Run { hook: Arc::new(hook), occasion: Arc::new(occasion) }
    }

    #[test]
    fn the_oldest_run_makes_room() {
        let queue = Queue::default();
        for number in 0..HOOK_QUEUE {
            assert!(queue.push(run(number)).is_none());
        }
        let dropped = queue.push(run(HOOK_QUEUE)).unwrap();
        assert_eq!(dropped.hook.path.to_str(), Some("0"));
        assert_eq!(queue.len(), HOOK_QUEUE);
        assert_eq!(queue.next(1).unwrap().hook.path.to_str(), Some("1"));
        assert!(queue.next(1).is_none(), "one runs");
        assert!(queue.next(2).is_some());
    }
}

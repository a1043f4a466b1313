//! What the hooks of a session have told, beside what it is doing: which events, whether its agent waits for a person, when
//! it was told how many messages wait.

use std::collections::VecDeque;

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::limits::{AGENT_HOOK_COUNT_EVERY, AGENT_HOOK_EVENT_IDS};
use parking_lot::Mutex;
use tokio::time::Instant;

/// What the hooks of a session have told.
#[derive(Default)]
pub(crate) struct Heard(Mutex<State>);

#[derive(Default)]
struct State {
    /// Ids of events, oldest first.
    events: VecDeque<String>,
    waits_for_human: bool,
    counted_at: Option<Instant>,
    reported_at: Option<Timestamp>,
}

impl Heard {
    /// True when nobody has told of this event before; it is remembered.
    pub(crate) fn is_news(&self, event_id: &str) -> bool {
        let events = &mut self.0.lock().events;
        if events.iter().any(|known| known == event_id) {
            return false;
        }
        if events.len() >= AGENT_HOOK_EVENT_IDS {
            events.pop_front();
        }
        events.push_back(event_id.to_owned());
        true
    }

    /// The event had no effect: another report of it may have one.
    pub(crate) fn forget(&self, event_id: &str) {
        self.0.lock().events.retain(|known| known != event_id);
    }

    /// A hook has told of an event.
    pub(crate) fn reported(&self, now: Timestamp) {
        self.0.lock().reported_at = Some(now);
    }

    /// When one last did.
    pub(crate) fn reported_at(&self) -> Option<Timestamp> {
        self.0.lock().reported_at
    }

    /// Whether its agent waits for a decision of a person.
    pub(crate) fn waits_for_human(&self) -> bool {
        self.0.lock().waits_for_human
    }

    /// Its agent waits for a decision of a person, or no longer does; true when that is news.
    pub(crate) fn set_waits_for_human(&self, waits: bool) -> bool {
        let state = &mut self.0.lock();
        std::mem::replace(&mut state.waits_for_human, waits) != waits
    }

    /// True when it may be told a count now; from here on not for [`AGENT_HOOK_COUNT_EVERY`].
    pub(crate) fn may_count(&self) -> bool {
        let counted_at = &mut self.0.lock().counted_at;
        let is_due = counted_at.is_none_or(|at| at.elapsed() >= AGENT_HOOK_COUNT_EVERY);
        if is_due {
            *counted_at = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_news_once_until_too_many_have_followed() {
        let heard = Heard::default();
        assert!(heard.is_news("one") && !heard.is_news("one"));
        heard.forget("one");
        assert!(heard.is_news("one"));
        for number in 0..AGENT_HOOK_EVENT_IDS {
            assert!(heard.is_news(&number.to_string()));
        }
        assert!(heard.is_news("one"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_is_told_at_most_every_ten_minutes() {
        let heard = Heard::default();
        assert!(heard.may_count() && !heard.may_count());
        tokio::time::advance(AGENT_HOOK_COUNT_EVERY).await;
        assert!(heard.may_count());
    }

    #[test]
    fn only_a_change_of_waiting_is_news() {
        let heard = Heard::default();
        assert!(!heard.set_waits_for_human(false));
        assert!(heard.set_waits_for_human(true) && !heard.set_waits_for_human(true));
        assert!(heard.set_waits_for_human(false));
    }
}

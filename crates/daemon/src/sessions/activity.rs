//! What a session is doing, and which messages may be put before it now: the local gate (daemon spec §13.2, wire spec
//! §4.4). Outlives a new registration of the same agent session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use claudemesh_ipc::api::MessageMode;
use claudemesh_ipc::api::session::{HookEvent, PromptOrigin};
use claudemesh_protocol::{PeerStatus, Priority, StatusSource};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::counters::Counters;

/// A status `working` that was set by hand holds messages back for this long, as at the broker (wire spec §4.4): no
/// hook will report its end.
const MANUAL_WORKING_TTL: Duration = Duration::from_mins(1);
/// How long a live path has for a message before a hook shows it too: an agent may not read its channel.
const LIVE_PATH_GRACE: Duration = Duration::from_mins(1);
/// Messages remembered as given to the live path; the oldest make room.
const OFFERED_MAX: usize = 1_024;

/// What an agent session is doing.
#[derive(Default)]
pub struct Activity {
    state: Mutex<State>,
    /// One more than the most hops among the messages shown to it; 0 when none was (daemon spec §10.6).
    next_hops: AtomicU32,
    /// What it has counted.
    pub counters: Counters,
}

/// Messages of which is known that they wait for one session; more are one run of numbers.
const HELD_MAX: usize = 10_000;

struct State {
    status: PeerStatus,
    source: StatusSource,
    since: Instant,
    /// Row number of the first message that waits for the gate.
    held_from: Option<i64>,
    /// Which messages wait: a message that an ended session leaves to its member keeps its old number, and others behind
    /// that were told long ago. `None` when more than [`HELD_MAX`] waited: everything from the first on counts then.
    held: Option<BTreeSet<i64>>,
    /// What waited is being told; what comes meanwhile waits behind it.
    is_releasing: bool,
    /// Event streams open for it.
    streams: u32,
    stream_closed_at: Option<Instant>,
    /// Messages given to the live path, by row id.
    offered: BTreeMap<String, Instant>,
    /// Something may wait for a hook: nobody has looked since the last arrival.
    may_wait: bool,
    may_wait_now: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            status: PeerStatus::Idle,
            source: StatusSource::Jsonl,
            since: Instant::now(),
            held_from: None,
            held: Some(BTreeSet::new()),
            is_releasing: false,
            streams: 0,
            stream_closed_at: None,
            offered: BTreeMap::new(),
            may_wait: true,
            may_wait_now: true,
        }
    }
}

/// What becomes of a message that has just come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// It is put before the agent now.
    Push,
    /// It is told as stored, and not put before the agent.
    Quiet,
    /// It waits for the gate.
    Held,
    /// The session wants to hear of it only when it asks.
    Off,
}

/// Which messages a report lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opening {
    /// None.
    Closed,
    /// `now`.
    Urgent,
    /// `now` and `next`.
    All,
}

/// A report of a hook, or of the session itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Stated status.
    pub status: Option<PeerStatus>,
    /// What happened.
    pub event: Option<HookEvent>,
    /// Who gave the prompt.
    pub origin: Option<PromptOrigin>,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The status is another one now.
    pub status: Option<PeerStatus>,
    /// The status that was reported, changed or not; the broker is told again, so that it stays fresh there.
    pub reported: Option<PeerStatus>,
    /// What it lets through.
    pub opening: Opening,
}

impl Activity {
    /// What it is doing.
    pub fn status(&self) -> PeerStatus {
        self.state.lock().status
    }

    /// The status and who said so; `None` when nobody ever did.
    pub fn reported(&self) -> Option<(PeerStatus, StatusSource)> {
        let state = self.state.lock();
        (state.source != StatusSource::Jsonl).then_some((state.status, state.source))
    }

    /// Takes up the status of an earlier run.
    pub(super) fn restore(&self, status: PeerStatus) {
        let mut state = self.state.lock();
        state.status = status;
        state.source = StatusSource::Hook;
    }

    /// A message with so many hops was put before the agent: what it sends from now on counts as an answer.
    pub fn was_shown(&self, hops: u32) {
        self.next_hops.fetch_max(hops.saturating_add(1), Ordering::Relaxed);
    }

    /// Hops of what it sends now.
    pub fn next_hops(&self) -> u32 {
        self.next_hops.load(Ordering::Relaxed)
    }

    /// Takes a hook's report. A `dnd` is never left or overridden by one; only a prompt that a person typed ends a chain
    /// of automatic answers.
    pub fn hook(&self, report: Report) -> Change {
        if report.event == Some(HookEvent::Prompt) && report.origin == Some(PromptOrigin::Human) {
            self.next_hops.store(0, Ordering::Relaxed);
        }
        let implied = match report.event {
            Some(HookEvent::Prompt) => Some(PeerStatus::Working),
            Some(HookEvent::Stop | HookEvent::Start) => Some(PeerStatus::Idle),
            _ => None,
        };
        let mut state = self.state.lock();
        let was = state.status;
        let reported = report.status.or(implied).filter(|_| was != PeerStatus::Dnd);
        if let Some(status) = reported {
            state.set(status, StatusSource::Hook);
        }
        let at_boundary = match report.event {
            Some(HookEvent::Prompt | HookEvent::Stop | HookEvent::Start) => Opening::All,
            Some(HookEvent::Tool) => Opening::Urgent,
            _ if report.status == Some(PeerStatus::Idle) => Opening::All,
            _ => Opening::Closed,
        };
        let limit = if state.status == PeerStatus::Dnd { Opening::Urgent } else { Opening::All };
        Change {
            status: (state.status != was).then_some(state.status),
            reported,
            opening: at_boundary.min(limit),
        }
    }

    /// The person or the agent says so itself; this alone enters and leaves `dnd`.
    pub fn set_by_hand(&self, status: PeerStatus) -> Change {
        let mut state = self.state.lock();
        let was = state.status;
        state.set(status, StatusSource::Manual);
        let opening = if status == PeerStatus::Idle { Opening::All } else { Opening::Closed };
        Change { status: (status != was).then_some(status), reported: Some(status), opening }
    }

    /// Ends a `working` that was set by hand long ago; true when that opened the gate.
    pub fn expire(&self) -> bool {
        let mut state = self.state.lock();
        let is_over = state.status == PeerStatus::Working
            && state.source == StatusSource::Manual
            && state.since.elapsed() >= MANUAL_WORKING_TTL;
        if is_over {
            state.set(PeerStatus::Idle, StatusSource::Jsonl);
        }
        is_over
    }

    /// Decides about a message that has just been stored as row `seq`.
    pub(crate) fn admit(&self, mode: MessageMode, priority: Priority, seq: i64) -> Lane {
        match mode {
            MessageMode::Off => return Lane::Off,
            MessageMode::Inbox => return Lane::Quiet,
            MessageMode::Push => {}
        }
        let mut state = self.state.lock();
        match priority {
            Priority::Low => Lane::Quiet,
            Priority::Now => {
                state.may_wait_now = true;
                state.may_wait = true;
                Lane::Push
            }
            Priority::Next => {
                state.may_wait = true;
                if state.status == PeerStatus::Idle && !state.is_releasing {
                    return Lane::Push;
                }
                state.held_from = Some(state.held_from.map_or(seq, |first| first.min(seq)));
                state.held = state.held.take().filter(|held| held.len() < HELD_MAX);
                if let Some(held) = &mut state.held {
                    held.insert(seq);
                }
                Lane::Held
            }
        }
    }

    /// True when a message of this priority would wait now.
    pub(crate) fn holds(&self, priority: Priority) -> bool {
        priority == Priority::Next && self.state.lock().status != PeerStatus::Idle
    }

    /// True when row `seq` waits for the gate.
    pub(crate) fn is_waiting(&self, seq: i64) -> bool {
        let state = self.state.lock();
        match &state.held {
            Some(held) => held.contains(&seq),
            None => state.held_from.is_some_and(|first| first <= seq),
        }
    }

    /// Row `seq` is read for the gate that has opened: true, once, when it waited.
    pub(crate) fn was_held(&self, seq: i64) -> bool {
        self.state.lock().held.as_mut().is_none_or(|held| held.remove(&seq))
    }

    /// The first row that waits; from here until [`Activity::end_release`] later ones wait behind it. `None` when nothing
    /// waits, or somebody else is at it.
    pub(crate) fn begin_release(&self) -> Option<i64> {
        let mut state = self.state.lock();
        if state.is_releasing {
            return None;
        }
        let from = state.held_from.take()?;
        state.is_releasing = true;
        Some(from)
    }

    /// What was found has been told. Answers the first row that came meanwhile and may be told as well.
    pub(crate) fn next_release(&self) -> Option<i64> {
        let mut state = self.state.lock();
        if state.status != PeerStatus::Idle {
            state.is_releasing = false;
            return None;
        }
        let next = state.held_from.take();
        state.is_releasing = next.is_some();
        if next.is_none() {
            // What is left was seen or answered meanwhile.
            state.held = Some(BTreeSet::new());
        }
        next
    }

    /// The rows could not be read: they wait for the next opening.
    pub(crate) fn end_release(&self, unread_from: i64) {
        let mut state = self.state.lock();
        state.is_releasing = false;
        state.held_from = Some(state.held_from.map_or(unread_from, |first| first.min(unread_from)));
    }

    /// Whether anything can wait for a hook that opens the gate this far; false saves the look into the inbox.
    pub(crate) fn may_wait(&self, opening: Opening) -> bool {
        let state = self.state.lock();
        match opening {
            Opening::Closed => false,
            Opening::Urgent => state.may_wait_now,
            Opening::All => state.may_wait,
        }
    }

    /// Somebody looks now; arrivals from here on are news. Set back by [`Activity::look_again`].
    pub(crate) fn looking(&self, opening: Opening) {
        let mut state = self.state.lock();
        state.may_wait_now = false;
        state.may_wait &= opening != Opening::All;
    }

    /// Something was found: it may still wait at the next look.
    pub(crate) fn look_again(&self) {
        let mut state = self.state.lock();
        state.may_wait_now = true;
        state.may_wait = true;
    }

    /// An event stream of the session is open until the answer is dropped.
    pub(crate) fn open_stream(self: &Arc<Self>) -> LivePath {
        self.state.lock().streams += 1;
        LivePath { activity: Arc::clone(self) }
    }

    /// True while the agent's own server listens.
    pub(crate) fn has_live_path(&self) -> bool {
        self.state.lock().streams > 0
    }

    /// A message was given to the event stream.
    pub(crate) fn was_offered(&self, id: &str) {
        let mut state = self.state.lock();
        if state.offered.len() >= OFFERED_MAX {
            // Ids grow: the first is the oldest.
            state.offered.pop_first();
        }
        state.offered.insert(id.to_owned(), Instant::now());
    }

    /// True while the live path, open or about to come back, has a message and may still show it.
    pub(crate) fn is_under_way(&self, id: &str) -> bool {
        let state = self.state.lock();
        let is_reachable = state.streams > 0
            || state.stream_closed_at.is_some_and(|at| at.elapsed() < LIVE_PATH_GRACE);
        is_reachable && state.offered.get(id).is_some_and(|at| at.elapsed() < LIVE_PATH_GRACE)
    }
}

impl State {
    fn set(&mut self, status: PeerStatus, source: StatusSource) {
        self.status = status;
        self.source = source;
        self.since = Instant::now();
    }
}

/// An event stream of a session; dropping it ends it.
pub(crate) struct LivePath {
    activity: Arc<Activity>,
}

impl Drop for LivePath {
    fn drop(&mut self) {
        let mut state = self.activity.state.lock();
        state.streams = state.streams.saturating_sub(1);
        state.stream_closed_at = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row that moved to the member keeps its number; what was told since is not told again with it.
    #[tokio::test]
    async fn an_old_number_that_waits_brings_nothing_back() {
        let activity = Activity::default();
        assert_eq!(admit(&activity, Priority::Next, 7), Lane::Push);
        activity.hook(event(HookEvent::Prompt));
        assert_eq!(admit(&activity, Priority::Next, 3), Lane::Held);
        assert!(activity.is_waiting(3) && !activity.is_waiting(7));
        activity.hook(event(HookEvent::Stop));
        assert_eq!(activity.begin_release(), Some(3));
        let told: Vec<i64> = (3..9).filter(|seq| activity.was_held(*seq)).collect();
        assert_eq!(told, [3]);
        assert!(!activity.was_held(3), "once");
        assert_eq!(activity.next_release(), None);
    }

    fn event(event: HookEvent) -> Report {
        Report { event: Some(event), ..Report::default() }
    }

    fn admit(activity: &Activity, priority: Priority, seq: i64) -> Lane {
        activity.admit(MessageMode::Push, priority, seq)
    }

    #[tokio::test]
    async fn next_waits_for_a_working_session_and_now_does_not() {
        let activity = Activity::default();
        assert_eq!(admit(&activity, Priority::Next, 1), Lane::Push);
        let prompt = activity.hook(event(HookEvent::Prompt));
        assert_eq!(
            prompt,
            Change {
                status: Some(PeerStatus::Working),
                reported: Some(PeerStatus::Working),
                opening: Opening::All
            }
        );
        assert_eq!(admit(&activity, Priority::Now, 2), Lane::Push);
        assert_eq!(admit(&activity, Priority::Low, 3), Lane::Quiet);
        assert_eq!(admit(&activity, Priority::Next, 4), Lane::Held);
        assert_eq!(admit(&activity, Priority::Next, 5), Lane::Held);
        let tool = activity.hook(event(HookEvent::Tool));
        assert_eq!((tool.status, tool.opening), (None, Opening::Urgent));
        assert_eq!(activity.hook(event(HookEvent::Edit)).opening, Opening::Closed);
        let stop = activity.hook(event(HookEvent::Stop));
        assert_eq!((stop.status, stop.opening), (Some(PeerStatus::Idle), Opening::All));
        assert_eq!(activity.begin_release(), Some(4));
        assert_eq!(activity.begin_release(), None, "somebody is at it");
        assert_eq!(admit(&activity, Priority::Next, 6), Lane::Held, "behind the others");
        assert_eq!(activity.next_release(), Some(6));
        assert_eq!(activity.next_release(), None);
        assert_eq!(admit(&activity, Priority::Next, 7), Lane::Push);
    }

    /// Daemon §8.7: a manual `dnd` is never overridden by a hook.
    #[tokio::test]
    async fn only_the_person_leaves_dnd() {
        let activity = Activity::default();
        activity.set_by_hand(PeerStatus::Dnd);
        assert_eq!(admit(&activity, Priority::Next, 1), Lane::Held);
        for report in [
            event(HookEvent::Stop),
            event(HookEvent::Prompt),
            Report { status: Some(PeerStatus::Idle), ..Report::default() },
        ] {
            assert_eq!(
                activity.hook(report),
                Change { status: None, reported: None, opening: Opening::Urgent },
                "{report:?}"
            );
        }
        let change = activity.set_by_hand(PeerStatus::Idle);
        assert_eq!((change.status, change.opening), (Some(PeerStatus::Idle), Opening::All));
        assert_eq!(activity.begin_release(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_manual_working_ends_by_itself_and_a_reported_one_does_not() {
        let (manual, reported) = (Activity::default(), Activity::default());
        manual.set_by_hand(PeerStatus::Working);
        reported.hook(event(HookEvent::Prompt));
        assert!(!manual.expire());
        tokio::time::advance(MANUAL_WORKING_TTL).await;
        assert!(manual.expire() && !reported.expire());
        assert_eq!((manual.status(), reported.status()), (PeerStatus::Idle, PeerStatus::Working));
    }

    /// Daemon §10.6: only a prompt of human origin clears the hops; in doubt it is not human.
    #[tokio::test]
    async fn hops_grow_until_a_person_speaks() {
        let activity = Activity::default();
        assert_eq!(activity.next_hops(), 0);
        activity.was_shown(4);
        activity.was_shown(2);
        assert_eq!(activity.next_hops(), 5);
        for origin in [None, Some(PromptOrigin::Push), Some(PromptOrigin::Other)] {
            activity.hook(Report { origin, ..event(HookEvent::Prompt) });
            assert_eq!(activity.next_hops(), 5, "{origin:?}");
        }
        let human = Some(PromptOrigin::Human);
        activity.hook(Report { origin: human, ..event(HookEvent::Stop) });
        assert_eq!(activity.next_hops(), 5, "only a prompt");
        activity.hook(Report { origin: human, ..event(HookEvent::Prompt) });
        assert_eq!(activity.next_hops(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_path_that_shows_nothing_is_passed_over_after_a_minute() {
        let activity = Arc::new(Activity::default());
        activity.was_offered("m");
        assert!(!activity.is_under_way("m"), "nobody listens");
        let stream = activity.open_stream();
        assert!(activity.has_live_path() && activity.is_under_way("m"));
        drop(stream);
        assert!(activity.is_under_way("m"), "it may come back");
        tokio::time::advance(LIVE_PATH_GRACE).await;
        let _stream = activity.open_stream();
        assert!(!activity.is_under_way("m"));
    }

    #[test]
    fn modes_come_before_the_gate() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let activity = Activity::default();
        for priority in [Priority::Now, Priority::Next, Priority::Low] {
            assert_eq!(activity.admit(MessageMode::Off, priority, 1), Lane::Off);
            assert_eq!(activity.admit(MessageMode::Inbox, priority, 1), Lane::Quiet);
        }
    }
}

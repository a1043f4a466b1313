//! What a session is doing, and which messages may be put before it now: the local gate (daemon spec §13.2, wire spec
//! §4.4). Outlives a new registration of the same agent session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use claudemesh_ipc::api::MessageMode;
use claudemesh_ipc::api::session::{HookEvent, PromptOrigin, ServedClient};
use claudemesh_protocol::limits::{BELL_RINGS_MAX, BELL_SETTLE};
use claudemesh_protocol::{PeerStatus, Priority, StatusSource, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::heard::Heard;

/// A status `working` that was set by hand holds messages back for this long, as at the broker (wire spec §4.4): no
/// hook will report its end.
const MANUAL_WORKING_TTL: Duration = Duration::from_mins(1);
/// How long a live path has for a message before a hook shows it too: an agent may not read its channel.
const LIVE_PATH_GRACE: Duration = Duration::from_mins(1);
/// A hook hands messages over before the client writes down that somebody typed.
const ALONG_WITH_PROMPT: Duration = Duration::from_secs(2);
/// Numbers of hops remembered; the lowest make room.
const SHOWN_MAX: usize = 64;
/// Messages remembered as given to the live path; the oldest make room.
const OFFERED_MAX: usize = 1_024;

/// What an agent session is doing.
#[derive(Default)]
pub struct Activity {
    state: Mutex<State>,
    /// One more than the most hops among the messages shown to it; 0 when none was (daemon spec §10.6).
    next_hops: AtomicU32,
    /// Numbers of hops of the messages behind that, and when one with so many was shown last.
    shown: Mutex<BTreeMap<u32, Timestamp>>,
    /// What it has counted.
    pub counters: Counters,
    /// What its hooks have told beside that.
    pub(crate) heard: Heard,
    /// Something came in, or the gate moved: for its bell.
    stirred: Notify,
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
    /// The program that its MCP server serves.
    client: Option<ServedClient>,
    /// Whether that listens.
    channel: ChannelState,
    /// Ends the bell that waits, and until when it waits.
    bell: Option<(CancellationToken, Timestamp)>,
    /// How often a bell was rung for a row, by row id.
    rung: BTreeMap<String, u32>,
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
            client: None,
            channel: ChannelState::Unknown,
            bell: None,
            rung: BTreeMap::new(),
        }
    }
}

/// What is known about the channel of the agent's own server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelState {
    /// Nothing: it may be listened to or not.
    Unknown,
    /// Something that was pushed was seen to arrive.
    Listening,
    /// The agent does not listen.
    Refused,
}

/// What a bell does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BellStep {
    /// Nothing, until something happens: the session is at work, or wants no disturbance.
    Rest,
    /// It waits for this moment: the hook of the turn's end comes first.
    Settle(Instant),
    /// It looks whether something waits.
    Look,
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
        let mut shown = self.shown.lock();
        shown.insert(hops, crate::clock::now());
        if shown.len() > SHOWN_MAX {
            shown.pop_first();
        }
        self.next_hops.fetch_max(hops.saturating_add(1), Ordering::Relaxed);
    }

    /// A person typed a prompt at that time, as the agent's own record says: what was put before the agent until then is no
    /// chain of automatic answers any more (daemon spec §10.6). What came along with the prompt still is.
    pub(crate) fn human_spoke(&self, at: Timestamp) {
        let until = at.minus(ALONG_WITH_PROMPT);
        let mut shown = self.shown.lock();
        shown.retain(|_, last| *last >= until);
        let next = shown.last_key_value().map_or(0, |(hops, _)| hops.saturating_add(1));
        self.next_hops.store(next, Ordering::Relaxed);
    }

    /// Hops of what it sends now.
    pub fn next_hops(&self) -> u32 {
        self.next_hops.load(Ordering::Relaxed)
    }

    /// Takes a hook's report. A `dnd` is never left or overridden by one; only a prompt that a person typed ends a chain
    /// of automatic answers.
    pub fn hook(&self, report: Report) -> Change {
        if report.event == Some(HookEvent::Prompt) && report.origin == Some(PromptOrigin::Human) {
            let mut shown = self.shown.lock();
            shown.clear();
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
        self.stir();
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
        self.stir();
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
            self.stir();
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
                self.stir();
                Lane::Push
            }
            Priority::Next => {
                state.may_wait = true;
                self.stir();
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

    /// True while the agent's own server listens, for an agent that does not refuse what it says.
    pub(crate) fn has_live_path(&self) -> bool {
        let state = self.state.lock();
        state.streams > 0 && state.channel != ChannelState::Refused
    }

    /// The agent's own server says whom it serves.
    pub(crate) fn serves(&self, client: ServedClient) {
        let mut state = self.state.lock();
        // Another program, or the same one started otherwise.
        if state.client.as_ref() != Some(&client) {
            let is_deaf = client.channel == Some(false);
            state.channel = if is_deaf { ChannelState::Refused } else { ChannelState::Unknown };
        }
        state.client = Some(client);
        drop(state);
        self.stir();
    }

    /// What is known about the channel.
    pub(crate) fn channel(&self) -> ChannelState {
        self.state.lock().channel
    }

    /// Something that was pushed was seen to arrive.
    pub(crate) fn channel_was_heard(&self) {
        let mut state = self.state.lock();
        if state.channel == ChannelState::Unknown {
            state.channel = ChannelState::Listening;
        }
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
        self.under_way_until(id).is_some()
    }

    /// Until when that is so.
    pub(crate) fn under_way_until(&self, id: &str) -> Option<Instant> {
        let state = self.state.lock();
        let is_reachable = state.streams > 0
            || state.stream_closed_at.is_some_and(|at| at.elapsed() < LIVE_PATH_GRACE);
        let until = *state.offered.get(id)? + LIVE_PATH_GRACE;
        let is_heard = state.channel != ChannelState::Refused;
        (is_reachable && is_heard && until > Instant::now()).then_some(until)
    }

    /// A bell waits for the session until `until` or until the answer is dropped; one that waited before it is ended.
    pub(crate) fn arm_bell(self: &Arc<Self>, until: Timestamp) -> ArmedBell {
        let replaced = CancellationToken::new();
        let mut state = self.state.lock();
        if let Some((former, _)) = state.bell.replace((replaced.clone(), until)) {
            // Before the lock is free: the former takes nobody away but itself.
            former.cancel();
        }
        drop(state);
        ArmedBell { activity: Arc::clone(self), replaced }
    }

    /// Until when a bell waits; `None` when there is none.
    pub fn bell_armed_until(&self) -> Option<Timestamp> {
        self.state.lock().bell.as_ref().map(|(_, until)| *until)
    }

    /// Something may wait now that did not before.
    pub(crate) fn stir(&self) {
        self.stirred.notify_waiters();
    }

    /// What a bell does now.
    pub(crate) fn bell_step(&self) -> BellStep {
        let state = self.state.lock();
        if state.status != PeerStatus::Idle {
            return BellStep::Rest;
        }
        let settled = state.since + BELL_SETTLE;
        let has_just_stopped = state.source == StatusSource::Hook && settled > Instant::now();
        if has_just_stopped { BellStep::Settle(settled) } else { BellStep::Look }
    }

    /// True when a bell may ring for one of these rows, which are then counted: a row that nobody takes although the agent was
    /// woken for it must not wake it forever.
    pub(crate) fn rings_for<'a>(&self, ids: impl Iterator<Item = &'a str>) -> bool {
        let mut state = self.state.lock();
        let mut may_ring = false;
        for id in ids {
            let rung = state.rung.entry(id.to_owned()).or_default();
            may_ring |= *rung < BELL_RINGS_MAX;
            *rung = rung.saturating_add(1);
        }
        while state.rung.len() > OFFERED_MAX {
            // Ids grow: the first is the oldest.
            state.rung.pop_first();
        }
        may_ring
    }
}

/// A bell that waits; dropping it takes it away.
pub(crate) struct ArmedBell {
    activity: Arc<Activity>,
    replaced: CancellationToken,
}

impl ArmedBell {
    /// Cancelled when a younger bell of the session waits in its place.
    pub(crate) const fn replaced(&self) -> &CancellationToken {
        &self.replaced
    }

    /// The next arrival or movement of the gate. What happens from here on is not missed, also before it is awaited.
    pub(crate) fn stirred(&self) -> tokio::sync::futures::Notified<'_> {
        self.activity.stirred.notified()
    }
}

impl Drop for ArmedBell {
    fn drop(&mut self) {
        let mut state = self.activity.state.lock();
        // A younger one has cancelled this one, and stays.
        if !self.replaced.is_cancelled() {
            state.bell = None;
        }
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
mod tests;

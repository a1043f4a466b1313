//! How much a model is told, and how often: budget, joined-up presence lines, memory of what was said (MCP spec §4.4, §4.9).
//!
//! Pure: the caller brings the time.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use claudemesh_protocol::limits::{
    CHANNEL_EVENTS_PER_MINUTE, CHANNEL_NAMES_MAX, CHANNEL_PRESENCE_WINDOW,
};
use tokio::time::Instant;

use crate::channel::Notification;
use crate::{clock, untrusted};

const MINUTE: Duration = Duration::from_mins(1);

/// The allowance of notifications that are not messages.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    sent: VecDeque<Instant>,
    suppressed: usize,
}

impl Budget {
    /// True when one more may go out now; a refused one is counted.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        while self.sent.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            self.sent.pop_front();
        }
        // The last place is kept for the line that counts what was suppressed.
        if self.suppressed > 0 || self.sent.len() + 1 >= CHANNEL_EVENTS_PER_MINUTE {
            self.suppressed += 1;
            return false;
        }
        self.sent.push_back(now);
        true
    }

    /// When the line about suppressed events is due, if there are any.
    pub(crate) fn report_at(&self) -> Option<Instant> {
        let oldest = self.sent.front().filter(|_| self.suppressed > 0)?;
        Some(*oldest + MINUTE)
    }

    /// The line about suppressed events, once.
    pub(crate) fn report(&mut self, now: Instant) -> Option<Notification> {
        let count = std::mem::take(&mut self.suppressed);
        if count == 0 {
            return None;
        }
        self.sent.push_back(now);
        let noun = if count == 1 { "event" } else { "events" };
        let text = format!("[system] {count} {noun} suppressed in the last minute");
        Some(Notification::system("events_suppressed", &text).with("count", &count.to_string()))
    }
}

/// Which way a peer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// Came for the first time.
    Joined,
    /// Came back.
    Returned,
    /// Went.
    Left,
}

impl Move {
    fn event(self) -> &'static str {
        match self {
            Self::Joined => "peer_joined",
            Self::Returned => "peer_returned",
            Self::Left => "peer_left",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Returned => "returned to",
            Self::Left => "left",
        }
    }

    fn is_arrival(self) -> bool {
        self != Self::Left
    }
}

/// One join or leave, as the daemon told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerMove {
    /// Which way.
    pub went: Move,
    /// The mesh's slug.
    pub mesh: String,
    /// The peer's name as it may be shown.
    pub name: String,
    /// Its routing key, hex.
    pub key: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// When it was last here, RFC 3339, for a return.
    pub last_seen_at: Option<String>,
    /// What it was doing, for a return.
    pub summary: Option<String>,
}

impl PeerMove {
    fn line(&self) -> Notification {
        let groups: Vec<String> =
            self.groups.iter().map(|group| untrusted::speaker(group)).collect();
        let listed =
            if groups.is_empty() { String::new() } else { format!(" [{}]", groups.join(", ")) };
        let short_key: String = self.key.chars().take(8).collect();
        let mut text = format!(
            "[system] Peer \"{}\" ({short_key}){listed} {} the mesh",
            self.name,
            self.went.words()
        );
        if self.went == Move::Returned {
            if let Some(at) = &self.last_seen_at {
                text.push_str(" — last seen ");
                text.push_str(&clock::hour_and_minute(at));
            }
            if let Some(summary) = &self.summary {
                text.push_str(" · \"");
                text.push_str(&untrusted::summary(summary));
                text.push('"');
            }
        }
        let summary = self.summary.as_deref().map(untrusted::summary);
        Notification::system(self.went.event(), &text)
            .with("mesh_slug", &self.mesh)
            .with("peer_name", &self.name)
            .with("peer_pubkey", &self.key)
            .with_list("peer_groups", &groups)
            .with_some("peer_last_seen_at", self.last_seen_at.as_deref())
            .with_some("peer_summary", summary.as_deref())
    }
}

/// Joins and leaves of one window of 2 s.
#[derive(Debug, Default)]
pub(crate) struct PresenceWindow {
    opened_at: Option<Instant>,
    /// Per mesh and key: whether the first move was an arrival, and the last move.
    moves: Vec<(bool, PeerMove)>,
}

impl PresenceWindow {
    /// Remembers a move; the first one opens the window.
    pub(crate) fn add(&mut self, now: Instant, peer_move: PeerMove) {
        self.opened_at.get_or_insert(now);
        let known =
            self.moves.iter_mut().find(|(_, m)| m.key == peer_move.key && m.mesh == peer_move.mesh);
        match known {
            Some((_, last)) => *last = peer_move,
            None => self.moves.push((peer_move.went.is_arrival(), peer_move)),
        }
    }

    /// When the window closes, if one is open.
    pub(crate) fn closes_at(&self) -> Option<Instant> {
        self.opened_at.map(|at| at + CHANNEL_PRESENCE_WINDOW)
    }

    /// Closes the window: one notification for all that did not cancel out.
    pub(crate) fn close(&mut self) -> Option<Notification> {
        self.opened_at = None;
        let moves: Vec<PeerMove> = std::mem::take(&mut self.moves)
            .into_iter()
            .filter(|(began_with_arrival, last)| *began_with_arrival == last.went.is_arrival())
            .map(|(_, last)| last)
            .collect();
        match moves.as_slice() {
            [] => None,
            [one] => Some(one.line()),
            many => Some(several(many)),
        }
    }
}

fn several(moves: &[PeerMove]) -> Notification {
    let (came, went): (Vec<&PeerMove>, Vec<&PeerMove>) =
        moves.iter().partition(|m| m.went.is_arrival());
    let part = |who: &[&PeerMove], verb: &str| {
        let names: Vec<String> = who.iter().map(|m| format!("\"{}\"", m.name)).collect();
        format!("{} {verb} the mesh", names_and_more(&names))
    };
    let (event, text) = match (came.is_empty(), went.is_empty()) {
        (false, true) => ("peer_joined", part(&came, "joined")),
        (true, _) => ("peer_left", part(&went, "left")),
        (false, false) => {
            ("peers_changed", format!("{}; {}", part(&came, "joined"), part(&went, "left")))
        }
    };
    let names: Vec<String> = moves.iter().take(CHANNEL_NAMES_MAX).map(|m| m.name.clone()).collect();
    let mesh =
        moves.first().map(|m| m.mesh.as_str()).filter(|mesh| moves.iter().all(|m| m.mesh == *mesh));
    Notification::system(event, &format!("[system] {text}"))
        .with_some("mesh_slug", mesh)
        .with_list("peer_names", &names)
        .with("count", &moves.len().to_string())
}

/// At most five names, and how many more there are.
pub(crate) fn names_and_more(names: &[String]) -> String {
    let listed = names.iter().take(CHANNEL_NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(CHANNEL_NAMES_MAX) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

/// The last `capacity` things seen.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    capacity: usize,
    order: VecDeque<T>,
    known: HashSet<T>,
}

impl<T: Clone + Eq + Hash> Recent<T> {
    /// Remembers up to `capacity` things; the oldest is forgotten first.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), known: HashSet::new() }
    }

    /// Remembers `thing`; false when it was known already.
    pub(crate) fn insert(&mut self, thing: T) -> bool {
        if !self.known.insert(thing.clone()) {
            return false;
        }
        self.order.push_back(thing);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// True when `thing` is remembered.
    pub(crate) fn contains(&self, thing: &T) -> bool {
        self.known.contains(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(went: Move, name: &str) -> PeerMove {
        PeerMove {
            went,
            mesh: "dev".into(),
            name: name.into(),
            key: format!("{name:0<64}"),
            groups: Vec::new(),
            last_seen_at: None,
            summary: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn thirty_events_a_minute_and_one_line_about_the_rest() {
        let mut budget = Budget::default();
        let start = Instant::now();
        let allowed = (0..50).filter(|_| budget.take(start)).count();
        assert_eq!(allowed, CHANNEL_EVENTS_PER_MINUTE - 1);
        assert_eq!(budget.report_at(), Some(start + MINUTE));
        let text = budget.report(start + MINUTE).unwrap().content();
        assert_eq!(text, "[system] 21 events suppressed in the last minute");
        assert!(budget.report(start + MINUTE).is_none());
        assert!(budget.take(start + MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn moves_of_one_window_make_one_line() {
        let mut window = PresenceWindow::default();
        let now = Instant::now();
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            window.add(now, moved(Move::Joined, name));
        }
        window.add(now, moved(Move::Left, "a"));
        window.add(now, moved(Move::Left, "z"));
        assert_eq!(window.closes_at(), Some(now + CHANNEL_PRESENCE_WINDOW));
        let text = window.close().unwrap().content();
        assert_eq!(
            text,
            "[system] \"b\", \"c\", \"d\", \"e\", \"f\" and 1 more joined the mesh; \"z\" left the mesh"
        );
        assert!(window.closes_at().is_none() && window.close().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flap_within_a_window_says_nothing() {
        let mut window = PresenceWindow::default();
        for went in [Move::Left, Move::Returned, Move::Left, Move::Returned] {
            window.add(Instant::now(), moved(went, "flap"));
        }
        assert!(window.close().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_return_names_time_and_summary() {
        let mut peer = moved(Move::Returned, "mou");
        peer.groups = vec!["frontend".into()];
        peer.last_seen_at = Some("2026-01-01T09:30:00.000Z".into());
        peer.summary = Some("fixing\nthe build".into());
        let mut window = PresenceWindow::default();
        window.add(Instant::now(), peer);
        let seen = clock::hour_and_minute("2026-01-01T09:30:00.000Z");
        let line = "[system] Peer \"mou\" (mou00000) [frontend] returned to the mesh";
        let expected = format!("{line} — last seen {seen} · \"fixing the build\"");
        assert_eq!(window.close().unwrap().content(), expected);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut recent = Recent::new(2);
        assert!(recent.insert(1) && recent.insert(2) && !recent.insert(1));
        assert!(recent.insert(3));
        assert!(recent.insert(1) && !recent.insert(3));
        assert!(recent.contains(&1) && !recent.contains(&9));
    }
}

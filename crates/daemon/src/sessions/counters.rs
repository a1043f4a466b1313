//! What a session has counted since it began: told to the broker as `set_stats` (wire spec §3.2, MCP spec §6).

use std::sync::atomic::{AtomicU64, Ordering};

use claudemesh_protocol::wire::Stats;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Counters of one agent session. They only rise, and go on over a new registration and over a restart of the daemon.
#[derive(Default)]
pub struct Counters {
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    tool_calls: AtomicU64,
    errors: AtomicU64,
    /// What was told last, once the broker has had the chance to say what it kept from earlier.
    told: Mutex<Option<Counts>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Messages that came in for the session, each once.
    #[serde(default)]
    pub messages_in: u64,
    /// Messages of the session that the broker took.
    #[serde(default)]
    pub messages_out: u64,
    /// Calls of its MCP server's tools.
    #[serde(default)]
    pub tool_calls: u64,
    /// Those among them that failed.
    #[serde(default)]
    pub errors: u64,
}

impl Counts {
    /// True when nothing has been counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn of(stats: Stats) -> Self {
        Self {
            messages_in: stats.messages_in.unwrap_or(0),
            messages_out: stats.messages_out.unwrap_or(0),
            tool_calls: stats.tool_calls.unwrap_or(0),
            errors: stats.errors.unwrap_or(0),
        }
    }

    /// As the broker is told, after `uptime` seconds.
    pub fn to_stats(self, uptime: u64) -> Stats {
        Stats {
            messages_in: Some(self.messages_in),
            messages_out: Some(self.messages_out),
            tool_calls: Some(self.tool_calls),
            uptime: Some(uptime),
            errors: Some(self.errors),
        }
    }
}

impl Counters {
    /// A message came in.
    pub fn message_in(&self) {
        self.messages_in.fetch_add(1, Ordering::Relaxed);
    }

    /// The broker took a message.
    pub fn message_out(&self) {
        self.messages_out.fetch_add(1, Ordering::Relaxed);
    }

    /// The session's MCP server reports what it counted since its last report.
    pub fn tools(&self, calls: u64, errors: u64) {
        self.tool_calls.fetch_add(calls, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
    }

    /// Where they stand.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            messages_in: read(&self.messages_in),
            messages_out: read(&self.messages_out),
            tool_calls: read(&self.tool_calls),
            errors: read(&self.errors),
        }
    }

    /// Takes up the counters of an earlier run of the daemon.
    pub(super) fn restore(&self, counts: Counts) {
        self.add(counts);
        *self.told.lock() = Some(counts);
    }

    /// A connection has opened and the broker says what it kept of the session's earlier life, if anything. That is the
    /// beginning of counters that nobody has told it of; others contain it already.
    pub(crate) fn opened(&self, kept: Option<Stats>) {
        let mut told = self.told.lock();
        if told.is_none() {
            let kept = kept.map(Counts::of).unwrap_or_default();
            self.add(kept);
            *told = Some(kept);
        }
    }

    /// What there is to tell now, and whether it differs from what was told before; `None` before a first connection.
    pub(crate) fn tell(&self) -> Option<(Counts, bool)> {
        let mut told = self.told.lock();
        let before = (*told)?;
        let counts = self.counts();
        *told = Some(counts);
        Some((counts, counts != before))
    }

    fn add(&self, counts: Counts) {
        self.messages_in.fetch_add(counts.messages_in, Ordering::Relaxed);
        self.messages_out.fetch_add(counts.messages_out, Ordering::Relaxed);
        self.tools(counts.tool_calls, counts.errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VIS-2, the session's side: what the broker kept is counted on, once.
    #[test]
    fn counting_goes_on_where_the_broker_stopped() {
        let counters = Counters::default();
        counters.message_in();
        assert_eq!(counters.tell(), None);
        let kept = Stats { messages_in: Some(5), errors: Some(1), ..Stats::default() };
        counters.opened(Some(kept));
        counters.opened(Some(kept));
        let counts = Counts { messages_in: 6, errors: 1, ..Counts::default() };
        assert_eq!(counters.tell(), Some((counts, true)));
        assert_eq!(counters.tell(), Some((counts, false)));
        counters.tools(2, 1);
        let later = Counts { tool_calls: 2, errors: 2, ..counts };
        assert_eq!(counters.tell(), Some((later, true)));
        let next_run = Counters::default();
        next_run.restore(later);
        next_run.opened(Some(kept));
        assert_eq!(next_run.tell(), Some((later, false)));
    }
}

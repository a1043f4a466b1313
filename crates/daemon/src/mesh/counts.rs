//! The counters of a session on their way to the broker: every minute, when a connection opens, and before it is closed
//! for good (wire spec §3.2, MCP spec §6).

use std::sync::Arc;

use claudemesh_client::Connection;
use claudemesh_protocol::wire::{ClientFrame, SetStats, Stats};
use claudemesh_protocol::{PublicKey, Timestamp};
use futures_util::FutureExt as _;

use super::Mesh;
use crate::clock;
use crate::sessions::{Activity, Counts, Session};

/// Whose counters a connection tells.
#[derive(Clone)]
pub(super) struct Counted {
    activity: Arc<Activity>,
    /// When the session was registered.
    since: Timestamp,
}

impl Counted {
    pub(super) fn of(session: &Session) -> Self {
        Self { activity: Arc::clone(&session.activity), since: session.registered_at }
    }

    fn frame(&self, counts: Counts) -> ClientFrame {
        let stats = counts.to_stats(clock::now().since(self.since).as_secs());
        ClientFrame::SetStats(Box::new(SetStats { stats }))
    }
}

impl Mesh {
    /// The connection of a session has opened; `kept` is what the broker kept of the session's earlier life.
    pub(super) async fn counted_on(
        &self,
        counted: &Counted,
        connection: &Connection,
        kept: Option<Stats>,
    ) {
        counted.activity.counters.opened(kept);
        // A session that has counted nothing says so with its first report.
        if !counted.activity.counters.counts().is_zero() {
            self.tell_counts(counted, connection).await;
        }
    }

    /// The broker has a message of this session; `None` is the member itself, who has no counters.
    pub(super) fn count_out(&self, session: Option<PublicKey>) {
        let session = session.and_then(|key| self.context.sessions.by_key(&self.slug, &key));
        if let Some(session) = session {
            session.activity.counters.message_out();
        }
    }

    /// Tells the broker where the counters stand. What is lost with the socket comes with the next report.
    pub(super) async fn tell_counts(&self, counted: &Counted, connection: &Connection) {
        if !connection.is_open() {
            return;
        }
        let Some((counts, is_news)) = counted.activity.counters.tell() else { return };
        if is_news {
            self.context.sessions.counters_told();
        }
        if let Err(error) = connection.send(&counted.frame(counts)).await {
            tracing::debug!(mesh = %self.slug, %error, "stats_not_sent");
        }
    }
}

/// The last report of a session whose connection is about to be closed for good: what is in its queue is still written.
pub(super) fn tell_last(counted: &Counted, connection: &Connection) {
    if let Some((counts, true)) = counted.activity.counters.tell() {
        // A full queue or a broken socket: a minute of counting is lost.
        let _ = connection.send(&counted.frame(counts)).now_or_never();
    }
}

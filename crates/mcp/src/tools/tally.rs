//! How many tools were called and how many calls failed: the session's `tool_calls` and `errors` (MCP spec §6).

use std::sync::Arc;

use claudemesh_ipc::api::session::Heartbeat;
use claudemesh_ipc::{Client, IpcError};
use claudemesh_protocol::limits::STATS_EVERY;
use parking_lot::Mutex;

use super::outcome::Outcome;
use crate::road::Road;

/// Counts since the last report. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Heartbeat>>);

impl Tally {
    /// A call has ended.
    pub(crate) fn count(&self, outcome: &Outcome) {
        let mut counts = self.0.lock();
        counts.tool_calls += 1;
        counts.errors += u64::from(matches!(outcome, Outcome::Failed(_)));
    }

    /// Reports every [`STATS_EVERY`] while the session is known; ends when it is dropped.
    pub(crate) async fn keep_reporting(self, road: Road) {
        loop {
            tokio::time::sleep(STATS_EVERY).await;
            let standing = road.current_soon().await;
            if let Some(standing) = standing.filter(|standing| standing.session.is_some()) {
                self.report(&standing.client).await;
            }
        }
    }

    /// Tells the daemon what was counted since the last report; `client` speaks for the session. A report that may have
    /// arrived is not repeated: a gap is better than a double.
    pub(crate) async fn report(&self, client: &Client) {
        let sign = std::mem::take(&mut *self.0.lock());
        if sign == Heartbeat::default() {
            return;
        }
        if let Err(error) = client.heartbeat(&sign).await {
            tracing::debug!(%error, "tool calls not reported");
            if matches!(error, IpcError::NotRunning(_) | IpcError::Api(_)) {
                let mut counts = self.0.lock();
                counts.tool_calls += sign.tool_calls;
                counts.errors += sign.errors;
            }
        }
    }
}

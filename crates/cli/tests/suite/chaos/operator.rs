//! The operator at a machine: puts rows that wait back into the queue under another id, and takes the text out of old
//! ones (daemon spec §11.7, §11.8).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use claudemesh_ipc::api::{OutboxPruneRequest, OutboxQuery, RequeueRequest};
use claudemesh_ipc::{Client, IpcError};
use claudemesh_protocol::ErrorCode;
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use super::traffic::{Counters, is_passing};

/// Ends the id of a message that took the place of another one.
pub const AGAIN: &str = ".again";
/// Age of the rows that lose their text, in seconds: longer than anybody repeats itself under a used id.
pub const PRUNE_AFTER_SECS: u64 = 3;
/// Rows the operator chooses from.
const CHOICE: u32 = 20;

/// One person at the keyboard.
pub struct Operator {
    pub client: Client,
    pub random: StdRng,
    pub counters: Arc<Counters>,
    pub faults: Arc<Mutex<Vec<String>>>,
    pub stop: CancellationToken,
}

impl Operator {
    /// Works until it is stopped; answers the ids that were put in the place of others, as far as daemons said so.
    pub async fn work(mut self) -> Vec<String> {
        let mut requeued = Vec::new();
        while !self.stop.is_cancelled() {
            let pause = Duration::from_millis(self.random.random_range(50..500));
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            if self.random.random_bool(0.3) {
                self.prune().await;
            } else {
                requeued.extend(self.requeue().await);
            }
        }
        requeued
    }

    async fn prune(&self) {
        let request = OutboxPruneRequest { confirm: true, older_than: Some(PRUNE_AFTER_SECS) };
        match self.client.outbox_prune(&request).await {
            Ok(pruned) => {
                self.counters.pruned.fetch_add(pruned.compacted, Ordering::Relaxed);
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => self.faults.lock().push(format!("rows cannot be pruned: {error:?}")),
        }
    }

    /// One row that was never tried: nobody can have it yet.
    async fn requeue(&mut self) -> Option<String> {
        let query = OutboxQuery {
            status: Some("pending".to_owned()),
            limit: Some(CHOICE),
            ..OutboxQuery::default()
        };
        let mut rows = self.client.outbox(&query).await.ok()?.items;
        rows.retain(|row| row.attempts == 0 && !row.client_message_id.ends_with(AGAIN));
        if rows.is_empty() {
            return None;
        }
        let row = rows.swap_remove(self.random.random_range(0..rows.len()));
        let id = format!("{}{AGAIN}", row.client_message_id);
        let request = RequeueRequest {
            id: row.id,
            new_client_message_id: Some(id.clone()),
            ..RequeueRequest::default()
        };
        match self.client.outbox_requeue(&request).await {
            Ok(_) => {
                self.counters.requeued.fetch_add(1, Ordering::Relaxed);
                return Some(id);
            }
            Err(error) if is_passing(&error) || has_moved_on(&error) => {}
            Err(error) => self.faults.lock().push(format!("{id} cannot be requeued: {error:?}")),
        }
        None
    }
}

/// The row went on its way in between, or its session ended.
fn has_moved_on(error: &IpcError) -> bool {
    [ErrorCode::RowInflight, ErrorCode::RowFinished, ErrorCode::SenderSessionGone]
        .into_iter()
        .any(|code| error.is(code))
}

//! Read marks: tells the daemon which messages were put before the agent, in batches (MCP spec §4.7).
//!
//! Marks are made only after the line was written, so a message is never marked that nobody was shown. A mark that gets
//! lost costs at most one repetition after a restart.

use claudemesh_ipc::Client;
use claudemesh_ipc::api::inbox::SeenRequest;
use claudemesh_protocol::limits::{
    CHANNEL_SEEN_WINDOW, INBOX_SEEN_IDS_MAX, MCP_DAEMON_READY_BUDGET,
};
use tokio::sync::{mpsc, watch};

/// The way to the agent, as senders are told it.
const PATH: &str = "channel";

/// The giving end.
pub(crate) struct Marks {
    id_tx: mpsc::Sender<String>,
    daemon_tx: watch::Sender<Option<Client>>,
}

impl Marks {
    /// Notes that row `id` was shown. Waits when [`INBOX_SEEN_IDS_MAX`] marks are under way already.
    pub(crate) async fn pushed(&self, id: &str) {
        // The marker ends only with the process.
        let _ = self.id_tx.send(id.to_owned()).await;
    }

    /// Marks go to this daemon, for this session, from now on.
    pub(crate) fn use_client(&self, client: Client) {
        self.daemon_tx.send_replace(Some(client));
    }
}

/// The giving end, and the task that carries marks to the daemon until the giving end is gone.
pub(crate) fn marks() -> (Marks, impl Future<Output = ()>) {
    let (id_tx, id_rx) = mpsc::channel(INBOX_SEEN_IDS_MAX);
    let (daemon_tx, daemon_rx) = watch::channel(None);
    (Marks { id_tx, daemon_tx }, carry(id_rx, daemon_rx))
}

async fn carry(mut id_rx: mpsc::Receiver<String>, daemon_rx: watch::Receiver<Option<Client>>) {
    let mut ids = Vec::new();
    while let Some(id) = id_rx.recv().await {
        ids.push(id);
        // What comes within the window travels along; the end of the giving end cuts it short.
        let _ = tokio::time::timeout(CHANNEL_SEEN_WINDOW, async {
            while ids.len() < INBOX_SEEN_IDS_MAX
                && let Some(id) = id_rx.recv().await
            {
                ids.push(id);
            }
        })
        .await;
        let Some(client) = daemon_rx.borrow().clone() else { continue };
        // A daemon that lost the session learns of it again within this time.
        let client = client.with_patience(MCP_DAEMON_READY_BUDGET);
        let request = SeenRequest {
            ids: std::mem::take(&mut ids),
            pushed: true,
            path: Some(PATH.to_owned()),
        };
        if let Err(error) = client.inbox_seen(&request).await {
            tracing::info!(%error, rows = request.ids.len(), "read marks not stored; they go with the next ones");
            ids = request.ids;
            // Rows the daemon never takes must not pile up.
            ids.drain(..ids.len().saturating_sub(INBOX_SEEN_IDS_MAX / 2));
        }
    }
}

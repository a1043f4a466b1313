//! Questions to the person at the client: `elicitation/create` (MCP spec §6).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use claudemesh_protocol::limits::MCP_ELICITATION_WAIT;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::rpc;
use crate::stdio::Output;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Yes.
    Accepted,
    /// No, or the question was closed.
    Declined,
    /// Nobody answered in time, or the client cannot ask after all.
    Unanswered,
}

/// Questions under way. There are never more than tool calls are running.
#[derive(Clone)]
pub(crate) struct Questions {
    output: Output,
    open: Arc<Mutex<HashMap<String, oneshot::Sender<Option<Value>>>>>,
    next: Arc<AtomicU64>,
}

/// Forgets a question whose asker went away.
struct Forget<'a>(&'a Questions, String);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}

impl Questions {
    /// No question yet.
    pub(crate) fn new(output: Output) -> Self {
        Self { output, open: Arc::default(), next: Arc::default() }
    }

    /// Asks yes or no and waits, at most [`MCP_ELICITATION_WAIT`].
    ///
    /// # Cancel safety
    /// A dropped question is forgotten; its late answer is ignored.
    pub(crate) async fn ask(&self, message: &str) -> Reply {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("claudemesh-{number}");
        let (answer_tx, answer_rx) = oneshot::channel();
        self.open.lock().insert(name.clone(), answer_tx);
        let forget = Forget(self, name);
        let id = Value::from(forget.1.as_str());
        let params = json!({
            "message": message,
            // Nothing to fill in: accepting is the answer.
            "requestedSchema": { "type": "object", "properties": {} },
        });
        if self.output.write(&rpc::request(&id, "elicitation/create", &params)).await.is_err() {
            return Reply::Unanswered;
        }
        match tokio::time::timeout(MCP_ELICITATION_WAIT, answer_rx).await {
            Ok(Ok(Some(result))) if result.get("action") == Some(&json!("accept")) => {
                Reply::Accepted
            }
            Ok(Ok(Some(_))) => Reply::Declined,
            Ok(Ok(None) | Err(_)) => Reply::Unanswered,
            Err(_) => {
                let params = json!({ "requestId": id, "reason": "nobody answered in time" });
                let over = rpc::notification_with("notifications/cancelled", &params);
                // A client that is gone ends the server elsewhere.
                let _ = self.output.write(&over).await;
                Reply::Unanswered
            }
        }
    }

    /// An answer of the client; what answers no question is ignored.
    pub(crate) fn answer(&self, id: &Value, result: Option<Value>) {
        let asked = id.as_str().and_then(|id| self.open.lock().remove(id));
        if let Some(answer_tx) = asked {
            // The asker may be gone.
            let _ = answer_tx.send(result);
        }
    }
}

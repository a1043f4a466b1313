//! How long a message takes: one that a session of ours sends to its own member goes through the broker and comes back
//! to this daemon, which shows it to nobody (MCP spec §7.14).

use std::collections::HashMap;
use std::time::Duration;

use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::status::Priority;
use claudemesh_protocol::wire::{Push, Send};
use claudemesh_protocol::{PublicKey, TargetSpec};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handle::{RequestError, Sender, Via, request_error};
use super::{Mesh, MeshHandle};

/// Pings that have not come back.
#[derive(Default)]
pub(super) struct Pings {
    waiting: Mutex<HashMap<String, oneshot::Sender<Instant>>>,
}

/// How long the two halves of the road took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingTimes {
    /// Until the broker's acknowledgement.
    pub acknowledged: Duration,
    /// Until it was here again; `None` when it was not in time.
    pub came_back: Option<Duration>,
}

impl Pings {
    /// A push that is one of ours coming back; it is to be acknowledged and shown to nobody.
    pub(super) fn came_back(&self, push: &Push) -> bool {
        let Some(id) = &push.client_message_id else { return false };
        let Some(waiting) = self.waiting.lock().remove(id) else { return false };
        // Whoever waited may have given up in this moment.
        let _ = waiting.send(Instant::now());
        true
    }

    fn expect(&self, id: &str) -> oneshot::Receiver<Instant> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id.to_owned(), sender);
        receiver
    }
}

/// Forgets a ping when nobody waits for it any more.
struct Forget<'a>(&'a Mesh, &'a str);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pings.waiting.lock().remove(self.1);
    }
}

impl MeshHandle {
    /// Sends a ping as the session `from`. It waits nowhere: the broker drops what is not delivered within `limit`.
    ///
    /// # Errors
    /// [`RequestError`]; the broker's own code when it refuses.
    pub async fn ping(
        &self,
        from: PublicKey,
        priority: Priority,
        limit: Duration,
    ) -> Result<PingTimes, RequestError> {
        let keys = self.mesh.own_keys(from).map(Sender::Session);
        let (Some(connection), Some(sender)) = (self.connection(Via::Session(from)), keys) else {
            return Err(request_error(&claudemesh_client::RequestError::NotOpen));
        };
        let target = TargetSpec::Key(self.mesh.voice_key());
        let sealed =
            self.seal(&target, "ping", None, 0, &sender).map_err(|error| RequestError {
                code: error.code.as_str().to_owned(),
                message: error.message,
                retry_after_ms: None,
                may_have_run: false,
            })?;
        let id = format!("ping-{}", crate::ids::next());
        let message = Send {
            target_spec: target.to_string(),
            priority: Some(priority.as_str().to_owned()),
            nonce: sealed.nonce.into(),
            ciphertext: sealed.ciphertext.into(),
            id: Some(id.clone()),
            client_message_id: Some(id.clone()),
            expires_at: Some(crate::clock::now().plus(limit).as_millis()),
            ..Send::default()
        };
        let back = self.mesh.pings.expect(&id);
        let _forget = Forget(&self.mesh, &id);
        let began = Instant::now();
        let ack =
            connection.send_message(message, limit).await.map_err(|error| request_error(&error))?;
        let acknowledged = began.elapsed();
        if !ack.queued {
            let text = ack.error.unwrap_or_else(|| "the broker refused it".to_owned());
            let code = ErrorCode::of_ack_error(&text).unwrap_or(ErrorCode::InvalidRequest);
            return Err(RequestError {
                code: code.as_str().to_owned(),
                message: text,
                retry_after_ms: ack.retry_after_ms,
                may_have_run: false,
            });
        }
        let came_back = tokio::time::timeout_at(began + limit, back).await;
        let came_back = came_back.ok().and_then(Result::ok).map(|at| at.duration_since(began));
        Ok(PingTimes { acknowledged, came_back })
    }
}

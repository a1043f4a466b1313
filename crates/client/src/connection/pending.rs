//! Who waits for which answer on one socket. Dropping it fails everybody who still waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use claudemesh_protocol::wire::{Ack, ErrorFrame, ServerFrame};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::RequestError;

type Reply<T> = oneshot::Sender<Result<T, RequestError>>;
type Waiter<T> = oneshot::Receiver<Result<T, RequestError>>;

/// Calls in flight on one socket.
#[derive(Default)]
pub(super) struct Pending {
    next_id: AtomicU64,
    replies: Mutex<HashMap<String, Reply<ServerFrame>>>,
    acks: Mutex<HashMap<String, Reply<Ack>>>,
}

/// Whether an answer found its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Found,
    Nobody,
}

impl Pending {
    /// A fresh `_reqId` and the wait for its reply.
    pub(super) fn expect_reply(&self) -> (String, Waiter<ServerFrame>) {
        let req_id = format!("r{}", self.next_id.fetch_add(1, Ordering::Relaxed));
        let (reply_tx, reply_rx) = oneshot::channel();
        self.replies.lock().insert(req_id.clone(), reply_tx);
        (req_id, reply_rx)
    }

    /// The wait for the ack of `id`; an earlier wait for the same id fails.
    pub(super) fn expect_ack(&self, id: &str) -> Waiter<Ack> {
        let (reply_tx, reply_rx) = oneshot::channel();
        self.acks.lock().insert(id.to_owned(), reply_tx);
        reply_rx
    }

    pub(super) fn forget_reply(&self, req_id: &str) {
        self.replies.lock().remove(req_id);
    }

    pub(super) fn forget_ack(&self, id: &str) {
        self.acks.lock().remove(id);
    }

    /// Hands an ack to its call: by `_reqId` first, then by the id of the send.
    pub(super) fn acknowledge(&self, req_id: Option<&str>, ack: Ack) -> Match {
        if let Some(reply) = req_id.and_then(|req_id| self.replies.lock().remove(req_id)) {
            return told(reply, Ok(ServerFrame::Ack(Box::new(ack))));
        }
        let Some(reply) = self.acks.lock().remove(&ack.id) else { return Match::Nobody };
        told(reply, Ok(ack))
    }

    /// Hands any other answer to its call.
    pub(super) fn answer(&self, req_id: Option<&str>, frame: ServerFrame) -> Match {
        let Some(reply) = req_id.and_then(|req_id| self.replies.lock().remove(req_id)) else {
            return Match::Nobody;
        };
        told(reply, Ok(frame))
    }

    /// Fails the call an error frame names: by `_reqId`, or by `id`, where old brokers put it.
    pub(super) fn refuse(&self, error: &ErrorFrame) -> Match {
        for id in [error.req_id.as_deref(), error.id.as_deref()].into_iter().flatten() {
            let refused = RequestError::Refused(Box::new(error.clone()));
            if let Some(reply) = self.replies.lock().remove(id) {
                return told(reply, Err(refused));
            }
            if let Some(reply) = self.acks.lock().remove(id) {
                return told(reply, Err(refused));
            }
        }
        Match::Nobody
    }

    /// Fails the call whose reply this build cannot read.
    pub(super) fn unreadable(&self, req_id: Option<&str>) -> Match {
        let Some(reply) = req_id.and_then(|req_id| self.replies.lock().remove(req_id)) else {
            return Match::Nobody;
        };
        told(reply, Err(RequestError::UnexpectedReply))
    }

    /// Fails everybody: the socket has ended.
    pub(super) fn fail_all(&self) {
        self.replies.lock().clear();
        self.acks.lock().clear();
    }
}

/// A caller that gave up meanwhile has dropped its end; its answer is then nobody's.
fn told<T>(reply: Reply<T>, answer: Result<T, RequestError>) -> Match {
    if reply.send(answer).is_ok() { Match::Found } else { Match::Nobody }
}

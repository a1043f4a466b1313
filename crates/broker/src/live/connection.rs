//! The outbound side of one socket: a queue bounded in frames and bytes, between whoever has something to say and the
//! task that writes.
//!
//! A stored message that does not fit is refused and stays held. Replies and events are never dropped one by one: a
//! socket that lets them pile up to twice the bound is closed as a slow consumer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use claudemesh_protocol::limits;
use claudemesh_protocol::wire::{ErrorFrame, ServerFrame};
use claudemesh_store::DeliverySeq;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why and how a socket is closed by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

impl Close {
    pub(crate) const SESSION_REPLACED: Self = Self { code: 1000, reason: "session_replaced" };
    pub(crate) const SHUTTING_DOWN: Self = Self { code: 1001, reason: "shutting down" };
    pub(crate) const INTERNAL: Self = Self { code: 1011, reason: "internal" };
    pub(crate) const SLOW_CONSUMER: Self = Self { code: 1011, reason: "slow_consumer" };
    pub(crate) const BANNED: Self = Self { code: 4002, reason: "banned" };
    pub(crate) const REPLACED_BY_NEWER: Self =
        Self { code: 4003, reason: "replaced_by_newer_connection" };
    pub(crate) const ALREADY_CONNECTED: Self =
        Self { code: 4004, reason: "member_already_connected" };

    pub(crate) const fn policy(reason: &'static str) -> Self {
        Self { code: 1008, reason }
    }
}

/// One frame to write.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) text: Utf8Bytes,
    /// The row whose delivery this write is, at a client that does not acknowledge.
    pub(crate) delivers: Option<DeliverySeq>,
}

/// What the writer takes at once.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) frames: VecDeque<Outgoing>,
    pub(crate) ping: bool,
    pub(crate) close: Option<Close>,
}

#[derive(Debug, Default)]
struct Pending {
    frames: VecDeque<Outgoing>,
    bytes: usize,
    ping: bool,
    close: Option<Close>,
    full_since: Option<Instant>,
}

/// The buffer has no room for another stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One socket as the rest of the broker sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    pending: Mutex<Pending>,
    wake: Notify,
    /// The reader has seen the end of the stream.
    pub(crate) reader_ended: CancellationToken,
    /// The writer has said everything, its close frame included, and waited for the answer.
    pub(crate) writer_ended: CancellationToken,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            pending: Mutex::default(),
            wake: Notify::new(),
            reader_ended: CancellationToken::new(),
            writer_ended: CancellationToken::new(),
        }
    }

    /// Tells sockets apart: a late event of a replaced one must not touch its successor.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Queues a stored message.
    pub(crate) fn deliver(
        &self,
        text: Utf8Bytes,
        delivers: Option<DeliverySeq>,
    ) -> Result<(), Full> {
        {
            let mut pending = self.pending.lock();
            let is_full = pending.close.is_some()
                || pending.frames.len() >= limits::OUTBOUND_MAX_FRAMES
                || (pending.bytes > 0 && pending.bytes + text.len() > limits::OUTBOUND_MAX_BYTES);
            if is_full {
                pending.full_since.get_or_insert_with(Instant::now);
                return Err(Full);
            }
            pending.bytes += text.len();
            pending.frames.push_back(Outgoing { text, delivers });
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Queues a reply or an event.
    pub(crate) fn say(&self, frame: &ServerFrame) {
        match frame.encode() {
            Ok(text) => self.say_text(text.into()),
            Err(error) => {
                tracing::error!(%error, "cannot write a frame as JSON");
                self.close(Close::INTERNAL);
            }
        }
    }

    /// Queues a reply or an event that is JSON already.
    pub(crate) fn say_text(&self, text: Utf8Bytes) {
        {
            let mut pending = self.pending.lock();
            if pending.close.is_some() {
                return;
            }
            pending.bytes += text.len();
            pending.frames.push_back(Outgoing { text, delivers: None });
            if pending.bytes > 2 * limits::OUTBOUND_MAX_BYTES
                || pending.frames.len() > 2 * limits::OUTBOUND_MAX_FRAMES
            {
                pending.frames.clear();
                pending.close = Some(Close::SLOW_CONSUMER);
            }
        }
        self.wake.notify_one();
    }

    /// Queues an error frame.
    pub(crate) fn refuse(&self, error: ErrorFrame) {
        self.say(&error.into());
    }

    /// Queues a ping.
    pub(crate) fn ping(&self) {
        self.pending.lock().ping = true;
        self.wake.notify_one();
    }

    /// Closes the socket after what is queued; the first reason counts.
    pub(crate) fn close(&self, close: Close) {
        self.pending.lock().close.get_or_insert(close);
        self.wake.notify_one();
    }

    /// True once the broker has decided to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.pending.lock().close.is_some()
    }

    /// True when stored messages have been refused for `limit` without the buffer ever emptying.
    pub(crate) fn is_slow(&self, limit: Duration) -> bool {
        self.pending.lock().full_since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Waits for something to write.
    ///
    /// # Cancel safety
    /// Nothing is taken before it returns.
    pub(crate) async fn next(&self) -> Taken {
        loop {
            {
                let mut pending = self.pending.lock();
                if !pending.frames.is_empty() || pending.ping || pending.close.is_some() {
                    pending.bytes = 0;
                    pending.full_since = None;
                    return Taken {
                        frames: std::mem::take(&mut pending.frames),
                        ping: std::mem::take(&mut pending.ping),
                        close: pending.close,
                    };
                }
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> Utf8Bytes {
        "x".repeat(bytes).into()
    }

    #[tokio::test]
    async fn stored_messages_are_refused_at_the_byte_limit_and_accepted_again_after_a_write() {
        let connection = Connection::new();
        assert_eq!(connection.deliver(text(limits::OUTBOUND_MAX_BYTES - 1), None), Ok(()));
        assert_eq!(connection.deliver(text(1), None), Ok(()));
        assert_eq!(connection.deliver(text(1), None), Err(Full));
        assert!(connection.is_slow(Duration::ZERO));
        assert_eq!(connection.next().await.frames.len(), 2);
        assert!(!connection.is_slow(Duration::ZERO));
        assert_eq!(connection.deliver(text(1), None), Ok(()));
    }

    #[tokio::test]
    async fn a_socket_that_lets_replies_pile_up_is_closed() {
        let connection = Connection::new();
        connection.say_text(text(2 * limits::OUTBOUND_MAX_BYTES));
        assert!(!connection.is_closing());
        connection.say_text(text(1));
        let taken = connection.next().await;
        assert_eq!((taken.frames.len(), taken.close), (0, Some(Close::SLOW_CONSUMER)));
    }

    #[tokio::test]
    async fn the_first_reason_to_close_counts_and_queued_frames_go_first() {
        let connection = Connection::new();
        connection.say_text(text(1));
        connection.close(Close::BANNED);
        connection.close(Close::SLOW_CONSUMER);
        connection.say_text(text(1));
        let taken = connection.next().await;
        assert_eq!((taken.frames.len(), taken.close), (1, Some(Close::BANNED)));
    }
}

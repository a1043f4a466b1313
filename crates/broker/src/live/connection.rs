//! The outbound side of one socket: a queue bounded in frames and bytes, between whoever has something to say and the
//! task that writes.
//!
//! A stored message that does not fit is refused and stays held. Replies and events are never dropped one by one: a
//! socket that lets them pile up to twice the bound is closed as a slow consumer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use claudemesh_protocol::wire::{ErrorFrame, ServerFrame};
use claudemesh_protocol::{Timestamp, limits};
use claudemesh_store::DeliverySeq;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;
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
    pub(crate) const DISCONNECTED: Self = Self { code: 1000, reason: "disconnected" };
    pub(crate) const DISCONNECTED_STALE: Self = Self { code: 1000, reason: "disconnected_stale" };
    pub(crate) const KICKED: Self = Self { code: 4001, reason: "kicked" };
    pub(crate) const KICKED_STALE: Self = Self { code: 4001, reason: "kicked_stale" };
    pub(crate) const BANNED: Self = Self { code: 4002, reason: "banned" };
    pub(crate) const REPLACED_BY_NEWER: Self =
        Self { code: 4003, reason: "replaced_by_newer_connection" };
    pub(crate) const ALREADY_CONNECTED: Self =
        Self { code: 4004, reason: "member_already_connected" };

    pub(crate) const fn policy(reason: &'static str) -> Self {
        Self { code: 1008, reason }
    }
}

/// Bytes the writer takes at once, the last frame included in full. What it has not taken can be taken back.
const TAKE_BYTES: usize = 64 * 1024;

/// Which part of a message a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) begins: bool,
    pub(crate) ends: bool,
}

impl Part {
    const WHOLE: Self = Self { begins: true, ends: true };
}

/// One text to write.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) text: Utf8Bytes,
    pub(crate) part: Part,
    /// The row whose delivery this write is, at a client that does not acknowledge.
    pub(crate) delivers: Option<DeliverySeq>,
    /// Place among the stored messages of this socket; `None` for replies and events.
    ticket: Option<u64>,
}

/// What the writer takes at once.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) frames: Vec<Outgoing>,
    pub(crate) ping: bool,
    /// Nothing follows.
    pub(crate) close: Option<Close>,
}

#[derive(Debug, Default)]
struct Pending {
    frames: VecDeque<Outgoing>,
    bytes: usize,
    ping: bool,
    close: Option<Close>,
    full_since: Option<Instant>,
    /// Stored messages queued so far; the ticket of the next one.
    delivered: u64,
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
    /// When the client last sent anything, a pong included, in Unix milliseconds.
    last_seen: AtomicI64,
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
            last_seen: AtomicI64::new(0),
            reader_ended: CancellationToken::new(),
            writer_ended: CancellationToken::new(),
        }
    }

    /// Tells sockets apart: a late event of a replaced one must not touch its successor.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Notes a sign of life.
    pub(crate) fn touch(&self, now: Timestamp) {
        self.last_seen.store(now.as_millis(), Ordering::Relaxed);
    }

    /// The last sign of life.
    pub(crate) fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    /// Queues a stored message. Answers its ticket: tickets count up from 0.
    pub(crate) fn deliver(
        &self,
        text: Utf8Bytes,
        delivers: Option<DeliverySeq>,
    ) -> Result<u64, Full> {
        let ticket = {
            let mut pending = self.pending.lock();
            if pending.close.is_some() {
                return Err(Full);
            }
            if pending.is_full(text.len()) {
                pending.full_since.get_or_insert_with(Instant::now);
                return Err(Full);
            }
            let ticket = pending.delivered;
            pending.delivered += 1;
            pending.bytes += text.len();
            pending.frames.push_back(Outgoing {
                text,
                part: Part::WHOLE,
                delivers,
                ticket: Some(ticket),
            });
            ticket
        };
        self.wake.notify_one();
        Ok(ticket)
    }

    /// Takes stored messages that were not handed to the socket out of the queue, for good. Answers the ticket of the
    /// first of them: what has a lower one was written.
    pub(crate) fn take_back(&self) -> u64 {
        let mut pending = self.pending.lock();
        let first = pending.frames.iter().find_map(|frame| frame.ticket);
        let first = first.unwrap_or(pending.delivered);
        pending.frames.retain(|frame| frame.ticket.is_none());
        pending.bytes = pending.frames.iter().map(|frame| frame.text.len()).sum();
        first
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
        self.say_pieces(std::iter::once(text));
    }

    /// Queues a reply that is JSON already, in pieces: the memory of each is free as soon as it is written.
    pub(crate) fn say_pieces(&self, pieces: impl ExactSizeIterator<Item = Utf8Bytes>) {
        {
            let mut pending = self.pending.lock();
            if pending.close.is_some() {
                return;
            }
            let last = pieces.len().saturating_sub(1);
            for (place, text) in pieces.enumerate() {
                let part = Part { begins: place == 0, ends: place == last };
                pending.bytes += text.len();
                pending.frames.push_back(Outgoing { text, part, delivers: None, ticket: None });
            }
            if pending.bytes > 2 * limits::OUTBOUND_MAX_BYTES
                || pending.frames.len() > 2 * limits::OUTBOUND_MAX_FRAMES
            {
                pending.frames.clear();
                pending.close = Some(Close::SLOW_CONSUMER);
            }
        }
        self.wake.notify_one();
    }

    /// Queues news that can be asked for later; without room for a stored message it is dropped.
    pub(crate) fn offer(&self, text: Utf8Bytes) {
        {
            let mut pending = self.pending.lock();
            if pending.close.is_some() || pending.is_full(text.len()) {
                return;
            }
            pending.bytes += text.len();
            let part = Part::WHOLE;
            pending.frames.push_back(Outgoing { text, part, delivers: None, ticket: None });
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

    /// Closes the socket after what is queued, a slow one without it; the first reason counts.
    pub(crate) fn close(&self, close: Close) {
        {
            let mut pending = self.pending.lock();
            if *pending.close.get_or_insert(close) == Close::SLOW_CONSUMER {
                pending.frames.clear();
            }
        }
        self.wake.notify_one();
    }

    /// True once the broker has decided to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing().is_some()
    }

    /// Why it closes, once that is decided.
    pub(crate) fn closing(&self) -> Option<Close> {
        self.pending.lock().close
    }

    /// True when stored messages have been refused for `limit` and there was never room for one in between.
    pub(crate) fn is_slow(&self, limit: Duration) -> bool {
        self.pending.lock().full_since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Waits for something to write, and takes a portion of it. Pings do not wait behind what is queued.
    ///
    /// # Cancel safety
    /// Nothing is taken before it returns.
    pub(crate) async fn next(&self) -> Taken {
        loop {
            if let Some(taken) = self.take() {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Option<Taken> {
        let mut pending = self.pending.lock();
        if pending.frames.is_empty() && !pending.ping && pending.close.is_none() {
            return None;
        }
        let mut taken = Taken { ping: std::mem::take(&mut pending.ping), ..Taken::default() };
        let mut bytes = 0;
        while bytes < TAKE_BYTES
            && let Some(frame) = pending.frames.pop_front()
        {
            bytes += frame.text.len();
            taken.frames.push(frame);
        }
        pending.bytes = pending.bytes.saturating_sub(bytes);
        if pending.frames.is_empty() {
            // An idle socket keeps no queue.
            pending.frames = VecDeque::new();
            taken.close = pending.close;
        }
        if !pending.is_full(1) {
            pending.full_since = None;
        }
        Some(taken)
    }
}

impl Pending {
    /// True when a stored message of this size finds no room. One that is larger than the whole buffer passes alone.
    fn is_full(&self, bytes: usize) -> bool {
        self.frames.len() >= limits::OUTBOUND_MAX_FRAMES
            || (self.bytes > 0 && self.bytes + bytes > limits::OUTBOUND_MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> Utf8Bytes {
        "x".repeat(bytes).into()
    }

    #[tokio::test(start_paused = true)]
    async fn stored_messages_are_refused_at_the_byte_limit_and_accepted_again_after_a_write() {
        let connection = Connection::new();
        assert_eq!(connection.deliver(text(limits::OUTBOUND_MAX_BYTES - 1), None), Ok(0));
        assert_eq!(connection.deliver(text(1), None), Ok(1));
        assert_eq!(connection.deliver(text(1), None), Err(Full));
        assert!(connection.is_slow(Duration::ZERO));
        assert!(!connection.is_slow(limits::SLOW_CONSUMER_AFTER));
        tokio::time::advance(limits::SLOW_CONSUMER_AFTER).await;
        assert!(connection.is_slow(limits::SLOW_CONSUMER_AFTER));
        assert_eq!(connection.next().await.frames.len(), 1);
        assert!(!connection.is_slow(Duration::ZERO));
        assert_eq!(connection.deliver(text(1), None), Ok(2));
    }

    #[tokio::test]
    async fn the_frame_limit_holds_for_stored_messages() {
        let connection = Connection::new();
        for ticket in 0..limits::OUTBOUND_MAX_FRAMES as u64 {
            assert_eq!(connection.deliver(text(1), None), Ok(ticket));
        }
        assert_eq!(connection.deliver(text(1), None), Err(Full));
    }

    #[tokio::test]
    async fn what_was_not_handed_to_the_socket_is_taken_back_and_never_written() {
        let connection = Connection::new();
        assert_eq!(connection.take_back(), 0);
        for ticket in 0..3 {
            assert_eq!(connection.deliver(text(TAKE_BYTES), None), Ok(ticket));
        }
        connection.say_text(text(7));
        assert_eq!(connection.next().await.frames.len(), 1);
        assert_eq!(connection.take_back(), 1);
        let rest = connection.next().await.frames;
        assert_eq!(rest.iter().map(|frame| frame.text.len()).collect::<Vec<_>>(), [7]);
        assert_eq!(connection.take_back(), 3);
    }

    #[tokio::test]
    async fn the_pieces_of_a_reply_stay_together_and_say_which_they_are() {
        let connection = Connection::new();
        connection.say_pieces([text(TAKE_BYTES), text(2), text(3)].into_iter());
        connection.say_text(text(4));
        let mut parts = Vec::new();
        for _ in 0..2 {
            let frames = connection.next().await.frames;
            parts.extend(frames.iter().map(|one| (one.text.len(), one.part.begins, one.part.ends)));
        }
        let expected =
            [(TAKE_BYTES, true, false), (2, false, false), (3, false, true), (4, true, true)];
        assert_eq!(parts, expected);
    }

    #[tokio::test]
    async fn a_ping_does_not_wait_behind_what_is_queued() {
        let connection = Connection::new();
        for _ in 0..3 {
            connection.say_text(text(TAKE_BYTES));
        }
        connection.ping();
        connection.close(Close::BANNED);
        let first = connection.next().await;
        assert_eq!((first.frames.len(), first.ping, first.close), (1, true, None));
        connection.next().await;
        assert_eq!(connection.next().await.close, Some(Close::BANNED));
    }

    #[tokio::test]
    async fn news_without_room_is_dropped_and_closes_nothing() {
        let connection = Connection::new();
        connection.offer(text(limits::OUTBOUND_MAX_BYTES));
        for _ in 0..10 {
            connection.offer(text(1));
        }
        assert!(!connection.is_closing() && !connection.is_slow(Duration::ZERO));
        assert_eq!(connection.next().await.frames.len(), 1);
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

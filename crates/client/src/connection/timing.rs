//! The time limits of connections, and a set of them that many connections follow (daemon spec §6.2, §6.3, §6.5).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::limits;
use tokio::sync::watch;

use crate::reaction::Backoff;

/// Time limits of a connection; the defaults are those of daemon spec §6.2, §6.3, §6.5.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Name resolution, TCP, TLS and HTTP upgrade together.
    pub connect: Duration,
    /// Building the handshake.
    pub build_hello: Duration,
    /// Handshake sent until `hello_ack`.
    pub hello_ack: Duration,
    /// Period of the watchdog.
    pub ping_interval: Duration,
    /// Silence after which the socket counts as dead.
    pub silence_limit: Duration,
    /// A watchdog this late means that the machine slept.
    pub suspend_after: Duration,
    /// How long a frame may wait for room in the outbound queue.
    pub outbound_blocked: Duration,
    /// Open time after which the schedule starts over.
    pub stable_after: Duration,
    /// The reconnect schedule.
    pub backoff: Backoff,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: limits::CONNECT_TIMEOUT,
            build_hello: limits::HELLO_ACK_TIMEOUT,
            hello_ack: limits::HELLO_ACK_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            silence_limit: limits::SILENCE_LIMIT,
            suspend_after: Duration::from_mins(1),
            outbound_blocked: Duration::from_secs(10),
            stable_after: limits::RECONNECT_STABLE_AFTER,
            backoff: Backoff::standard(),
        }
    }
}

/// Time limits that may be replaced while connections are open. Clones share them.
///
/// An open connection takes over another watchdog at once, everything else with its next attempt.
#[derive(Debug, Clone)]
pub struct SharedTiming {
    current: watch::Sender<Arc<Timing>>,
}

impl SharedTiming {
    /// The limits in force.
    pub fn now(&self) -> Arc<Timing> {
        Arc::clone(&self.current.borrow())
    }

    /// Puts others in force.
    pub fn set(&self, timing: Timing) {
        self.current.send_replace(Arc::new(timing));
    }

    /// The limits as they change; what is in force now counts as seen.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Timing>> {
        self.current.subscribe()
    }
}

impl Default for SharedTiming {
    fn default() -> Self {
        Timing::default().into()
    }
}

impl From<Timing> for SharedTiming {
    fn from(timing: Timing) -> Self {
        Self { current: watch::Sender::new(Arc::new(timing)) }
    }
}

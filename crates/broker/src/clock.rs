//! The wall clock of a running broker, the only reader of system time in this crate.

use std::time::{SystemTime, UNIX_EPOCH};

use claudemesh_core::clock::Clock;
use claudemesh_protocol::Timestamp;

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let millis = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        Timestamp::from_millis(millis)
    }
}

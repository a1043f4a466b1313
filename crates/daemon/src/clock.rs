//! The daemon's wall clock.

use claudemesh_client::clock;
use claudemesh_protocol::Timestamp;

pub(crate) use clock::jitter;

/// Now, in Unix milliseconds.
pub fn now() -> Timestamp {
    Timestamp::from_millis(clock::wall_clock_millis())
}

/// True on the thread of a simulation, where the kernel's notices would come at times of their own.
pub(crate) fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    return clock::simulation::is_active();
    #[cfg(not(feature = "simulation"))]
    false
}

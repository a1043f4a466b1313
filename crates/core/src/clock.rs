//! The clock port: rules never read system time, whoever runs them tells the time.

use claudemesh_protocol::Timestamp;

/// Tells the time. Production uses the operating system's clock, tests and simulations their own.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

//! The broker's rules as pure state machines: who is present, who receives, what is held, who may do what.
//!
//! No tokio, no sockets, no SQL and no system clock: time comes in as an argument, randomness and the clock are ports
//! ([`clock::Clock`], [`entropy::Entropy`]), so that a simulation can drive every rule.

pub mod authorize;
pub mod clock;
pub mod dedupe;
pub mod delivery;
pub mod entropy;
pub mod gate;
pub mod grants;
pub mod lease;
pub mod loop_guard;
pub mod presence;
pub mod queue;
pub mod rate;
pub mod receipt;
pub mod stats;
pub mod status;
pub mod target;

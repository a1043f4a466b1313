//! The broker's rules as pure state machines: who is present, who receives, what is held, who may do what.
//!
//! No tokio, no sockets, no SQL, no system clock and no randomness: time comes in as an argument, from whoever holds the
//! port [`clock::Clock`], so that a simulation can drive every rule.

pub mod authorize;
pub mod clock;
pub mod dedupe;
pub mod delivery;
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

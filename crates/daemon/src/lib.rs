//! The long-running local process: the only holder of broker connections, outbox, inbox and session registry of one
//! user, and the server of the local API (daemon spec). It renders nothing and is no broker.

mod api;
mod blocking;
pub mod boot;
pub mod clock;
pub mod context;
pub mod daemon;
pub mod events;
pub mod home;
mod host;
mod ids;
pub mod inbox;
mod log;
pub mod mesh;
mod network;
mod ops;
pub mod outbox;
pub mod pressure;
pub mod sessions;
pub mod settings;
pub mod storage;
mod upkeep;
mod watch;

pub use boot::{BootError, Options, Running, run, run_for_code, start};

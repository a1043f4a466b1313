//! The long-running local process: the only holder of outbox, inbox, session registry and lasting broker connections of
//! one user, and the server of the local API (daemon spec). It renders nothing and is no broker. Its operations can also be
//! done without it, by a program with a connection of its own ([`cold`]).

mod api;
mod blocking;
pub mod boot;
pub mod care;
pub mod clock;
pub mod cold;
pub mod context;
pub mod daemon;
pub mod events;
pub mod evidence;
pub mod home;
pub mod hooks;
pub mod identity;
mod ids;
pub mod inbox;
mod live;
mod local_token;
mod log;
pub mod mesh;
pub mod metrics;
mod network;
mod ops;
pub mod outbox;
pub mod pressure;
mod resources;
pub mod service;
pub mod sessions;
pub mod settings;
pub mod storage;
mod upkeep;
mod watch;

pub use boot::{BootError, Options, Running, run, run_for_code, start};

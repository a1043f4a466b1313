//! The MCP server over in-memory pipes: with a small local API on a real Unix socket in the daemon's place, and, for the
//! contract of the tools, with a real daemon and a real broker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod calls;
mod catalogue;
mod client;
mod contract;
mod daemon;
mod gate;
mod guards;
mod handshake;
mod listener;
mod lost;
mod modes;
mod push;
mod registration;
mod resource;
mod schema_fuzz;
mod welcome;

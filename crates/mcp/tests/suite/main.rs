//! The MCP server over in-memory pipes, with a small local API on a real Unix socket in the daemon's place.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod client;
mod daemon;
mod guards;
mod handshake;
mod modes;
mod push;
mod registration;
mod welcome;

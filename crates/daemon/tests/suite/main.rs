//! The daemon's parts together: real databases, real sockets, a real broker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod care;
mod evidence;
mod hooks;
mod identity;
mod local;
mod mesh;
mod ops;

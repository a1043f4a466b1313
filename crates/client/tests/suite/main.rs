//! The connection against a scriptable broker, over in-memory streams and with a paused clock.
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
mod closes;
mod fake;
mod lifecycle;
mod proxy;
mod robustness;

//! Seeds that run with every test run, and what the simulation itself promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod planted;
mod receipts;
mod release;
mod seeds;

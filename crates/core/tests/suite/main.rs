//! The rules over random schedules, each against a small model that is written another way: from the tables of the
//! specification or as a plain list of everything that ever happened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod dedupe;
mod delivery;
mod gates;
mod loop_guard;
mod rate;
mod receipts;
mod time;

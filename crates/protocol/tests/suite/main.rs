//! Properties of the wire codecs: what is written reads back, and no input makes a reader panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod frames;
mod grammar;
mod reference;

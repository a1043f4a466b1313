//! Tests of the crypto crate as its users see it: vectors, properties, an independent implementation as oracle.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod oracle;
mod properties;
mod vector;
mod vectors_format;
mod vectors_sealed;
mod vectors_signed;

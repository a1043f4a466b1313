//! Rules of the house that a machine can check: headers, sizes, names, words, dependencies, documents.
//!
//! Uses nothing but the standard library, so that it also runs as `rustc --test` while the workspace does not compile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod acceptance;
mod documents;
mod sources;
mod tree;

use std::fmt::Write as _;

/// Fails with one line for each fault.
fn check(rule: &str, faults: &[String]) {
    let mut text = String::new();
    for fault in faults {
        let _ = write!(text, "\n  {fault}");
    }
    assert!(faults.is_empty(), "{rule}:{text}");
}

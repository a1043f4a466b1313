//! Settings files of strangers, and strangers' words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod foreign;
mod render_property;
mod settings_jsonc;
mod settings_property;
mod settings_toml;

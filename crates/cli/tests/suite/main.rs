//! The real binary in a cleaned environment: outputs, exit codes, files, and whole runs with broker and daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod agents;
mod backup;
mod bell;
mod care;
mod chaos;
mod cold;
mod daemon;
mod ephemeral;
mod files;
mod gallery;
mod grammar;
mod home;
mod hook;
mod hooks;
mod identity;
mod install;
mod invites;
mod join;
mod kills;
mod lineup;
mod machine;
mod manners;
mod messages;
mod negotiation;
mod operations;
mod outbox;
mod overview;
mod policy;
mod service;
mod sessions;
mod soak;
mod status;
mod status_line;
mod unblock_loop;
mod up;
mod words;

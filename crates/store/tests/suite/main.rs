//! The contract of the store: every behaviour on SQLite and on PostgreSQL, and what only SQLite has (crash points,
//! a page limit as a full disk). PostgreSQL is started by the tests; without it they fail, unless
//! `CLAUDEMESH_TEST_PG=skip`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod fixture;

mod account;
mod admin;
mod audit;
mod audit_head;
mod crash;
mod delivery;
mod idempotency;
mod invite;
mod member;
mod mesh;
mod presence;
mod receipt;
mod schema;
mod silence;
mod state;
mod upkeep;

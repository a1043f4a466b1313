//! Integration tests of the broker: real sockets, real databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod at_rest;
mod claims;
mod crash;
mod handshake;
mod hangup;
mod http_edge;
mod invites;
mod join_v1;
mod leases;
mod leaving;
mod lifecycle;
mod meshes;
mod names;
mod old_client;
mod peers;
mod postgres;
mod process;
mod provisioning;
mod recipients;
mod road;
mod sending;
mod setup;
mod world;

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

mod admin;
mod at_rest;
mod audit_heads;
mod audit_log;
mod claims;
mod clones;
mod counts;
mod crash;
mod crash_administration;
mod delivery_postgres;
mod fairness;
mod grants;
mod handshake;
mod hangup;
mod hellos;
mod http_edge;
mod http_matrix;
mod invites;
mod join_v1;
mod leases;
mod leaving;
mod lifecycle;
mod lists;
mod loops;
mod matrix;
mod meshes;
mod message_status;
mod names;
mod old_client;
mod outage;
mod overtaking;
mod overview;
mod peers;
mod permissions;
mod postgres;
mod process;
mod provisioning;
mod random_frames;
mod random_requests;
mod receipts;
mod receivers;
mod recipients;
mod restarts;
mod road;
mod rows;
mod sending;
mod setup;
mod shared_state;
mod socket_limits;
mod status_engine;
mod storm;
mod world;

//! The operations of the table through the local API, against a real broker.

mod aggregate;
mod contract;
mod counters;
mod hangups;
mod messaging;
mod refusals;
mod state;
mod tap;
mod trust;
mod world;

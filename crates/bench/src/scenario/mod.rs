//! The measurements, one file each, and the table they stand in.

mod bell;
mod broadcast;
mod command_line;
mod connections;
mod direct;
mod drain;
mod hook;
mod hooked;
mod light;
mod local_api;
mod state;
mod storm;

use std::pin::Pin;

use crate::Options;
use crate::figure::Figure;

type Measurement<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Vec<Figure>>> + 'a>>;

/// One line of the table.
pub(crate) struct Scenario {
    /// What is measured.
    pub(crate) name: &'static str,
    /// What we aim for (design document, performance targets).
    pub(crate) target: &'static str,
    /// Measured with `--stalled` only: the line above it, with receivers among them that take nothing.
    pub(crate) is_stalled: bool,
    /// Measures once.
    pub(crate) run: for<'a> fn(&'a Options) -> Measurement<'a>,
}

macro_rules! scenarios {
    ($($name:literal, $target:literal $(, $stalled:ident)? => $run:expr;)+) => {
        &[$(Scenario {
            name: $name,
            target: $target,
            is_stalled: scenarios!(@is_stalled $($stalled)?),
            run: |options| Box::pin($run(options)),
        },)+]
    };
    (@is_stalled) => { false };
    (@is_stalled stalled) => { true };
}

/// Every measurement, in the order of the table.
pub(crate) const ALL: &[Scenario] = scenarios! {
    "light flow 50/s", "push p50 <= 1, p99 <= 5; ack p50 <= fdatasync + 2" => light::flow;
    "direct 1->1, 256 B", "" => |options| direct::pairs(options, 1, 5_000, 256);
    "direct 10->10, 256 B", "" => |options| direct::pairs(options, 10, 2_000, 256);
    "direct 50->50, 256 B", ">= 5000/s durable; CPU <= 0.15 ms per message" => |options| direct::pairs(options, 50, 1_000, 256);
    "direct 50->50, 4 KiB", "" => |options| direct::pairs(options, 50, 400, 4096);
    "100 peers closed loop, 256 B", "push p50 <= 15, p99 <= 50" => direct::closed_loop;
    "100 peers x 1000, 256 B", "all in <= 15 s; RSS <= 150 MiB" => |options| direct::flood(options, 0);
    "100 peers x 1000, 2 of 102 stalled", "as without them", stalled => |options| direct::flood(options, 2);
    "broadcast to 100", "" => |options| broadcast::to(options, 100, 0);
    "broadcast to 500", "last within 15 ms" => |options| broadcast::to(options, 500, 0);
    "broadcast to 500, 10 more stalled", "as without them", stalled => |options| broadcast::to(options, 500, 10);
    "shared state, 16 connections", ">= 3000 set/s durable; >= 20000 get/s" => state::entries;
    "handshakes", ">= 2000/s" => connections::handshakes;
    "idle connections, 10000", "<= 250 MiB; < 2 % of a core" => connections::idle;
    "drain of 10000 held", "<= 0.5 s" => drain::held;
    "reconnect storm, 20 meshes x 50", "all back within 5 s of listening" => |options| storm::reconnect(options, 20, 50, false);
    "reconnect storm, 1 mesh x 1000", "all back within 5 s of listening" => |options| storm::reconnect(options, 1, 1_000, false);
    "reconnect storm with rosters, 20 x 50", "all back within 5 s of listening" => |options| storm::reconnect(options, 20, 50, true);
    "reconnect storm with rosters, 1 x 1000", "all back within 5 s of listening" => |options| storm::reconnect(options, 1, 1_000, true);
    "start with stored messages", "serves within 300 ms" => drain::start;
    "local API, 500/s beside 100 streams", "p99 <= 2" => local_api::requests;
    "local API, sends", ">= 3000/s accepted" => local_api::sends;
    "messages beside a slow hook, 1000/s", "p99 <= 20" => hooked::receive;
    "idle daemon", "<= 25 MiB; no wake-up faster than 15 s" => local_api::idle;
    "bell of an idle session, over a broker", "" => bell::wakes;
    "hook, whole processes", "every one <= 50 ms, whatever the daemon does" => hook::processes;
    "command line, whole processes", "--version and --help <= 5 ms; through the daemon <= 10 ms" => command_line::processes;
};

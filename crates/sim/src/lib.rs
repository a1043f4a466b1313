//! A simulation of a whole mesh: the shipping broker and the shipping daemons in one thread, under virtual time, on a
//! network and on disks that fail as a seed says. Everything that could differ between two runs of one seed comes from
//! the seed: a run that fails is repeated to the last frame by its number.
//!
//! In every second run somebody in the mesh is hostile: a member that hears every frame on the wire and repeats, forges
//! and acknowledges what is not its own.
//!
//! What is real: broker and daemons from their start to their databases (`boot`, `serve`, WebSocket, HTTP, SQL on SQLite
//! files in memory), the local API without its socket. What is simulated: time, both wall clocks, randomness, the
//! network, when a commit ends and what a power failure leaves of it, the processes of agents, the agents.
//!
//! Not simulated: PostgreSQL, several broker nodes, sockets of the kernel, threads. The crash tests have those.

mod agent;
mod attack;
mod broker_node;
mod daemon_node;
mod dice;
mod disk;
mod ledger;
mod network;
mod order;
mod overheard;
mod rows;
mod run;
mod tap;
mod trace;
mod verdict;
mod weather;
mod world;

pub(crate) use run::on_this_thread;
pub use run::{Options, Report, run};

/// Bugs that [`Options::planted`] knows; each must be found.
pub const PLANTED_BUGS: &[&str] =
    &["broker.ack_before_commit", "daemon.client_ack_before_commit", "daemon.inbox_not_unique"];

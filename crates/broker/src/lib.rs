//! The claudemesh broker: keeps rosters, tracks presence, accepts encrypted messages and delivers them.
//!
//! It never holds a key that opens a message. Layers, outermost first: `edge` (sockets and HTTP: translate,
//! authenticate, bound), `ops` and `accounts` (one file per family), `live` and `delivery` (presence and the message
//! road), below them the store. [`start`] runs a broker inside a process; [`command::run`] is the command line.

mod accounts;
mod audit;
mod clock;
pub mod command;
pub mod data_dir;
mod delivery;
mod edge;
mod jobs;
mod live;
pub mod logging;
mod metrics;
mod ops;
pub mod provision;
mod secrets;
mod serve;
pub mod settings;
mod state;

pub use clock::SystemClock;
pub use serve::{Listen, RunningBroker, StartError, StartOptions, start};
pub use settings::Settings;
pub use state::Broker;

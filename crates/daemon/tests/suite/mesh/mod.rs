//! The broker side of the daemon against a real broker in this process, and against a scripted one for what a good
//! broker never does.

mod crash;
pub mod cuts;
mod delivery;
pub mod fake_broker;
mod hostile;
mod isolation;
pub mod node;
mod oracle;
mod outcomes;
mod quiet;
mod receipts;
mod roster;
mod sessions;
mod standstill;

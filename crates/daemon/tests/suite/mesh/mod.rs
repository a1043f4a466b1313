//! The broker side of the daemon against a real broker in this process, and against a scripted one for what a good
//! broker never does.

mod crash;
mod cuts;
mod delivery;
mod fake_broker;
mod hostile;
mod node;
mod roster;
mod sessions;

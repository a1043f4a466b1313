//! The user's hooks: real scripts under a real daemon.

mod contract;
mod crowd;
mod guard;
mod process;
mod reply;
mod rules;
mod sandbox;
mod stage;
mod token;

pub use stage::runner;

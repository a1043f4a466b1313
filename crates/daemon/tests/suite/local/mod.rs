//! The person's side: boot, files, local API, outbox, inbox, sessions; the broker is an address where nobody answers.

mod accept;
mod boot;
mod crash;
mod events;
mod gate;
mod handover;
mod inbox;
mod outbox;
pub mod process;
mod search;
mod sessions;
mod told;
pub mod world;

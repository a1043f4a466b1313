//! The person's side: boot, files, local API, outbox, inbox, sessions; the broker is an address where nobody answers.

mod accept;
mod bell;
mod boot;
mod broadcast;
mod crash;
mod crowd;
mod events;
mod foreign;
mod gate;
mod handover;
mod inbox;
mod live;
mod metrics;
mod noise;
mod outbox;
pub mod process;
mod search;
mod sessions;
mod take;
mod tcp;
mod told;
pub mod world;

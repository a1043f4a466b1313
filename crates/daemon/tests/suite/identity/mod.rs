//! Which machine and which member a daemon is: copied files, rotated keys (daemon spec §4, §19).

mod crash;
mod ephemeral;
mod features;
mod hosts;
mod lineage;
mod peer_cache;
mod rotation;
mod storm;
mod twins;

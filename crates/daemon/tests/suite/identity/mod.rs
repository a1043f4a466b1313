//! Which machine and which member a daemon is: copied files, rotated keys (daemon spec §4, §19).

mod crash;
mod features;
mod hosts;
mod rotation;
mod twins;

//! Backup and restore of a user's files, and the service manager (daemon spec §20.2, §21).

mod crash;
mod home;
mod inbox;
mod notify;
mod restore;

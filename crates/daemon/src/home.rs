//! Files below `~/.claudemesh` that several programs share: safe writing, locking, `config.json`.

pub mod config;
pub mod file;

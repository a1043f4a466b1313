//! The `claudemesh` binary: what people type (CLI spec). It parses, selects mesh and peer, asks the daemon or the
//! broker, and renders; rules and state live in the other crates.

mod attach;
mod cold;
mod context;
mod detach;
mod environment;
mod ephemeral;
mod failure;
mod gate;
mod grammar;
mod help;
mod hook;
mod hook_run;
mod link;
mod local;
mod negotiate;
mod output;
mod passphrase;
mod peer_cache;
mod remote;
mod run;
mod select;
mod service;
mod status_line;
mod verbs;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run(std::env::args_os())
}

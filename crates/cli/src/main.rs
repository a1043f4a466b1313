//! The `claudemesh` binary: what people type (CLI spec). It parses, selects mesh and peer, asks the daemon or the
//! broker, and renders; rules and state live in the other crates.

mod attach;
mod cold;
mod context;
mod detach;
mod environment;
mod failure;
mod gate;
mod grammar;
mod help;
mod link;
mod local;
mod output;
mod remote;
mod run;
mod select;
mod verbs;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run(std::env::args_os())
}

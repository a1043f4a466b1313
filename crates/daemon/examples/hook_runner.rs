//! The part of the program that becomes a hook, for tests of the daemon in their own process.

use std::process::ExitCode;

use claudemesh_daemon::hooks::{RUN_HOOK, become_hook};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(first) if first == RUN_HOOK => ExitCode::from(become_hook(words)),
        _ => ExitCode::FAILURE,
    }
}

//! `broker …`: the broker's own command line, also under the program name `claudemesh-broker` (broker spec §6.2).

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _};
use claudemesh_broker::command::{self, BrokerArgs};
use claudemesh_protocol::error::ErrorCode;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::grammar;
use crate::grammar::classify::Words;
use crate::output::Output;

/// Parses the words by the broker's grammar and runs it; its exit codes are its own.
pub(crate) fn run(words: &Words, environment: &Environment) -> ExitCode {
    let out = Output::new(grammar::scanned_flags(&words.args), environment);
    let after = words.args.iter().skip_while(|word| *word != "broker").skip(1);
    let args = std::iter::once("claudemesh broker".to_owned()).chain(after.cloned());
    let style = out.stdout_style();
    let choice = if style.colour { clap::ColorChoice::Always } else { clap::ColorChoice::Never };
    let root = clap::Command::new("claudemesh broker")
        .about("Run a broker")
        .version(env!("CARGO_PKG_VERSION"))
        .max_term_width(80)
        .color(choice);
    let parsed = BrokerArgs::augment_args(root)
        .try_get_matches_from(args)
        .and_then(|matches| BrokerArgs::from_arg_matches(&matches));
    let args = match parsed {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            let text = error.render();
            Output::stream(&if style.colour { text.ansi().to_string() } else { text.to_string() });
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            return ExitCode::from(out.failure(&grammar::refusal::refusal(&error, words)));
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(command::run(args)),
        Err(error) => {
            let failure = Failure::new(ErrorCode::Internal, "cannot start the runtime");
            ExitCode::from(out.failure(&failure.caused_by(&error)))
        }
    }
}

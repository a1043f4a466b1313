//! The grammar of the command line: classification, aliases, the declared commands, and refusals (CLI spec §1.1–§1.4).

use clap::error::ErrorKind;
use clap::{Args as _, FromArgMatches as _};
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value};

pub(crate) mod args;
pub(crate) mod classify;
pub(crate) mod input;
pub(crate) mod operations;
pub(crate) mod refusal;
pub(crate) mod values;
pub(crate) mod words;

use args::{Cli, Global, OutputFormat};
use classify::Words;

use crate::failure::{Failure, Outcome};
use crate::output::{JsonForm, OutputFlags};

/// What parsing a command gave.
pub(crate) enum Parsed {
    /// Run a verb that is drawn by hand.
    Run(Box<Cli>),
    /// Run an operation.
    Operation(Box<Invoked>),
    /// Print this help text.
    Help(String),
}

/// An operation with its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Invoked {
    /// Which.
    pub(crate) kind: OperationKind,
    /// Under their wire names.
    pub(crate) arguments: Map<String, Value>,
    /// Flags every verb takes.
    pub(crate) global: Global,
}

/// Reads canonical words by the declared grammar.
///
/// # Errors
/// Exit 3, naming the flag or value and what was expected.
pub(crate) fn parse(words: &Words, colour: bool) -> Outcome<Parsed> {
    let choice = if colour { clap::ColorChoice::Always } else { clap::ColorChoice::Never };
    let command = root_for(words).color(choice).styles(help_styles());
    let args = std::iter::once("claudemesh").chain(words.args.iter().map(String::as_str));
    let read = command.try_get_matches_from(args).and_then(|matches| match words.operation {
        Some(kind) => {
            let global = Global::from_arg_matches(&matches)?;
            Ok(operation(kind, global, &matches, words))
        }
        None => Cli::from_arg_matches(&matches).map(|cli| Ok(Parsed::Run(Box::new(cli)))),
    });
    match read {
        Ok(parsed) => parsed,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp) => {
            let text = error.render();
            Ok(Parsed::Help(if colour { text.ansi().to_string() } else { text.to_string() }))
        }
        Err(error) => Err(refusal::refusal(&error, words)),
    }
}

fn operation(
    kind: OperationKind,
    global: Global,
    matches: &clap::ArgMatches,
    words: &Words,
) -> Outcome<Parsed> {
    let mut leaf = matches;
    while let Some((_, below)) = leaf.subcommand() {
        leaf = below;
    }
    let arguments = operations::arguments(kind, leaf, &words.spoken)?;
    Ok(Parsed::Operation(Box::new(Invoked { kind, arguments, global })))
}

/// No more of the grammar than these words need: building all of it would cost every call.
fn root_for(words: &Words) -> clap::Command {
    match words.operation {
        Some(kind) => operations::grafted(bare_root(), [kind], operations::command),
        None if words.is_resource => outlined(),
        None => args::hand_drawn(),
    }
}

/// The program with the global flags and without a verb.
fn bare_root() -> clap::Command {
    Global::augment_args(args::root())
}

/// Everything drawn by hand, and the operations by name and sentence.
pub(crate) fn outlined() -> clap::Command {
    operations::grafted(
        args::hand_drawn(),
        operations::kinds().map(|(kind, _)| kind),
        operations::outline,
    )
}

/// Everything with every flag: for completion scripts.
pub(crate) fn whole() -> clap::Command {
    operations::grafted(
        args::hand_drawn(),
        operations::kinds().map(|(kind, _)| kind),
        operations::command,
    )
}

/// Headings in the accent colour, commands and flags in cyan, placeholders dim (CLI spec §8.5).
fn help_styles() -> clap::builder::Styles {
    use clap::builder::styling::{Ansi256Color, AnsiColor, Color, Effects, Style, Styles};

    let accent = Style::new().fg_color(Some(Color::Ansi256(Ansi256Color(173))));
    let cyan = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Cyan)));
    let dim = Style::new().effects(Effects::DIMMED);
    Styles::plain().header(accent).usage(accent).literal(cyan).placeholder(dim)
}

/// The output flags of a parsed command line.
pub(crate) fn output_flags(global: &Global) -> Outcome<OutputFlags> {
    if let Some(version) = global.schema_version.as_deref()
        && version != crate::output::document::SCHEMA_VERSION
    {
        return Err(Failure::invalid(format!("--schema-version \"{version}\""))
            .detail(format!("expected: {}", crate::output::document::SCHEMA_VERSION)));
    }
    let json = global.wants_json().then_some(match global.output_format {
        Some(OutputFormat::StreamJson) => JsonForm::Lines,
        _ => JsonForm::Pretty,
    });
    Ok(OutputFlags {
        json,
        fields: global.requested_fields(),
        envelope: global.json_envelope,
        quiet: global.quiet,
        verbose: global.verbose,
        debug: global.debug,
        no_color: global.no_color,
        no_progress: global.no_progress,
        non_interactive: global.non_interactive,
    })
}

/// The output flags of words that were not, or could not be, parsed: refusals obey `--json` too.
pub(crate) fn scanned_flags(args: &[String]) -> OutputFlags {
    let args: Vec<&str> = args.iter().map(String::as_str).take_while(|arg| *arg != "--").collect();
    let has =
        |flag: &str| args.iter().any(|arg| *arg == flag || arg.strip_prefix(flag) == Some("=true"));
    let format =
        args.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix("--output-format") {
            Some("") => args.get(at + 1).copied(),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        });
    let is_json = args.iter().any(|arg| {
        *arg == "--json"
            || arg.strip_prefix("--json=").is_some_and(|value| value != "false")
            || *arg == "--fields"
            || arg.starts_with("--fields=")
    });
    let json = match format {
        Some("stream-json") => Some(JsonForm::Lines),
        Some("json") => Some(JsonForm::Pretty),
        _ => is_json.then_some(JsonForm::Pretty),
    };
    OutputFlags {
        json,
        quiet: has("--quiet") || has("-q"),
        debug: has("--debug"),
        no_color: has("--no-color"),
        non_interactive: has("--non-interactive"),
        ..OutputFlags::default()
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! What the parser refuses, in our words (CLI spec §1.8 and the error catalogue of §11).

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::classify::Words;
use super::{root_for, words};
use crate::failure::Failure;

/// Turns a parse error into a failure that names the verb as it was typed.
pub(crate) fn refusal(error: &Error, words: &Words) -> Failure {
    let spoken = &words.spoken;
    let argument = text(error, ContextKind::InvalidArg);
    let value = text(error, ContextKind::InvalidValue);
    let flag = argument.split([' ', '=']).next().unwrap_or_default().to_owned();
    match error.kind() {
        ErrorKind::UnknownArgument => unknown_argument(words, &flag),
        ErrorKind::InvalidValue if value.is_empty() => {
            Failure::invalid(format!("{spoken}: flag {flag} needs a value"))
        }
        ErrorKind::InvalidValue => Failure::invalid(format!("{spoken}: {flag} \"{value}\""))
            .detail(format!("expected: {}", list(error, ContextKind::ValidValue))),
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            Failure::invalid(format!("{spoken}: {flag} \"{value}\""))
                .detail(format!("expected: {why}"))
        }
        ErrorKind::NoEquals | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            Failure::invalid(format!("{spoken}: flag {flag} needs a value"))
        }
        ErrorKind::TooManyValues => {
            Failure::invalid(format!("{spoken}: flag {flag} takes no value"))
        }
        ErrorKind::ArgumentConflict => {
            let other = list(error, ContextKind::PriorArg);
            Failure::invalid(format!("{spoken}: {argument} cannot be used with {other}"))
        }
        ErrorKind::MissingRequiredArgument => {
            Failure::invalid(format!("{spoken}: missing {argument}")).detail(usage(words))
        }
        ErrorKind::InvalidSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Failure::invalid(format!("{spoken}: missing or unknown verb"))
                .action(format!("claudemesh help {}", spoken.split(' ').next().unwrap_or_default()))
        }
        ErrorKind::InvalidUtf8 => Failure::invalid(format!("{spoken}: arguments must be UTF-8")),
        _ => Failure::invalid(format!("{spoken}: {}", error.kind())).detail(usage(words)),
    }
}

/// `usage: claudemesh send <to> <text…>`
pub(crate) fn usage(words: &Words) -> String {
    format!("usage: claudemesh {} {}", words.spoken, words.usage()).trim_end().to_owned()
}

fn unknown_argument(words: &Words, flag: &str) -> Failure {
    let spoken = &words.spoken;
    if !flag.starts_with('-') {
        return Failure::invalid(format!("{spoken}: unexpected argument \"{flag}\""))
            .detail(usage(words));
    }
    let failure = Failure::invalid(format!("{spoken}: unknown flag {flag}")).with("field", flag);
    let known = flags_of(words);
    match words::nearest(flag, known.iter().map(String::as_str)) {
        Some(near) => failure.detail(format!("did you mean: {near}")),
        None => failure,
    }
    .action(format!("claudemesh help {spoken}"))
}

/// Every `--flag` of a verb, the global ones too.
fn flags_of(words: &Words) -> Vec<String> {
    let mut root = root_for(words);
    root.build();
    let mut command = &root;
    for word in words.canonical.split(' ') {
        if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        }
    }
    command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .map(|long| format!("--{long}"))
        .collect()
}

fn text(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        _ => String::new(),
    }
}

fn list(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => text(error, kind),
    }
}

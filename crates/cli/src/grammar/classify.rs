//! From raw words to what is to be done: flags before the command, aliases, invites, booleans with values
//! (CLI spec §1.1, §1.2). Everything that is decided before the declared grammar reads the words.

use std::collections::BTreeSet;

use clap::Args as _;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::invite::InviteLink;
use claudemesh_protocol::ops::OperationKind;

use super::args::{self, Global};
use super::words::{self, Verb};
use crate::failure::{Failure, Outcome};

/// Global flags that take the next word; needed to find the command word behind them.
pub(super) const VALUE_FLAGS: [&str; 7] = [
    "--mesh",
    "--fields",
    "--output-format",
    "--schema-version",
    "--approval-mode",
    "--policy",
    "--timeout",
];

/// What an invocation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invocation {
    /// `--version`, `-V`.
    Version,
    /// `--help` or `help` without a command; the page's name (`all`, `conventions`) or nothing.
    Help(Option<String>),
    /// No command at all; the flags that were given.
    Bare(Vec<String>),
    /// A command in canonical words.
    Command(Words),
}

/// A command line in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    /// As typed, for messages: `send`.
    pub(crate) spoken: String,
    /// As the parser knows it: `message send`.
    pub(crate) canonical: &'static str,
    /// The operation behind a verb that nobody draws by hand.
    pub(crate) operation: Option<OperationKind>,
    /// True for the help of a resource, such as `mesh --help`.
    pub(crate) is_resource: bool,
    /// Arguments for the parser, without the program name.
    pub(crate) args: Vec<String>,
}

impl Words {
    /// What follows the words.
    pub(crate) fn usage(&self) -> String {
        let usage = words::of_canonical(self.canonical).map(Verb::usage);
        usage.unwrap_or_else(|| "<verb>".to_owned())
    }
}

/// Sorts an invocation by the table of §1.1.
///
/// # Errors
/// `unknown_command`, or words after `--`.
pub(crate) fn classify(args: &[String]) -> Outcome<Invocation> {
    let (head, tail) = match args.iter().position(|arg| arg == "--") {
        Some(at) => (args.get(..at).unwrap_or_default(), args.get(at + 1..).unwrap_or_default()),
        None => (args, [].as_slice()),
    };
    let places = word_places(head);
    let first = places.first().and_then(|at| head.get(*at));
    if first.map(String::as_str) == Some("broker") {
        return Ok(Invocation::Command(broker_words(args, &places)));
    }
    if head.iter().any(|arg| arg == "--version" || arg == "-V") {
        return Ok(Invocation::Version);
    }
    let Some(first) = first else {
        return Ok(if wants_help(head) {
            Invocation::Help(None)
        } else {
            Invocation::Bare(head.to_vec())
        });
    };
    if first == "help" {
        return help(head, &places);
    }
    let typed: Vec<&str> = adjacent_words(head, &places);
    let Some((verb, used)) = words::find(&typed) else {
        return unknown(head, &places, &typed);
    };
    if !tail.is_empty() {
        return Err(Failure::invalid("unexpected arguments after --")
            .detail(format!("usage: {}", usage_line(verb, &typed, used))));
    }
    if let (true, 1, [first, second, ..]) = (verb.takes_spaced_fields, used, typed.as_slice())
        && verb.canonical.split_once(' ').is_some_and(|(resource, _)| resource == *first)
        && !(is_field_list(second) && is_after_json(head, second))
    {
        // `peer` alone lists; `peer lst` is a verb that does not exist, not a word too many.
        return resource(head, &places, first, Some(second));
    }
    let spoken = typed.get(..used).unwrap_or_default().join(" ");
    Ok(Invocation::Command(canonical_words(
        verb,
        spoken,
        head,
        places.get(..used).unwrap_or_default(),
    )))
}

/// `--json name,status`.
fn is_after_json(args: &[String], word: &str) -> bool {
    args.iter().zip(args.iter().skip(1)).any(|(flag, next)| flag == "--json" && next == word)
}

/// `claudemesh send <to> <text…>` for messages.
pub(crate) fn usage_line(verb: Verb, typed: &[&str], used: usize) -> String {
    let spoken = typed.get(..used).unwrap_or_default().join(" ");
    format!("claudemesh {spoken} {}", verb.usage()).trim_end().to_owned()
}

fn wants_help(args: &[String]) -> bool {
    args.iter().any(|arg| arg == "--help" || arg == "-h")
}

/// Places of the words that are no flags and no values of global flags.
fn word_places(args: &[String]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut is_value = false;
    for (at, arg) in args.iter().enumerate() {
        if std::mem::take(&mut is_value) {
            continue;
        }
        if VALUE_FLAGS.contains(&arg.as_str()) {
            is_value = true;
        } else if !arg.starts_with('-') || arg == "-" {
            places.push(at);
        }
    }
    places
}

/// The first words, as long as only global flags stand between them.
fn adjacent_words<'a>(args: &'a [String], places: &[usize]) -> Vec<&'a str> {
    places.iter().take(3).filter_map(|at| args.get(*at)).map(String::as_str).collect()
}

fn help(args: &[String], places: &[usize]) -> Outcome<Invocation> {
    let asked: Vec<&str> =
        places.iter().skip(1).filter_map(|at| args.get(*at)).map(String::as_str).collect();
    match asked.as_slice() {
        [] => Ok(Invocation::Help(None)),
        ["all" | "conventions"] => {
            Ok(Invocation::Help(asked.first().map(|page| (*page).to_owned())))
        }
        _ => {
            let mut wanted: Vec<String> = asked.iter().map(|word| (*word).to_owned()).collect();
            wanted.push("--help".to_owned());
            classify(&wanted)
        }
    }
}

fn unknown(args: &[String], places: &[usize], typed: &[&str]) -> Outcome<Invocation> {
    let first = typed.first().copied().unwrap_or_default();
    if InviteLink::looks_like_link(first)
        && let Some(verb) = words::of_canonical("mesh join")
    {
        return Ok(Invocation::Command(canonical_words(verb, "join".to_owned(), args, &[])));
    }
    if words::resources().contains(first) {
        return resource(args, places, first, typed.get(1).copied());
    }
    let mut failure =
        Failure::new(ErrorCode::UnknownCommand, format!("unknown command \"{first}\""));
    if let Some(near) = words::nearest(first, words::first_words()) {
        failure = failure.detail(format!("did you mean: {near}"));
    }
    Err(failure.action("claudemesh help"))
}

/// `claudemesh mesh` alone, or with a word it does not know.
fn resource(
    args: &[String],
    places: &[usize],
    first: &str,
    second: Option<&str>,
) -> Outcome<Invocation> {
    let is_plain =
        wants_help(args) || first == "daemon" && second.is_none_or(|word| word == "help");
    if is_plain && (second.is_none() || second == Some("help")) {
        let canonical = canonical_resource(first);
        let mut words: Vec<String> = vec![canonical.to_owned(), "--help".to_owned()];
        words.extend(
            args.iter()
                .enumerate()
                .filter(|(at, _)| !places.contains(at))
                .map(|(_, arg)| arg.clone()),
        );
        return Ok(Invocation::Command(Words {
            spoken: first.to_owned(),
            canonical,
            operation: None,
            is_resource: true,
            args: words,
        }));
    }
    let verbs = verbs_of(first);
    let failure = match second {
        None => Failure::invalid(format!("{first}: missing <verb>")),
        Some(word) => {
            let failure = Failure::new(
                ErrorCode::UnknownCommand,
                format!("{first}: unknown verb \"{word}\""),
            );
            match words::nearest(word, verbs.iter().copied()) {
                Some(near) => failure.detail(format!("did you mean: {first} {near}")),
                None => failure,
            }
        }
    };
    Err(failure
        .detail(format!("expected: {}", verbs.join(", ")))
        .action(format!("claudemesh help {first}")))
}

/// `workspace` has its verbs at `mesh`, as `status` has its at `profile`.
fn canonical_resource(word: &str) -> &'static str {
    words::verbs()
        .flat_map(|verb| verb.forms().map(move |form| (verb.canonical, form)))
        .filter(|(_, form)| form.split_once(' ').is_some_and(|(first, _)| first == word))
        .map(|(canonical, _)| canonical.split(' ').next().unwrap_or_default())
        .next()
        .unwrap_or_default()
}

fn verbs_of(resource: &str) -> Vec<&'static str> {
    let mut verbs: Vec<&'static str> = words::verbs()
        .flat_map(Verb::forms)
        .filter_map(|form| form.split_once(' ').filter(|(first, _)| *first == resource))
        .filter_map(|(_, rest)| rest.split(' ').next())
        .collect();
    let mut seen = BTreeSet::new();
    verbs.retain(|verb| seen.insert(*verb));
    verbs
}

/// Everything after `broker` belongs to the broker's own grammar, `--` and `--help` too.
fn broker_words(args: &[String], places: &[usize]) -> Words {
    let at = places.first().copied().unwrap_or(0);
    let before = args.get(..at).unwrap_or_default();
    let after = args.get(at + 1..).unwrap_or_default();
    let mut words: Vec<String> = before.to_vec();
    words.push("broker".to_owned());
    words.extend_from_slice(after);
    Words {
        spoken: "broker".to_owned(),
        canonical: "broker",
        operation: None,
        is_resource: false,
        args: words,
    }
}

/// Puts the canonical words in front, takes the typed ones out, and writes booleans as the parser reads them.
fn canonical_words(verb: Verb, spoken: String, args: &[String], named_by: &[usize]) -> Words {
    let mut words: Vec<String> = verb.canonical.split(' ').map(str::to_owned).collect();
    let rest = args
        .iter()
        .enumerate()
        .filter(|(at, _)| !named_by.contains(at))
        .map(|(_, arg)| arg.clone());
    let rest = plain_booleans(rest.collect(), verb.generic().is_some());
    words.extend(if verb.takes_spaced_fields { joined_fields(rest) } else { rest });
    Words {
        spoken,
        canonical: verb.canonical,
        operation: verb.generic(),
        is_resource: false,
        args: words,
    }
}

/// `--flag=true` becomes `--flag`; `--flag=false`, `=0`, `=no` vanish. Only for flags that take no value; those of an
/// operation read the word themselves.
fn plain_booleans(args: Vec<String>, is_operation: bool) -> Vec<String> {
    let is_boolean_form =
        |value: &str| matches!(value, "true" | "1" | "yes" | "false" | "0" | "no");
    let is_present = args.iter().any(|arg| {
        arg.starts_with("--")
            && arg.split_once('=').is_some_and(|(_, value)| is_boolean_form(value))
    });
    if !is_present {
        return args;
    }
    let booleans = boolean_flags(is_operation);
    args.into_iter()
        .filter_map(|arg| match arg.split_once('=') {
            Some((flag, value)) if booleans.contains(flag) && is_boolean_form(value) => {
                matches!(value, "true" | "1" | "yes").then(|| flag.to_owned())
            }
            _ => Some(arg),
        })
        .collect()
}

/// Every `--flag` that takes no value: of the whole grammar drawn by hand, or of what every verb takes.
fn boolean_flags(is_operation: bool) -> BTreeSet<String> {
    fn collect(command: &clap::Command, into: &mut BTreeSet<String>) {
        let flags = command
            .get_arguments()
            .filter(|arg| matches!(arg.get_action(), clap::ArgAction::SetTrue))
            .filter_map(clap::Arg::get_long);
        into.extend(flags.map(|long| format!("--{long}")));
        for sub in command.get_subcommands() {
            collect(sub, into);
        }
    }
    let mut flags = BTreeSet::new();
    let command =
        if is_operation { Global::augment_args(args::root()) } else { args::hand_drawn() };
    collect(&command, &mut flags);
    flags
}

/// `--json a,b` becomes `--json=a,b`.
fn joined_fields(args: Vec<String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::with_capacity(args.len());
    for arg in args {
        match joined.last_mut() {
            Some(last) if last == "--json" && is_field_list(&arg) => {
                *last = format!("--json={arg}");
            }
            _ => joined.push(arg),
        }
    }
    joined
}

/// `^[A-Za-z_][A-Za-z0-9_.]*(,[A-Za-z_][A-Za-z0-9_.]*)*$`
fn is_field_list(text: &str) -> bool {
    text.split(',').all(|name| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    })
}

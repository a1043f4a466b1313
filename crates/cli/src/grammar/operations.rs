//! Verbs that follow from the operation table: their words, flags, help and usage (CLI spec §12.1).
//!
//! A verb is built when somebody asks for it: parsing and the help of one verb build that one, lists of verbs build
//! names and sentences only, completion scripts build everything.

use clap::builder::{PossibleValuesParser, TypedValueParser as _, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};
use claudemesh_protocol::ops::{Field, FieldKind, OperationKind, Verb};
use serde_json::{Map, Value};

use super::input;

/// Prefix of our argument ids; the global flags have names of their own.
const PREFIX: &str = "op.";
/// Id of `--string`.
pub(super) const AS_TEXT: &str = "as-text";
/// Id of `--clear`.
pub(super) const CLEAR: &str = "clear";

/// Operations whose verb nobody draws by hand.
pub(crate) fn kinds() -> impl Iterator<Item = (OperationKind, Verb)> {
    OperationKind::ALL.iter().filter_map(|kind| {
        let verb = kind.spec().verb.filter(|verb| !verb.is_drawn_by_hand)?;
        Some((*kind, verb))
    })
}

/// What an operation does, without the full stop.
pub(crate) fn about(kind: OperationKind) -> &'static str {
    kind.spec().summary.trim_end_matches('.')
}

/// `ifVersion` and `display_name` as `if-version` and `display-name`.
pub(crate) fn kebab(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 2);
    for character in name.chars() {
        match character {
            '_' => kebab.push('-'),
            upper if upper.is_ascii_uppercase() => {
                kebab.push('-');
                kebab.push(upper.to_ascii_lowercase());
            }
            other => kebab.push(other),
        }
    }
    kebab
}

/// A field and its place on the command line.
pub(super) struct Place {
    pub(super) field: Field,
    /// Its name as people type it, without dashes.
    name: String,
    /// Given by position rather than by flag.
    pub(super) is_positional: bool,
    /// Takes the remaining words.
    pub(super) is_tail: bool,
    /// Cannot be left out.
    pub(super) is_required: bool,
}

impl Place {
    /// Id of the argument.
    pub(super) fn id(&self) -> String {
        format!("{PREFIX}{}", self.field.name)
    }

    /// `<key>` or `--if-version`, as refusals name it.
    pub(super) fn spoken(&self) -> String {
        let name = &self.name;
        if self.is_positional { format!("<{name}>") } else { format!("--{name}") }
    }

    fn value_name(&self) -> &'static str {
        match self.field.kind {
            FieldKind::Duration => "DURATION",
            FieldKind::Integer | FieldKind::Number => "N",
            FieldKind::Words(_) => "LIST",
            FieldKind::Json | FieldKind::Structured => "JSON",
            FieldKind::Flag => "YES|NO",
            FieldKind::Text | FieldKind::Choice(_) => "TEXT",
        }
    }
}

/// The name of a field on the command line, without dashes.
pub(crate) fn typed_name(verb: Verb, field: &str) -> String {
    match verb.flags.iter().find(|(wire, _)| *wire == field) {
        Some((_, flag)) => (*flag).to_owned(),
        None => kebab(field),
    }
}

/// The fields of an operation on the command line, positional ones first.
pub(super) fn places(kind: OperationKind, verb: Verb) -> Vec<Place> {
    kind.fields()
        .into_iter()
        .map(|field| {
            let is_positional = verb.positional.contains(&field.name.as_str());
            let is_alone = verb.one_of == [field.name.as_str()];
            Place {
                is_positional,
                is_tail: verb.has_tail && verb.positional.last() == Some(&field.name.as_str()),
                is_required: (field.is_required || is_alone) && verb.clears != field.name,
                name: typed_name(verb, &field.name),
                field,
            }
        })
        .collect()
}

/// What follows the words: `<key> <value>`.
pub(crate) fn usage(kind: OperationKind) -> String {
    let Some(verb) = kind.spec().verb else { return String::new() };
    let places = places(kind, verb);
    let mut parts: Vec<String> = Vec::new();
    for place in &places {
        let name = place.spoken();
        let is_choice = verb.one_of.len() > 1 && verb.one_of.contains(&place.field.name.as_str());
        match (place.is_positional, place.is_required) {
            _ if is_choice => {}
            (true, true) if place.is_tail => parts.push(name.replace('>', "…>")),
            (true, true) => parts.push(name),
            (true, false) if verb.clears == place.field.name => {
                parts.push(format!("{} | --clear", name.replace('>', "…>")));
            }
            (true, false) => parts.push(format!("[{}]", name.trim_matches(['<', '>']))),
            (false, true) => parts.push(format!("{name} {}", place.value_name())),
            (false, false) => {}
        }
    }
    if verb.one_of.len() > 1 {
        let one_of: Vec<String> = places
            .iter()
            .filter(|place| verb.one_of.contains(&place.field.name.as_str()))
            .map(|place| match place.field.kind {
                _ if place.is_tail => place.spoken().replace('>', "…>"),
                FieldKind::Flag => place.spoken(),
                _ if place.is_positional => place.spoken(),
                _ => format!("{} {}", place.spoken(), place.value_name()),
            })
            .collect();
        parts.push(one_of.join(" | "));
    }
    parts.join(" ")
}

/// The verb with its flags, examples, aliases and exit codes.
pub(crate) fn command(kind: OperationKind) -> Command {
    let spec = kind.spec();
    let Some(verb) = spec.verb else { return Command::new(spec.name) };
    let line = format!("claudemesh {} {} [OPTIONS]", verb.words, usage(kind)).replace("  ", " ");
    let mut command = outline(kind).override_usage(line).after_help(after_help(verb));
    let places = places(kind, verb);
    let takes_json = places.iter().any(|place| place.field.kind == FieldKind::Json);
    for place in places {
        command = command.arg(argument(&place, verb));
    }
    if takes_json {
        let text = Arg::new(AS_TEXT).long("string").action(ArgAction::SetTrue);
        command = command.arg(text.help("Take the value as text, even if it is JSON"));
    }
    if !verb.clears.is_empty() {
        let clear = Arg::new(CLEAR).long("clear").action(ArgAction::SetTrue);
        command = command.arg(clear.help("Set it to nothing"));
    }
    command
}

/// The verb's name and sentence.
pub(crate) fn outline(kind: OperationKind) -> Command {
    let words = kind.spec().verb.map_or("", |verb| verb.words);
    Command::new(words.rsplit(' ').next().unwrap_or_default()).about(about(kind))
}

/// Puts verbs into a tree, each below its resource.
pub(crate) fn grafted(
    root: Command,
    kinds: impl IntoIterator<Item = OperationKind>,
    leaf: fn(OperationKind) -> Command,
) -> Command {
    kinds.into_iter().fold(root, |root, kind| {
        let words = kind.spec().verb.map_or("", |verb| verb.words);
        let path: Vec<&str> = words.split(' ').collect();
        graft(root, path.get(..path.len().saturating_sub(1)).unwrap_or_default(), kind, leaf)
    })
}

fn graft(
    parent: Command,
    path: &[&'static str],
    kind: OperationKind,
    leaf: fn(OperationKind) -> Command,
) -> Command {
    let Some((first, rest)) = path.split_first() else { return parent.subcommand(leaf(kind)) };
    if parent.find_subcommand(first).is_some() {
        return parent.mut_subcommand(first, |child| graft(child, rest, kind, leaf));
    }
    let resource = Command::new(*first)
        .about(kind.spec().family.summary().trim_end_matches('.'))
        .subcommand_required(true);
    parent.subcommand(graft(resource, rest, kind, leaf))
}

/// Arguments of the operation, as they were typed. What they must fit is checked with [`input::arguments`].
pub(crate) fn arguments(
    kind: OperationKind,
    matches: &ArgMatches,
    spoken: &str,
) -> crate::failure::Outcome<Map<String, Value>> {
    let Some(verb) = kind.spec().verb else { return Ok(Map::new()) };
    input::arguments(verb, &places(kind, verb), matches, spoken, &usage(kind))
}

fn after_help(verb: Verb) -> String {
    let mut text = String::from(if verb.examples.len() == 1 { "Example:" } else { "Examples:" });
    for (line, what) in verb.examples {
        text.extend(["\n  claudemesh ", line, "\n      ", what]);
    }
    match verb.aliases {
        [] => {}
        [alias] => text.extend(["\n\nAlias: ", alias]),
        aliases => text.extend(["\n\nAliases: ", &aliases.join(", ")]),
    }
    text.push_str("\n\nExit codes: 5 not found, 6 changed by somebody else, 7 not allowed");
    text
}

fn argument(place: &Place, verb: Verb) -> Arg {
    let mut arg = Arg::new(place.id()).help(help_of(place));
    arg = if place.is_positional {
        arg.value_name(place.name.clone()).allow_negative_numbers(true)
    } else {
        arg.long(place.name.clone()).value_name(place.value_name())
    };
    arg = match (&place.field.kind, place.is_positional) {
        (FieldKind::Text, true) if place.is_tail => arg.action(ArgAction::Append).num_args(1..),
        (FieldKind::Words(_), true) => arg.action(ArgAction::Append).num_args(1..),
        (FieldKind::Words(_), false) => arg.action(ArgAction::Append),
        (FieldKind::Json | FieldKind::Structured, _) => arg.allow_negative_numbers(true),
        (FieldKind::Flag, false) => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(parser(&place.field)),
        _ => arg.allow_negative_numbers(true).value_parser(parser(&place.field)),
    };
    arg.required(
        place.is_required
            && !(verb.one_of.len() > 1 && verb.one_of.contains(&place.field.name.as_str())),
    )
}

fn help_of(place: &Place) -> String {
    let mut text = place.field.description.trim_end_matches('.').to_owned();
    if place.field.kind == FieldKind::Duration
        && let Some(without_unit) = text.strip_suffix(", in milliseconds")
    {
        // People write a unit.
        text.truncate(without_unit.len());
        text.push_str(", such as 90s, 15m or 2h");
    }
    if let FieldKind::Words(words) = &place.field.kind
        && !words.is_empty()
    {
        text.extend([" (", &words.join(", "), ")"]);
    }
    text
}

/// Reads one value and checks it against the field, so that a refusal names the flag and what fits.
fn parser(field: &Field) -> ValueParser {
    if let FieldKind::Choice(words) = &field.kind {
        return PossibleValuesParser::new(words.clone()).map(Value::String).into();
    }
    let field = field.clone();
    ValueParser::new(move |text: &str| -> Result<Value, String> {
        let value = input::value(&field.kind, text)?;
        input::check(&field, &value)?;
        Ok(field.normalized(value))
    })
}

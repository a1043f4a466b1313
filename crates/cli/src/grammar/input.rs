//! From the words of a verb to the arguments of its operation: values by kind, texts from stdin, alternatives
//! (CLI spec §1.2, §1.8).

use std::io::Read as _;

use clap::ArgMatches;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;
use claudemesh_protocol::ops::{ArgumentError, Field, FieldKind, Verb};
use serde_json::{Map, Value};

use super::operations::{AS_TEXT, CLEAR, Place};
use super::values::{duration, listed};
use crate::failure::{Failure, Outcome};

/// Word that reads the value from stdin.
const STDIN: &str = "-";
/// Word that stands for every word of a closed list.
const ALL: &str = "all";

/// The value of a text by the kind of its field.
///
/// # Errors
/// What was expected.
pub(super) fn value(kind: &FieldKind, text: &str) -> Result<Value, String> {
    match kind {
        FieldKind::Flag => yes_or_no(text).map(Value::Bool).ok_or_else(|| "yes or no".to_owned()),
        FieldKind::Integer => {
            text.parse::<i64>().map(Value::from).map_err(|_| "a whole number".to_owned())
        }
        FieldKind::Number => {
            text.parse::<f64>().map(Value::from).map_err(|_| "a number".to_owned())
        }
        FieldKind::Duration => {
            let span = duration(text)?;
            u64::try_from(span.as_millis())
                .map(Value::from)
                .map_err(|_| "a shorter time".to_owned())
        }
        FieldKind::Structured => {
            serde_json::from_str(text).map_err(|error| format!("JSON ({error})"))
        }
        FieldKind::Json => {
            Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
        }
        FieldKind::Words(_) => Ok(listed(text).into()),
        FieldKind::Text | FieldKind::Choice(_) => Ok(Value::String(text.to_owned())),
    }
}

/// Checks a value against its field.
///
/// # Errors
/// What was expected.
pub(super) fn check(field: &Field, value: &Value) -> Result<(), String> {
    field.check(&field.name, value).map_err(|error| match error {
        ArgumentError::Value { expected, .. } => expected,
        other => other.to_string(),
    })
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The arguments of an operation under their wire names.
///
/// # Errors
/// Exit 3: a value does not fit, or not exactly one of the alternatives is given.
pub(super) fn arguments(
    verb: Verb,
    places: &[Place],
    matches: &ArgMatches,
    spoken: &str,
    usage: &str,
) -> Outcome<Map<String, Value>> {
    let mut arguments = Map::new();
    let mut stdin_reader = None;
    let mut all_of = None;
    for place in places {
        let given = given(place, matches);
        let Some(given) = given else { continue };
        let name = place.field.name.clone();
        let value = match given {
            Given::Value(value) => value,
            Given::Texts(texts) => {
                let text = text_of(place, &texts, spoken, &mut stdin_reader)?;
                let as_text = place.field.kind == FieldKind::Json && flag(matches, AS_TEXT);
                let words = match &place.field.kind {
                    FieldKind::Words(words) => words.as_slice(),
                    _ => &[],
                };
                let value = if as_text {
                    Value::String(text)
                } else {
                    value(&place.field.kind, &text)
                        .map_err(|why| unfit(place, &text, spoken, &why))?
                };
                if value == serde_json::json!([ALL]) && !words.iter().any(|word| word == ALL) {
                    // Leaving it out says the same, to everybody who reads the operation.
                    all_of = Some(name);
                    continue;
                }
                let shown = texts.join(" ");
                check(&place.field, &value).map_err(|why| unfit(place, &shown, spoken, &why))?;
                place.field.normalized(value)
            }
        };
        arguments.insert(name, value);
    }
    if !verb.clears.is_empty() {
        clear(verb, &mut arguments, matches, spoken, usage)?;
    }
    exactly_one(verb, places, &mut arguments, all_of.as_deref(), spoken, usage)?;
    Ok(arguments)
}

enum Given {
    Value(Value),
    Texts(Vec<String>),
}

fn given(place: &Place, matches: &ArgMatches) -> Option<Given> {
    let id = place.id();
    let takes_texts = match place.field.kind {
        FieldKind::Words(_) | FieldKind::Json | FieldKind::Structured => true,
        FieldKind::Text => place.is_tail,
        _ => false,
    };
    if takes_texts {
        let texts: Vec<String> = matches.get_many::<String>(&id)?.cloned().collect();
        return Some(Given::Texts(texts));
    }
    matches.get_one::<Value>(&id).cloned().map(Given::Value)
}

fn flag(matches: &ArgMatches, id: &str) -> bool {
    matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or(false)
}

/// The words as one text; a single `-` reads stdin, once.
fn text_of(
    place: &Place,
    texts: &[String],
    spoken: &str,
    stdin_reader: &mut Option<String>,
) -> Outcome<String> {
    let glue = if matches!(place.field.kind, FieldKind::Words(_)) { "," } else { " " };
    let reads_stdin = !matches!(place.field.kind, FieldKind::Words(_)) && texts == [STDIN];
    if !reads_stdin {
        return Ok(texts.join(glue));
    }
    if let Some(first) = stdin_reader.replace(place.spoken()) {
        return Err(Failure::invalid(format!(
            "{spoken}: {first} and {} cannot both be read from stdin",
            place.spoken()
        )));
    }
    read_stdin(spoken)
}

/// Everything on stdin, without the last line feed.
///
/// # Errors
/// Exit 3 when it is larger than 256 KiB, or not UTF-8.
pub(crate) fn read_stdin(spoken: &str) -> Outcome<String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(limits::CLI_STDIN_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("cannot read stdin", &error))?;
    if bytes.len() as u64 > limits::CLI_STDIN_MAX_BYTES {
        let max = limits::CLI_STDIN_MAX_BYTES;
        return Err(Failure::new(
            ErrorCode::TooLarge,
            format!("{spoken}: stdin holds more than {max} bytes"),
        ));
    }
    let mut text = String::from_utf8(bytes)
        .map_err(|_| Failure::invalid(format!("{spoken}: stdin is not UTF-8")))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn unfit(place: &Place, text: &str, spoken: &str, expected: &str) -> Failure {
    Failure::invalid(format!("{spoken}: {} \"{text}\"", place.spoken()))
        .detail(format!("expected: {expected}"))
        .with("field", place.field.name.clone())
}

fn clear(
    verb: Verb,
    arguments: &mut Map<String, Value>,
    matches: &ArgMatches,
    spoken: &str,
    usage: &str,
) -> Outcome<()> {
    match (flag(matches, CLEAR), arguments.contains_key(verb.clears)) {
        (true, true) => Err(Failure::invalid(format!(
            "{spoken}: <{}> cannot be used with --clear",
            verb.clears
        ))),
        (true, false) => {
            arguments.insert(verb.clears.to_owned(), Value::from(""));
            Ok(())
        }
        (false, true) => Ok(()),
        (false, false) => Err(missing(&format!("<{}>", verb.clears), spoken, usage)),
    }
}

fn missing(what: &str, spoken: &str, usage: &str) -> Failure {
    Failure::invalid(format!("{spoken}: missing {what}"))
        .detail(format!("usage: claudemesh {spoken} {usage}").trim_end().to_owned())
}

/// A flag that is off was not given.
fn exactly_one(
    verb: Verb,
    places: &[Place],
    arguments: &mut Map<String, Value>,
    all_of: Option<&str>,
    spoken: &str,
    usage: &str,
) -> Outcome<()> {
    if verb.one_of.len() < 2 {
        return Ok(());
    }
    let spoken_name = |name: &str| {
        places.iter().find(|place| place.field.name == name).map(Place::spoken).unwrap_or_default()
    };
    for name in verb.one_of {
        if arguments.get(*name) == Some(&Value::Bool(false)) {
            arguments.remove(*name);
        }
    }
    let given: Vec<&str> = verb
        .one_of
        .iter()
        .copied()
        .filter(|name| arguments.contains_key(*name) || all_of == Some(*name))
        .collect();
    match given.as_slice() {
        [_] => Ok(()),
        [] => {
            let names: Vec<String> = verb.one_of.iter().map(|name| spoken_name(name)).collect();
            Err(missing(&names.join(" or "), spoken, usage))
        }
        [first, second, ..] => Err(Failure::invalid(format!(
            "{spoken}: {} cannot be used with {}",
            spoken_name(second),
            spoken_name(first)
        ))),
    }
}

//! What is to stand in a settings file, and by what it is known as ours.

use serde_json::Value;

use super::{Edited, SettingsError};

/// One entry of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Path of the object or array it belongs into.
    pub within: Vec<String>,
    /// What it is there.
    pub place: Place,
    /// Its value. Of an object that is there already only these keys are changed: others were set by the user.
    pub value: Value,
    /// By what it is known.
    pub ours: Ours,
}

/// Where in its container an entry stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Under this key of an object.
    Key(String),
    /// Among the elements of an array, at its end.
    Element,
}

/// By what an entry is known as ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ours {
    /// By its key.
    Key,
    /// By a `command` in it with this text; a foreign one under the same key is left alone. In a group of hooks of which
    /// only some are ours, those alone are.
    Command(String),
    /// By its value.
    Value,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Added,
    /// It was there with another value.
    Updated,
    /// It was there.
    Unchanged,
    /// Something foreign stands in its place and stays.
    Foreign,
    /// It is gone.
    Removed,
    /// It was not there.
    Absent,
}

/// A way to write settings.
pub(super) trait Format {
    fn put(&self, text: &str, entries: &[Entry]) -> Result<Edited, SettingsError>;
    fn take(
        &self,
        text: &str,
        entries: &[Entry],
        made: &[Vec<String>],
    ) -> Result<Edited, SettingsError>;
}

/// How much of a value is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Share {
    All,
    /// The elements of its `hooks` with these numbers.
    Some(Vec<usize>),
    None,
}

impl Entry {
    /// An entry under a key, which is what it is known by.
    pub fn keyed(within: &[&str], key: &str, value: Value) -> Self {
        Self { within: owned(within), place: Place::Key(key.to_owned()), value, ours: Ours::Key }
    }

    /// An entry under a key that others use, too; ours when its command has this text.
    pub fn command_at(within: &[&str], key: &str, value: Value, command: &str) -> Self {
        Self { ours: Ours::Command(command.to_owned()), ..Self::keyed(within, key, value) }
    }

    /// An element known by a command with this text.
    pub fn hook(within: &[&str], value: Value, command: &str) -> Self {
        Self {
            within: owned(within),
            place: Place::Element,
            value,
            ours: Ours::Command(command.to_owned()),
        }
    }

    /// An element known by its value.
    pub fn element(within: &[&str], value: impl Into<Value>) -> Self {
        Self {
            within: owned(within),
            place: Place::Element,
            value: value.into(),
            ours: Ours::Value,
        }
    }

    /// How much of what stands in its place is ours.
    pub(super) fn share(&self, found: &Value) -> Share {
        let is_ours = match &self.ours {
            Ours::Key => true,
            Ours::Value => *found == self.value,
            Ours::Command(text) => return commands(found, text),
        };
        if is_ours { Share::All } else { Share::None }
    }
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|&step| step.to_owned()).collect()
}

fn commands(found: &Value, text: &str) -> Share {
    let is_ours = |handler: &Value| {
        handler.get("command").and_then(Value::as_str).is_some_and(|command| command.contains(text))
    };
    if is_ours(found) {
        return Share::All;
    }
    let Some(handlers) = found.get("hooks").and_then(Value::as_array) else { return Share::None };
    let numbers: Vec<usize> = handlers
        .iter()
        .enumerate()
        .filter(|(_, handler)| is_ours(handler))
        .map(|(number, _)| number)
        .collect();
    match numbers.len() {
        0 => Share::None,
        count if count == handlers.len() => Share::All,
        _ => Share::Some(numbers),
    }
}

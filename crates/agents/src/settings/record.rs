//! What an installation did to each file, so that taking it back leaves the very bytes that were there before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Edited, Entry, Ours, Outcome, SettingsError, Step, Syntax, take};

/// Version of the ledger's form.
const LEDGER_VERSION: u32 = 1;

/// What was done to all files, by path: `~/.claudemesh/install.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Version of this document.
    pub schema_version: u32,
    /// Files with entries of ours.
    #[serde(default)]
    pub files: BTreeMap<String, Record>,
    /// Edits that were begun: written down before the file is touched, so that whoever dies in between leaves a way back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub begun: BTreeMap<String, Record>,
    /// Files that are ours as a whole, with the SHA-256 of what we wrote, in hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub owned: BTreeMap<String, String>,
    /// Directories that had to be made, the outer ones first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dirs: Vec<String>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            schema_version: LEDGER_VERSION,
            files: BTreeMap::new(),
            begun: BTreeMap::new(),
            owned: BTreeMap::new(),
            dirs: Vec::new(),
        }
    }
}

impl Ledger {
    /// True when nothing of ours is left anywhere.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
            && self.begun.is_empty()
            && self.owned.is_empty()
            && self.dirs.is_empty()
    }

    /// True for a ledger of this form; a newer program's is left alone.
    pub const fn is_known(&self) -> bool {
        self.schema_version == LEDGER_VERSION
    }

    /// Decides about an edit that was begun and perhaps never done: it holds if the file is what it was to become.
    pub fn settle(&mut self, path: &str, text: Option<&str>) {
        if let Some(begun) = self.begun.remove(path)
            && text.map(hash).as_ref() == Some(&begun.after)
        {
            self.files.insert(path.to_owned(), begun);
        }
    }

    /// What is known of a file with this text. An installation of which nothing is left, because somebody put the old file
    /// back or took our entries out, is none.
    pub fn record_of(
        &self,
        path: &str,
        syntax: Syntax,
        text: Option<&str>,
        entries: &[Entry],
    ) -> Option<&Record> {
        let (record, text) = (self.files.get(path)?, text?);
        let found = hash(text);
        if Some(&found) == record.before.as_ref() {
            return None;
        }
        let is_gone = || take(syntax, text, entries, &[]).is_ok_and(|edited| !edited.is_change());
        (found == record.after || !is_gone()).then_some(record)
    }
}

/// SHA-256 in hex.
pub fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// What was done to one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// SHA-256 of the file before, in hex; `None` when there was none.
    pub before: Option<String>,
    /// And after.
    pub after: String,
    /// The way from one to the other; empty when somebody else came in between.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Objects and arrays made for our entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<Vec<String>>,
    /// Elements known by their value that were there already: they are the user's, and stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
}

/// An element that the user had before us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Path of its array.
    pub within: Vec<String>,
    /// The element.
    pub value: Value,
}

/// What taking an installation back makes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// There was none before: it goes.
    Delete,
    /// Its new text, with what became of each entry.
    Text {
        /// The text.
        text: String,
        /// In the order of the entries.
        outcomes: Vec<Outcome>,
    },
    /// Nothing of ours is in it.
    Untouched,
}

impl Record {
    /// What putting these entries did: to a file that was not there, `before` is `None`.
    pub fn of(before: Option<&str>, entries: &[Entry], edited: &Edited) -> Self {
        let found = entries.iter().zip(&edited.outcomes).filter(|(entry, outcome)| {
            entry.ours == Ours::Value && **outcome == Outcome::Unchanged
        });
        let found = found
            .map(|(entry, _)| Found { within: entry.within.clone(), value: entry.value.clone() });
        Self {
            found: found.collect(),
            before: before.map(hash),
            after: hash(&edited.text),
            steps: edited.steps.clone(),
            made: edited.made.clone(),
        }
    }

    /// What this and another edit after it did; `before` is the text that the other one found.
    #[must_use]
    pub fn and(mut self, before: Option<&str>, edited: &Edited) -> Self {
        if !edited.is_change() {
            return self;
        }
        if before.map(hash).as_ref() == Some(&self.after) {
            self.steps.extend(edited.steps.iter().cloned());
        } else {
            // Somebody else wrote in between: no way leads back any more, only what is ours can be cut. A file that was
            // not there before us still is one of our making.
            self.before = self.before.and(before.map(hash));
            self.steps.clear();
        }
        self.made.extend(edited.made.iter().cloned());
        self.after = hash(&edited.text);
        self
    }

    fn is_the_users(&self, entry: &Entry) -> bool {
        entry.ours == Ours::Value
            && self
                .found
                .iter()
                .any(|found| found.within == entry.within && found.value == entry.value)
    }

    /// The way back, when this is the text after.
    fn original(&self, text: &str, entries: &[Entry]) -> Option<Undone> {
        if self.steps.is_empty() || hash(text) != self.after {
            return None;
        }
        let back = |text: String, step: &Step| step.back().apply(&text);
        let undone = self.steps.iter().rev().try_fold(text.to_owned(), back)?;
        match &self.before {
            None => undone.is_empty().then_some(Undone::Delete),
            Some(before) if hash(&undone) == *before => {
                let outcomes = vec![Outcome::Removed; entries.len()];
                Some(Undone::Text { text: undone, outcomes })
            }
            Some(_) => None,
        }
    }
}

/// Takes our entries out of a file: to the byte, when nobody else has written to it since, and otherwise by cutting what is
/// ours and nothing else.
///
/// # Errors
/// [`SettingsError`]: the file is to be left as it is.
pub fn undo(
    syntax: Syntax,
    text: &str,
    entries: &[Entry],
    record: Option<&Record>,
) -> Result<Undone, SettingsError> {
    if let Some(undone) = record.and_then(|record| record.original(text, entries)) {
        return Ok(undone);
    }
    let made = record.map(|record| record.made.as_slice()).unwrap_or_default();
    let is_ours = |entry: &&Entry| !record.is_some_and(|record| record.is_the_users(entry));
    let ours: Vec<Entry> = entries.iter().filter(is_ours).cloned().collect();
    let edited = take(syntax, text, &ours, made)?;
    if !edited.is_change() {
        return Ok(Undone::Untouched);
    }
    let was_absent = record.is_some_and(|record| record.before.is_none());
    if was_absent && edited.text.trim().is_empty() {
        return Ok(Undone::Delete);
    }
    let mut told = edited.outcomes.into_iter();
    let outcome_of = |entry| if is_ours(&entry) { told.next() } else { Some(Outcome::Foreign) };
    let outcomes = entries.iter().filter_map(outcome_of).collect();
    Ok(Undone::Text { text: edited.text, outcomes })
}

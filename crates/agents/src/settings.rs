//! Our entries in other people's settings files, put there and taken away by text span (MCP spec §10, CLI spec §6.1).
//!
//! People write these files by hand and other tools write them, too. So nothing is parsed and printed again: the places of
//! our entries are found, and only their bytes are inserted, replaced or cut. Comments, order, indentation and line ends of
//! everything else stay. Every result is parsed and held against what it must mean before anybody may write it (the loss
//! guard), and comes with the steps that lead back to the very bytes before.

mod diff;
mod entry;
mod guard;
mod jsonc;
mod record;
mod splice;
mod toml;
mod tree;

pub use diff::diff;
pub use entry::{Entry, Ours, Outcome, Place};
pub use record::{Found, Ledger, Record, Undone, hash, undo};
pub use splice::Step;

use entry::Format;

/// The byte order mark, which some editors of Windows begin every file with.
const BOM: char = '\u{feff}';

/// Why a file is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// It cannot be read as what it should be.
    #[error("line {line}, column {column}: {reason}")]
    Unreadable {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// Something of another kind stands where our entries belong.
    #[error("{at} is {found}, not {wanted}")]
    InTheWay {
        /// Path in the file, with dots.
        at: String,
        /// What stands there.
        found: &'static str,
        /// What should.
        wanted: &'static str,
    },
    /// The edit would have changed more than our entries: a mistake of ours, and nothing is written.
    #[error("the edit would have changed more than our own entries")]
    LossGuard,
}

/// What an edit makes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// The new text.
    pub text: String,
    /// What became of each entry, in their order.
    pub outcomes: Vec<Outcome>,
    /// The way there, step by step; empty when nothing changes.
    pub steps: Vec<Step>,
    /// Objects and arrays that had to be made, by path; the empty path is the document itself.
    pub made: Vec<Vec<String>>,
}

impl Edited {
    /// True when the file is to be written.
    pub fn is_change(&self) -> bool {
        !self.steps.is_empty()
    }
}

/// The kind of a settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// JSON with comments and trailing commas.
    Jsonc,
    /// TOML.
    Toml,
}

/// Puts entries into a file. A file that is not there is the empty text.
///
/// # Errors
/// [`SettingsError`]: the file is to be left as it is.
pub fn put(syntax: Syntax, text: &str, entries: &[Entry]) -> Result<Edited, SettingsError> {
    edit(syntax, text, |format, body| format.put(body, entries))
}

/// Takes entries out of a file, with the containers in `made` that nothing is left in.
///
/// # Errors
/// [`SettingsError`]: the file is to be left as it is.
pub fn take(
    syntax: Syntax,
    text: &str,
    entries: &[Entry],
    made: &[Vec<String>],
) -> Result<Edited, SettingsError> {
    edit(syntax, text, |format, body| format.take(body, entries, made))
}

/// What a file means; that of the empty text is an empty object.
///
/// # Errors
/// [`SettingsError::Unreadable`].
pub fn meaning(syntax: Syntax, text: &str) -> Result<serde_json::Value, SettingsError> {
    let text = text.strip_prefix(BOM).unwrap_or(text);
    match syntax {
        Syntax::Jsonc => jsonc::meaning(text),
        Syntax::Toml => toml::meaning(text),
    }
}

fn edit(
    syntax: Syntax,
    text: &str,
    change: impl FnOnce(&dyn Format, &str) -> Result<Edited, SettingsError>,
) -> Result<Edited, SettingsError> {
    let format: &dyn Format = match syntax {
        Syntax::Jsonc => &jsonc::Jsonc,
        Syntax::Toml => &toml::Toml,
    };
    let Some(body) = text.strip_prefix(BOM) else { return change(format, text) };
    let mut edited = change(format, body)?;
    edited.text.insert(0, BOM);
    for step in &mut edited.steps {
        step.at += BOM.len_utf8();
    }
    Ok(edited)
}

/// Where a byte stands, as people count.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}

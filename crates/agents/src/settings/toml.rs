//! Entries in TOML: tables of ours with plain values, such as `[mcp_servers.claudemesh]` of Codex.

use std::fmt::Write as _;
use std::ops::Range;

use serde_json::{Map, Value};
use toml_edit::{Document, Item, Key, Table, TableLike};

use super::entry::{Entry, Format, Ours, Outcome, Place};
use super::splice::Draft;
use super::{Edited, SettingsError, guard, line_and_column};

/// The format.
pub(super) struct Toml;

impl Format for Toml {
    fn put(&self, text: &str, entries: &[Entry]) -> Result<Edited, SettingsError> {
        let mut draft = Draft::new(text);
        let mut expected = meaning(text)?;
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = path_of(entry)?;
            outcomes.push(put(&mut draft, &path, entry)?);
            guard::put(&mut expected, entry);
        }
        if meaning(&draft.text).ok() != Some(expected) {
            return Err(SettingsError::LossGuard);
        }
        Ok(Edited { text: draft.text, outcomes, steps: draft.steps, made: Vec::new() })
    }

    fn take(
        &self,
        text: &str,
        entries: &[Entry],
        _made: &[Vec<String>],
    ) -> Result<Edited, SettingsError> {
        let mut draft = Draft::new(text);
        let mut expected = meaning(text)?;
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = path_of(entry)?;
            let is_there = find(&parse(&draft.text)?, &path).is_some();
            while let Some(range) = next_cut(&draft.text, &path)? {
                draft.replace(range, "");
            }
            outcomes.push(if is_there { Outcome::Removed } else { Outcome::Absent });
            guard::take(&mut expected, entry);
        }
        let mut found = meaning(&draft.text).map_err(|_| SettingsError::LossGuard)?;
        // A table that only our header named goes with it; one with a header of its own stays.
        let parents: Vec<_> = entries.iter().map(|entry| entry.within.clone()).collect();
        guard::without_empty(&mut expected, &parents);
        guard::without_empty(&mut found, &parents);
        if found != expected {
            return Err(SettingsError::LossGuard);
        }
        Ok(Edited { text: draft.text, outcomes, steps: draft.steps, made: Vec::new() })
    }
}

/// The path of the table that an entry is.
fn path_of(entry: &Entry) -> Result<Vec<String>, SettingsError> {
    match (&entry.place, &entry.ours, &entry.value) {
        (Place::Key(key), Ours::Key, Value::Object(_)) if !entry.within.is_empty() => {
            Ok(entry.within.iter().chain([key]).cloned().collect())
        }
        _ => Err(SettingsError::InTheWay {
            at: entry.within.join("."),
            found: "something else",
            wanted: "a table of ours",
        }),
    }
}

fn put(draft: &mut Draft, path: &[String], entry: &Entry) -> Result<Outcome, SettingsError> {
    let Value::Object(wanted) = &entry.value else { return Err(SettingsError::LossGuard) };
    let mut outcome = Outcome::Unchanged;
    loop {
        let document = parse(&draft.text)?;
        let Some((_, item)) = find(&document, path) else {
            let deepest = (1..path.len())
                .rev()
                .find_map(|depth| Some((depth, find(&document, path.get(..depth)?)?.1)));
            if let Some((depth, item)) = deepest.filter(|(_, item)| !item.is_table()) {
                let at = path.get(..depth).unwrap_or_default().join(".");
                let found = item.type_name_for_people();
                return Err(SettingsError::InTheWay { at, found, wanted: "a table" });
            }
            append(draft, path, wanted);
            return Ok(Outcome::Added);
        };
        let Some(table) = item.as_table() else {
            if value_of_item(item) == entry.value {
                return Ok(Outcome::Unchanged);
            }
            let found = item.type_name_for_people();
            return Err(SettingsError::InTheWay { at: path.join("."), found, wanted: "a table" });
        };
        let differing = wanted
            .iter()
            .find(|(key, value)| table.get(key).map(value_of_item).as_ref() != Some(value));
        let Some((key, value)) = differing else { return Ok(outcome) };
        outcome = Outcome::Updated;
        let old = table.get(key).and_then(Item::span);
        match old {
            Some(range) if table.get(key).is_some_and(Item::is_value) => {
                draft.replace(range, &rendered(value));
            }
            Some(_) => return Err(SettingsError::LossGuard),
            None if table.is_dotted() => return Err(SettingsError::LossGuard),
            None => {
                let Some(header) = table.span() else { return Err(SettingsError::LossGuard) };
                let end = line_end(&draft.text, header.end);
                let newline = newline_of(&draft.text);
                let is_open = !draft.text.get(..end).is_some_and(|text| text.ends_with('\n'));
                let before = if is_open { newline } else { "" };
                let line = format!("{before}{} = {}{newline}", Key::new(key), rendered(value));
                draft.replace(end..end, &line);
            }
        }
    }
}

/// A table of its own at the end of the file, behind an empty line.
fn append(draft: &mut Draft, path: &[String], values: &Map<String, Value>) {
    let newline = newline_of(&draft.text);
    let gap = match draft.text.as_str() {
        "" => String::new(),
        text if text.ends_with('\n') => newline.to_owned(),
        _ => newline.repeat(2),
    };
    let keys: Vec<String> = path.iter().map(|key| Key::new(key).to_string()).collect();
    let mut table = format!("{gap}[{}]{newline}", keys.join("."));
    for (key, value) in values {
        let _ = write!(table, "{} = {}{newline}", Key::new(key), rendered(value));
    }
    let end = draft.text.len();
    draft.replace(end..end, &table);
}

/// The last piece of text that belongs to the item at a path: a section with its header, or a line.
fn next_cut(text: &str, path: &[String]) -> Result<Option<Range<usize>>, SettingsError> {
    let document = parse(text)?;
    let Some((key, item)) = find(&document, path) else { return Ok(None) };
    let mut pieces = Vec::new();
    pieces_of(key, item, &mut pieces);
    let Some(piece) = pieces.into_iter().max_by_key(|piece| piece.range.start) else {
        return Err(SettingsError::LossGuard);
    };
    let mut start = line_start(text, piece.range.start);
    let end = line_end(text, piece.range.end);
    if piece.is_section {
        // The empty line before it came with it.
        let before = text.get(..start).unwrap_or_default();
        let rest = before.strip_suffix('\n').map(|rest| rest.strip_suffix('\r').unwrap_or(rest));
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.ends_with('\n')) {
            start = rest.len();
        }
    }
    Ok(Some(start..end))
}

struct Piece {
    range: Range<usize>,
    is_section: bool,
}

fn pieces_of(key: &Key, item: &Item, pieces: &mut Vec<Piece>) {
    match item {
        Item::Table(table) if table.is_dotted() || table.is_implicit() => {
            inner_pieces(table, pieces);
        }
        Item::Table(table) => section(table, pieces),
        Item::ArrayOfTables(tables) => {
            for table in tables {
                section(table, pieces);
            }
        }
        Item::Value(_) => {
            if let Some((start, end)) = key.span().zip(item.span()) {
                pieces.push(Piece { range: start.start..end.end, is_section: false });
            }
        }
        Item::None => {}
    }
}

fn inner_pieces(table: &Table, pieces: &mut Vec<Piece>) {
    for (name, item) in table {
        if let Some(key) = table.key(name) {
            pieces_of(key, item, pieces);
        }
    }
}

/// A table with its header, and those below it, which have headers of their own.
fn section(table: &Table, pieces: &mut Vec<Piece>) {
    let Some(header) = table.span() else { return };
    let mut inside = Vec::new();
    inner_pieces(table, &mut inside);
    let (sections, lines): (Vec<_>, Vec<_>) =
        inside.into_iter().partition(|piece| piece.is_section);
    pieces.extend(sections);
    let end = lines.iter().map(|line| line.range.end).max().unwrap_or(header.end);
    pieces.push(Piece { range: header.start..end.max(header.end), is_section: true });
}

fn parse(text: &str) -> Result<Document<&str>, SettingsError> {
    Document::parse(text).map_err(|error| {
        let (line, column) = line_and_column(text, error.span().unwrap_or_default().start);
        SettingsError::Unreadable { line, column, reason: error.message().to_owned() }
    })
}

fn find<'a>(document: &'a Document<&str>, path: &[String]) -> Option<(&'a Key, &'a Item)> {
    let (last, within) = path.split_last()?;
    let table = within.iter().try_fold(document.as_table() as &dyn TableLike, |table, key| {
        table.get(key)?.as_table_like()
    })?;
    table.get_key_value(last)
}

/// What a document means.
pub(super) fn meaning(text: &str) -> Result<Value, SettingsError> {
    Ok(value_of_table(parse(text)?.as_table()))
}

fn value_of_table(table: &dyn TableLike) -> Value {
    Value::Object(table.iter().map(|(key, item)| (key.to_owned(), value_of_item(item))).collect())
}

fn value_of_item(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => value_of_value(value),
        Item::Table(table) => value_of_table(table),
        Item::ArrayOfTables(tables) => {
            Value::Array(tables.iter().map(|table| value_of_table(table)).collect())
        }
    }
}

fn value_of_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(format!("float {}", number.value())),
        toml_edit::Value::Boolean(word) => Value::from(*word.value()),
        toml_edit::Value::Datetime(time) => Value::from(format!("time {}", time.value())),
        toml_edit::Value::Array(elements) => elements.iter().map(value_of_value).collect(),
        toml_edit::Value::InlineTable(table) => value_of_table(table),
    }
}

/// A value on one line. JSON's texts, numbers, truth values and arrays are TOML's, too, but for a few escapes.
fn rendered(value: &Value) -> String {
    match value {
        Value::String(text) => toml_edit::Value::from(text.as_str()).to_string(),
        Value::Array(elements) => {
            format!("[{}]", elements.iter().map(rendered).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let members =
                map.iter().map(|(key, value)| format!("{} = {}", Key::new(key), rendered(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}

fn newline_of(text: &str) -> &'static str {
    let line = text.split_once('\n').map(|(line, _)| line);
    if line.is_some_and(|line| line.ends_with('\r')) { "\r\n" } else { "\n" }
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1)
}

/// Behind the line end of the line on which this byte stands.
fn line_end(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    rest.find('\n').map_or(text.len(), |end| at + end + 1)
}

trait TypeName {
    fn type_name_for_people(&self) -> &'static str;
}

impl TypeName for Item {
    fn type_name_for_people(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Value(value) if value.is_inline_table() => "written on one line",
            Self::Value(_) => "a plain value",
            Self::Table(_) => "a table",
            Self::ArrayOfTables(_) => "a list of tables",
        }
    }
}

//! Entries in JSON with comments and trailing commas.

use serde_json::{Map, Value};

use super::entry::{Entry, Format, Ours, Outcome, Place, Share};
use super::splice::Draft;
use super::tree::{Loc, Node, Tree, kind_of};
use super::{Edited, SettingsError, guard};

mod style;

use style::Style;

/// The format.
pub(super) struct Jsonc;

impl Format for Jsonc {
    fn put(&self, text: &str, entries: &[Entry]) -> Result<Edited, SettingsError> {
        let mut editor = Editor::open(text)?;
        let mut expected = editor.value();
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            outcomes.push(editor.put(entry)?);
            guard::put(&mut expected, entry);
        }
        if !outcomes.is_empty() && editor.value() != expected {
            return Err(SettingsError::LossGuard);
        }
        Ok(editor.finish(outcomes))
    }

    fn take(
        &self,
        text: &str,
        entries: &[Entry],
        made: &[Vec<String>],
    ) -> Result<Edited, SettingsError> {
        let mut editor = Editor::open(text)?;
        let mut expected = editor.value();
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            outcomes.push(editor.take(entry)?);
            guard::take(&mut expected, entry);
        }
        editor.take_containers(made)?;
        let mut found = editor.value();
        guard::without_empty(&mut expected, made);
        // A container that still has a comment in it stays.
        guard::without_empty(&mut found, made);
        if found != expected {
            return Err(SettingsError::LossGuard);
        }
        Ok(editor.finish(outcomes))
    }
}

/// What a document means.
pub(super) fn meaning(text: &str) -> Result<Value, SettingsError> {
    let root = Tree::parse(text)?.root;
    Ok(root.map_or_else(|| Value::Object(Map::new()), |root| root.value))
}

/// A document being edited; parsed anew after each change.
struct Editor {
    draft: Draft,
    tree: Tree,
    style: Style,
    made: Vec<Vec<String>>,
}

impl Editor {
    fn open(text: &str) -> Result<Self, SettingsError> {
        let tree = Tree::parse(text)?;
        if let Some(root) = tree.root.as_ref().filter(|root| !root.value.is_object()) {
            return Err(in_the_way(&[], &root.value, "an object"));
        }
        let style = Style::of(text, &tree);
        Ok(Self { draft: Draft::new(text), tree, style, made: Vec::new() })
    }

    fn finish(self, outcomes: Vec<Outcome>) -> Edited {
        Edited { text: self.draft.text, outcomes, steps: self.draft.steps, made: self.made }
    }

    /// What the document means.
    fn value(&self) -> Value {
        self.tree.root.as_ref().map_or_else(|| Value::Object(Map::new()), |root| root.value.clone())
    }

    fn parse(&mut self) -> Result<(), SettingsError> {
        // What was readable is readable after an edit of ours, or the edit was wrong.
        self.tree = Tree::parse(&self.draft.text).map_err(|_| SettingsError::LossGuard)?;
        Ok(())
    }

    fn put(&mut self, entry: &Entry) -> Result<Outcome, SettingsError> {
        self.need_root()?;
        let wanted = match entry.place {
            Place::Key(_) => "an object",
            Place::Element => "an array",
        };
        // The container, or the deepest object on the way to it that is there.
        let (there, missing) = (0..=entry.within.len())
            .rev()
            .map(|depth| entry.within.split_at(depth))
            .find(|(there, _)| self.tree.at(&keys(there)).is_some())
            .unwrap_or_default();
        let location = keys(there);
        let Some(node) = self.tree.at(&location) else { return Err(SettingsError::LossGuard) };
        let needed = if missing.is_empty() { wanted } else { "an object" };
        if kind_of(&node.value) != needed {
            return Err(in_the_way(there, &node.value, needed));
        }
        if let Some((first, deeper)) = missing.split_first() {
            let value = nested(deeper, entry);
            let made = (there.len() + 1..=entry.within.len())
                .filter_map(|end| entry.within.get(..end).map(<[String]>::to_vec));
            self.made.extend(made);
            self.insert(&location, Some(first), &value)?;
            return Ok(Outcome::Added);
        }
        match &entry.place {
            Place::Key(key) => self.put_member(location, key, entry),
            Place::Element => self.put_element(location, entry),
        }
    }

    fn put_member(
        &mut self,
        mut location: Vec<Loc>,
        key: &str,
        entry: &Entry,
    ) -> Result<Outcome, SettingsError> {
        let found = self.tree.at(&location).and_then(|node| node.member(key));
        let Some((_, _, found)) = found else {
            self.insert(&location, Some(key), &entry.value)?;
            return Ok(Outcome::Added);
        };
        if entry.share(&found.value) == Share::None {
            return Ok(Outcome::Foreign);
        }
        location.push(Loc::Key(key.to_owned()));
        self.merge(&location, &entry.value)
    }

    fn put_element(&mut self, location: Vec<Loc>, entry: &Entry) -> Result<Outcome, SettingsError> {
        let elements = self.tree.at(&location).map(Node::elements).unwrap_or_default();
        let first = elements.iter().position(|found| entry.share(&found.value) == Share::All);
        if entry.ours == Ours::Value && first.is_some() {
            return Ok(Outcome::Unchanged);
        }
        // Others of ours would be run as well.
        let mut is_cleaned = false;
        while let Some(cut) = self.stray(&location, first, entry) {
            self.cut(&cut)?;
            is_cleaned = true;
        }
        // What was cut before the first moves it.
        let elements = self.tree.at(&location).map(Node::elements).unwrap_or_default();
        let first = elements.iter().position(|found| entry.share(&found.value) == Share::All);
        let Some(first) = first else {
            self.insert(&location, None, &entry.value)?;
            return Ok(if is_cleaned { Outcome::Updated } else { Outcome::Added });
        };
        let mut at = location;
        at.push(Loc::At(first));
        let outcome = self.merge(&at, &entry.value)?;
        Ok(if is_cleaned { Outcome::Updated } else { outcome })
    }

    /// The last thing of ours among the elements except element `kept`.
    fn stray(&self, location: &[Loc], kept: Option<usize>, entry: &Entry) -> Option<Vec<Loc>> {
        let elements = self.tree.at(location)?.elements();
        elements.iter().enumerate().rev().filter(|(number, _)| Some(*number) != kept).find_map(
            |(number, found)| {
                let mut at = location.to_vec();
                at.push(Loc::At(number));
                match entry.share(&found.value) {
                    Share::All => Some(at),
                    Share::Some(numbers) => {
                        at.push(Loc::Key("hooks".to_owned()));
                        at.push(Loc::At(*numbers.last()?));
                        Some(at)
                    }
                    Share::None => None,
                }
            },
        )
    }

    /// Gives the value there our keys, or our value if it has none.
    fn merge(&mut self, location: &[Loc], wanted: &Value) -> Result<Outcome, SettingsError> {
        let Some(found) = self.tree.at(location) else { return Err(SettingsError::LossGuard) };
        let (Value::Object(wanted), Value::Object(_)) = (wanted, &found.value) else {
            if found.value == *wanted {
                return Ok(Outcome::Unchanged);
            }
            self.replace(location, wanted)?;
            return Ok(Outcome::Updated);
        };
        let mut outcome = Outcome::Unchanged;
        for (key, value) in wanted {
            let mut at = location.to_vec();
            at.push(Loc::Key(key.clone()));
            match self.tree.at(&at) {
                Some(node) if node.value == *value => continue,
                Some(_) => self.replace(&at, value)?,
                None => self.insert(location, Some(key), value)?,
            }
            outcome = Outcome::Updated;
        }
        Ok(outcome)
    }

    fn take(&mut self, entry: &Entry) -> Result<Outcome, SettingsError> {
        let location = keys(&entry.within);
        let mut outcome = Outcome::Absent;
        loop {
            let cut = match &entry.place {
                Place::Element => self.stray(&location, None, entry),
                Place::Key(key) => {
                    let found = self.tree.at(&location).and_then(|node| node.member(key));
                    match found.map(|(_, _, node)| entry.share(&node.value)) {
                        Some(Share::None) if outcome == Outcome::Absent => {
                            return Ok(Outcome::Foreign);
                        }
                        Some(Share::All | Share::Some(_)) => {
                            let mut at = location.clone();
                            at.push(Loc::Key(key.clone()));
                            Some(at)
                        }
                        _ => None,
                    }
                }
            };
            let Some(cut) = cut else { return Ok(outcome) };
            self.cut(&cut)?;
            outcome = Outcome::Removed;
        }
    }

    /// Cuts containers that were made for our entries and have nothing in them any more, not even a comment.
    fn take_containers(&mut self, made: &[Vec<String>]) -> Result<(), SettingsError> {
        let mut made: Vec<_> = made.iter().collect();
        made.sort_by_key(|path| std::cmp::Reverse(path.len()));
        for path in made {
            let location = keys(path);
            let Some(node) = self.tree.at(&location) else { continue };
            let is_container = matches!(node.value, Value::Object(_) | Value::Array(_));
            let is_bare = self.tree.end_before(node.range.end - 1) == node.range.start + 1;
            if !is_container || !is_bare {
                continue;
            }
            if path.is_empty() {
                let start = node.range.start;
                let rest = self.draft.text.get(node.range.end..).unwrap_or_default();
                let line_end = usize::from(rest.starts_with('\r')) + 1;
                let is_line = rest.get(..line_end).is_some_and(|end| end.ends_with('\n'));
                let end = node.range.end + if is_line { line_end } else { 0 };
                self.draft.replace(start..end, "");
                self.parse()?;
            } else {
                self.cut(&location)?;
            }
        }
        Ok(())
    }

    /// A text without a value gets an object.
    fn need_root(&mut self) -> Result<(), SettingsError> {
        if self.tree.root.is_some() {
            return Ok(());
        }
        let (text, newline) = (&self.draft.text, self.style.newline);
        let is_at_line_start = text.is_empty() || text.ends_with('\n');
        let before = if is_at_line_start { "" } else { newline };
        let end = text.len();
        self.draft.replace(end..end, &format!("{before}{{}}{newline}"));
        self.made.push(Vec::new());
        self.parse()
    }

    fn replace(&mut self, location: &[Loc], value: &Value) -> Result<(), SettingsError> {
        let Some(node) = self.tree.at(location) else { return Err(SettingsError::LossGuard) };
        let text = &self.draft.text;
        let is_long = text.get(node.range.clone()).is_some_and(|old| old.contains('\n'));
        let rendered = if is_long {
            self.style.long(value, style::indent_at(text, node.range.start))
        } else {
            style::short(value)
        };
        self.draft.replace(node.range.clone(), &rendered);
        self.parse()
    }

    /// Adds a member or an element at the end of a container.
    fn insert(
        &mut self,
        location: &[Loc],
        key: Option<&str>,
        value: &Value,
    ) -> Result<(), SettingsError> {
        let Some(node) = self.tree.at(location) else { return Err(SettingsError::LossGuard) };
        let (open, close) = (node.range.start + 1, node.range.end - 1);
        let children = node.child_ranges();
        let text = &self.draft.text;
        let newline = self.style.newline;
        let has_line_end = |from, to| text.get(from..to).is_some_and(|part| part.contains('\n'));
        let base = style::indent_at(text, node.range.start);
        let key = key.map(|key| format!("{}: ", Value::from(key))).unwrap_or_default();
        // Behind the last comment, too: one at the end of the last line belongs to that.
        let at = self.tree.end_before(close);
        let Some((first, last)) = children.first().zip(children.last()) else {
            let indent = format!("{base}{}", self.style.unit);
            let is_bare = at == open;
            if is_bare && self.style.is_one_line {
                let put = format!("{key}{}", style::short(value));
                self.draft.replace(open..close, &put);
                return self.parse();
            }
            let put = format!("{newline}{indent}{key}{}", self.style.long(value, &indent));
            let end = format!("{newline}{base}");
            if is_bare {
                self.draft.replace(open..close, &(put + &end));
            } else {
                let end = if has_line_end(at, close) { "" } else { &end };
                self.draft.replace(at..at, &(put + end));
            }
            return self.parse();
        };
        let comma = self.tree.comma_after(last.end);
        let trailing = if comma.is_some() { "," } else { "" };
        let put = if has_line_end(open, first.start) || has_line_end(last.end, close) {
            let indent = style::own_indent(text, last.start)
                .map_or_else(|| format!("{base}{}", self.style.unit), str::to_owned);
            format!("{newline}{indent}{key}{}{trailing}", self.style.long(value, &indent))
        } else {
            format!(" {key}{}{trailing}", style::short(value))
        };
        let last_end = last.end;
        self.draft.replace(at..at, &put);
        if comma.is_none() {
            self.draft.replace(last_end..last_end, ",");
        }
        self.parse()
    }

    /// Takes a member or an element away, with one comma and the blanks before it.
    fn cut(&mut self, location: &[Loc]) -> Result<(), SettingsError> {
        let nowhere = SettingsError::LossGuard;
        let Some((child, parent)) = location.split_last() else { return Err(nowhere) };
        let Some(parent_node) = self.tree.at(parent) else { return Err(nowhere) };
        let number = parent_node.number_of(child);
        let children = parent_node.child_ranges();
        let Some((number, range)) =
            number.and_then(|number| Some((number, children.get(number)?.clone())))
        else {
            return Err(nowhere);
        };
        let start = self.tree.end_before(range.start);
        if let Some(comma) = self.tree.comma_after(range.end) {
            self.draft.replace(start..comma.end, "");
        } else {
            let before = number.checked_sub(1).and_then(|before| children.get(before));
            let comma = before.and_then(|before| self.tree.comma_after(before.end));
            self.draft.replace(start..range.end, "");
            if let Some(comma) = comma {
                self.draft.replace(comma, "");
            }
        }
        self.parse()?;
        if children.len() > 1 {
            return Ok(());
        }
        // Nothing is left: nor are the blanks.
        let Some(parent_node) = self.tree.at(parent) else { return Err(nowhere) };
        let (open, close) = (parent_node.range.start + 1, parent_node.range.end - 1);
        if self.tree.end_before(close) == open {
            self.draft.replace(open..close, "");
            self.parse()?;
        }
        Ok(())
    }
}

fn keys(path: &[String]) -> Vec<Loc> {
    path.iter().cloned().map(Loc::Key).collect()
}

/// The entry inside of containers under these keys.
fn nested(keys: &[String], entry: &Entry) -> Value {
    let innermost = match &entry.place {
        Place::Key(key) => Value::Object(Map::from_iter([(key.clone(), entry.value.clone())])),
        Place::Element => Value::Array(vec![entry.value.clone()]),
    };
    keys.iter()
        .rev()
        .fold(innermost, |value, key| Value::Object(Map::from_iter([(key.clone(), value)])))
}

fn in_the_way(path: &[String], found: &Value, wanted: &'static str) -> SettingsError {
    let at = if path.is_empty() { "the document".to_owned() } else { path.join(".") };
    SettingsError::InTheWay { at, found: kind_of(found), wanted }
}

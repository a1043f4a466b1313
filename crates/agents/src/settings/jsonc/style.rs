//! How a document is written, so that what is added looks like the rest.

use serde_json::Value;

use super::super::tree::Tree;

/// Indentation where a document shows none.
const UNIT: &str = "  ";

/// The hand of a document.
pub(super) struct Style {
    /// Line end.
    pub(super) newline: &'static str,
    /// One level of indentation.
    pub(super) unit: String,
    /// Everything stands on one line.
    pub(super) is_one_line: bool,
}

impl Style {
    pub(super) fn of(text: &str, tree: &Tree) -> Self {
        let line = text.split_once('\n').map(|(line, _)| line);
        let newline = if line.is_some_and(|line| line.ends_with('\r')) { "\r\n" } else { "\n" };
        let root = tree.root.as_ref();
        let first = root.and_then(|root| root.child_ranges().into_iter().next());
        let unit = first.as_ref().and_then(|first| {
            let base = indent_at(text, root?.range.start);
            own_indent(text, first.start)?.strip_prefix(base).filter(|unit| !unit.is_empty())
        });
        let is_one_line = first.is_some()
            && root
                .and_then(|root| text.get(root.range.clone()))
                .is_some_and(|root| !root.contains('\n'));
        Self { newline, unit: unit.unwrap_or(UNIT).to_owned(), is_one_line }
    }

    /// A value over several lines; those after the first begin with `indent`.
    pub(super) fn long(&self, value: &Value, indent: &str) -> String {
        let deeper = format!("{indent}{}", self.unit);
        let lines: Vec<String> = match value {
            Value::Object(map) if !map.is_empty() => map
                .iter()
                .map(|(key, value)| {
                    format!("{}: {}", Value::from(key.as_str()), self.long(value, &deeper))
                })
                .collect(),
            Value::Array(elements)
                if elements.iter().any(|one| one.is_object() || one.is_array()) =>
            {
                elements.iter().map(|element| self.long(element, &deeper)).collect()
            }
            // Plain elements stand on one line.
            Value::Array(elements) => {
                let elements: Vec<String> = elements.iter().map(Value::to_string).collect();
                return format!("[{}]", elements.join(", "));
            }
            plain => return plain.to_string(),
        };
        let (open, close) = if value.is_object() { ('{', '}') } else { ('[', ']') };
        let newline = self.newline;
        let lines = lines.join(&format!(",{newline}{deeper}"));
        format!("{open}{newline}{deeper}{lines}{newline}{indent}{close}")
    }
}

/// A value on one line.
pub(super) fn short(value: &Value) -> String {
    value.to_string()
}

/// Blanks at the beginning of the line on which this byte stands.
pub(super) fn indent_at(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..).unwrap_or_default();
    let end = line.find(|blank| !matches!(blank, ' ' | '\t')).unwrap_or(line.len());
    line.get(..end).unwrap_or_default()
}

/// The same where nothing but blanks stands before this byte on its line.
pub(super) fn own_indent(text: &str, at: usize) -> Option<&str> {
    let indent = indent_at(text, at);
    let start = text.get(..at)?.rfind('\n')? + 1;
    (start + indent.len() == at).then_some(indent)
}

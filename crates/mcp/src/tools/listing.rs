//! How a tool introduces itself to a client (MCP spec §6).
//!
//! A model pays for the name, the description and the input schema of every tool in every conversation, so these are kept
//! short; a test fixes what they cost. The output schema goes to clients that validate results with it (revision
//! 2025-06-18 and newer), and no model interface takes it over; it is sent without prose all the same, because it is long.

use claudemesh_protocol::ops::{Class, Operation, OperationKind};
use serde_json::{Map, Value, json};

use super::Toolset;

/// A revision of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision(&'static str);

impl Revision {
    /// Those spoken, newest first. Revision 2026-07-28 is absent on purpose: it cannot carry channel notifications, so a
    /// client that probes for it is led back to the handshake that can.
    pub(crate) const ALL: [Self; 4] =
        [Self("2025-11-25"), Self("2025-06-18"), Self("2025-03-26"), Self("2024-11-05")];

    /// The newest one.
    pub(crate) const NEWEST: Self = Self("2025-11-25");

    /// The requested one when it is spoken, else the newest.
    pub(crate) fn agreed(requested: &str) -> Self {
        Self::ALL.into_iter().find(|known| known.0 == requested).unwrap_or(Self::NEWEST)
    }

    /// The date that names it.
    pub(crate) const fn as_str(self) -> &'static str {
        self.0
    }

    /// Whether results have a structured form beside their text, and tools a schema for it.
    pub(crate) fn has_structured_results(self) -> bool {
        self.0 >= "2025-06-18"
    }
}

/// The answer to `tools/list`.
pub(crate) fn listing(tools: &Toolset, revision: Revision) -> Value {
    let entries: Vec<Value> = tools
        .operations()
        .map(|kind| {
            let mut entry = entry(kind);
            if !revision.has_structured_results()
                && let Some(object) = entry.as_object_mut()
            {
                object.shift_remove("title");
                object.shift_remove("outputSchema");
            }
            entry
        })
        .collect();
    json!({ "tools": entries })
}

/// One tool as a client of the newest revision sees it; null for an operation that has no tool.
pub fn entry(kind: OperationKind) -> Value {
    let spec = kind.spec();
    let Some(tool) = spec.tool else { return Value::Null };
    let title = title(tool);
    let mut output = kind.output_schema();
    without_prose(&mut output);
    or_failure(&mut output);
    json!({
        "name": tool,
        "title": title,
        "description": spec.summary,
        "inputSchema": kind.input_schema(),
        "outputSchema": output,
        "annotations": annotations(&spec, &title),
    })
}

fn annotations(spec: &Operation, title: &str) -> Value {
    json!({
        "title": title,
        "readOnlyHint": spec.class == Class::Read,
        "destructiveHint": spec.class == Class::Destructive,
        "idempotentHint": spec.is_idempotent,
        "openWorldHint": spec.is_open_world,
    })
}

/// `send_message` → `Send message`.
fn title(tool: &str) -> String {
    let words = tool.replace('_', " ");
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Lets the structured form of a failure, `{error: {…}}`, fit too: the official TypeScript client holds the results of
/// failed calls against this schema as well, and would show its own complaint in place of our error.
fn or_failure(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.shift_remove("required");
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.insert("error".to_owned(), json!({ "type": "object" }));
    }
}

/// Removes from a schema what only people read; property names stay, also those that read like a keyword.
fn without_prose(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for keyword in ["description", "title", "default", "examples", "format"] {
        object.shift_remove(keyword);
    }
    for (keyword, value) in object.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(without_prose);
            }
            ("anyOf" | "oneOf" | "allOf", Value::Array(branches)) => {
                branches.iter_mut().for_each(without_prose);
            }
            ("items" | "additionalProperties", inner) => without_prose(inner),
            _ => {}
        }
    }
    collapse_documented_words(object);
}

/// `oneOf` with one `const` each, as documented vocabularies come, becomes an `enum`.
fn collapse_documented_words(schema: &mut Map<String, Value>) {
    let words: Option<Vec<Value>> = schema
        .get("oneOf")
        .and_then(Value::as_array)
        .and_then(|branches| branches.iter().map(|branch| branch.get("const").cloned()).collect());
    if let Some(words) = words {
        schema.shift_remove("oneOf");
        schema.insert("enum".to_owned(), words.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_clients_get_neither_title_nor_output_schema() {
        let tools = Toolset::parse("state").unwrap();
        for revision in Revision::ALL {
            let listed = listing(&tools, revision);
            let first = listed.pointer("/tools/0").and_then(Value::as_object).unwrap();
            let is_new = revision.has_structured_results();
            assert_eq!(first.contains_key("outputSchema"), is_new, "{revision:?}");
            assert_eq!(first.contains_key("title"), is_new, "{revision:?}");
            assert_eq!(first.get("name"), Some(&json!("set_state")));
            assert_eq!(listed.pointer("/tools/0/annotations/title"), Some(&json!("Set state")));
        }
    }

    #[test]
    fn annotations_follow_the_class() {
        let hints = |kind: OperationKind| entry(kind).get("annotations").cloned().unwrap();
        assert_eq!(hints(OperationKind::StateGet)["readOnlyHint"], json!(true));
        assert_eq!(hints(OperationKind::StateSet)["destructiveHint"], json!(false));
        assert_eq!(hints(OperationKind::GrantRemove)["destructiveHint"], json!(true));
        assert_eq!(hints(OperationKind::MessageSend)["openWorldHint"], json!(true));
    }
}

//! What a verb says to a program: one JSON document, with projection (CLI spec §1.9).

use claudemesh_protocol::error::ErrorCode;
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};

/// Version of the JSON contract; a renamed or removed key changes it.
pub(crate) const SCHEMA_VERSION: &str = "1.0";

/// The machine form of a result.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    /// One object; `schema_version` is put in front when it is printed.
    Object(Map<String, Value>),
    /// A bare array, with what the envelope adds.
    List {
        items: Vec<Value>,
        /// `mesh` and totals of `--json-envelope`.
        envelope: Map<String, Value>,
    },
    /// Text that is no JSON in either mode (completion scripts, a raw log).
    Raw(String),
}

impl Document {
    /// An object from a JSON literal; anything else becomes an empty object.
    pub(crate) fn object(value: Value) -> Self {
        match value {
            Value::Object(map) => Self::Object(map),
            _ => Self::Object(Map::new()),
        }
    }

    /// A bare list.
    pub(crate) fn list(items: Vec<Value>) -> Self {
        Self::List { items, envelope: Map::new() }
    }
}

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonForm {
    /// Two blanks of indent.
    Pretty,
    /// One compact object per line.
    Lines,
}

/// Keys a result may have, and short names for them; declared by every verb.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    /// Every key of an item.
    pub(crate) names: &'a [&'a str],
    /// What `id` stands for, when there is no key of that name.
    pub(crate) id: &'a str,
}

impl<'a> Fields<'a> {
    /// The path a requested name means.
    fn path<'b>(self, requested: &'b str) -> Option<&'b str>
    where
        'a: 'b,
    {
        let first = requested.split('.').next().unwrap_or(requested);
        if self.names.contains(&first) || first == "schema_version" {
            return Some(requested);
        }
        let alias = match requested {
            "name" if self.names.contains(&"displayName") => "displayName",
            "name" if self.names.contains(&"slug") => "slug",
            "key" if self.names.contains(&"pubkey") => "pubkey",
            "role" if self.names.contains(&"profile") => "profile.role",
            "id" if !self.id.is_empty() => self.id,
            _ => return None,
        };
        Some(alias)
    }

    /// Refuses names that no result of the verb has.
    pub(crate) fn check(self, requested: &[String]) -> Outcome<()> {
        let Some(unknown) = requested.iter().find(|name| self.path(name).is_none()) else {
            return Ok(());
        };
        let valid = self.names.join(", ");
        Err(Failure::new(ErrorCode::InvalidField, format!("unknown field \"{unknown}\""))
            .detail(format!("expected: {valid}"))
            .with("field", unknown.clone())
            .with("valid", self.names.iter().map(|name| Value::from(*name)).collect::<Vec<_>>()))
    }

    fn project(self, item: &Value, requested: &[String]) -> Map<String, Value> {
        requested
            .iter()
            .map(|name| {
                let path = self.path(name).unwrap_or(name);
                let mut value = Some(item);
                for step in path.split('.') {
                    value = value.and_then(|value| value.get(step));
                }
                (name.clone(), value.cloned().unwrap_or(Value::Null))
            })
            .collect()
    }
}

/// What the caller asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// Projection; empty means everything.
    pub(crate) fields: Vec<String>,
    /// Lists become `{schema_version, items}`.
    pub(crate) has_envelope: bool,
}

/// The text of a document, ended by a line feed.
pub(crate) fn render(
    document: &Document,
    fields: Fields<'_>,
    shape: &Shape,
    form: JsonForm,
) -> String {
    match document {
        Document::Raw(text) => text.clone(),
        Document::Object(map) => {
            let item = Value::Object(map.clone());
            let kept = match shape.fields.as_slice() {
                [] => map.clone(),
                requested => fields.project(&item, requested),
            };
            write(&versioned(kept), form)
        }
        Document::List { items, envelope } => {
            let items: Vec<Value> = match shape.fields.as_slice() {
                [] => items.clone(),
                requested => {
                    items.iter().map(|item| project_row(item, fields, requested)).collect()
                }
            };
            if shape.has_envelope {
                let mut object = envelope.clone();
                object.insert("items".to_owned(), Value::Array(items));
                return write(&versioned(object), form);
            }
            match form {
                JsonForm::Pretty => write(&Value::Array(items), form),
                JsonForm::Lines => items.iter().map(|item| write(item, form)).collect(),
            }
        }
    }
}

/// Rows of a list over several meshes are projected inside their mesh.
fn project_row(item: &Value, fields: Fields<'_>, requested: &[String]) -> Value {
    if let (Some(mesh), Some(Value::Array(peers))) = (item.get("mesh"), item.get("peers")) {
        let peers: Vec<Value> =
            peers.iter().map(|peer| Value::Object(fields.project(peer, requested))).collect();
        return serde_json::json!({ "mesh": mesh, "peers": peers });
    }
    Value::Object(fields.project(item, requested))
}

/// An object with `schema_version` in front.
pub(crate) fn versioned(map: Map<String, Value>) -> Value {
    let mut object = Map::new();
    object.insert("schema_version".to_owned(), Value::from(SCHEMA_VERSION));
    object.extend(map.into_iter().filter(|(key, _)| key != "schema_version"));
    Value::Object(object)
}

/// The JSON object of a failure.
pub(crate) fn failure(failure: &Failure, form: JsonForm) -> String {
    let mut map = Map::new();
    map.insert("ok".to_owned(), Value::Bool(false));
    map.insert("error".to_owned(), Value::from(failure.code.as_str()));
    map.insert("message".to_owned(), Value::from(failure.message.as_str()));
    if let Some(hint) = failure.action.as_ref().or(failure.details.first()) {
        map.insert("hint".to_owned(), Value::from(hint.as_str()));
    }
    for (key, value) in &failure.background.extra {
        map.entry(key.clone()).or_insert_with(|| value.clone());
    }
    map.insert("exit_code".to_owned(), Value::from(failure.exit));
    write(&versioned(map), form)
}

/// Writing a value made of maps, lists and texts cannot fail.
fn write(value: &Value, form: JsonForm) -> String {
    let text = match form {
        JsonForm::Pretty => serde_json::to_string_pretty(value),
        JsonForm::Lines => serde_json::to_string(value),
    };
    text.map(|text| text + "\n").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Fields =
        Fields { names: &["displayName", "pubkey", "status", "profile"], id: "pubkey" };

    fn shape(fields: &[&str]) -> Shape {
        Shape {
            fields: fields.iter().map(|name| (*name).to_owned()).collect(),
            has_envelope: false,
        }
    }

    #[test]
    fn the_version_comes_first() {
        let document = Document::object(serde_json::json!({ "ok": true, "schema_version": "9" }));
        let text = render(&document, PEER, &shape(&[]), JsonForm::Lines);
        assert_eq!(text, "{\"schema_version\":\"1.0\",\"ok\":true}\n");
    }

    #[test]
    fn projection_uses_the_requested_names() {
        let row = serde_json::json!({ "displayName": "Mou", "status": "idle", "profile": { "role": "lead" } });
        let document = Document::list(vec![row]);
        let text =
            render(&document, PEER, &shape(&["name", "status", "role", "id"]), JsonForm::Lines);
        assert_eq!(text, "{\"name\":\"Mou\",\"status\":\"idle\",\"role\":\"lead\",\"id\":null}\n");
    }

    #[test]
    fn unknown_fields_are_refused_with_the_valid_ones() {
        let failure = PEER.check(&["nope".to_owned()]).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("invalid_field", 3));
        assert!(failure.details.concat().contains("displayName"));
        assert!(PEER.check(&["profile.role".to_owned(), "key".to_owned()]).is_ok());
    }

    #[test]
    fn the_envelope_wraps_lists() {
        let shape = Shape { fields: Vec::new(), has_envelope: true };
        let text = render(&Document::list(vec![]), PEER, &shape, JsonForm::Lines);
        assert_eq!(text, "{\"schema_version\":\"1.0\",\"items\":[]}\n");
    }
}

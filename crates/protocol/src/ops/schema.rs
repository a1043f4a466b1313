//! Schemas of operations, and the check of arguments against them.
//!
//! The input types describe themselves (draft 2020-12). From that description follow the `inputSchema` of the MCP tool,
//! the flags of the command line and this check, which names the field at fault; what it lets through, the typed parse
//! of the frame or of the daemon's input sees next.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::fit::{fits, said};
use super::messaging::MeshError;
use super::{OperationKind, Shape};
use crate::group::{GroupName, GroupNameError};

/// The field of every operation that says on which mesh it runs.
pub(super) const MESH_FIELD: &str = "mesh";
/// `format` of a text that names a group.
const GROUP_NAME_FORMAT: &str = "group-name";

/// What a field takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldKind {
    /// Text.
    Text,
    /// One of these words.
    Choice(Vec<String>),
    /// Yes or no.
    Flag,
    /// A whole number.
    Integer,
    /// A whole number of milliseconds; people write `90s`, `15m`, `2h`.
    Duration,
    /// Any number.
    Number,
    /// A list of texts, or of these words when there are any.
    Words(Vec<String>),
    /// Any JSON.
    Json,
    /// JSON with a shape of its own.
    Structured,
}

/// One field of an operation's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name on the wire and in results.
    pub name: String,
    /// Its name in the tool.
    pub tool_name: String,
    /// One or two sentences.
    pub description: String,
    /// What it takes.
    pub kind: FieldKind,
    /// True when it cannot be left out.
    pub is_required: bool,
    /// Fewest characters.
    pub min_chars: Option<u64>,
    /// Most characters.
    pub max_chars: Option<u64>,
    /// Smallest number.
    pub min: Option<i64>,
    /// Largest number.
    pub max: Option<i64>,
    /// Most items.
    pub max_items: Option<u64>,
    /// True for the name of a group, which may be written with one leading `@`.
    pub is_group_name: bool,
    /// What it looks like, for what `kind` alone does not tell.
    schema: Value,
}

/// An argument that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// There is no such field.
    #[error("there is no field \"{field}\"")]
    Unknown {
        /// As it was given.
        field: String,
    },
    /// A field that cannot be left out is missing.
    #[error("\"{field}\" is missing")]
    Missing {
        /// Its wire name.
        field: String,
    },
    /// A field was given under both of its names.
    #[error("\"{field}\" and \"{other}\" are the same field")]
    Twice {
        /// Its wire name.
        field: String,
        /// Its tool name.
        other: String,
    },
    /// The value does not fit.
    #[error("\"{field}\" must be {expected}")]
    Value {
        /// As it was given.
        field: String,
        /// What fits.
        expected: String,
    },
}

impl ArgumentError {
    /// The field at fault.
    pub fn field(&self) -> &str {
        match self {
            Self::Unknown { field }
            | Self::Missing { field }
            | Self::Twice { field, .. }
            | Self::Value { field, .. } => field,
        }
    }
}

pub(super) fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .into_generator()
        .into_root_schema_for::<T>()
}

impl OperationKind {
    /// The operation of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.spec().name == name)
    }

    /// The operation behind this tool.
    pub fn of_tool(tool: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.spec().tool == Some(tool))
    }

    /// The input as the tool takes it: tool names, no other fields, and `mesh`.
    pub fn input_schema(self) -> Value {
        let spec = self.spec();
        let mut schema = self.raw_input_schema().to_value();
        let Some(object) = schema.as_object_mut() else { return json!({ "type": "object" }) };
        object.remove("title");
        object.remove("description");
        object.insert("type".to_owned(), "object".into());
        object.insert("additionalProperties".to_owned(), false.into());
        let properties = object.remove("properties");
        let mut renamed = Map::new();
        if let Some(Value::Object(properties)) = properties {
            for (name, mut property) in properties {
                slim(&mut property);
                renamed.insert(spec.tool_name(&name).to_owned(), property);
            }
        }
        renamed
            .insert(MESH_FIELD.to_owned(), json!({ "type": "string", "description": "Mesh slug" }));
        object.insert("properties".to_owned(), Value::Object(renamed));
        if let Some(Value::Array(required)) = object.get_mut("required") {
            for name in required {
                if let Some(wire) = name.as_str() {
                    *name = spec.tool_name(wire).into();
                }
            }
        }
        schema
    }

    /// The result as the local API, the tool and `--json` give it.
    pub fn output_schema(self) -> Value {
        let spec = self.spec();
        let mesh = json!({ "type": "string", "description": "Slug of the mesh." });
        if let Shape::Done(echoed) = spec.shape {
            let mut properties = Map::from_iter([
                ("ok".to_owned(), json!({ "type": "boolean", "description": "Always true." })),
                (MESH_FIELD.to_owned(), mesh),
            ]);
            let input = self.raw_input_schema().to_value();
            for name in echoed {
                let property = input.pointer(&format!("/properties/{name}"));
                properties
                    .insert((*name).to_owned(), property.cloned().unwrap_or(Value::Bool(true)));
            }
            return json!({ "type": "object", "properties": properties, "required": ["ok"] });
        }
        let mut schema = self.raw_output_schema().to_value();
        if let Some(object) = schema.as_object_mut() {
            object.remove("title");
            object.remove("description");
        }
        let owner = match spec.shape {
            Shape::List(list) => format!("/properties/{list}/items/properties"),
            _ => "/properties".to_owned(),
        };
        if let Some(Value::Object(properties)) = schema.pointer_mut(&owner) {
            properties.entry(MESH_FIELD).or_insert(mesh);
        }
        if let (true, Some(Value::Object(properties))) =
            (spec.is_aggregating(), schema.pointer_mut("/properties"))
        {
            properties.entry("errors").or_insert_with(|| of::<Vec<MeshError>>().to_value());
        }
        schema
    }

    /// The fields of the input, positional ones first, then in the order of their declaration.
    pub fn fields(self) -> Vec<Field> {
        let spec = self.spec();
        let schema = self.raw_input_schema().to_value();
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let Some(Value::Object(properties)) = schema.get("properties") else { return Vec::new() };
        let mut fields: Vec<Field> = properties
            .iter()
            .map(|(name, property)| {
                let number = |key: &str| find(property, key).and_then(Value::as_i64);
                let count = |key: &str| find(property, key).and_then(Value::as_u64);
                Field {
                    name: name.clone(),
                    tool_name: spec.tool_name(name).to_owned(),
                    description: find(property, "description")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .replace('\n', " "),
                    kind: kind_of(property),
                    is_required: required.contains(&name.as_str()),
                    min_chars: count("minLength"),
                    max_chars: count("maxLength"),
                    min: number("minimum"),
                    max: number("maximum"),
                    max_items: count("maxItems"),
                    is_group_name: find(property, "format") == Some(&json!(GROUP_NAME_FORMAT)),
                    schema: property.clone(),
                }
            })
            .collect();
        let positional = spec.verb.map_or(&[][..], |verb| verb.positional);
        fields.sort_by_key(|field| {
            positional.iter().position(|name| *name == field.name).unwrap_or(positional.len())
        });
        fields
    }

    /// Checks arguments and gives them their wire names. A null counts as left out, except where any JSON is meant.
    ///
    /// # Errors
    /// [`ArgumentError`] names the first field at fault.
    pub fn arguments(self, given: Map<String, Value>) -> Result<Map<String, Value>, ArgumentError> {
        let fields = self.fields();
        let mut arguments = Map::new();
        for (name, value) in given {
            let Some(field) =
                fields.iter().find(|field| field.name == name || field.tool_name == name)
            else {
                return Err(ArgumentError::Unknown { field: name });
            };
            if value.is_null() && field.kind != FieldKind::Json {
                continue;
            }
            field.check(&name, &value)?;
            let value = field.normalized(value);
            if arguments.insert(field.name.clone(), value).is_some() {
                let (field, other) = (field.name.clone(), field.tool_name.clone());
                return Err(ArgumentError::Twice { field, other });
            }
        }
        match fields.iter().find(|field| field.is_required && !arguments.contains_key(&field.name))
        {
            Some(field) => Err(ArgumentError::Missing { field: field.name.clone() }),
            None => Ok(arguments),
        }
    }
}

impl Field {
    /// Checks one value, which was given under `name`.
    ///
    /// # Errors
    /// [`ArgumentError::Value`] with what fits.
    pub fn check(&self, name: &str, value: &Value) -> Result<(), ArgumentError> {
        let wrong = |expected: String| ArgumentError::Value { field: name.to_owned(), expected };
        match (&self.kind, value) {
            (FieldKind::Text, Value::String(text)) => self.check_length(text).map_err(wrong),
            (FieldKind::Choice(words), Value::String(word)) if words.contains(word) => Ok(()),
            (FieldKind::Choice(words), _) => Err(wrong(format!("one of {}", words.join(", ")))),
            (FieldKind::Flag, Value::Bool(_))
            | (FieldKind::Number, Value::Number(_))
            | (FieldKind::Json, _) => Ok(()),
            (FieldKind::Structured, value) if fits(&self.schema, value) => Ok(()),
            (FieldKind::Structured, _) => Err(wrong(said(&self.schema))),
            (FieldKind::Integer | FieldKind::Duration, Value::Number(number)) => {
                self.check_range(number).map_err(wrong)
            }
            (FieldKind::Words(words), Value::Array(items)) => {
                self.check_items(words, items).map_err(wrong)
            }
            (FieldKind::Text, _) => Err(wrong("a text".to_owned())),
            (FieldKind::Flag, _) => Err(wrong("true or false".to_owned())),
            (FieldKind::Number, _) => Err(wrong("a number".to_owned())),
            (FieldKind::Integer, _) => Err(wrong("a whole number".to_owned())),
            (FieldKind::Duration, _) => Err(wrong("a number of milliseconds".to_owned())),
            (FieldKind::Words(_), _) => Err(wrong("a list of texts".to_owned())),
        }
    }

    /// The form in which a value that passed [`Field::check`] goes on: a group's name loses its `@`.
    pub fn normalized(&self, value: Value) -> Value {
        match &value {
            Value::String(text) if self.is_group_name => {
                text.strip_prefix('@').map_or_else(|| value.clone(), Value::from)
            }
            _ => value,
        }
    }

    fn check_length(&self, text: &str) -> Result<(), String> {
        if self.is_group_name {
            return GroupName::parse_lenient(text).map(|_| ()).map_err(|error| match error {
                GroupNameError::Reserved => "another name: \"all\" stands for everybody".to_owned(),
                GroupNameError::Format => "a name such as eng, eng/core or @eng".to_owned(),
            });
        }
        let chars = text.chars().count() as u64;
        match (self.min_chars, self.max_chars) {
            (Some(1), _) if chars == 0 => Err("not empty".to_owned()),
            (Some(min), _) if chars < min => Err(format!("at least {min} characters long")),
            (_, Some(max)) if chars > max => Err(format!("at most {max} characters long")),
            _ => Ok(()),
        }
    }

    fn check_range(&self, number: &serde_json::Number) -> Result<(), String> {
        let Some(whole) = number.as_i64() else { return Err("a whole number".to_owned()) };
        match (self.min, self.max) {
            (Some(min), _) if whole < min => Err(format!("at least {min}")),
            (_, Some(max)) if whole > max => Err(format!("at most {max}")),
            _ => Ok(()),
        }
    }

    fn check_items(&self, words: &[String], items: &[Value]) -> Result<(), String> {
        if let Some(max) = self.max_items.filter(|max| items.len() as u64 > *max) {
            return Err(format!("a list of at most {max} items"));
        }
        let fits = |item: &Value| {
            item.as_str()
                .is_some_and(|text| words.is_empty() || words.iter().any(|word| word == text))
        };
        match items.iter().all(fits) {
            true => Ok(()),
            false if words.is_empty() => Err("a list of texts".to_owned()),
            false => Err(format!("a list of {}", words.join(", "))),
        }
    }
}

/// A keyword of a property, also when the property is optional and the keyword stands in the branch that is not null.
fn find<'a>(property: &'a Value, key: &str) -> Option<&'a Value> {
    property.get(key).or_else(|| branch(property)?.get(key))
}

/// The one branch of an `anyOf` that is not null.
fn branch(property: &Value) -> Option<&Value> {
    let branches = property.get("anyOf")?.as_array()?;
    let mut real = branches.iter().filter(|branch| branch.get("type") != Some(&json!("null")));
    match (real.next(), real.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn kind_of(property: &Value) -> FieldKind {
    let Some(object) = property.as_object() else { return FieldKind::Json };
    if let Some(branch) = branch(property) {
        return kind_of(branch);
    }
    if object.contains_key("anyOf") || object.contains_key("oneOf") && words(property).is_empty() {
        return FieldKind::Structured;
    }
    let type_word = match object.get("type") {
        Some(Value::Array(types)) => types.iter().find_map(|word| match word.as_str() {
            Some("null") | None => None,
            word => word,
        }),
        Some(word) => word.as_str(),
        None => None,
    };
    match type_word {
        _ if !words(property).is_empty() => FieldKind::Choice(words(property)),
        Some("string") => FieldKind::Text,
        Some("boolean") => FieldKind::Flag,
        Some("integer") if object.get("format") == Some(&json!("duration-ms")) => {
            FieldKind::Duration
        }
        Some("integer") => FieldKind::Integer,
        Some("number") => FieldKind::Number,
        Some("array") => match object.get("items") {
            Some(items) => match kind_of(items) {
                FieldKind::Text => FieldKind::Words(Vec::new()),
                FieldKind::Choice(words) => FieldKind::Words(words),
                _ => FieldKind::Structured,
            },
            None => FieldKind::Structured,
        },
        None => FieldKind::Json,
        Some(_) => FieldKind::Structured,
    }
}

/// The words of a closed vocabulary: `enum`, or `oneOf` with one `const` each when the words are documented.
fn words(property: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(Value::Array(words)) = property.get("enum") {
        return words.iter().filter_map(text).collect();
    }
    let Some(Value::Array(branches)) = property.get("oneOf") else { return Vec::new() };
    let consts: Option<Vec<String>> =
        branches.iter().map(|branch| branch.get("const").and_then(text)).collect();
    consts.unwrap_or_default()
}

/// Takes out of a property what a model pays for and gains nothing from: every sentence after the first, bounds that go
/// without saying, formats of machine integers; documented words become a plain list, and an optional field is its type,
/// not a choice between its type and null. What is checked stays the same.
fn slim(property: &mut Value) {
    if let Some(only) = branch(property).cloned() {
        let description = property.get("description").cloned();
        *property = only;
        if let (Some(object), Some(description)) = (property.as_object_mut(), description) {
            object.insert("description".to_owned(), description);
        }
    }
    let listed = words(property);
    let Some(object) = property.as_object_mut() else { return };
    if !listed.is_empty() {
        object.remove("oneOf");
        object.insert("type".to_owned(), "string".into());
        object.insert("enum".to_owned(), listed.into());
    }
    object.remove("format");
    object.remove("default");
    for (bound, natural) in [("minimum", 0), ("minLength", 1), ("minItems", 1)] {
        if object.get(bound).and_then(Value::as_u64).is_some_and(|value| value <= natural) {
            object.remove(bound);
        }
    }
    let only_type = match object.get("type") {
        Some(Value::Array(types)) => {
            types.iter().find(|word| word.as_str() != Some("null")).cloned()
        }
        _ => None,
    };
    if let Some(only_type) = only_type {
        object.insert("type".to_owned(), only_type);
    }
    let description = object.get("description").and_then(Value::as_str).map(first_sentence);
    if let Some(description) = description {
        object.insert("description".to_owned(), description.into());
    }
    let mut inner: Vec<&mut Value> = Vec::new();
    for (keyword, value) in object.iter_mut() {
        match (keyword.as_str(), value) {
            ("items", items) => inner.push(items),
            ("anyOf", Value::Array(branches)) => inner.extend(branches),
            _ => {}
        }
    }
    for part in inner {
        slim(part);
        if let Some(part) = part.as_object_mut() {
            part.remove("description");
        }
    }
}

/// Up to the first full stop, without it.
fn first_sentence(text: &str) -> String {
    let line = text.replace('\n', " ");
    let end = line.find(". ").unwrap_or(line.len());
    line.get(..end).unwrap_or(&line).trim_end_matches('.').to_owned()
}

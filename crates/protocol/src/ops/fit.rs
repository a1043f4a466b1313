//! Whether a value has the shape that a schema gives: the keywords that our own types produce, and no others.

use serde_json::{Map, Value};

/// True when `value` has the shape of `schema`.
pub fn fits(schema: &Value, value: &Value) -> bool {
    let Some(object) = schema.as_object() else { return schema.as_bool().unwrap_or(true) };
    let any_of = |key: &str| {
        object
            .get(key)
            .and_then(Value::as_array)
            .is_none_or(|branches| branches.iter().any(|branch| fits(branch, value)))
    };
    let all_of = object.get("allOf").and_then(Value::as_array);
    let words = object.get("enum").and_then(Value::as_array);
    words.is_none_or(|words| words.contains(value))
        && object.get("const").is_none_or(|only| only == value)
        && any_of("anyOf")
        && any_of("oneOf")
        && all_of.is_none_or(|all| all.iter().all(|part| fits(part, value)))
        && types(object).is_none_or(|types| types.iter().any(|word| is_of(word, value)))
        && match value {
            Value::String(text) => within(object, "minLength", "maxLength", text.chars().count()),
            Value::Array(items) => {
                within(object, "minItems", "maxItems", items.len())
                    && object
                        .get("items")
                        .is_none_or(|each| items.iter().all(|item| fits(each, item)))
            }
            Value::Object(fields) => fits_object(object, fields),
            Value::Number(number) => {
                let bound = |key: &str| object.get(key).and_then(Value::as_f64);
                number.as_f64().is_none_or(|number| {
                    bound("minimum").is_none_or(|min| number >= min)
                        && bound("maximum").is_none_or(|max| number <= max)
                })
            }
            Value::Null | Value::Bool(_) => true,
        }
}

fn fits_object(schema: &Map<String, Value>, fields: &Map<String, Value>) -> bool {
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    let has = |name: &Value| name.as_str().is_some_and(|name| fields.contains_key(name));
    required.is_none_or(|names| names.iter().all(has))
        && fields.iter().all(|(name, value)| {
            match properties.and_then(|properties| properties.get(name)) {
                Some(property) => fits(property, value),
                None => schema.get("additionalProperties").is_none_or(|other| fits(other, value)),
            }
        })
}

fn within(schema: &Map<String, Value>, min: &str, max: &str, size: usize) -> bool {
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    bound(min).is_none_or(|min| size as u64 >= min)
        && bound(max).is_none_or(|max| size as u64 <= max)
}

fn types(schema: &Map<String, Value>) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::Array(words) => Some(words.iter().filter_map(Value::as_str).collect()),
        word => word.as_str().map(|word| vec![word]),
    }
}

fn is_of(word: &str, value: &Value) -> bool {
    match word {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => true,
    }
}

/// What fits a schema, for people: `a text, or a list of 1 to 32 texts`.
pub(super) fn said(schema: &Value) -> String {
    let branches = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array());
    if let Some(branches) = branches {
        let said: Vec<String> = branches
            .iter()
            .filter(|branch| branch.get("type").and_then(Value::as_str) != Some("null"))
            .map(said)
            .collect();
        return said.join(", or ");
    }
    match schema.as_object().and_then(types).and_then(|types| types.first().copied()) {
        Some("string") => "a text".to_owned(),
        Some("array") => {
            let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
            let count = match (bound("minItems"), bound("maxItems")) {
                (Some(min), Some(max)) => format!("{min} to {max} "),
                (None, Some(max)) => format!("at most {max} "),
                (Some(min), None) => format!("at least {min} "),
                (None, None) => String::new(),
            };
            let items = schema.get("items").map(said).unwrap_or_default();
            let each =
                items.strip_prefix("a ").map_or("values".to_owned(), |one| format!("{one}s"));
            format!("a list of {count}{each}")
        }
        Some("object") => "an object".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("integer") => "a whole number".to_owned(),
        Some(_) => "a number".to_owned(),
        None => "what the schema says".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes_are_told_apart() {
        let targets = json!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 2 },
        ]});
        for good in [json!("a"), json!(["a"]), json!(["a", "b"])] {
            assert!(fits(&targets, &good), "{good}");
        }
        for bad in
            [json!(1), json!([]), json!(["a", "b", "c"]), json!(["a", 1]), json!({}), Value::Null]
        {
            assert!(!fits(&targets, &bad), "{bad}");
        }
        assert_eq!(said(&targets), "a text, or a list of 1 to 2 texts");
        let row = json!({ "type": "object", "required": ["n"], "additionalProperties": false, "properties": {
            "n": { "type": ["integer", "null"], "minimum": 1 }, "w": { "enum": ["x"] } }});
        for good in [json!({ "n": 1 }), json!({ "n": null, "w": "x" })] {
            assert!(fits(&row, &good), "{good}");
        }
        for bad in [
            json!({}),
            json!({ "n": 0 }),
            json!({ "n": 1.5 }),
            json!({ "n": 1, "w": "y" }),
            json!({ "n": 1, "m": 1 }),
        ] {
            assert!(!fits(&row, &bad), "{bad}");
        }
    }
}

//! What a hook is not shown: values at named paths, and what is beyond the size of its input (daemon spec §16.2, §16.3).

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::{Map, Value};

/// What stands in the place of a value.
const REDACTED: &str = "[redacted]";
/// The field whose text may itself be JSON.
const BODY: &str = "body";
/// The same field of what is about to be sent.
const MESSAGE: &str = "message";
/// Says that something was cut off.
const TRUNCATED: &str = "_truncated";
/// Steps of one path.
const STEPS_MAX: usize = 32;

/// A dotted path into the data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RedactPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The field of that name.
    Field(String),
    /// Every element of a list.
    Every,
}

impl RedactPath {
    /// Reads `meta.items[*].key`; `None` when it is no path.
    fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let mut name = part;
            let mut lists = 0;
            while let Some(before) = name.strip_suffix("[*]") {
                name = before;
                lists += 1;
            }
            if name.is_empty() || name.contains(['[', ']', '*']) {
                return None;
            }
            steps.push(Step::Field(name.to_owned()));
            steps.extend(std::iter::repeat_n(Step::Every, lists));
        }
        (steps.len() <= STEPS_MAX).then_some(Self(steps))
    }

    /// Hides the value at this path, where there is one.
    pub(super) fn hide_in(&self, data: &mut Map<String, Value>) {
        let Some((Step::Field(first), rest)) = self.0.split_first() else { return };
        let Some(value) = data.get_mut(first) else { return };
        match value {
            // A text that is JSON is looked into as such.
            Value::String(text)
                if !rest.is_empty() && [BODY, MESSAGE].contains(&first.as_str()) =>
            {
                if let Ok(mut inner) = serde_json::from_str::<Value>(text) {
                    hide(&mut inner, rest);
                    *text = inner.to_string();
                }
            }
            value => hide(value, rest),
        }
    }
}

fn hide(value: &mut Value, steps: &[Step]) {
    let Some((step, rest)) = steps.split_first() else {
        *value = Value::String(REDACTED.to_owned());
        return;
    };
    match (step, value) {
        (Step::Field(name), Value::Object(fields)) => {
            if let Some(inner) = fields.get_mut(name) {
                hide(inner, rest);
            }
        }
        (Step::Every, Value::Array(items)) => {
            for item in items {
                hide(item, rest);
            }
        }
        _ => {}
    }
}

impl<'de> Deserialize<'de> for RedactPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is no path; a path looks like meta.items[*].key"))
        })
    }
}

/// The event as JSON of at most `limit` bytes: the text in `part` is cut first; when that is not enough, all of `part`
/// goes.
pub(super) fn fitted(mut event: Map<String, Value>, part: &str, limit: usize) -> Vec<u8> {
    let bytes = written(&event);
    if bytes.len() <= limit {
        return bytes;
    }
    event.insert(TRUNCATED.to_owned(), Value::Bool(true));
    let field = if part == "data" { BODY } else { MESSAGE };
    let text = event.get_mut(part).and_then(|part| part.get_mut(field)).map(Value::take);
    if let Some(Value::String(text)) = text {
        put(&mut event, part, field, "");
        let room = limit.saturating_sub(written(&event).len());
        put(&mut event, part, field, beginning(&text, room));
    }
    let bytes = written(&event);
    if bytes.len() <= limit {
        return bytes;
    }
    event.insert(part.to_owned(), Value::Object(Map::new()));
    written(&event)
}

fn put(event: &mut Map<String, Value>, part: &str, field: &str, text: &str) {
    if let Some(Value::Object(fields)) = event.get_mut(part) {
        fields.insert(field.to_owned(), text.into());
    }
}

/// The longest beginning of `text` that takes at most `room` bytes inside of a JSON string.
fn beginning(text: &str, room: usize) -> &str {
    let mut taken = 0;
    for (at, character) in text.char_indices() {
        taken += match character {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            other => other.len_utf8(),
        };
        if taken > room {
            return text.get(..at).unwrap_or_default();
        }
    }
    text
}

fn written(event: &Map<String, Value>) -> Vec<u8> {
    // Texts as keys: it cannot fail.
    serde_json::to_vec(event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hidden(path: &str, data: &Value) -> Value {
        let mut data = data.as_object().unwrap().clone();
        RedactPath::parse(path).unwrap().hide_in(&mut data);
        Value::Object(data)
    }

    #[test]
    fn values_at_paths_are_hidden_and_others_are_not() {
        let data =
            json!({"meta": {"key": "s", "list": [{"a": 1, "b": 2}, {"a": 3}, 4]}, "body": "x"});
        assert_eq!(hidden("meta.key", &data)["meta"]["key"], "[redacted]");
        let every = hidden("meta.list[*].a", &data);
        assert_eq!(
            every["meta"]["list"],
            json!([{"a": "[redacted]", "b": 2}, {"a": "[redacted]"}, 4])
        );
        assert_eq!(hidden("meta.list[*]", &data)["meta"]["list"][2], "[redacted]");
        assert_eq!(hidden("body", &data)["body"], "[redacted]");
        for path in ["nothing", "meta.nothing.more", "body.password", "meta[*].key", "body[*]"] {
            assert_eq!(hidden(path, &data), data, "{path}");
        }
        for text in ["", ".", "a.", "a[*", "a[0]", "[*]", "a..b", "*", &"a.".repeat(40)] {
            assert_eq!(RedactPath::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_body_that_is_json_is_looked_into() {
        let data = json!({"body": "{\"user\":\"a\",\"password\":\"s\"}"});
        let body = hidden("body.password", &data)["body"].as_str().unwrap().to_owned();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body, json!({"user": "a", "password": "[redacted]"}));
        let list = json!({"message": "[{\"k\":1}]"});
        assert_eq!(hidden("message[*].k", &list)["message"], "[{\"k\":\"[redacted]\"}]");
    }

    #[test]
    fn input_is_cut_at_its_limit_between_characters() {
        let event = |body: &str| {
            let value = json!({"v": 1, "data": {"body": body, "n": 7}});
            value.as_object().unwrap().clone()
        };
        let whole = fitted(event("ä"), "data", 1000);
        assert_eq!(whole, fitted(event("ä"), "data", whole.len()));
        for character in ["ä", "€", "😀", "\"", "\n", "\u{1}", "\u{7f}"] {
            for limit in 200..212 {
                let bytes = fitted(event(&character.repeat(200)), "data", limit);
                assert!(bytes.len() <= limit && bytes.len() > limit - 6, "{character:?} {limit}");
                let read: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!((&read["_truncated"], &read["data"]["n"]), (&json!(true), &json!(7)));
                assert!(read["data"]["body"].as_str().unwrap().starts_with(character));
            }
        }
        let mut large = event("x");
        large.insert("data".to_owned(), json!({"other": "y".repeat(500)}));
        let read: Value = serde_json::from_slice(&fitted(large, "data", 100)).unwrap();
        assert_eq!(read, json!({"v": 1, "data": {}, "_truncated": true}));
    }
}

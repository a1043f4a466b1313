//! Settings files as people and other tools leave them: random contents, written by a random hand.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A document and the hand that writes it.
#[derive(Debug, Clone)]
pub struct Foreign {
    pub value: Value,
    pub whims: Vec<u8>,
}

/// Any settings file without anything of ours.
pub fn foreign() -> impl Strategy<Value = Foreign> {
    let known = prop::collection::vec((0_usize..5, inner()), 0..5);
    let others = prop::collection::vec((word(), inner()), 0..4);
    (known, others, prop::collection::vec(any::<u8>(), 1..80)).prop_map(|(known, others, whims)| {
        let mut map = Map::new();
        for (key, value) in others {
            map.insert(key, value);
        }
        for (number, value) in known {
            let (key, value) = fitting(number, &value);
            map.insert(key.to_owned(), value);
        }
        Foreign { value: Value::Object(map), whims }
    })
}

/// Places where ours will go, with what others have there.
fn fitting(number: usize, value: &Value) -> (&'static str, Value) {
    let hook = |command: &str| json!({ "hooks": [{ "type": "command", "command": command }] });
    match number {
        0 => ("mcpServers", json!({ "other": { "command": "x", "more": value } })),
        1 => ("hooks", json!({ "Stop": [hook("lint")], "Other": [] })),
        2 => ("hooks", json!({})),
        3 => ("permissions", json!({ "allow": ["Bash(ls:*)"], "deny": [] })),
        _ => ("statusLine", json!({ "type": "command", "command": "mine" })),
    }
}

fn inner() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~é\u{202e}\u{1F600}\\n\"\\\\]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn word() -> impl Strategy<Value = String> {
    "[a-z]{1,6}"
}

impl Foreign {
    /// The file.
    pub fn text(&self) -> String {
        let mut hand = Hand::of(&self.whims);
        let mut text = String::new();
        if hand.whim(8) == 0 {
            text.push('\u{feff}');
        }
        hand.blank(&mut text, 0);
        hand.write(&mut text, &self.value, 0);
        hand.blank(&mut text, 0);
        if hand.crlf {
            let body = text.replace("\r\n", "\n");
            return body.replace('\n', "\r\n");
        }
        text
    }
}

/// How somebody writes.
struct Hand<'a> {
    whims: &'a [u8],
    next: usize,
    crlf: bool,
    unit: &'static str,
    is_one_line: bool,
    has_comments: bool,
}

impl<'a> Hand<'a> {
    fn of(whims: &'a [u8]) -> Self {
        let first = whims[0];
        Self {
            whims,
            next: 1,
            crlf: first & 1 == 1,
            unit: ["  ", "    ", "\t", " "][usize::from(first >> 1 & 3)],
            is_one_line: first & 0x18 == 0x18,
            has_comments: first & 0x20 != 0,
        }
    }

    fn whim(&mut self, of: u8) -> u8 {
        let whim = self.whims[self.next % self.whims.len()];
        self.next += 1;
        whim % of
    }

    /// Whatever may stand between two tokens.
    fn blank(&mut self, text: &mut String, depth: usize) {
        for _ in 0..self.whim(3) {
            match self.whim(7) {
                0 => text.push(' '),
                1 if !self.is_one_line => {
                    text.push('\n');
                    text.push_str(&self.unit.repeat(depth));
                }
                2 if self.has_comments && !self.is_one_line => text.push_str("// a, \"b\" }\n"),
                3 if self.has_comments => text.push_str("/* c ] , */"),
                _ => {}
            }
        }
    }

    fn line(&mut self, text: &mut String, depth: usize) {
        if !self.is_one_line && self.whim(5) != 0 {
            text.push('\n');
            text.push_str(&self.unit.repeat(depth));
        }
        self.blank(text, depth);
    }

    fn write(&mut self, text: &mut String, value: &Value, depth: usize) {
        let (open, close, parts): (_, _, Vec<(Option<&String>, &Value)>) = match value {
            Value::Object(map) => ('{', '}', map.iter().map(|(key, v)| (Some(key), v)).collect()),
            Value::Array(all) => ('[', ']', all.iter().map(|value| (None, value)).collect()),
            plain => return text.push_str(&plain.to_string()),
        };
        text.push(open);
        let count = parts.len();
        for (number, (key, value)) in parts.into_iter().enumerate() {
            self.line(text, depth + 1);
            if let Some(key) = key {
                text.push_str(&Value::from(key.as_str()).to_string());
                self.blank(text, depth + 1);
                text.push(':');
                self.blank(text, depth + 1);
            }
            self.write(text, value, depth + 1);
            self.blank(text, depth + 1);
            if number + 1 < count || self.whim(4) == 0 {
                text.push(',');
            }
        }
        self.line(text, depth);
        text.push(close);
    }
}

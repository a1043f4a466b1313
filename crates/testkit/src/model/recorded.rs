//! A request as the model would have read it.

use serde_json::Value;

/// Which vendor's manner of speaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Responses.
    Responses,
}

/// One request that asked for an answer.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Counted from 1.
    pub number: usize,
    /// Path of the URL.
    pub path: String,
    /// Its manner of speaking.
    pub dialect: Dialect,
    /// The whole request.
    pub body: Value,
}

/// One turn of the conversation, in either dialect.
pub(super) struct Turn<'a> {
    /// What kind of turn.
    pub(super) kind: TurnKind,
    /// Its text, without results of tools.
    pub(super) text: String,
    /// Results of tools in it.
    pub(super) results: usize,
    value: &'a Value,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnKind {
    /// The user, or what stands for one.
    User,
    /// The model, the client's reminders, results of tools.
    Other,
}

impl Recorded {
    /// `None` for something else than a question to a model.
    pub(super) fn read(path: &str, body: Value) -> Option<Self> {
        let dialect = if body.get("messages").is_some_and(Value::is_array) {
            Dialect::Messages
        } else if body.get("input").is_some_and(Value::is_array) {
            Dialect::Responses
        } else {
            return None;
        };
        Some(Self { number: 0, path: path.to_owned(), dialect, body })
    }

    /// Everything the model would have read of the conversation: one line for each piece of text, results of tools
    /// included; neither the client's own instructions nor the list of tools.
    pub fn text(&self) -> String {
        self.turns().iter().map(|turn| all_text(turn.value)).collect::<Vec<_>>().join("\n")
    }

    /// The client's own instructions.
    pub fn instructions(&self) -> String {
        let key = match self.dialect {
            Dialect::Messages => "system",
            Dialect::Responses => "instructions",
        };
        self.body.get(key).map(all_text).unwrap_or_default()
    }

    /// Names of the tools offered.
    pub fn tools(&self) -> Vec<String> {
        let tools = self.body.get("tools").and_then(Value::as_array);
        tools
            .into_iter()
            .flatten()
            .filter_map(|tool| tool.get("name").and_then(Value::as_str))
            .map(str::to_owned)
            .collect()
    }

    /// Texts of the results of tools, oldest first.
    pub fn tool_results(&self) -> Vec<String> {
        let turns = self.turns();
        let blocks = turns.iter().flat_map(|turn| match turn.value.get("content") {
            Some(Value::Array(blocks)) if self.dialect == Dialect::Messages => {
                blocks.iter().collect()
            }
            _ => vec![turn.value],
        });
        blocks.filter(|block| is_result(block)).map(all_text).collect()
    }

    pub(super) fn wants_stream(&self) -> bool {
        self.dialect == Dialect::Responses || self.body.get("stream") == Some(&Value::Bool(true))
    }

    pub(super) fn turns(&self) -> Vec<Turn<'_>> {
        let key = match self.dialect {
            Dialect::Messages => "messages",
            Dialect::Responses => "input",
        };
        let turns = self.body.get(key).and_then(Value::as_array);
        turns.into_iter().flatten().map(Turn::of).collect()
    }
}

impl<'a> Turn<'a> {
    fn of(value: &'a Value) -> Self {
        let is_user = value.get("role").and_then(Value::as_str) == Some("user");
        let kind = if is_user { TurnKind::User } else { TurnKind::Other };
        let (mut text, mut results) = (String::new(), usize::from(is_result(value)));
        match value.get("content") {
            Some(Value::String(said)) => text.push_str(said),
            Some(Value::Array(blocks)) => {
                for block in blocks {
                    if is_result(block) {
                        results += 1;
                    } else if let Some(said) = block.get("text").and_then(Value::as_str) {
                        text.push_str(said);
                        text.push('\n');
                    }
                }
            }
            _ => {}
        }
        Self { kind, text, results, value }
    }
}

fn is_result(value: &Value) -> bool {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    kind == "tool_result" || kind.ends_with("_call_output")
}

/// Every text in a value, one line for each.
fn all_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().map(all_text).filter(|text| !text.is_empty());
            texts.collect::<Vec<_>>().join("\n")
        }
        Value::Object(map) => {
            let texts = ["text", "content", "output", "input", "arguments"]
                .iter()
                .filter_map(|key| map.get(*key))
                .map(|value| match value {
                    // What the model itself said when it called a tool.
                    Value::Object(_) if !value.get("text").is_some_and(Value::is_string) => {
                        value.to_string()
                    }
                    other => all_text(other),
                })
                .filter(|text| !text.is_empty());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

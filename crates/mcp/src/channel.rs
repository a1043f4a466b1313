//! One `notifications/claude/channel`: text and string attributes within the client's limits (MCP spec §4.2).
//!
//! The receiving client drops a whole notification, silently, when one attribute is not a string, and an attribute whose
//! key is no identifier. Hence a type that takes nothing but strings and keys written in this crate's source.

use claudemesh_protocol::limits::{
    CHANNEL_CONTENT_MAX_BYTES, CHANNEL_TOTAL_MAX_BYTES, CHANNEL_VALUE_MAX_BYTES,
};
use serde_json::{Map, Value, json};

use crate::untrusted;

/// The notification's method.
pub const METHOD: &str = "notifications/claude/channel";

/// A channel notification under construction; everything put into it is made harmless on the way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    content: String,
    full_text: Option<String>,
    meta: Vec<(&'static str, String)>,
}

impl Notification {
    /// A notification with this text, of this `kind`. Empty text becomes `(empty)`: the client refuses empty content.
    pub fn new(kind: &str, content: &str) -> Self {
        let content = untrusted::neutral(content);
        let content = if content.is_empty() { "(empty)".to_owned() } else { content };
        Self { content, full_text: None, meta: Vec::new() }.with("kind", kind)
    }

    /// A notification of ours about the mesh, `kind=system` with its `event`.
    pub fn system(event: &str, content: &str) -> Self {
        Self::new("system", content).with("event", event)
    }

    /// Adds an attribute: one line, cut to 1 KiB.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: &str) -> Self {
        debug_assert!(is_attribute_name(key), "{key} is no attribute name");
        let line = untrusted::neutral_line(value);
        self.meta.push((key, cut(&line, CHANNEL_VALUE_MAX_BYTES).to_owned()));
        self
    }

    /// Adds an attribute when there is a value that is not empty.
    #[must_use]
    pub fn with_some(self, key: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) if !value.is_empty() => self.with(key, value),
            _ => self,
        }
    }

    /// Names the command that shows the full text, should it have to be cut.
    #[must_use]
    pub fn full_text_by(mut self, command: String) -> Self {
        self.full_text = Some(command);
        self
    }

    /// The text as it will be sent.
    pub fn content(&self) -> String {
        let spent: usize = self.meta.iter().map(|(key, value)| key.len() + value.len()).sum();
        let limit = CHANNEL_CONTENT_MAX_BYTES.min(CHANNEL_TOTAL_MAX_BYTES.saturating_sub(spent));
        if self.content.len() <= limit {
            return self.content.clone();
        }
        let ending = match &self.full_text {
            Some(command) => format!("… [truncated, {} bytes — {command}]", self.content.len()),
            None => format!("… [truncated, {} bytes]", self.content.len()),
        };
        format!("{}{ending}", cut(&self.content, limit.saturating_sub(ending.len())))
    }

    /// The JSON-RPC notification.
    pub fn to_json(&self) -> Value {
        let meta: Map<String, Value> = self
            .meta
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str())))
            .collect();
        json!({"jsonrpc": "2.0", "method": METHOD, "params": {"content": self.content(), "meta": meta}})
    }
}

/// The longest beginning of `text` within `max_bytes` that ends at a character.
fn cut(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or_default()
}

/// True for what the client accepts as the name of an attribute: `^[a-zA-Z_][a-zA-Z0-9_]*$`.
fn is_attribute_name(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_at_a_character_and_says_where_the_rest_is() {
        let text = "é".repeat(20_000);
        let notification =
            Notification::new("dm", &text).full_text_by("claudemesh inbox show 01J".into());
        let content = notification.content();
        assert!(content.len() <= CHANNEL_CONTENT_MAX_BYTES);
        assert!(
            content.ends_with("é… [truncated, 40000 bytes — claudemesh inbox show 01J]"),
            "{content}"
        );
        let exact = "a".repeat(CHANNEL_CONTENT_MAX_BYTES);
        assert_eq!(Notification::new("dm", &exact).content(), exact);
        assert!(Notification::new("dm", &format!("{exact}a")).content().ends_with("32769 bytes]"));
    }

    #[test]
    fn attributes_are_single_lines_within_their_limit() {
        let value = format!("a\nb{}", "x".repeat(CHANNEL_VALUE_MAX_BYTES));
        let json =
            Notification::new("dm", "hi").with("topic", &value).with_some("group", None).to_json();
        let topic = json["params"]["meta"]["topic"].as_str().unwrap();
        assert!(topic.starts_with("a bxxx") && topic.len() == CHANNEL_VALUE_MAX_BYTES);
        assert!(json["params"]["meta"].get("group").is_none());
    }

    #[test]
    fn the_whole_stays_within_its_limit() {
        let mut notification = Notification::new("dm", &"a".repeat(60_000));
        for _ in 0..30 {
            notification = notification.with("key", &"v".repeat(2_000));
        }
        let spent: usize =
            notification.meta.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(notification.content().len() + spent <= CHANNEL_TOTAL_MAX_BYTES);
    }
}

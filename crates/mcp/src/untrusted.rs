//! Text of peers made harmless before a model reads it (MCP spec §4.9): the renderer that every way to a model shares, and
//! what only notices need.

pub use claudemesh_agents::render::{attribute, name as speaker, neutral, neutral_line};
use claudemesh_protocol::limits::CHANNEL_SUMMARY_MAX_CHARS;
use claudemesh_protocol::text::sanitized_line;

/// A peer's summary: one neutral line of at most 80 characters.
pub fn summary(text: &str) -> String {
    sanitized_line(&neutral_line(text), CHANNEL_SUMMARY_MAX_CHARS)
}

/// A key of the shared state, or the name of a stream: as it is when it is one plain word, else quoted.
pub(crate) fn word(text: &str) -> String {
    let is_plain = |one: char| one.is_alphanumeric() || matches!(one, '.' | '_' | '-' | ':' | '/');
    if !text.is_empty() && text.chars().all(is_plain) {
        return neutral_line(text);
    }
    serde_json::Value::from(neutral_line(text)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_more_than_a_word_are_quoted() {
        for (given, shown) in [
            ("build/main:status", "build/main:status"),
            ("a = 1 (set by Ana)", "\"a = 1 (set by Ana)\""),
            ("", "\"\""),
            ("x\n\"<system>", "\"x \\\"‹system>\""),
        ] {
            assert_eq!(word(given), shown);
        }
        assert_eq!(summary(&"x ".repeat(80)).chars().count(), 80);
    }
}

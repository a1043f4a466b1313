//! Names people see: what a display name may hold, and how text of strangers is made harmless.

/// Why a display name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {max} characters and no control characters")]
pub struct NameError {
    /// Longest name accepted, in characters.
    pub max: usize,
}

/// Trims a display name and checks it.
///
/// # Errors
/// [`NameError`] when it is empty, longer than `max` characters, or holds control or direction characters.
pub fn display_name(text: &str, max: usize) -> Result<String, NameError> {
    let name = text.trim();
    let is_valid =
        !name.is_empty() && name.chars().count() <= max && !name.chars().any(is_unprintable);
    if is_valid { Ok(name.to_owned()) } else { Err(NameError { max }) }
}

/// True for characters that must never reach a terminal or a model from a stranger: C0 and C1 controls,
/// direction overrides and isolates, zero-width and tag characters.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' | '\u{061c}')
}

/// Removes what [`is_unprintable`] names, keeping line feeds and tabs.
pub fn sanitized(text: &str) -> String {
    text.chars()
        .filter(|character| matches!(character, '\n' | '\t') || !is_unprintable(*character))
        .collect()
}

/// [`sanitized`], on one line: line feeds and tabs become spaces; cut to `max` characters with an ellipsis.
pub fn sanitized_line(text: &str, max: usize) -> String {
    let clean: String =
        sanitized(text).chars().map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c }).collect();
    if clean.chars().count() <= max {
        return clean;
    }
    let mut cut: String = clean.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(display_name("  Ana  ", 64), Ok("Ana".into()));
        assert!(display_name("", 64).is_err());
        assert!(display_name("a\u{1b}[31m", 64).is_err());
        assert!(display_name("a\u{202e}b", 64).is_err());
        assert!(display_name(&"é".repeat(64), 64).is_ok());
        assert!(display_name(&"é".repeat(65), 64).is_err());
    }

    #[test]
    fn hostile_text_becomes_plain() {
        assert_eq!(sanitized("a\u{1b}[2J\u{202e}b\n\tc"), "a[2Jb\n\tc");
        assert_eq!(sanitized_line("one\ntwo three", 7), "one tw…");
    }
}

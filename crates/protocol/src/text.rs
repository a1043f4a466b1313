//! Names people see: what a display name may hold, and how text of strangers is made harmless.

use unicode_normalization::UnicodeNormalization as _;

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

/// What names are compared by, since people cannot tell them apart otherwise: compatibility forms (NFKC), letter case,
/// blanks around and characters nobody sees make no difference.
pub fn folded_name(name: &str) -> String {
    let visible = name.chars().filter(|character| !is_unprintable(*character));
    // Upper case first: it brings together what lower case alone keeps apart, such as the two small sigmas.
    let raised: String = visible.nfkc().flat_map(char::to_uppercase).collect();
    let folded: String = raised.chars().flat_map(char::to_lowercase).nfkc().collect();
    folded.trim().to_owned()
}

/// The name somebody gets instead of `wish`: with the lowest number from 2 upwards that makes it free, cut to `max`
/// characters. `None`: the wish itself is free. `is_taken` is asked with [`folded_name`]s.
pub fn instead_of_taken(wish: &str, max: usize, is_taken: impl Fn(&str) -> bool) -> Option<String> {
    if !is_taken(&folded_name(wish)) {
        return None;
    }
    let clean: String = wish.chars().filter(|character| !is_unprintable(*character)).collect();
    (2_u32..).find_map(|number| {
        let suffix = format!("-{number}");
        let start: String = clean.trim().chars().take(max.saturating_sub(suffix.len())).collect();
        let name = format!("{}{suffix}", start.trim_end());
        (!is_taken(&folded_name(&name))).then_some(name)
    })
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
    fn names_that_look_the_same_are_the_same() {
        for (one, other) in [
            ("Ana", "aNA"),
            ("ana", " \u{ff41}na\u{200b} "),
            ("caf\u{e9}", "CAFE\u{301}"),
            ("Stra\u{df}e", "STRASSE"),
            ("\u{3bf}\u{3b4}\u{3bf}\u{3c2}", "\u{39f}\u{394}\u{39f}\u{3a3}"),
        ] {
            assert_eq!(folded_name(one), folded_name(other));
        }
        assert_ne!(folded_name("ana"), folded_name("ana-2"));
    }

    #[test]
    fn a_taken_name_gets_the_next_number_and_still_fits() {
        let taken = ["ana", "ana-2", "bbbb", "bb-2"];
        let instead = |wish, max| instead_of_taken(wish, max, |name| taken.contains(&name));
        assert_eq!(instead("bob", 64), None);
        assert_eq!(instead("ANA", 64).as_deref(), Some("ANA-3"));
        assert_eq!(instead("Ana-2", 64).as_deref(), Some("Ana-2-2"));
        assert_eq!(instead("bbbb", 4).as_deref(), Some("bb-3"));
    }

    #[test]
    fn hostile_text_becomes_plain() {
        assert_eq!(sanitized("a\u{1b}[2J\u{202e}b\n\tc"), "a[2Jb\n\tc");
        assert_eq!(sanitized_line("one\ntwo three", 7), "one tw…");
    }
}

//! Mesh slugs: the short name people type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `^[a-z0-9][a-z0-9-]{1,31}$` without a trailing dash (wire spec §2.1, CLI spec §1.8).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

/// The text is no slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a mesh name has 2 to 32 characters a-z, 0-9 and -, and begins and ends with a letter or digit"
)]
pub struct SlugError;

/// Longest slug, in characters.
pub const SLUG_MAX_CHARS: usize = 32;

impl Slug {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a slug from a free name: lower case, every run of other characters one dash.
    ///
    /// # Errors
    /// [`SlugError`] when fewer than two usable characters remain.
    pub fn from_name(name: &str) -> Result<Self, SlugError> {
        let mut text = String::new();
        for character in name.chars().flat_map(char::to_lowercase) {
            if character.is_ascii_alphanumeric() {
                text.push(character);
            } else if !text.is_empty() && !text.ends_with('-') {
                text.push('-');
            }
        }
        text.truncate(SLUG_MAX_CHARS);
        text.trim_end_matches('-').parse()
    }

    /// This slug with `-n` appended, shortened at its end to stay within the limit.
    #[must_use]
    pub fn with_number(&self, number: u32) -> Self {
        let suffix = format!("-{number}");
        let keep = SLUG_MAX_CHARS.saturating_sub(suffix.len());
        let base: String = self.0.chars().take(keep).collect();
        Self(format!("{}{suffix}", base.trim_end_matches('-')))
    }
}

impl FromStr for Slug {
    type Err = SlugError;

    fn from_str(text: &str) -> Result<Self, SlugError> {
        let shape = (2..=SLUG_MAX_CHARS).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if shape { Ok(Self(text.to_owned())) } else { Err(SlugError) }
    }
}

impl TryFrom<String> for Slug {
    type Error = SlugError;

    fn try_from(text: String) -> Result<Self, SlugError> {
        text.parse()
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> Self {
        slug.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_slugs() {
        assert_eq!(Slug::from_name("Platform Team").map(String::from), Ok("platform-team".into()));
        assert_eq!(Slug::from_name("  Ünïcode!! 7 ").map(String::from), Ok("n-code-7".into()));
        assert_eq!(Slug::from_name("x"), Err(SlugError));
        assert_eq!(Slug::from_name(""), Err(SlugError));
        assert_eq!(Slug::from_name(&"ab-".repeat(20)).map(|slug| slug.0.len()), Ok(32));
    }

    #[test]
    fn edges_of_the_pattern() {
        assert!("ab".parse::<Slug>().is_ok());
        assert!("a".repeat(32).parse::<Slug>().is_ok());
        for bad in ["a", "-ab", "ab-", "Ab", "a_b", &"a".repeat(33)] {
            assert!(bad.parse::<Slug>().is_err(), "{bad}");
        }
    }

    #[test]
    fn numbered_slugs_stay_within_the_limit() {
        let long: Slug = "a".repeat(32).parse().unwrap();
        assert_eq!(long.with_number(12).as_str().len(), 32);
        assert_eq!("alpha".parse::<Slug>().unwrap().with_number(2).as_str(), "alpha-2");
    }
}

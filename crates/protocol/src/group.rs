//! Groups: hierarchical names on a presence (wire spec §0, §4.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits;

/// A group path such as `ops` or `ops/core`, without `@`; `all` is reserved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(transparent)]
pub struct GroupName(String);

/// The text is no group name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupNameError {
    /// Wrong characters, an empty part, or too long.
    #[error("a group name is a path of letters, digits, '.', '_' and '-' of at most 64 characters")]
    Format,
    /// `all` stands for everybody.
    #[error("the group name \"all\" is reserved")]
    Reserved,
}

impl GroupName {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a name with or without one leading `@`, as people type it.
    ///
    /// # Errors
    /// [`GroupNameError`] as for [`FromStr`].
    pub fn parse_lenient(text: &str) -> Result<Self, GroupNameError> {
        text.strip_prefix('@').unwrap_or(text).parse()
    }

    /// True when a message to `target` reaches this group: equal, or a descendant of it.
    pub fn is_within(&self, target: &Self) -> bool {
        self.0
            .strip_prefix(target.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for GroupName {
    type Err = GroupNameError;

    fn from_str(text: &str) -> Result<Self, GroupNameError> {
        if text == "all" {
            return Err(GroupNameError::Reserved);
        }
        let part_is_valid = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        if text.len() <= limits::GROUP_NAME_MAX_CHARS && text.split('/').all(part_is_valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(GroupNameError::Format)
        }
    }
}

impl<'de> Deserialize<'de> for GroupName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse_lenient(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A presence's membership of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
pub struct Group {
    /// The path.
    pub name: GroupName,
    /// A free word such as `lead`, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

impl Group {
    /// A membership without a role.
    pub fn plain(name: GroupName) -> Self {
        Self { name, role: None }
    }

    /// Reads the form people type: `@name`, `name`, `name:role`.
    ///
    /// # Errors
    /// [`GroupNameError`] for a bad name or a role longer than 64 characters.
    pub fn parse_lenient(text: &str) -> Result<Self, GroupNameError> {
        let (name, role) = match text.split_once(':') {
            Some((name, role)) => (name, Some(role.to_owned())),
            None => (text, None),
        };
        if role.as_ref().is_some_and(|role| role.chars().count() > limits::GROUP_ROLE_MAX_CHARS) {
            return Err(GroupNameError::Format);
        }
        Ok(Self { name: GroupName::parse_lenient(name)?, role })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> GroupName {
        text.parse().unwrap()
    }

    #[test]
    fn a_message_reaches_descendants_and_not_ancestors() {
        assert!(name("a/b/c").is_within(&name("a")));
        assert!(name("a/b").is_within(&name("a/b")));
        assert!(!name("a").is_within(&name("a/b")));
        assert!(!name("x/core").is_within(&name("x/co")));
    }

    #[test]
    fn hostile_names_are_refused() {
        for bad in ["", "a'b", "../x", "/a", "a//b", "a/", "-a", "a b", "é", &"a".repeat(65)] {
            assert_eq!(bad.parse::<GroupName>(), Err(GroupNameError::Format), "{bad}");
        }
        assert_eq!("all".parse::<GroupName>(), Err(GroupNameError::Reserved));
        assert!("a".repeat(64).parse::<GroupName>().is_ok());
    }

    #[test]
    fn typed_forms() {
        let group = Group::parse_lenient("@eng:lead").unwrap();
        assert_eq!((group.name.as_str(), group.role.as_deref()), ("eng", Some("lead")));
    }
}

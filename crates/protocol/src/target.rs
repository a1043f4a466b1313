//! `targetSpec`: who a message is for, in wire form (wire spec §4.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::group::GroupName;
use crate::key::PublicKey;

/// A wire target. Names, key prefixes and lists are resolved by clients and never stand here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetSpec {
    /// One session, member or service key.
    Key(PublicKey),
    /// `*` or `@all`: everybody else.
    Everyone,
    /// `@name`: a group and its descendants.
    Group(GroupName),
    /// `#id`: the subscribers of a topic; the broker also accepts a topic name of old clients.
    Topic(String),
}

/// The text is no wire target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a target is 64 hexadecimal characters, \"*\", \"@group\" or \"#topic\"")]
pub struct TargetError;

impl TargetSpec {
    /// True for one key, false for broadcast, group and topic.
    pub fn is_direct(&self) -> bool {
        matches!(self, Self::Key(_))
    }

    /// Characters of the wire form, as the size cap of a send counts them.
    pub fn wire_len(&self) -> usize {
        match self {
            Self::Key(_) => 64,
            Self::Everyone => 1,
            Self::Group(name) => 1 + name.as_str().len(),
            Self::Topic(id) => 1 + id.len(),
        }
    }
}

impl FromStr for TargetSpec {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text.len() > crate::limits::TARGET_MAX_CHARS {
            return Err(TargetError);
        }
        if text == "*" || text == "@all" {
            return Ok(Self::Everyone);
        }
        if let Some(name) = text.strip_prefix('@') {
            return name.parse().map(Self::Group).map_err(|_| TargetError);
        }
        if let Some(topic) = text.strip_prefix('#') {
            let is_valid = !topic.is_empty()
                && topic
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
            return if is_valid { Ok(Self::Topic(topic.to_owned())) } else { Err(TargetError) };
        }
        text.parse().map(Self::Key).map_err(|_| TargetError)
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Everyone => f.write_str("*"),
            Self::Group(name) => write!(f, "@{name}"),
            Self::Topic(id) => write!(f, "#{id}"),
        }
    }
}

impl Serialize for TargetSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TargetSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_forms_read_back() {
        let key = "ab".repeat(32);
        for text in
            ["*", "@ops", "@a/b", "#general", "#Top00000000000000000000000000001", key.as_str()]
        {
            let target: TargetSpec = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(target.wire_len(), text.len());
        }
        assert_eq!("@all".parse(), Ok(TargetSpec::Everyone));
    }

    #[test]
    fn anything_else_is_refused() {
        let member_in_at_form = format!("@{}'", "ab".repeat(32));
        let upper = "AB".repeat(32);
        for text in
            ["", "alice", "deadbeef", "@", "#", "#a b", "@a'b", "tag:x", &member_in_at_form, &upper]
        {
            assert_eq!(text.parse::<TargetSpec>(), Err(TargetError), "{text}");
        }
    }
}

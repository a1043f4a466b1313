//! What a session may do on behalf of its member: the ten session capabilities (wire spec §2.4).
//!
//! A session without a list is unrestricted; that case is an `Option<CapabilitySet>` of `None` at the caller, so that
//! an empty set can only ever mean "nothing".

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::status::{UnknownWord, word};

word! {
    /// One right of a session. The declaration order is the byte order of the words, which the signed list uses.
    Capability, "capability" {
        /// Ban, unban, revoke an identity.
        Ban = "ban",
        /// Send to everybody, a group or a topic; publish to a stream.
        Broadcast = "broadcast",
        /// Send to one key, call a peer's tools, signal a direct connection.
        Dm = "dm",
        /// Change grants and API keys.
        Grant = "grant",
        /// Kick and disconnect.
        Kick = "kick",
        /// Change the own profile, status, summary and groups.
        ProfileWrite = "profile-write",
        /// List peers and members, and every shared read without a word of its own.
        Read = "read",
        /// Register and deploy tools, skills and services; use the vault; manage webhooks.
        ServiceDeploy = "service-deploy",
        /// Read shared state.
        StateRead = "state-read",
        /// Write shared state, and every shared write without a word of its own.
        StateWrite = "state-write",
    }
}

impl Capability {
    const fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// A set of capabilities. JSON form: an array of words; written in byte order, read in any order and letter case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "Array<Capability>"))]
pub struct CapabilitySet(u16);

impl CapabilitySet {
    /// No right at all.
    pub const EMPTY: Self = Self(0);

    /// Reads the words of a list: letter case and repetition do not matter.
    ///
    /// # Errors
    /// [`UnknownWord`] for a word outside the ten; such a list is `malformed` as a whole.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownWord> {
        words.into_iter().map(|word| word.to_ascii_lowercase().parse::<Capability>()).collect()
    }

    /// True when the set names `capability`.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// True when the set names nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What both sets name.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members in byte order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.iter().copied().filter(move |capability| self.contains(*capability))
    }

    /// The list as it is signed: lowercase, each once, byte-sorted, joined with `,`; empty for the empty set.
    pub fn to_csv(self) -> String {
        self.iter().map(Capability::as_str).collect::<Vec<_>>().join(",")
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().fold(0, |bits, capability| bits | capability.bit()))
    }
}

impl Serialize for CapabilitySet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for CapabilitySet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        Self::parse(words.iter().map(String::as_str)).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declaration_order_is_byte_order() {
        assert!(Capability::ALL.is_sorted_by_key(|capability| capability.as_str()));
        assert_eq!(Capability::ALL.len(), 10);
    }

    #[test]
    fn lists_are_normalised() {
        let set = CapabilitySet::parse(["state-read", "DM", "broadcast", "dm"]).unwrap();
        assert_eq!(set.to_csv(), "broadcast,dm,state-read");
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["broadcast","dm","state-read"]"#);
        assert_eq!(CapabilitySet::parse([]).unwrap().to_csv(), "");
    }

    #[test]
    fn unknown_words_spoil_the_whole_list() {
        assert!(CapabilitySet::parse(["dm", "fly"]).is_err());
        assert!(CapabilitySet::parse(["state_read"]).is_err());
        assert!(serde_json::from_str::<CapabilitySet>(r#"["dm",7]"#).is_err());
    }

    #[test]
    fn intersection_keeps_what_both_name() {
        let left = CapabilitySet::from_iter([Capability::Dm, Capability::Read]);
        let right = CapabilitySet::from_iter([Capability::Dm, Capability::Ban]);
        assert_eq!(left.intersection(right), CapabilitySet::from_iter([Capability::Dm]));
        assert!(left.intersection(CapabilitySet::EMPTY).is_empty());
    }
}

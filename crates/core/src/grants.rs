//! What a member lets others do to it (broker spec §4.22).

use std::collections::BTreeMap;

use claudemesh_protocol::PublicKey;
use claudemesh_protocol::permission::{DEFAULT_GRANTS, Grant};

/// True when a member with these explicit `entries` lets the sender do what `grant` names: the sender's member key counts
/// first, then its session key (old clients wrote those), then the defaults. An empty entry blocks its key.
pub fn allows(
    entries: &BTreeMap<PublicKey, Vec<Grant>>,
    member_key: PublicKey,
    session_key: Option<PublicKey>,
    grant: Grant,
) -> bool {
    let entry = entries.get(&member_key).or_else(|| entries.get(&session_key?));
    entry.map_or(DEFAULT_GRANTS, Vec::as_slice).contains(&grant)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: PublicKey = PublicKey::from_bytes([1; 32]);
    const SESSION: PublicKey = PublicKey::from_bytes([2; 32]);

    #[test]
    fn without_an_entry_the_defaults_count() {
        let none = BTreeMap::new();
        assert!(allows(&none, MEMBER, None, Grant::Dm));
        assert!(!allows(&none, MEMBER, None, Grant::FileRead));
    }

    #[test]
    fn the_member_key_counts_before_the_session_key() {
        let both = [(MEMBER, vec![Grant::Dm]), (SESSION, vec![])].into();
        assert!(allows(&both, MEMBER, Some(SESSION), Grant::Dm));
        assert!(!allows(&both, MEMBER, Some(SESSION), Grant::Broadcast));
        let by_session = [(SESSION, vec![])].into();
        assert!(!allows(&by_session, MEMBER, Some(SESSION), Grant::Dm));
    }
}

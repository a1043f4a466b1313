//! Who receives a message (broker spec §3.2).

use std::collections::{BTreeMap, BTreeSet};

use claudemesh_protocol::{Group, GroupName, MemberId, PublicKey};

/// What the rules need to know about one presence, live or leased.
#[derive(Debug, Clone, Copy)]
pub struct PresentPeer<'a> {
    /// Its member.
    pub member: &'a MemberId,
    /// Key it is reached by.
    pub key: PublicKey,
    /// Its groups.
    pub groups: &'a [Group],
    /// False when hidden.
    pub is_visible: bool,
    /// One-shot calls do not make a member present and are not reached by broadcast.
    pub is_transient: bool,
}

/// What the rules need to know about one member that may receive.
#[derive(Debug, Clone, Copy)]
pub struct RosterEntry<'a> {
    /// The member.
    pub id: &'a MemberId,
    /// Its key.
    pub key: PublicKey,
    /// Last known groups, else default groups.
    pub groups: &'a [Group],
}

/// A target that is not one key.
#[derive(Debug, Clone, Copy)]
pub enum Reach<'a> {
    /// Everybody else.
    Everyone,
    /// A group and its descendants.
    Group(&'a GroupName),
}

impl Reach<'_> {
    fn matches(self, groups: &[Group]) -> bool {
        match self {
            Self::Everyone => true,
            Self::Group(target) => groups.iter().any(|group| group.name.is_within(target)),
        }
    }
}

/// One delivery of a multicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receiver<'a> {
    /// Key of the delivery.
    pub key: PublicKey,
    /// Member behind it.
    pub member: &'a MemberId,
}

/// The deliveries of a multicast: one per key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audience<'a> {
    /// Matching presences.
    pub present: Vec<Receiver<'a>>,
    /// Matching members that are not here.
    pub absent: Vec<Receiver<'a>>,
}

/// Resolves a broadcast or group message. Every presence of the sender's member is left out; a member that is here, but
/// hidden or in no matching group, is not absent. `roster` holds the members that may receive at all.
pub fn audience<'a>(
    reach: Reach<'_>,
    sender: &MemberId,
    present: impl Iterator<Item = PresentPeer<'a>>,
    roster: impl Iterator<Item = RosterEntry<'a>>,
) -> Audience<'a> {
    let mut here = BTreeSet::new();
    let mut keys = BTreeMap::new();
    for peer in present.filter(|peer| !peer.is_transient && peer.member != sender) {
        here.insert(peer.member);
        if peer.is_visible && reach.matches(peer.groups) {
            keys.insert(peer.key, peer.member);
        }
    }
    let absent = roster
        .filter(|entry| {
            entry.id != sender && !here.contains(entry.id) && reach.matches(entry.groups)
        })
        .map(|entry| Receiver { key: entry.key, member: entry.id })
        .collect();
    let present = keys.into_iter().map(|(key, member)| Receiver { key, member }).collect();
    Audience { present, absent }
}

/// What is known about the key a direct message names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFact<'a> {
    /// The session key of a live or leased presence.
    Session {
        /// Its member.
        member: &'a MemberId,
        /// True when it is the sending presence itself.
        is_sender: bool,
    },
    /// The key of a member that is not revoked.
    Member {
        /// The member.
        member: &'a MemberId,
        /// True when the sender is of this member and no other presence of it is here.
        is_sender_alone: bool,
    },
    /// A session key whose session has ended, of a member that is not revoked.
    EndedSession {
        /// Its member.
        member: &'a MemberId,
        /// That member's key.
        member_key: PublicKey,
        /// As for [`KeyFact::Member`].
        is_sender_alone: bool,
    },
    /// Anything else.
    Unknown,
}

/// Where a direct message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct<'a> {
    /// To one session.
    Session(&'a MemberId),
    /// To a member's queue.
    Member(&'a MemberId),
    /// To a member's queue, because the named session has ended.
    Rerouted {
        /// The member.
        member: &'a MemberId,
        /// The key the row is for.
        to: PublicKey,
    },
}

/// Resolves a direct message; `None` is `target_not_found`. Nobody writes to the presence it writes from.
pub fn direct(fact: KeyFact<'_>) -> Option<Direct<'_>> {
    match fact {
        KeyFact::Session { is_sender: true, .. }
        | KeyFact::Member { is_sender_alone: true, .. }
        | KeyFact::EndedSession { is_sender_alone: true, .. }
        | KeyFact::Unknown => None,
        KeyFact::Session { member, .. } => Some(Direct::Session(member)),
        KeyFact::Member { member, .. } => Some(Direct::Member(member)),
        KeyFact::EndedSession { member, member_key, .. } => {
            Some(Direct::Rerouted { member, to: member_key })
        }
    }
}

#[cfg(test)]
mod tests;

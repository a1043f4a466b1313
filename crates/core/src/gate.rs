//! The priority gate: which messages may interrupt a recipient in its present status (broker spec §3.4).

use claudemesh_protocol::{PeerStatus, Priority};

/// A set of priorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Priorities(u8);

const fn bit(priority: Priority) -> u8 {
    1 << (priority as u8)
}

impl Priorities {
    /// No priority.
    pub const NONE: Self = Self(0);
    /// Every priority.
    pub const ALL: Self = Self(bit(Priority::Now) | bit(Priority::Next) | bit(Priority::Low));

    /// True when `priority` is in the set.
    pub const fn allows(self, priority: Priority) -> bool {
        self.0 & bit(priority) != 0
    }

    /// The set with `priority` added.
    #[must_use]
    pub const fn with(self, priority: Priority) -> Self {
        Self(self.0 | bit(priority))
    }

    /// What either set allows.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True for [`Priorities::NONE`].
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, most urgent first.
    pub fn iter(self) -> impl Iterator<Item = Priority> {
        Priority::ALL.iter().copied().filter(move |priority| self.allows(*priority))
    }
}

/// Who applies the gate for `now` and `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gatekeeper {
    /// The broker, by the table.
    Broker,
    /// The recipient's daemon (hello capability `local_gate`): the broker holds only `low` back.
    Daemon,
}

/// What may be pushed to a connected recipient of this status. A leased one gets nothing; that is the caller's rule,
/// because it has no socket.
pub const fn open_for(status: PeerStatus, gatekeeper: Gatekeeper) -> Priorities {
    match (status, gatekeeper) {
        (PeerStatus::Idle, _) => Priorities::ALL,
        (PeerStatus::Working | PeerStatus::Dnd, Gatekeeper::Broker) => {
            Priorities::NONE.with(Priority::Now)
        }
        (PeerStatus::Working | PeerStatus::Dnd, Gatekeeper::Daemon) => {
            Priorities::NONE.with(Priority::Now).with(Priority::Next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_spec() {
        let words = |status, gatekeeper| {
            open_for(status, gatekeeper).iter().map(Priority::as_str).collect::<Vec<_>>()
        };
        assert_eq!(words(PeerStatus::Idle, Gatekeeper::Broker), ["now", "next", "low"]);
        assert_eq!(words(PeerStatus::Working, Gatekeeper::Broker), ["now"]);
        assert_eq!(words(PeerStatus::Dnd, Gatekeeper::Broker), ["now"]);
        assert_eq!(words(PeerStatus::Idle, Gatekeeper::Daemon), ["now", "next", "low"]);
        assert_eq!(words(PeerStatus::Working, Gatekeeper::Daemon), ["now", "next"]);
        assert_eq!(words(PeerStatus::Dnd, Gatekeeper::Daemon), ["now", "next"]);
    }

    #[test]
    fn sets_join() {
        let set = Priorities::NONE.with(Priority::Low).or(Priorities::NONE.with(Priority::Now));
        assert!(
            set.allows(Priority::Low) && set.allows(Priority::Now) && !set.allows(Priority::Next)
        );
        assert!(Priorities::NONE.is_empty() && !set.is_empty());
    }
}

//! Which leases run, ordered by their end (broker spec §2.2): a deadline queue, so that nobody looks through every
//! presence to find the next one.

use std::collections::BTreeSet;

use claudemesh_protocol::{PresenceId, Timestamp};

use crate::presence::Lease;

/// The running leases of one mesh.
#[derive(Debug, Clone, Default)]
pub struct LeaseBook {
    ends: BTreeSet<(Timestamp, PresenceId)>,
}

impl LeaseBook {
    /// Notes that the lease of `id` was `before` and is `after` now.
    pub fn change(&mut self, id: &PresenceId, before: Lease, after: Lease) {
        if let Lease::Until(until) = before {
            self.ends.remove(&(until, id.clone()));
        }
        if let Lease::Until(until) = after {
            self.ends.insert((until, id.clone()));
        }
    }

    /// Forgets a presence that is gone.
    pub fn forget(&mut self, id: &PresenceId, lease: Lease) {
        self.change(id, lease, Lease::Online);
    }

    /// The next end of a lease.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Presences whose lease has run out, by its end.
    pub fn ended(&self, now: Timestamp) -> Vec<PresenceId> {
        self.ends.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| id.clone()).collect()
    }

    /// Presences whose lease runs beyond `horizon`. None can when `horizon` is a whole lease from now, unless the clock was
    /// set back.
    pub fn beyond(&self, horizon: Timestamp) -> Vec<PresenceId> {
        self.ends
            .iter()
            .rev()
            .take_while(|(until, _)| *until > horizon)
            .map(|(_, id)| id.clone())
            .collect()
    }

    /// Running leases.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when every presence has a socket.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list that is looked through from end to end, at moments in any order: a clock may go back.
        #[test]
        fn the_book_agrees_with_a_list(
            steps in prop::collection::vec(
                (0_usize..6, prop::option::of(0_i64..50), any::<bool>(), 0_i64..50),
                0..60,
            ),
        ) {
            let mut book = LeaseBook::default();
            let mut list: BTreeMap<PresenceId, Lease> = BTreeMap::new();
            for (number, until, is_end, now) in steps {
                let id = PresenceId::new(number.to_string());
                let before = list.get(&id).copied().unwrap_or(Lease::Online);
                if is_end {
                    book.forget(&id, before);
                    list.remove(&id);
                } else {
                    let after =
                        until.map_or(Lease::Online, |at| Lease::Until(Timestamp::from_millis(at)));
                    book.change(&id, before, after);
                    list.insert(id, after);
                }
                let mut running: Vec<(Timestamp, PresenceId)> = list
                    .iter()
                    .filter_map(|(id, lease)| match lease {
                        Lease::Until(until) => Some((*until, id.clone())),
                        Lease::Online => None,
                    })
                    .collect();
                running.sort();
                let now = Timestamp::from_millis(now);
                let ended: Vec<PresenceId> = running
                    .iter()
                    .filter(|(until, _)| *until <= now)
                    .map(|(_, id)| id.clone())
                    .collect();
                let mut beyond: Vec<PresenceId> = running
                    .iter()
                    .filter(|(until, _)| *until > now)
                    .map(|(_, id)| id.clone())
                    .collect();
                beyond.reverse();
                prop_assert_eq!(book.beyond(now), beyond);
                prop_assert_eq!(book.next_end(), running.first().map(|(until, _)| *until));
                prop_assert_eq!(book.ended(now), ended);
                prop_assert_eq!((book.len(), book.is_empty()), (running.len(), running.is_empty()));
            }
        }
    }
}

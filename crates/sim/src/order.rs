//! Order: what one sender wrote to one address in one class is stored as it was accepted.
//!
//! The promise is one of each queue at the broker: in order for each recipient key and class, none across recipients
//! (wire spec §4.5). Mostly an inbox row's key tells the queue. Not so for a session that stands in for its daemon's own
//! connection: it is handed its own rows and its member's. A broadcast that found only the member, absent, and a later
//! one that found the session stand in two queues, and either may come first.

use std::collections::BTreeMap;
use std::path::Path;

use claudemesh_protocol::PublicKey;
use sqlx::Row as _;

use crate::ledger::{Letter, LetterNumber, Outcome};
use crate::verdict::{Stored, ask};

/// The deliveries of each letter, by its client message id.
#[derive(Default)]
pub(crate) struct Queues(BTreeMap<String, Vec<Delivery>>);

struct Delivery {
    /// The key it waited for last.
    recipient: PublicKey,
    /// The key it was sent to; another one when that session has ended.
    first: PublicKey,
    /// Past its time, or dropped for the member's copy.
    is_given_up: bool,
}

impl Delivery {
    /// True when this one, accepted later, had the other one before it all its way.
    fn is_behind(&self, older: &Self) -> bool {
        // Rows move together. One that was moved alone went before this one was sent, or this one had arrived by then.
        let shares_the_end = self.recipient == older.recipient || older.recipient == older.first;
        self.first == older.first && shares_the_end
    }
}

impl Queues {
    /// Reads them from the broker's database.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let rows = ask(
            file,
            "SELECT message.client_message_id, recipient_key, COALESCE(rerouted_from, recipient_key) AS first_key, \
             state IN (3, 4) AS is_given_up FROM delivery JOIN message ON message.seq = message_seq \
             WHERE message.client_message_id IS NOT NULL",
        )?;
        let mut queues = Self::default();
        for row in rows {
            let delivery = Delivery {
                recipient: row.try_get::<String, _>("recipient_key")?.parse()?,
                first: row.try_get::<String, _>("first_key")?.parse()?,
                is_given_up: row.try_get("is_given_up")?,
            };
            queues.0.entry(row.try_get("client_message_id")?).or_default().push(delivery);
        }
        Ok(queues)
    }

    /// Queues out of which a letter may have come to one of a member's keys.
    fn ways(&self, letter: &Letter, to: PublicKey, member: PublicKey) -> Vec<&Delivery> {
        let deliveries = self.0.get(&letter.client_message_id).map(Vec::as_slice);
        let leads_there = |delivery: &&Delivery| {
            delivery.first == to || delivery.recipient == to || delivery.recipient == member
        };
        deliveries.unwrap_or_default().iter().filter(leads_there).collect()
    }
}

/// What the inbox of a member has in another order than was promised.
pub(crate) fn faults(
    rows: &[Stored],
    letters: &[Letter],
    member: PublicKey,
    queues: &Queues,
) -> Vec<String> {
    let mut lines: BTreeMap<_, Vec<(usize, LetterNumber)>> = BTreeMap::new();
    let mut faults = Vec::new();
    for row in rows {
        let Some(letter) = letters.get(row.number) else { continue };
        let Outcome::Accepted(place) = letter.outcome else { continue };
        // It did wait in these, and everything that was accepted later waited behind it.
        let mut own = queues.ways(letter, row.recipient, member);
        own.retain(|way| !way.is_given_up && !letter.may_expire);
        let line = (row.sender.clone(), row.recipient, letter.to, letter.priority as u8);
        let before = lines.entry(line).or_default();
        for (_, number) in before.iter().filter(|(stored, _)| *stored > place) {
            let younger = letters.get(*number);
            let ways = younger.map(|letter| queues.ways(letter, row.recipient, member));
            let is_behind = |way: &Delivery| own.iter().any(|older| way.is_behind(older));
            if ways.into_iter().flatten().all(is_behind) {
                faults.push(format!(
                    "stored letter {number} before letter {}, which was accepted earlier, {:?} {}",
                    row.number, letter.to, letter.priority
                ));
            }
        }
        before.push((place, row.number));
    }
    faults
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::Priority;

    use super::*;
    use crate::ledger::Address;

    const MEMBER: PublicKey = PublicKey::from_bytes([1; 32]);
    const SESSION: PublicKey = PublicKey::from_bytes([2; 32]);

    /// Letters 0 and 1, in this order, to these keys; stored the other way round under `under`.
    fn faults_of(older: &[PublicKey], younger: &[PublicKey], under: PublicKey) -> usize {
        let letters: Vec<_> = (0..2)
            .map(|number| Letter {
                daemon: 0,
                to: Address::Everyone,
                priority: Priority::Low,
                client_message_id: number.to_string(),
                may_expire: false,
                outcome: Outcome::Accepted(number),
            })
            .collect();
        let delivery =
            |key: &PublicKey| Delivery { recipient: *key, first: *key, is_given_up: false };
        let deliveries = [older, younger].map(|keys| keys.iter().map(delivery).collect());
        let ids = ["0", "1"].map(str::to_owned);
        let queues = Queues(ids.into_iter().zip(deliveries).collect());
        let row = |number| Stored { number, recipient: under, sender: "s".to_owned() };
        faults(&[row(1), row(0)], &letters, MEMBER, &queues).len()
    }

    #[test]
    fn a_queue_keeps_its_order_and_two_queues_promise_none() {
        assert_eq!(faults_of(&[MEMBER], &[MEMBER], MEMBER), 1);
        assert_eq!(faults_of(&[SESSION], &[SESSION], SESSION), 1);
        assert_eq!(faults_of(&[SESSION, MEMBER], &[SESSION, MEMBER], SESSION), 1);
        assert_eq!(faults_of(&[SESSION, MEMBER], &[SESSION], SESSION), 1);
        // The member was absent, then a session of it came; under the member's key it is one queue all the same.
        assert_eq!(faults_of(&[MEMBER], &[SESSION, MEMBER], SESSION), 0);
        assert_eq!(faults_of(&[MEMBER], &[SESSION, MEMBER], MEMBER), 1);
        assert_eq!(faults_of(&[MEMBER], &[SESSION], SESSION), 0);
    }

    #[test]
    fn what_moved_with_its_session_keeps_its_order() {
        let mut queues = Queues::default();
        let moved = || Delivery { recipient: MEMBER, first: SESSION, is_given_up: false };
        let stayed = || Delivery { recipient: SESSION, ..moved() };
        assert!(moved().is_behind(&moved()) && moved().is_behind(&stayed()));
        assert!(!stayed().is_behind(&moved()), "the session ended, and came back for the younger");
        let letters: Vec<_> = (0..2)
            .map(|number| Letter {
                daemon: 0,
                to: Address::Agent(0),
                priority: Priority::Next,
                client_message_id: number.to_string(),
                may_expire: false,
                outcome: Outcome::Accepted(number),
            })
            .collect();
        for letter in &letters {
            queues.0.insert(letter.client_message_id.clone(), vec![moved()]);
        }
        let row = |number| Stored { number, recipient: MEMBER, sender: "s".to_owned() };
        assert_eq!(faults(&[row(1), row(0)], &letters, MEMBER, &queues).len(), 1);
        assert_eq!(faults(&[row(0), row(1)], &letters, MEMBER, &queues).len(), 0);
        // The older one ran out of time where the younger one came from.
        for delivery in queues.0.entry("0".to_owned()).or_default() {
            delivery.is_given_up = true;
        }
        assert_eq!(faults(&[row(1), row(0)], &letters, MEMBER, &queues).len(), 0);
    }
}

//! Keys that members had before. A broker that lists one also shows how both keys signed the change, so that it is believed
//! as far as the chain goes back from the member's present key, and not for the broker's word (wire spec §5.18).
//!
//! That chain is also what a daemon learns from that was away while a key was changed: messages of that time may still come,
//! and lie in its inbox as a stranger's.

use claudemesh_crypto::rotation::Rotation;
use claudemesh_protocol::limits::{LISTED_FORMER_KEYS_MAX, ROTATED_KEY_GRACE};
use claudemesh_protocol::wire::{FormerKeyRow, MemberRow};
use claudemesh_protocol::{MeshId, PublicKey, Timestamp};

use super::Mesh;
use crate::clock;
use crate::identity::{FormerKey, FormerKeys};

impl Mesh {
    /// Takes the former keys out of the rows of a roster and remembers those that are proved, also for the next start. Our
    /// own are known anyway.
    pub(super) fn learn_former_keys(&self, members: &mut [MemberRow]) {
        let known = self.state.former_keys();
        let mut is_news = false;
        for row in members {
            let listed = std::mem::take(&mut row.former_keys);
            if listed.is_empty() || row.member_id == self.member.member_id {
                continue;
            }
            for (key, former) in proved(&self.id, row, &listed, &known) {
                self.state.note_former(key, former, clock::now());
                is_news = true;
            }
        }
        if is_news {
            self.roster.set_rotated(self.state.former_keys());
            self.save_state();
        }
    }
}

/// The former keys of a member that are new to us, and that its present key vouches for: each change must be signed by the
/// key before and the key after it.
fn proved(
    mesh: &MeshId,
    row: &MemberRow,
    listed: &[FormerKeyRow],
    known: &FormerKeys,
) -> Vec<(PublicKey, FormerKey)> {
    let mut next = row.pubkey;
    let mut learned = Vec::new();
    for former in listed.iter().take(LISTED_FORMER_KEYS_MAX) {
        let is_known =
            known.get(&former.pubkey).is_some_and(|known| known.member_id == row.member_id);
        if !is_known {
            let timestamp = Timestamp::from_millis(former.timestamp);
            let change =
                Rotation { mesh, member: &row.member_id, old: former.pubkey, new: next, timestamp };
            if change.verify(&former.signature_old, &former.signature_new).is_err() {
                let (key, member) = (former.pubkey.short(12), row.pubkey.short(12));
                tracing::warn!(key, member, "former_key_not_proved");
                break;
            }
            let until = timestamp.plus(ROTATED_KEY_GRACE);
            learned.push((former.pubkey, FormerKey { member_id: row.member_id.clone(), until }));
        }
        next = former.pubkey;
    }
    learned
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use claudemesh_crypto::KeyPair;

    use super::super::roster::fixture::member;
    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_000_000);

    /// How a member went through these keys, and the row of the roster that says so.
    fn row_of(keys: &[&KeyPair]) -> (MeshId, MemberRow) {
        let (mesh, mut row) = (MeshId::new("M"), member("alice", 1));
        row.pubkey = keys.last().unwrap().public();
        for pair in keys.windows(2).rev() {
            let change = Rotation {
                mesh: &mesh,
                member: &row.member_id,
                old: pair[0].public(),
                new: pair[1].public(),
                timestamp: AT,
            };
            row.former_keys.push(FormerKeyRow {
                pubkey: change.old,
                timestamp: AT.as_millis(),
                signature_old: change.sign(pair[0]).unwrap(),
                signature_new: change.sign(pair[1]).unwrap(),
            });
        }
        (mesh, row)
    }

    fn learned(mesh: &MeshId, row: &MemberRow, known: &FormerKeys) -> Vec<PublicKey> {
        proved(mesh, row, &row.former_keys, known).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_chain_is_believed_from_the_present_key_backwards() {
        let keys = [KeyPair::generate(), KeyPair::generate(), KeyPair::generate()];
        let (mesh, row) = row_of(&[&keys[0], &keys[1], &keys[2]]);
        let nothing = FormerKeys::default();
        assert_eq!(learned(&mesh, &row, &nothing), [keys[1].public(), keys[0].public()]);
        let first = &proved(&mesh, &row, &row.former_keys, &nothing)[0].1;
        assert_eq!((&first.member_id, first.until), (&row.member_id, AT.plus(ROTATED_KEY_GRACE)));
        // What is known need not be looked at again, and what lies behind it still counts.
        let known = Arc::new([(keys[1].public(), first.clone())].into());
        assert_eq!(learned(&mesh, &row, &known), [keys[0].public()]);
    }

    #[test]
    fn nothing_is_believed_for_the_brokers_word() {
        let keys = [KeyPair::generate(), KeyPair::generate(), KeyPair::generate()];
        let (mesh, row) = row_of(&[&keys[0], &keys[1], &keys[2]]);
        let nothing = FormerKeys::default();
        let with = |change: &dyn Fn(&mut MemberRow)| {
            let mut row = row.clone();
            change(&mut row);
            learned(&mesh, &row, &nothing)
        };
        let mallory = KeyPair::generate().public();
        assert!(with(&|row| row.former_keys[0].pubkey = mallory).is_empty());
        assert!(with(&|row| row.pubkey = mallory).is_empty(), "another present key");
        assert!(with(&|row| row.former_keys[0].timestamp += 1).is_empty());
        let with_gap = with(&|row| row.former_keys = row.former_keys.split_off(1));
        assert!(with_gap.is_empty(), "a link is missing");
        assert_eq!(with(&|row| row.former_keys[1].pubkey = mallory), [keys[1].public()]);
        assert!(with(&|row| row.member_id = member("bob", 2).member_id).is_empty());
        assert!(learned(&MeshId::new("N"), &row, &nothing).is_empty(), "another mesh");
        let swapped = with(&|row| {
            let link = &mut row.former_keys[0];
            std::mem::swap(&mut link.signature_old, &mut link.signature_new);
        });
        assert!(swapped.is_empty());
    }
}

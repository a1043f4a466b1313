//! Whose message is it, really: a sender counts as verified only by a key of the roster or by an attestation that
//! chains to one (wire spec §5.3). Nobody else is ever shown under a member's name.

use std::collections::{BTreeMap, HashMap};

use claudemesh_crypto::attestation::verify_for_message;
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::limits::HELLO_NAME_MAX_CHARS;
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::{PublicKey, Timestamp};
use parking_lot::Mutex;

use super::roster::RosterView;

/// Session keys whose attestation is remembered; the one used longest ago makes room.
const CACHE_CAPACITY: usize = 4_096;
/// Characters of a key shown in place of a name.
const KEY_SHOWN_CHARS: usize = 16;

/// Who sent a message, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    /// The key is proved to be this member's or one of its sessions'.
    pub is_verified: bool,
    /// The member; `None` when not proved.
    pub member: Option<PublicKey>,
    /// Name to show: of the session or member, or the key.
    pub name: String,
}

/// What a push says about its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    /// The key the body is checked against.
    pub key: PublicKey,
    /// Name the broker gives.
    pub name: Option<&'a str>,
    /// Attestation that came along.
    pub attestation: Option<&'a ParentAttestation>,
    /// When the broker accepted the message.
    pub created_at: Timestamp,
}

/// Attestations seen so far, by session key.
#[derive(Default)]
pub(super) struct SenderBook {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_session: HashMap<PublicKey, (ParentAttestation, u64)>,
    by_last_use: BTreeMap<u64, PublicKey>,
    uses: u64,
}

impl SenderBook {
    /// Judges a sender by the roster, the attestation that came along, the roster's and the remembered one.
    pub(super) fn judge(&self, claim: &Claim<'_>, view: &RosterView) -> Sender {
        if let Some(member) = view.member_at(claim.key, claim.created_at) {
            return Sender {
                is_verified: true,
                member: Some(member.pubkey),
                name: member.display_name.clone(),
            };
        }
        let listed = view.listed(claim.key).and_then(|row| row.attestation.as_ref());
        let remembered = self.entries.lock().touch(claim.key);
        let proof = [claim.attestation, listed, remembered.as_ref()]
            .into_iter()
            .flatten()
            .find(|attestation| is_proof(attestation, claim, view));
        let Some(proof) = proof else {
            return Sender {
                is_verified: false,
                member: None,
                name: claim.key.short(KEY_SHOWN_CHARS),
            };
        };
        let parent = proof.parent_member_pubkey;
        let member = view.member_at(parent, claim.created_at).map_or(parent, |row| row.pubkey);
        self.entries.lock().keep(proof);
        Sender { is_verified: true, member: Some(member), name: session_name(claim, member, view) }
    }
}

fn is_proof(attestation: &ParentAttestation, claim: &Claim<'_>, view: &RosterView) -> bool {
    attestation.session_pubkey == claim.key
        && view.member_at(attestation.parent_member_pubkey, claim.created_at).is_some()
        && verify_for_message(attestation, claim.created_at).is_ok()
}

/// The name of a proved session: as the roster shows it, else as the broker says, but never another member's.
fn session_name(claim: &Claim<'_>, member: PublicKey, view: &RosterView) -> String {
    let own = view.member(member).map(|row| row.display_name.clone());
    let said = view
        .listed(claim.key)
        .map(|row| row.display_name.as_str())
        .or(claim.name)
        .map(|name| sanitized_line(name.trim(), HELLO_NAME_MAX_CHARS))
        .filter(|name| !name.is_empty());
    let is_somebody_else = |name: &str| {
        let name = name.to_lowercase();
        view.members
            .iter()
            .any(|row| row.pubkey != member && row.display_name.to_lowercase() == name)
    };
    said.filter(|name| !is_somebody_else(name))
        .or(own)
        .unwrap_or_else(|| claim.key.short(KEY_SHOWN_CHARS))
}

impl Entries {
    fn touch(&mut self, key: PublicKey) -> Option<ParentAttestation> {
        let (attestation, used) = self.by_session.get_mut(&key)?;
        self.uses += 1;
        self.by_last_use.remove(used);
        *used = self.uses;
        self.by_last_use.insert(self.uses, key);
        Some(attestation.clone())
    }

    fn keep(&mut self, attestation: &ParentAttestation) {
        let key = attestation.session_pubkey;
        if let Some((kept, _)) = self.by_session.get(&key)
            && kept.expires_at >= attestation.expires_at
        {
            return;
        }
        if self.by_session.len() >= CACHE_CAPACITY
            && !self.by_session.contains_key(&key)
            && let Some((_, oldest)) = self.by_last_use.pop_first()
        {
            self.by_session.remove(&oldest);
        }
        self.uses += 1;
        if let Some((_, used)) = self.by_session.insert(key, (attestation.clone(), self.uses)) {
            self.by_last_use.remove(&used);
        }
        self.by_last_use.insert(self.uses, key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use claudemesh_crypto::{KeyPair, attestation};

    use super::super::roster::fixture::{member, view};
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);
    const HOUR: Duration = Duration::from_hours(1);

    struct Scene {
        alice: KeyPair,
        session: KeyPair,
        view: RosterView,
    }

    fn scene() -> Scene {
        let (alice, session) = (KeyPair::generate(), KeyPair::generate());
        let mut row = member("alice", 1);
        row.pubkey = alice.public();
        Scene { alice, session, view: view(vec![], vec![row, member("bob", 2)]) }
    }

    fn claim<'a>(key: PublicKey, name: &'a str, proof: Option<&'a ParentAttestation>) -> Claim<'a> {
        Claim { key, name: Some(name), attestation: proof, created_at: NOW }
    }

    /// daemon §15 Accept 2: a forged sender is unverified and shown by its key; an attested session is verified.
    #[test]
    fn only_roster_keys_and_attested_sessions_are_verified() {
        let Scene { alice, session, view } = scene();
        let book = SenderBook::default();
        let forged = book.judge(&claim(session.public(), "alice", None), &view);
        assert_eq!(
            forged,
            Sender { is_verified: false, member: None, name: session.public().short(16) }
        );
        let proof = attestation::mint(&alice, session.public(), NOW.plus(HOUR), None);
        let proved = book.judge(&claim(session.public(), "alice at work", Some(&proof)), &view);
        let expected = Sender {
            is_verified: true,
            member: Some(alice.public()),
            name: "alice at work".into(),
        };
        assert_eq!(proved, expected);
        assert_eq!(
            book.judge(&claim(session.public(), "alice at work", None), &view),
            expected,
            "remembered"
        );
        let member = book.judge(&claim(alice.public(), "mallory", None), &view);
        assert_eq!((member.is_verified, member.name.as_str()), (true, "alice"));
    }

    #[test]
    fn bad_attestations_prove_nothing() {
        let Scene { alice, session, view } = scene();
        let stranger = KeyPair::generate();
        let other = KeyPair::generate().public();
        let late = Timestamp::from_millis(NOW.as_millis() - 1);
        let mut tampered = attestation::mint(&alice, session.public(), NOW.plus(HOUR), None);
        tampered.expires_at = NOW.plus(HOUR * 2);
        for bad in [
            attestation::mint(&stranger, session.public(), NOW.plus(HOUR), None),
            attestation::mint(&alice, other, NOW.plus(HOUR), None),
            attestation::mint(&alice, session.public(), late, None),
            tampered,
        ] {
            let book = SenderBook::default();
            assert!(
                !book.judge(&claim(session.public(), "alice", Some(&bad)), &view).is_verified,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_proved_session_cannot_borrow_another_members_name() {
        let Scene { alice, session, view } = scene();
        let proof = attestation::mint(&alice, session.public(), NOW.plus(HOUR), None);
        let judged =
            SenderBook::default().judge(&claim(session.public(), "Bob", Some(&proof)), &view);
        assert_eq!(judged.name, "alice");
    }

    #[test]
    fn a_removed_member_takes_its_sessions_along() {
        let Scene { alice, session, mut view } = scene();
        let proof = attestation::mint(&alice, session.public(), NOW.plus(HOUR), None);
        let book = SenderBook::default();
        assert!(book.judge(&claim(session.public(), "x", Some(&proof)), &view).is_verified);
        view.members.clear();
        assert!(!book.judge(&claim(session.public(), "x", None), &view).is_verified);
    }

    /// Wire spec §5.18: what a member and its sessions sent before the key changed is still theirs, and nothing later.
    #[test]
    fn a_former_key_proves_what_was_sent_before_its_time_ended() {
        let Scene { alice, session, mut view } = scene();
        let now = KeyPair::generate().public();
        view.members[0].pubkey = now;
        let member_id = view.members[0].member_id.clone();
        let proof = attestation::mint(&alice, session.public(), NOW.plus(HOUR), None);
        let book = SenderBook::default();
        let judge = |view: &RosterView, key, at: Timestamp| {
            let claim = Claim { created_at: at, ..claim(key, "alice at work", Some(&proof)) };
            book.judge(&claim, view)
        };
        assert!(!judge(&view, alice.public(), NOW).is_verified);
        let former = crate::identity::FormerKey { member_id, until: NOW.plus(HOUR) };
        view.rotated = std::sync::Arc::new([(alice.public(), former)].into());
        for key in [alice.public(), session.public()] {
            let judged = judge(&view, key, NOW);
            assert_eq!((judged.is_verified, judged.member), (true, Some(now)), "{}", judged.name);
            assert!(!judge(&view, key, NOW.plus(HOUR)).is_verified);
        }
    }

    #[test]
    fn the_book_is_bounded() {
        let Scene { alice, view, .. } = scene();
        let book = SenderBook::default();
        for n in 0..(CACHE_CAPACITY as u64 + 10) {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            let key = PublicKey::from_bytes(bytes);
            let mut entries = book.entries.lock();
            entries.keep(&ParentAttestation {
                session_pubkey: key,
                ..attestation_template(alice.public())
            });
        }
        let entries = book.entries.lock();
        assert_eq!(entries.by_session.len(), CACHE_CAPACITY);
        assert_eq!(entries.by_last_use.len(), CACHE_CAPACITY);
        drop(entries);
        drop(view);
    }

    fn attestation_template(parent: PublicKey) -> ParentAttestation {
        ParentAttestation {
            session_pubkey: parent,
            parent_member_pubkey: parent,
            expires_at: NOW,
            signature: claudemesh_protocol::SignatureBytes::from_bytes([0; 64]),
            allowed_caps: None,
        }
    }
}

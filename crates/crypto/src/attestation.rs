//! Minting and checking of parent attestations (wire spec §2.4).

use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::canonical;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::limits::ATTESTATION_MAX_TTL;
use claudemesh_protocol::{PublicKey, Timestamp};

use crate::identity::{BadSignature, KeyPair, verify_strict};

/// An attestation is not accepted; each variant has its error code in wire spec §1.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationError {
    /// It names another session or parent than the frame: `attestation_mismatch`.
    #[error("the attestation is for other keys")]
    Mismatch,
    /// Past its end: `expired`.
    #[error("the attestation has expired")]
    Expired,
    /// More than 24 h to live: `ttl_too_long`.
    #[error("the attestation lives longer than 24 h")]
    TtlTooLong,
    /// Not signed by the parent: `bad_signature`.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// Lets `session` act for `parent` until `expires_at`: with `allowed_caps` only so far, without as the member itself.
pub fn mint(
    parent: &KeyPair,
    session: PublicKey,
    expires_at: Timestamp,
    allowed_caps: Option<CapabilitySet>,
) -> ParentAttestation {
    let text = canonical::session_attestation(parent.public(), session, expires_at, allowed_caps);
    ParentAttestation {
        session_pubkey: session,
        parent_member_pubkey: parent.public(),
        expires_at,
        signature: parent.sign(text.as_bytes()),
        allowed_caps,
    }
}

/// First check of a handshake, before anything is looked up: the attestation is about the keys of the frame.
///
/// # Errors
/// [`AttestationError::Mismatch`].
pub fn check_binding(
    attestation: &ParentAttestation,
    parent: PublicKey,
    session: PublicKey,
) -> Result<(), AttestationError> {
    let is_bound =
        attestation.parent_member_pubkey == parent && attestation.session_pubkey == session;
    if is_bound { Ok(()) } else { Err(AttestationError::Mismatch) }
}

/// Second check of a handshake: life time, then signature.
///
/// # Errors
/// [`AttestationError::Expired`], [`AttestationError::TtlTooLong`], [`AttestationError::Signature`], in this order.
pub fn verify(attestation: &ParentAttestation, now: Timestamp) -> Result<(), AttestationError> {
    if attestation.expires_at <= now {
        return Err(AttestationError::Expired);
    }
    if attestation.expires_at > now.plus(ATTESTATION_MAX_TTL) {
        return Err(AttestationError::TtlTooLong);
    }
    Ok(verify_signature(attestation)?)
}

/// The check of a receiver: the attestation was good when the message was accepted, however long ago that was (§5.3).
///
/// # Errors
/// [`AttestationError::Expired`] when the message is younger than the attestation's end,
/// [`AttestationError::Signature`].
pub fn verify_for_message(
    attestation: &ParentAttestation,
    created_at: Timestamp,
) -> Result<(), AttestationError> {
    if created_at > attestation.expires_at {
        return Err(AttestationError::Expired);
    }
    Ok(verify_signature(attestation)?)
}

/// Checks the signature alone.
///
/// # Errors
/// [`BadSignature`].
pub fn verify_signature(attestation: &ParentAttestation) -> Result<(), BadSignature> {
    let parent = attestation.parent_member_pubkey;
    let text = canonical::session_attestation(
        parent,
        attestation.session_pubkey,
        attestation.expires_at,
        attestation.allowed_caps,
    );
    verify_strict(parent, text.as_bytes(), &attestation.signature)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use claudemesh_protocol::capability::Capability;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn minted(ttl: Duration) -> ParentAttestation {
        mint(&KeyPair::generate(), KeyPair::generate().public(), NOW.plus(ttl), None)
    }

    #[test]
    fn life_time_is_checked_at_its_limit_and_one_past_it() {
        assert_eq!(verify(&minted(Duration::ZERO), NOW), Err(AttestationError::Expired));
        assert_eq!(verify(&minted(Duration::from_millis(1)), NOW), Ok(()));
        assert_eq!(verify(&minted(ATTESTATION_MAX_TTL), NOW), Ok(()));
        let past = ATTESTATION_MAX_TTL + Duration::from_millis(1);
        assert_eq!(verify(&minted(past), NOW), Err(AttestationError::TtlTooLong));
    }

    #[test]
    fn changing_the_list_breaks_the_signature() {
        let session = KeyPair::generate().public();
        let dm = CapabilitySet::from_iter([Capability::Dm]);
        let good = mint(&KeyPair::generate(), session, NOW.plus(Duration::from_secs(1)), Some(dm));
        assert_eq!(verify(&good, NOW), Ok(()));
        for allowed_caps in [None, Some(CapabilitySet::EMPTY)] {
            let widened = ParentAttestation { allowed_caps, ..good.clone() };
            assert_eq!(verify(&widened, NOW), Err(AttestationError::Signature(BadSignature)));
        }
    }

    #[test]
    fn a_message_older_than_the_end_stays_attested() {
        let good = minted(Duration::from_mins(1));
        assert_eq!(verify_for_message(&good, NOW.plus(Duration::from_mins(1))), Ok(()));
        let late = NOW.plus(Duration::from_millis(60_001));
        assert_eq!(verify_for_message(&good, late), Err(AttestationError::Expired));
    }

    #[test]
    fn an_attestation_for_other_keys_is_a_mismatch() {
        let good = minted(Duration::from_mins(1));
        let (parent, session) = (good.parent_member_pubkey, good.session_pubkey);
        assert_eq!(check_binding(&good, parent, session), Ok(()));
        assert_eq!(check_binding(&good, session, parent), Err(AttestationError::Mismatch));
    }
}

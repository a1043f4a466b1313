//! Signing and checking of the canonical texts of `claudemesh_protocol::canonical`, and the time window around them.

use claudemesh_protocol::canonical::CanonicalError;
use claudemesh_protocol::limits::CLOCK_SKEW;
use claudemesh_protocol::{PublicKey, SignatureBytes, Timestamp};

use crate::identity::{BadSignature, KeyPair, verify_strict};

/// A signed statement is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The statement cannot be written as one unambiguous text; never accepted.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// Signed by another key, or over another text.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// The clock of a statement is off by more than the tolerated difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the timestamp is more than 60 s away from the clock here")]
pub struct Skew;

/// Checks that `timestamp` lies within ±60 s of `now`, both ends included (wire spec §2.3).
///
/// # Errors
/// [`Skew`].
pub fn check_window(timestamp: Timestamp, now: Timestamp) -> Result<(), Skew> {
    let distance = timestamp.since(now).max(now.since(timestamp));
    if distance <= CLOCK_SKEW { Ok(()) } else { Err(Skew) }
}

/// Signs a canonical text.
///
/// # Errors
/// The error of the text, passed through.
pub fn sign(
    text: Result<String, CanonicalError>,
    key: &KeyPair,
) -> Result<SignatureBytes, CanonicalError> {
    text.map(|text| key.sign(text.as_bytes()))
}

/// Checks a signature over a canonical text.
///
/// # Errors
/// [`StatementError`].
pub fn verify(
    text: Result<String, CanonicalError>,
    key: PublicKey,
    signature: &SignatureBytes,
) -> Result<(), StatementError> {
    Ok(verify_strict(key, text?.as_bytes(), signature)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_60_s_on_both_sides_and_ends_there() {
        let now = Timestamp::from_millis(1_767_225_600_000);
        let at = |offset: i64| Timestamp::from_millis(now.as_millis() + offset);
        for offset in [-60_000, 0, 60_000] {
            assert_eq!(check_window(at(offset), now), Ok(()), "{offset}");
        }
        for offset in [-60_001, 60_001] {
            assert_eq!(check_window(at(offset), now), Err(Skew), "{offset}");
        }
        assert_eq!(check_window(Timestamp::from_millis(i64::MIN), now), Err(Skew));
        assert_eq!(check_window(Timestamp::from_millis(i64::MAX), now), Err(Skew));
    }
}

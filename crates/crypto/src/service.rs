//! Attestations of service identities (wire spec §6.7).

use claudemesh_protocol::SignatureBytes;
use claudemesh_protocol::canonical::{self, CanonicalError, ServiceStatement};

use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// Lets a service act for its owner; `owner` must be the member `statement` names.
///
/// # Errors
/// [`CanonicalError`] when a text contains `|` or a scope `,`.
pub fn attest(
    statement: &ServiceStatement<'_>,
    owner: &KeyPair,
) -> Result<SignatureBytes, CanonicalError> {
    statement::sign(canonical::service_attestation(statement), owner)
}

/// Checks an attestation's signature; its end is the caller's check.
///
/// # Errors
/// [`StatementError`].
pub fn verify(
    statement: &ServiceStatement<'_>,
    signature: &SignatureBytes,
) -> Result<(), StatementError> {
    statement::verify(canonical::service_attestation(statement), statement.member, signature)
}

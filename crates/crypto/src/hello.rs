//! Signatures of the two handshakes (wire spec §2.2, §2.5). Skew: [`crate::statement::check_window`].

use claudemesh_protocol::canonical::{self, CanonicalError};
use claudemesh_protocol::{MemberId, MeshId, PublicKey, SignatureBytes, Timestamp};

use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// Signs a `hello` with the member key.
///
/// # Errors
/// [`CanonicalError`] when an id contains `|`.
pub fn sign(
    mesh: &MeshId,
    member_id: &MemberId,
    member: &KeyPair,
    timestamp: Timestamp,
) -> Result<SignatureBytes, CanonicalError> {
    statement::sign(canonical::hello(mesh, member_id, member.public(), timestamp), member)
}

/// Checks the signature of a `hello`.
///
/// # Errors
/// [`StatementError`].
pub fn verify(
    mesh: &MeshId,
    member_id: &MemberId,
    member: PublicKey,
    timestamp: Timestamp,
    signature: &SignatureBytes,
) -> Result<(), StatementError> {
    statement::verify(canonical::hello(mesh, member_id, member, timestamp), member, signature)
}

/// Signs a `session_hello`, or the `sessionProof` of a `hello`, with the session key.
///
/// # Errors
/// [`CanonicalError`] when the mesh id contains `|`.
pub fn sign_session(
    mesh: &MeshId,
    parent: PublicKey,
    session: &KeyPair,
    timestamp: Timestamp,
) -> Result<SignatureBytes, CanonicalError> {
    statement::sign(canonical::session_hello(mesh, parent, session.public(), timestamp), session)
}

/// Checks the signature of a `session_hello` or a `sessionProof`.
///
/// # Errors
/// [`StatementError`].
pub fn verify_session(
    mesh: &MeshId,
    parent: PublicKey,
    session: PublicKey,
    timestamp: Timestamp,
    signature: &SignatureBytes,
) -> Result<(), StatementError> {
    let text = canonical::session_hello(mesh, parent, session, timestamp);
    statement::verify(text, session, signature)
}

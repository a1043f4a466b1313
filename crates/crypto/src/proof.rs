//! Proofs of possession: a browser's device key (wire spec §5.5) and the member key of an account sync (§5.19).
//! Both are valid ±60 s around their timestamp, see [`crate::statement::check_window`].

use claudemesh_protocol::canonical::{self, CanonicalError};
use claudemesh_protocol::{MemberId, MeshId, PublicKey, SignatureBytes, Timestamp};

use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// Proves that a browser holds the device key it registers for `member`.
///
/// # Errors
/// [`CanonicalError`] when the member id contains `|`.
pub fn prove_device(
    member: &MemberId,
    device: &KeyPair,
    timestamp: Timestamp,
) -> Result<SignatureBytes, CanonicalError> {
    statement::sign(canonical::web_device(member, device.public(), timestamp), device)
}

/// Checks a device's proof.
///
/// # Errors
/// [`StatementError`].
pub fn verify_device(
    member: &MemberId,
    device: PublicKey,
    timestamp: Timestamp,
    proof: &SignatureBytes,
) -> Result<(), StatementError> {
    statement::verify(canonical::web_device(member, device, timestamp), device, proof)
}

/// Proves that whoever syncs holds the member key it joins `mesh` with (`new` for a mesh being made).
///
/// # Errors
/// [`CanonicalError`] when the mesh id contains `|`.
pub fn prove_sync(
    mesh: &MeshId,
    peer: &KeyPair,
    timestamp: Timestamp,
) -> Result<SignatureBytes, CanonicalError> {
    statement::sign(canonical::sync_proof(mesh, peer.public(), timestamp), peer)
}

/// Checks a sync proof.
///
/// # Errors
/// [`StatementError`].
pub fn verify_sync(
    mesh: &MeshId,
    peer: PublicKey,
    timestamp: Timestamp,
    proof: &SignatureBytes,
) -> Result<(), StatementError> {
    statement::verify(canonical::sync_proof(mesh, peer, timestamp), peer, proof)
}

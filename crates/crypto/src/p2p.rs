//! Signatures of direct-connection handshakes (wire spec §6.5): they bind an endpoint address to an identity.

use claudemesh_protocol::canonical::{self, CanonicalError, P2pStatement, P2pStep};
use claudemesh_protocol::{MeshId, PublicKey, SignatureBytes, Timestamp};

use crate::hash::sha256;
use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// One half of a handshake.
#[derive(Debug, Clone, Copy)]
pub struct Signal<'a> {
    /// Offer or answer.
    pub step: P2pStep,
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Addressee.
    pub to: PublicKey,
    /// The attempt's id.
    pub p2p_id: &'a str,
    /// The endpoint address as text.
    pub address: &'a str,
    /// When; ±60 s.
    pub timestamp: Timestamp,
}

impl Signal<'_> {
    fn canonical(&self, from: PublicKey) -> Result<String, CanonicalError> {
        let statement = P2pStatement {
            mesh: self.mesh,
            from,
            to: self.to,
            p2p_id: self.p2p_id,
            address_sha256: sha256(self.address.as_bytes()),
            timestamp: self.timestamp,
        };
        canonical::p2p_signal(self.step, &statement)
    }

    /// Signs with the identity that offers or answers.
    ///
    /// # Errors
    /// [`CanonicalError`] when an id contains `|`.
    pub fn sign(&self, from: &KeyPair) -> Result<SignatureBytes, CanonicalError> {
        statement::sign(self.canonical(from.public()), from)
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        from: PublicKey,
        signature: &SignatureBytes,
    ) -> Result<(), StatementError> {
        statement::verify(self.canonical(from), from, signature)
    }
}

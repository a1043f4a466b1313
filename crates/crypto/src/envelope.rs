//! Signatures of version 2 envelopes (wire spec §6.1).

use claudemesh_protocol::canonical::{self, CanonicalError, EnvelopeStatement};
use claudemesh_protocol::{MeshId, PublicKey, SignatureBytes};
use serde_json::Value;

use crate::hash::sha256;
use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// What an envelope signs.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The mesh; bound although the envelope does not carry it.
    pub mesh: &'a MeshId,
    /// `dm`, `group`, `topic`, `rpc`, `system` or `stream`.
    pub channel: &'a str,
    /// The target as the envelope writes it.
    pub target: &'a str,
    /// The nonce as base64, as sent.
    pub nonce: &'a str,
    /// The **decoded** ciphertext.
    pub ciphertext: &'a [u8],
    /// 0 empty, 1 plaintext, 2 encrypted.
    pub body_version: u32,
    /// The `meta` object.
    pub meta: &'a Value,
}

impl Signed<'_> {
    /// The text that is signed for `from`.
    ///
    /// # Errors
    /// [`CanonicalError`].
    pub fn canonical(&self, from: PublicKey) -> Result<String, CanonicalError> {
        canonical::envelope_v2(&EnvelopeStatement {
            mesh: self.mesh,
            channel: self.channel,
            target: self.target,
            from,
            nonce: self.nonce,
            ciphertext_sha256: sha256(self.ciphertext),
            body_version: self.body_version,
            meta: self.meta,
        })
    }

    /// Signs with the key the envelope names as `from`.
    ///
    /// # Errors
    /// [`CanonicalError`].
    pub fn sign(&self, from: &KeyPair) -> Result<SignatureBytes, CanonicalError> {
        statement::sign(self.canonical(from.public()), from)
    }

    /// Checks the signature; whose key `from` is must be shown separately.
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

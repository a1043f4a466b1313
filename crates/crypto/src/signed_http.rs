//! HTTP requests signed by a member or service instead of carrying a bearer (wire spec appendix A).

use claudemesh_protocol::canonical::{self, CanonicalError};
use claudemesh_protocol::{PublicKey, SignatureBytes, Timestamp};

use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// What is signed of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Method, in any letter case.
    pub method: &'a str,
    /// Path and query exactly as sent.
    pub target: &'a str,
    /// SHA-256 of the raw body; of the empty text when there is none.
    pub body_sha256: [u8; 32],
    /// When; ±60 s.
    pub timestamp: Timestamp,
}

impl Request<'_> {
    fn canonical(&self) -> Result<String, CanonicalError> {
        canonical::signed_http(self.method, self.target, &self.body_sha256, self.timestamp)
    }

    /// Signs; the result goes into `X-Signature`.
    ///
    /// # Errors
    /// [`CanonicalError`] when method or target contain `|`.
    pub fn sign(&self, key: &KeyPair) -> Result<SignatureBytes, CanonicalError> {
        statement::sign(self.canonical(), key)
    }

    /// Checks the signature; window and repeats are the caller's checks.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(&self, key: PublicKey, signature: &SignatureBytes) -> Result<(), StatementError> {
        statement::verify(self.canonical(), key, signature)
    }
}

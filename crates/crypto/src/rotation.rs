//! Changing a member's key: both keys sign the same statement (wire spec §5.18).

use claudemesh_protocol::canonical::{self, CanonicalError};
use claudemesh_protocol::{MemberId, MeshId, PublicKey, SignatureBytes, Timestamp};

use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// A member changes its key.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// The member.
    pub member: &'a MemberId,
    /// The key so far.
    pub old: PublicKey,
    /// The key from now on.
    pub new: PublicKey,
    /// When; ±60 s.
    pub timestamp: Timestamp,
}

impl Rotation<'_> {
    fn canonical(&self) -> Result<String, CanonicalError> {
        canonical::member_rotation(self.mesh, self.member, self.old, self.new, self.timestamp)
    }

    /// Signs with one of the two keys.
    ///
    /// # Errors
    /// [`CanonicalError`] when an id contains `|`.
    pub fn sign(&self, key: &KeyPair) -> Result<SignatureBytes, CanonicalError> {
        statement::sign(self.canonical(), key)
    }

    /// Checks both signatures.
    ///
    /// # Errors
    /// [`StatementError`] when either does not verify.
    pub fn verify(
        &self,
        by_old: &SignatureBytes,
        by_new: &SignatureBytes,
    ) -> Result<(), StatementError> {
        statement::verify(self.canonical(), self.old, by_old)?;
        statement::verify(self.canonical(), self.new, by_new)
    }
}

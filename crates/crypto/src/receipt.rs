//! Signed receipts: how far a message came, said by its recipient's daemon (wire spec §3.1).

use claudemesh_protocol::canonical::{self, CanonicalError};
use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{MeshId, MessageId, PublicKey, SignatureBytes, Timestamp};

use crate::identity::KeyPair;
use crate::statement::{self, StatementError};

/// What a receipt says.
#[derive(Debug, Clone, Copy)]
pub struct Statement<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// The broker's id of the message.
    pub message: &'a MessageId,
    /// Key the delivery was for: a session's or the member's own.
    pub recipient: PublicKey,
    /// How far it came.
    pub state: ReceiptState,
    /// When. There is no window, but more than 60 s in the future is refused by the caller.
    pub at: Timestamp,
}

impl Statement<'_> {
    fn canonical(&self) -> Result<String, CanonicalError> {
        canonical::receipt(self.mesh, self.message, self.recipient, self.state.as_str(), self.at)
    }

    /// Signs with the **member** key of the recipient, also when the delivery was for one of its sessions.
    ///
    /// # Errors
    /// [`CanonicalError`] when an id contains `|`.
    pub fn sign(&self, member: &KeyPair) -> Result<SignatureBytes, CanonicalError> {
        statement::sign(self.canonical(), member)
    }

    /// Checks a receipt against the recipient's member key of the roster.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(
        &self,
        member: PublicKey,
        signature: &SignatureBytes,
    ) -> Result<(), StatementError> {
        statement::verify(self.canonical(), member, signature)
    }
}

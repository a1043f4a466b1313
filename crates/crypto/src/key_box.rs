//! A 32-byte key boxed for one identity, with the sealer's X25519 key in front: the form of group content keys
//! (wire spec §5.4) and topic keys (§5.5).

use claudemesh_protocol::encoding::{b64, b64_decode_array};

use crate::direct::{Nonce, OpenError, Sealed, SharedKey};
use crate::exchange::ExchangePublic;
use crate::identity::KeyPair;
use crate::secretbox::SecretBoxKey;

/// 32 bytes of sender key, 16 of tag, 32 of boxed key.
pub const KEY_BOX_BYTES: usize = 80;
/// Bytes of the sender key in front.
const PREFIX_BYTES: usize = 32;

/// A boxed key with its nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBox {
    nonce: Nonce,
    sealer: ExchangePublic,
    boxed: Vec<u8>,
}

impl KeyBox {
    /// Boxes `key` under the agreed key of `sealer` and the recipient.
    pub(crate) fn seal(
        key: &SecretBoxKey,
        nonce: Nonce,
        sealer: ExchangePublic,
        shared: &SharedKey,
    ) -> Self {
        let boxed = shared.seal_with_nonce(key.as_bytes(), nonce).ciphertext;
        Self { nonce, sealer, boxed }
    }

    /// Reads the two base64 fields.
    ///
    /// # Errors
    /// [`OpenError::Format`] for another alphabet or length.
    pub fn from_b64(nonce: &str, key: &str) -> Result<Self, OpenError> {
        let nonce = Nonce::from_b64(nonce)?;
        let bytes: [u8; KEY_BOX_BYTES] = b64_decode_array(key).map_err(|_| OpenError::Format)?;
        let (sealer, boxed) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(OpenError::Format)?;
        Ok(Self { nonce, sealer: ExchangePublic::from_bytes(*sealer), boxed: boxed.to_vec() })
    }

    /// The nonce.
    pub const fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// Who sealed, as the box itself claims; opening proves it.
    pub const fn sealer(&self) -> ExchangePublic {
        self.sealer
    }

    /// Base64 of the 80 bytes.
    pub fn key_b64(&self) -> String {
        let mut bytes = Vec::with_capacity(KEY_BOX_BYTES);
        bytes.extend_from_slice(self.sealer.as_bytes());
        bytes.extend_from_slice(&self.boxed);
        b64(&bytes)
    }

    /// Opens with the recipient's identity and the sealer named in front.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, recipient: &KeyPair) -> Result<SecretBoxKey, OpenError> {
        self.open_shared(&recipient.exchange().agree(&self.sealer)?)
    }

    /// Opens with an agreed key.
    pub(crate) fn open_shared(&self, shared: &SharedKey) -> Result<SecretBoxKey, OpenError> {
        let sealed = Sealed { nonce: self.nonce, ciphertext: self.boxed.clone() };
        let key = zeroize::Zeroizing::new(shared.open(&sealed)?);
        SecretBoxKey::from_slice(&key)
    }
}

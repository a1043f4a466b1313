//! Symmetric sealing of bodies, files and vault entries: `crypto_secretbox` under a random key (wire spec §5.4–5.6, §5.11).

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::direct::{NONCE_BYTES, Nonce, OpenError, Sealed, open_bytes, seal_bytes};
use crate::random;

/// A random 32-byte key: content key of a group body, topic key, file key or vault entry key.
///
/// No `Debug`, wiped on drop; travels only inside boxes.
#[derive(Clone)]
pub struct SecretBoxKey(Zeroizing<[u8; 32]>);

impl SecretBoxKey {
    /// A fresh key.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random::bytes()))
    }

    /// Wraps given bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Wraps what came out of a box.
    ///
    /// # Errors
    /// [`OpenError::Format`] when it is not 32 bytes long.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, OpenError> {
        bytes.try_into().map(Self::from_bytes).map_err(|_| OpenError::Format)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals under a fresh nonce.
    pub fn seal(&self, text: &[u8]) -> Sealed {
        self.seal_with_nonce(text, Nonce::random())
    }

    /// Seals under a given nonce, which must never have been used with this key.
    pub fn seal_with_nonce(&self, text: &[u8], nonce: Nonce) -> Sealed {
        Sealed { nonce, ciphertext: seal_bytes(text, nonce, &self.0) }
    }

    /// Opens.
    ///
    /// # Errors
    /// [`OpenError::Format`] when it is shorter than a tag, [`OpenError::Authentication`] when it does not open.
    pub fn open(&self, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        open_bytes(&sealed.ciphertext, sealed.nonce, &self.0)
    }

    /// Seals a file the way objects are stored: nonce, then box (§5.6).
    pub fn seal_object(&self, bytes: &[u8], nonce: Nonce) -> Vec<u8> {
        let mut object = nonce.as_bytes().to_vec();
        object.append(&mut seal_bytes(bytes, nonce, &self.0));
        object
    }

    /// Opens a stored object.
    ///
    /// # Errors
    /// [`OpenError::Format`] when it is too short, [`OpenError::Authentication`] when it does not open.
    pub fn open_object(&self, object: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (nonce, ciphertext) =
            object.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Format)?;
        open_bytes(ciphertext, Nonce::from_bytes(*nonce), &self.0)
    }
}

impl PartialEq for SecretBoxKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for SecretBoxKey {}

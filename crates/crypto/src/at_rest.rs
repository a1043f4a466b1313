//! Secrets in the broker's database: AES-256-GCM under the operator's key (wire spec §5.12).

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use claudemesh_protocol::encoding::{b64, b64_decode};
use zeroize::Zeroizing;

use crate::hash::sha256;
use crate::random;

/// Bytes of the random initialisation vector in front.
const IV_BYTES: usize = 12;
/// Bytes of the tag, which stands before the ciphertext.
const TAG_BYTES: usize = 16;

/// A stored secret or its key cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AtRestError {
    /// The key is not 64 hexadecimal characters.
    #[error("the encryption key must have 64 hexadecimal characters")]
    Key,
    /// The stored text does not have the layout.
    #[error("not an encrypted value")]
    Format,
    /// Another key, another row, or changed on disk.
    #[error("the stored value does not decrypt")]
    Authentication,
}

/// The row a secret belongs to; a value moved to another row does not open.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// Environment of a deployed service: no binding, as old brokers wrote it.
    Unbound,
    /// One column of one row.
    Row {
        /// Table.
        table: &'a str,
        /// Column.
        column: &'a str,
        /// Row id.
        id: &'a str,
    },
}

impl Binding<'_> {
    fn associated_data(&self) -> String {
        match self {
            Self::Unbound => String::new(),
            Self::Row { table, column, id } => format!("{table}.{column}:{id}"),
        }
    }
}

/// The operator's key (`BROKER_ENCRYPTION_KEY`). No `Debug`, wiped on drop.
#[derive(Clone)]
pub struct AtRestKey(Zeroizing<[u8; 32]>);

impl AtRestKey {
    /// A fresh key for an embedded broker.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random::bytes()))
    }

    /// Reads the setting: 64 hexadecimal characters.
    ///
    /// # Errors
    /// [`AtRestError::Key`].
    pub fn from_hex(text: &str) -> Result<Self, AtRestError> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, bytes.as_mut_slice()).map_err(|_| AtRestError::Key)?;
        Ok(Self(bytes))
    }

    /// The setting's text.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    /// 8 hexadecimal characters that name the key without telling it, for the key-id column used in rotation.
    pub fn id(&self) -> String {
        let mut input = Zeroizing::new(b"claudemesh-at-rest-key-id".to_vec());
        input.extend_from_slice(self.0.as_slice());
        let mut text = hex::encode(sha256(&input));
        text.truncate(8);
        text
    }

    /// Encrypts for one place in the database; base64 of vector, tag, ciphertext.
    ///
    /// # Panics
    /// As [`AtRestKey::seal_with_iv`].
    pub fn seal(&self, plaintext: &[u8], binding: Binding<'_>) -> String {
        self.seal_with_iv(plaintext, binding, random::bytes())
    }

    /// Encrypts under a given vector, which must never have been used with this key.
    ///
    /// # Panics
    /// For a text above 64 GiB, the limit of the cipher.
    #[expect(clippy::expect_used, reason = "the cipher refuses only texts above 64 GiB")]
    pub fn seal_with_iv(
        &self,
        plaintext: &[u8],
        binding: Binding<'_>,
        iv: [u8; IV_BYTES],
    ) -> String {
        let aad = binding.associated_data();
        let payload = Payload { msg: plaintext, aad: aad.as_bytes() };
        let mut sealed = self.cipher().encrypt(&Nonce::from(iv), payload).expect("the text fits");
        let tag = sealed.split_off(sealed.len().saturating_sub(TAG_BYTES));
        let mut packed = Vec::with_capacity(IV_BYTES + TAG_BYTES + sealed.len());
        packed.extend_from_slice(&iv);
        packed.extend_from_slice(&tag);
        packed.append(&mut sealed);
        b64(&packed)
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`AtRestError::Format`], [`AtRestError::Authentication`].
    pub fn open(
        &self,
        packed: &str,
        binding: Binding<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, AtRestError> {
        let packed = b64_decode(packed).map_err(|_| AtRestError::Format)?;
        let (iv, rest) = packed.split_first_chunk::<IV_BYTES>().ok_or(AtRestError::Format)?;
        let (tag, ciphertext) = rest.split_first_chunk::<TAG_BYTES>().ok_or(AtRestError::Format)?;
        let mut sealed = ciphertext.to_vec();
        sealed.extend_from_slice(tag);
        let aad = binding.associated_data();
        let payload = Payload { msg: &sealed, aad: aad.as_bytes() };
        self.cipher()
            .decrypt(&Nonce::from(*iv), payload)
            .map(Zeroizing::new)
            .map_err(|_| AtRestError::Authentication)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.0).into())
    }
}

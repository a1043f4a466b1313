//! Ed25519 identities: key pairs, signing, strict verification (wire spec §5.1).

use claudemesh_protocol::{PublicKey, SignatureBytes};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::exchange::{ExchangePublic, ExchangeSecret};
use crate::random;

/// A stored secret key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretKeyError {
    /// Not 128 hexadecimal characters.
    #[error("a secret key has 128 hexadecimal characters")]
    Format,
    /// The second half is not the public key of the first: the file was damaged or put together by hand.
    #[error("the secret key is corrupt: its public half does not belong to its seed")]
    Corrupt,
}

/// A signature is not valid for this key and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// An ed25519 key pair of a member, session, service, mesh owner or broker.
///
/// # Security
/// Has no `Debug` and no serde; wiped on drop. Stored form: [`KeyPair::to_hex`], in a file of mode 0600.
#[derive(Clone)]
pub struct KeyPair {
    signing: SigningKey,
    public: PublicKey,
    exchange: ExchangeSecret,
    exchange_public: ExchangePublic,
}

impl KeyPair {
    /// A fresh pair.
    pub fn generate() -> Self {
        Self::from_seed(&Zeroizing::new(random::bytes()))
    }

    /// The pair of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(signing.verifying_key().to_bytes());
        let exchange = ExchangeSecret::from_ed25519_seed(seed);
        let exchange_public = exchange.public();
        Self { signing, public, exchange, exchange_public }
    }

    /// Reads the stored form: hex of seed and public key.
    ///
    /// # Errors
    /// [`SecretKeyError::Format`] for anything but 128 hexadecimal characters, [`SecretKeyError::Corrupt`] when the
    /// public half does not belong to the seed.
    pub fn from_hex(text: &str) -> Result<Self, SecretKeyError> {
        let mut bytes = Zeroizing::new([0_u8; 64]);
        hex::decode_to_slice(text, bytes.as_mut_slice()).map_err(|_| SecretKeyError::Format)?;
        let (seed, public) = bytes.split_first_chunk::<32>().ok_or(SecretKeyError::Format)?;
        let pair = Self::from_seed(seed);
        if pair.public.as_bytes().as_slice() == public {
            Ok(pair)
        } else {
            Err(SecretKeyError::Corrupt)
        }
    }

    /// The stored form: 128 lowercase hexadecimal characters, seed then public key.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.signing.to_keypair_bytes());
        Zeroizing::new(hex::encode(bytes.as_slice()))
    }

    /// The public half.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The X25519 secret of this identity, for boxes.
    pub const fn exchange(&self) -> &ExchangeSecret {
        &self.exchange
    }

    /// The X25519 public key of this identity, as [`ExchangePublic::from_ed25519`] gives it to others.
    pub const fn exchange_public(&self) -> ExchangePublic {
        self.exchange_public
    }

    /// Signs; the same text always gives the same signature.
    pub fn sign(&self, message: &[u8]) -> SignatureBytes {
        SignatureBytes::from_bytes(self.signing.sign(message).to_bytes())
    }
}

impl PartialEq for KeyPair {
    fn eq(&self, other: &Self) -> bool {
        self.signing.as_bytes().ct_eq(other.signing.as_bytes()).into()
    }
}

impl Eq for KeyPair {}

/// Checks a signature strictly: small-order keys, small-order `R` and malleable forms are refused, so that one
/// signature means one key and one text.
///
/// # Errors
/// [`BadSignature`], also when `key` is no point of the curve.
pub fn verify_strict(
    key: PublicKey,
    message: &[u8],
    signature: &SignatureBytes,
) -> Result<(), BadSignature> {
    let key = VerifyingKey::from_bytes(key.as_bytes()).map_err(|_| BadSignature)?;
    key.verify_strict(message, &Signature::from_bytes(signature.as_bytes()))
        .map_err(|_| BadSignature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_reads_back() {
        let pair = KeyPair::generate();
        assert!(KeyPair::from_hex(&pair.to_hex()).is_ok_and(|read| read == pair));
    }

    #[test]
    fn a_damaged_stored_key_is_refused() {
        let stored = KeyPair::generate().to_hex();
        let swapped = format!("{}{}", &stored[64..], &stored[..64]);
        assert_eq!(KeyPair::from_hex(&swapped).err(), Some(SecretKeyError::Corrupt));
        assert_eq!(KeyPair::from_hex(&stored[2..]).err(), Some(SecretKeyError::Format));
        assert_eq!(KeyPair::from_hex(&"zz".repeat(64)).err(), Some(SecretKeyError::Format));
    }

    #[test]
    fn a_small_order_key_verifies_nothing() {
        let mut identity = [0_u8; 32];
        identity[0] = 1;
        let mut signature = [0_u8; 64];
        signature[0] = 1;
        let refused = verify_strict(
            PublicKey::from_bytes(identity),
            b"anything",
            &SignatureBytes::from_bytes(signature),
        );
        assert_eq!(refused, Err(BadSignature));
    }
}

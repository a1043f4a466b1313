//! Public keys and signatures as they stand on the wire. Secret keys live in the `crypto` crate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a key or signature text was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFormatError {
    /// The text does not have the required number of characters.
    #[error("expected {expected} hexadecimal characters")]
    Length {
        /// Characters required.
        expected: usize,
    },
    /// A character is no lowercase hexadecimal digit.
    #[error("expected lowercase hexadecimal digits")]
    Digit,
}

/// A 32-byte public key: ed25519 for members, sessions, services and brokers (hex64, lowercase; wire spec §0).
///
/// It orders and compares by bytes. Whether the bytes are a valid curve point is checked where the key is used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Wraps raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lowercase hexadecimal characters.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The first `chars` hexadecimal characters, for people and logs (logs use 12).
    pub fn short(self, chars: usize) -> String {
        let mut text = self.to_hex();
        text.truncate(chars);
        text
    }

    /// Reads 64 hexadecimal characters of either case, as a person may type them.
    ///
    /// # Errors
    /// [`KeyFormatError`] for another length or another character.
    pub fn parse_any_case(text: &str) -> Result<Self, KeyFormatError> {
        text.to_ascii_lowercase().parse()
    }
}

impl FromStr for PublicKey {
    type Err = KeyFormatError;

    fn from_str(text: &str) -> Result<Self, KeyFormatError> {
        decode_hex::<32>(text, Case::LowerOnly).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}…)", self.short(12))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A 64-byte ed25519 signature (hex128; upper case is accepted on input, wire spec §0).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
pub struct SignatureBytes([u8; 64]);

impl SignatureBytes {
    /// Wraps raw bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The 128 lowercase hexadecimal characters.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for SignatureBytes {
    type Err = KeyFormatError;

    fn from_str(text: &str) -> Result<Self, KeyFormatError> {
        decode_hex::<64>(text, Case::Any).map(Self)
    }
}

impl fmt::Display for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignatureBytes(…)")
    }
}

impl Serialize for SignatureBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SignatureBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which letters a hexadecimal reader takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    LowerOnly,
    Any,
}

fn decode_hex<const BYTES: usize>(text: &str, case: Case) -> Result<[u8; BYTES], KeyFormatError> {
    if text.len() != BYTES * 2 {
        return Err(KeyFormatError::Length { expected: BYTES * 2 });
    }
    if case == Case::LowerOnly && text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(KeyFormatError::Digit);
    }
    let mut bytes = [0_u8; BYTES];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyFormatError::Digit)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_what_it_writes() {
        let key = PublicKey::from_bytes([0xab; 32]);
        assert_eq!(key.to_hex().parse(), Ok(key));
    }

    #[test]
    fn upper_case_keys_are_refused_and_signatures_are_not() {
        assert_eq!("AB".repeat(32).parse::<PublicKey>(), Err(KeyFormatError::Digit));
        assert!(PublicKey::parse_any_case(&"AB".repeat(32)).is_ok());
        assert!("AB".repeat(64).parse::<SignatureBytes>().is_ok());
    }

    #[test]
    fn length_is_checked_in_bytes_not_characters() {
        assert!("é".repeat(32).parse::<PublicKey>().is_err());
        assert!("".parse::<PublicKey>().is_err());
    }

    #[test]
    fn debug_output_shows_a_prefix_only() {
        assert_eq!(format!("{:?}", PublicKey::from_bytes([0x01; 32])), "PublicKey(010101010101…)");
    }
}

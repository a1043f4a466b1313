//! X25519 keys: conversion from ed25519 identities and key agreement (wire spec §5.2).

use claudemesh_protocol::PublicKey;
use claudemesh_protocol::encoding::{b64url, b64url_decode_array};
use dryoc::classic::crypto_box::crypto_box_beforenm;
use dryoc::classic::crypto_core::crypto_scalarmult_base;
use dryoc::classic::crypto_sign_ed25519::{
    crypto_sign_ed25519_pk_to_curve25519, crypto_sign_ed25519_sk_to_curve25519,
};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::direct::SharedKey;
use crate::random;

/// A foreign key cannot be used for a key agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a usable public key")]
pub struct BadPublicKey;

/// The X25519 public key of a peer. Wire form: base64url (invite claims) or hex64 (topics).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExchangePublic([u8; 32]);

impl ExchangePublic {
    /// Wraps raw bytes; a useless key shows only when it is used.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The X25519 form of an ed25519 identity.
    ///
    /// # Errors
    /// [`BadPublicKey`] for small-order, mixed-order and non-canonical points and for what is no point at all.
    pub fn from_ed25519(key: PublicKey) -> Result<Self, BadPublicKey> {
        let mut converted = [0; 32];
        crypto_sign_ed25519_pk_to_curve25519(&mut converted, key.as_bytes())
            .map_err(|_| BadPublicKey)?;
        Ok(Self(converted))
    }

    /// Reads base64url of 32 bytes.
    ///
    /// # Errors
    /// [`BadPublicKey`] for another length or alphabet.
    pub fn from_b64url(text: &str) -> Result<Self, BadPublicKey> {
        b64url_decode_array(text).map(Self).map_err(|_| BadPublicKey)
    }

    /// Base64url of the 32 bytes.
    pub fn to_b64url(self) -> String {
        b64url(&self.0)
    }

    /// 64 lowercase hexadecimal characters.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for ExchangePublic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExchangePublic({}…)", self.to_hex().get(..12).unwrap_or_default())
    }
}

/// An X25519 secret key. No `Debug`, wiped on drop.
#[derive(Clone)]
pub struct ExchangeSecret(Zeroizing<[u8; 32]>);

impl ExchangeSecret {
    /// A fresh secret, for one invite claim or one sealed box.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random::bytes()))
    }

    /// Wraps raw bytes; clamping happens at use.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The raw bytes, for storage in a secret file.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret that belongs to the identity of `seed`: the clamped first half of its SHA-512.
    pub(crate) fn from_ed25519_seed(seed: &[u8; 32]) -> Self {
        let mut long = Zeroizing::new([0_u8; 64]);
        for (to, from) in long.iter_mut().zip(seed) {
            *to = *from;
        }
        let mut secret = Zeroizing::new([0; 32]);
        crypto_sign_ed25519_sk_to_curve25519(&mut secret, &long);
        Self(secret)
    }

    /// The public half.
    pub fn public(&self) -> ExchangePublic {
        let mut public = [0; 32];
        crypto_scalarmult_base(&mut public, &self.0);
        ExchangePublic(public)
    }

    /// Agrees on the key of all boxes between this secret and `peer`.
    ///
    /// # Errors
    /// [`BadPublicKey`] when `peer` would make the result the same for everybody (small order).
    pub fn agree(&self, peer: &ExchangePublic) -> Result<SharedKey, BadPublicKey> {
        let mut key = crypto_box_beforenm(&peer.0, &self.0).map_err(|_| BadPublicKey)?;
        let shared = SharedKey::from_bytes(key);
        key.zeroize();
        Ok(shared)
    }
}

impl PartialEq for ExchangeSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for ExchangeSecret {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The canonical encodings of the eight small-order points of the curve, and two non-canonical ones.
    const REFUSED: [&str; 10] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];

    #[test]
    fn small_order_and_non_canonical_identities_are_refused() {
        for text in REFUSED {
            let key: PublicKey = text.parse().unwrap();
            assert_eq!(ExchangePublic::from_ed25519(key), Err(BadPublicKey), "{text}");
        }
    }

    #[test]
    fn a_small_order_exchange_key_agrees_with_nobody() {
        let secret = ExchangeSecret::generate();
        for first in [0_u8, 1] {
            let mut bytes = [0; 32];
            bytes[0] = first;
            assert!(secret.agree(&ExchangePublic::from_bytes(bytes)).is_err());
        }
    }

    #[test]
    fn both_sides_agree_on_one_key() {
        let (a, b) = (ExchangeSecret::generate(), ExchangeSecret::generate());
        assert!(a.agree(&b.public()).ok() == b.agree(&a.public()).ok());
    }
}

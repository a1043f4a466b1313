//! Sealed boxes: a text only the holder of an X25519 key can open, from nobody in particular (`crypto_box_seal`,
//! wire spec §5.6, §5.8, §5.11).

use dryoc::classic::crypto_generichash::crypto_generichash;

use crate::direct::{NONCE_BYTES, Nonce, OpenError, Sealed};
use crate::exchange::{BadPublicKey, ExchangePublic, ExchangeSecret};

/// Bytes of the ephemeral key in front.
const PREFIX_BYTES: usize = 32;
/// Bytes a sealed box is longer than its text.
pub const OVERHEAD_BYTES: usize = PREFIX_BYTES + crate::direct::TAG_BYTES;

/// Seals `text` to `recipient` under a fresh ephemeral key.
///
/// # Errors
/// [`BadPublicKey`] when `recipient` is a small-order point.
pub fn seal(text: &[u8], recipient: &ExchangePublic) -> Result<Vec<u8>, BadPublicKey> {
    seal_with_ephemeral(text, recipient, &ExchangeSecret::generate())
}

/// Seals under a given ephemeral key, which must be used only once.
///
/// # Errors
/// As [`seal`].
pub fn seal_with_ephemeral(
    text: &[u8],
    recipient: &ExchangePublic,
    ephemeral: &ExchangeSecret,
) -> Result<Vec<u8>, BadPublicKey> {
    let public = ephemeral.public();
    let nonce = derived_nonce(&public, recipient);
    let sealed = ephemeral.agree(recipient)?.seal_with_nonce(text, nonce);
    let mut bytes = public.as_bytes().to_vec();
    bytes.extend_from_slice(&sealed.ciphertext);
    Ok(bytes)
}

/// Opens a sealed box.
///
/// # Errors
/// [`OpenError`].
pub fn open(bytes: &[u8], recipient: &ExchangeSecret) -> Result<Vec<u8>, OpenError> {
    let (ephemeral, ciphertext) =
        bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(OpenError::Format)?;
    let ephemeral = ExchangePublic::from_bytes(*ephemeral);
    let nonce = derived_nonce(&ephemeral, &recipient.public());
    recipient.agree(&ephemeral)?.open(&Sealed { nonce, ciphertext: ciphertext.to_vec() })
}

/// BLAKE2b-24 of ephemeral key and recipient key.
///
/// # Panics
/// Never: the hash accepts every input of this length.
#[expect(clippy::expect_used, reason = "24 bytes without a key is an accepted output length")]
pub fn derived_nonce(ephemeral: &ExchangePublic, recipient: &ExchangePublic) -> Nonce {
    let mut input = [0_u8; 64];
    let halves = ephemeral.as_bytes().iter().chain(recipient.as_bytes());
    for (to, from) in input.iter_mut().zip(halves) {
        *to = *from;
    }
    let mut nonce = [0_u8; NONCE_BYTES];
    crypto_generichash(&mut nonce, &input, None).expect("the lengths are accepted");
    Nonce::from_bytes(nonce)
}

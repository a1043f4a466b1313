//! The base64 forms of the wire (spec §0), each with the strictness it requires.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD,
};

/// Standard alphabet, padding neither required nor checked: bodies of bodyVersion 1 written by old clients.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The text is not base64 of the required form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not valid base64")]
pub struct Base64Error;

/// RFC 4648 §4 with padding: nonces, ciphertexts, sealed keys.
pub fn b64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Strict reader of [`b64`].
pub fn b64_decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    STANDARD.decode(text).map_err(|_| Base64Error)
}

/// Reader of [`b64`] that ignores padding, for plaintext bodies of bodyVersion 1.
pub fn b64_decode_lenient(text: &str) -> Result<Vec<u8>, Base64Error> {
    LENIENT.decode(text).map_err(|_| Base64Error)
}

/// RFC 4648 §5 without padding: root keys, invite tokens, claim keys, API secrets.
pub fn b64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Strict reader of [`b64url`].
pub fn b64url_decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Base64Error)
}

/// Strict reader of [`b64`] for a value of fixed size.
pub fn b64_decode_array<const BYTES: usize>(text: &str) -> Result<[u8; BYTES], Base64Error> {
    b64_decode(text)?.try_into().map_err(|_| Base64Error)
}

/// Strict reader of [`b64url`] for a value of fixed size.
pub fn b64url_decode_array<const BYTES: usize>(text: &str) -> Result<[u8; BYTES], Base64Error> {
    b64url_decode(text)?.try_into().map_err(|_| Base64Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_form_needs_padding_and_lenient_does_not() {
        assert_eq!(b64(b"hi"), "aGk=");
        assert_eq!(b64_decode("aGk"), Err(Base64Error));
        assert_eq!(b64_decode_lenient("aGk"), Ok(b"hi".to_vec()));
        assert_eq!(b64_decode_lenient("aGk="), Ok(b"hi".to_vec()));
    }

    #[test]
    fn url_form_refuses_padding_and_the_other_alphabet() {
        assert_eq!(b64url(&[0xfb, 0xff]), "-_8");
        assert_eq!(b64url_decode("-_8="), Err(Base64Error));
        assert_eq!(b64url_decode("+/8"), Err(Base64Error));
    }
}

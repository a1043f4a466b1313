//! What stands inside an encrypted text besides the words: the metadata wrapper (wire spec §5.3), the hop prefix of
//! old bridges (§5.16), and how long a direct text may be (daemon spec §10.1).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::canonical;
use crate::limits::BODY_META_MAX_BYTES;

/// First bytes of a text that carries metadata: U+0001 and `cm1:`.
const META_PREFIX: &str = "\u{1}cm1:";
/// Metadata keys starting so belong to the daemon; users may not set them.
const RESERVED_META_PREFIX: &str = "cm_";
/// Start of the hop prefix of old bridges.
const HOP_PREFIX: &str = "__cmh";
/// Characters of a base64 nonce.
const NONCE_CHARS: usize = 32;
/// Bytes a box adds to its text.
const BOX_TAG_BYTES: usize = 16;

/// Metadata of a message as its receiver sees it.
pub type Meta = Map<String, Value>;

/// A decrypted text, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Unwrapped {
    /// The words.
    pub body: String,
    /// The metadata, when the text was wrapped.
    pub meta: Option<Meta>,
}

/// The metadata cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyMetaError {
    /// Larger than the wire allows.
    #[error("metadata is larger than {BODY_META_MAX_BYTES} bytes")]
    TooLarge,
    /// Not representable as canonical JSON.
    #[error("metadata is not valid JSON")]
    Json,
}

#[derive(Serialize)]
struct WrappedOut<'a> {
    body: &'a str,
    meta: &'a Meta,
}

#[derive(Deserialize)]
struct WrappedIn {
    body: String,
    meta: Meta,
}

/// Puts `meta` beside `body` into one text to encrypt. Only for recipients that all list capability `body_meta`.
///
/// # Errors
/// [`BodyMetaError`] when the metadata is too large or no JSON.
pub fn wrap(body: &str, meta: &Meta) -> Result<String, BodyMetaError> {
    check_meta_size(meta)?;
    let json =
        serde_json::to_string(&WrappedOut { body, meta }).map_err(|_| BodyMetaError::Json)?;
    Ok(format!("{META_PREFIX}{json}"))
}

/// Takes a decrypted text apart; what is no well-formed wrapper is shown as it is.
pub fn unwrap(text: &str) -> Unwrapped {
    text.strip_prefix(META_PREFIX)
        .and_then(|json| serde_json::from_str::<WrappedIn>(json).ok())
        .filter(|wrapped| check_meta_size(&wrapped.meta).is_ok())
        .map_or_else(
            || Unwrapped { body: text.to_owned(), meta: None },
            |wrapped| Unwrapped { body: wrapped.body, meta: Some(wrapped.meta) },
        )
}

/// The first reserved key in metadata given by a user; such metadata is refused.
pub fn reserved_meta_key(meta: &Meta) -> Option<&str> {
    meta.keys().map(String::as_str).find(|key| key.starts_with(RESERVED_META_PREFIX))
}

/// Longest text, in bytes of UTF-8, that fits a direct message: `inline_bytes` is the broker's limit for ciphertext,
/// nonce and target together, `wrapper_bytes` what [`wrap`] adds (0 without metadata).
pub fn direct_text_max_bytes(
    inline_bytes: usize,
    target_chars: usize,
    wrapper_bytes: usize,
) -> usize {
    let ciphertext_chars = inline_bytes.saturating_sub(target_chars).saturating_sub(NONCE_CHARS);
    (ciphertext_chars / 4 * 3).saturating_sub(BOX_TAG_BYTES).saturating_sub(wrapper_bytes)
}

/// Hops an old bridge has counted in `text`, and the text without the prefix; no prefix counts as 0.
pub fn bridge_hops(text: &str) -> (u32, &str) {
    let Some((digits, rest)) = text.strip_prefix(HOP_PREFIX).and_then(|rest| rest.split_once(':'))
    else {
        return (0, text);
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return (0, text);
    }
    (digits.parse().unwrap_or(u32::MAX), rest)
}

/// The text a bridge sends on, or `None` when the message has made `max_hops` already.
pub fn bridge_forward(text: &str, max_hops: u32) -> Option<String> {
    let (hops, rest) = bridge_hops(text);
    let next = hops.checked_add(1).filter(|next| *next <= max_hops)?;
    Some(format!("{HOP_PREFIX}{next}:{rest}"))
}

fn check_meta_size(meta: &Meta) -> Result<(), BodyMetaError> {
    let canonical = canonical::jcs(meta).map_err(|_| BodyMetaError::Json)?;
    if canonical.len() > BODY_META_MAX_BYTES { Err(BodyMetaError::TooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(value: &Value) -> Meta {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn wrapping_reads_back() {
        let meta = meta(&json!({"b": 1, "a": [true, null, "é"]}));
        let text = wrap("build failed ✓", &meta).unwrap();
        assert!(text.starts_with("\u{1}cm1:{"));
        assert_eq!(unwrap(&text), Unwrapped { body: "build failed ✓".into(), meta: Some(meta) });
    }

    #[test]
    fn a_broken_wrapper_is_shown_as_it_is() {
        for text in [
            "plain",
            "\u{1}cm1:",
            "\u{1}cm1:{}",
            "\u{1}cm1:{\"body\":\"x\"}",
            "\u{1}cm1:{\"body\":7,\"meta\":{}}",
            "\u{1}cm1:{\"body\":\"x\",\"meta\":[]}",
            "cm1:{\"body\":\"x\",\"meta\":{}}",
        ] {
            assert_eq!(unwrap(text), Unwrapped { body: text.into(), meta: None });
        }
    }

    #[test]
    fn metadata_is_accepted_at_its_limit_and_refused_one_past_it() {
        let of_size = |bytes: usize| meta(&json!({"k": "x".repeat(bytes - "{\"k\":\"\"}".len())}));
        assert!(wrap("", &of_size(BODY_META_MAX_BYTES)).is_ok());
        assert_eq!(wrap("", &of_size(BODY_META_MAX_BYTES + 1)), Err(BodyMetaError::TooLarge));
    }

    #[test]
    fn reserved_keys_are_found() {
        assert_eq!(reserved_meta_key(&meta(&json!({"a": 1, "cm_hops": 2}))), Some("cm_hops"));
        assert_eq!(reserved_meta_key(&meta(&json!({"cm": 1}))), None);
    }

    #[test]
    fn the_size_formula_counts_target_nonce_and_tag() {
        assert_eq!(direct_text_max_bytes(65_536, 64, 0), 3 * ((65_536 - 64 - 32) / 4) - 16);
        assert_eq!(
            direct_text_max_bytes(65_536, 64, 100),
            direct_text_max_bytes(65_536, 64, 0) - 100
        );
        assert_eq!(direct_text_max_bytes(10, 64, 0), 0);
    }

    #[test]
    fn hop_counts_that_overflow_are_dropped() {
        assert_eq!(bridge_forward("__cmh99999999999:x", 2), None);
        assert_eq!(bridge_hops("__cmh:x"), (0, "__cmh:x"));
        assert_eq!(bridge_hops("__cmh+1:x"), (0, "__cmh+1:x"));
        assert_eq!(bridge_hops("__cmh2:a:b"), (2, "a:b"));
    }
}

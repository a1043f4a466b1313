//! JSON Web Tokens of the one kind old clients know: HS256 with a fixed header (wire spec §5.13).

use claudemesh_protocol::Timestamp;
use claudemesh_protocol::encoding::{b64url, b64url_decode};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::Sha256;

/// The only header written and accepted.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// How far in the future a token may be issued, in seconds.
const ISSUED_AHEAD_SECONDS: i64 = 30;
/// Longest token read, in characters.
const TOKEN_MAX_CHARS: usize = 16 * 1024;

/// A token is not accepted; the texts are part of the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// Not three parts of base64url with JSON objects, or without its times.
    #[error("malformed JWT")]
    Malformed,
    /// Signed with another key.
    #[error("invalid signature")]
    Signature,
    /// Signed by us, but says it is of another kind.
    #[error("unsupported algorithm: {0}")]
    Algorithm(String),
    /// `exp` has come.
    #[error("token expired")]
    Expired,
    /// `iat` is more than 30 s ahead.
    #[error("token issued in the future")]
    IssuedInFuture,
}

/// Issues a token over `claims` in their own order.
///
/// # Errors
/// [`JwtError::Malformed`] when the claims have no JSON form.
pub fn sign(claims: &impl Serialize, secret: &[u8]) -> Result<String, JwtError> {
    let claims = serde_json::to_vec(claims).map_err(|_| JwtError::Malformed)?;
    let signed = format!("{}.{}", b64url(HEADER.as_bytes()), b64url(&claims));
    let signature = keyed(secret)?.chain_update(&signed).finalize().into_bytes();
    Ok(format!("{signed}.{}", b64url(&signature)))
}

/// Checks signature, then header, then times, and gives the claims.
///
/// # Errors
/// [`JwtError`].
pub fn verify(token: &str, secret: &[u8], now: Timestamp) -> Result<Map<String, Value>, JwtError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    if token.len() > TOKEN_MAX_CHARS || claims.contains('.') {
        return Err(JwtError::Malformed);
    }
    let signature = b64url_decode(signature).map_err(|_| JwtError::Malformed)?;
    keyed(secret)?
        .chain_update(signed)
        .verify_slice(&signature)
        .map_err(|_| JwtError::Signature)?;
    check_header(&object(header)?)?;
    let claims = object(claims)?;
    check_times(&claims, now)?;
    Ok(claims)
}

fn check_header(header: &Map<String, Value>) -> Result<(), JwtError> {
    match header.get("alg").and_then(Value::as_str) {
        Some("HS256") => Ok(()),
        Some(other) => Err(JwtError::Algorithm(other.to_owned())),
        None => Err(JwtError::Malformed),
    }
}

fn check_times(claims: &Map<String, Value>, now: Timestamp) -> Result<(), JwtError> {
    let seconds = |name| claims.get(name).and_then(Value::as_i64).ok_or(JwtError::Malformed);
    if seconds("exp")? <= now.as_seconds() {
        return Err(JwtError::Expired);
    }
    if seconds("iat")? > now.as_seconds().saturating_add(ISSUED_AHEAD_SECONDS) {
        return Err(JwtError::IssuedInFuture);
    }
    Ok(())
}

fn object(part: &str) -> Result<Map<String, Value>, JwtError> {
    let json = b64url_decode(part).map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| JwtError::Malformed)
}

fn keyed(secret: &[u8]) -> Result<Hmac<Sha256>, JwtError> {
    Hmac::new_from_slice(secret).map_err(|_| JwtError::Malformed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_767_225_600);

    fn token(claims: &Value) -> String {
        sign(claims, b"key").unwrap()
    }

    #[test]
    fn times_are_checked_at_their_limits() {
        let at = |iat: i64, exp: i64| {
            let now = NOW.as_seconds();
            verify(&token(&json!({"iat": now + iat, "exp": now + exp})), b"key", NOW).err()
        };
        assert_eq!(at(30, 1), None);
        assert_eq!(at(31, 1), Some(JwtError::IssuedInFuture));
        assert_eq!(at(0, 0), Some(JwtError::Expired));
    }

    #[test]
    fn another_algorithm_or_key_is_refused() {
        let good = token(&json!({"iat": 1, "exp": NOW.as_seconds() + 1}));
        assert_eq!(verify(&good, b"other", NOW), Err(JwtError::Signature));
        let signed = format!("{}.{}", b64url(br#"{"alg":"none"}"#), b64url(b"{}"));
        let mac = keyed(b"key").unwrap().chain_update(&signed).finalize().into_bytes();
        let none = format!("{signed}.{}", b64url(&mac));
        assert_eq!(verify(&none, b"key", NOW), Err(JwtError::Algorithm("none".into())));
        for text in ["", ".", "..", "a.b", "a.b.c.d"] {
            assert!(verify(text, b"key", NOW).is_err(), "{text}");
        }
    }

    #[test]
    fn names_outside_latin_1_survive() {
        let claims = json!({"name": "日本語", "iat": 1, "exp": NOW.as_seconds() + 1});
        let read = verify(&token(&claims), b"key", NOW).unwrap();
        assert_eq!(read.get("name"), claims.get("name"));
    }
}

//! Secrets made here and handed out: API keys, account tokens, codes (wire spec §5.8, §5.13). Stored as SHA-256 only.

use claudemesh_protocol::encoding::b64url;
use claudemesh_protocol::limits::INVITE_CODE_CHARS;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::hash::{constant_time_eq, sha256_hex};
use crate::random::{self, Entropy};

/// Letters and digits that nobody confuses when reading aloud.
const UNAMBIGUOUS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// RFC 4648 §6 in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Start of an API key.
const API_KEY_PREFIX: &str = "cm_";
/// Start of a CLI session token.
const SESSION_PREFIX: &str = "cm_session_";
/// Start of a personal access token.
const ACCESS_PREFIX: &str = "cm_pat_";
/// Characters of an API key.
const API_KEY_CHARS: usize = 46;
/// Characters of a CLI session token.
const SESSION_CHARS: usize = 63;
/// Characters of a personal access token.
const ACCESS_CHARS: usize = 59;
/// Leading characters of an API key that are stored to find it.
const API_KEY_INDEX_CHARS: usize = 11;
/// Letters and digits of a setup code.
const SETUP_CODE_CHARS: usize = 16;
/// Group size of a setup code as it is shown.
const SETUP_CODE_GROUP: usize = 4;

/// A secret text. No `Debug` and no `Display`, wiped on drop, compared in constant time.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a secret as read from a file or request.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, to hand out once or to send.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored instead of the text: SHA-256 of the whole, as hex.
    pub fn stored_hash(&self) -> String {
        sha256_hex(self.0.as_bytes())
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for SecretText {}

/// What a bearer text is by its form; whether it is valid is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BearerKind {
    /// `cm_session_…`
    CliSession,
    /// `cm_pat_…`
    AccessToken,
    /// `cm_…`
    ApiKey,
    /// Three parts between dots.
    Jwt,
    /// None of these.
    Unknown,
}

/// Tells a bearer's kind by exact prefix and length (base64url may spell `cm_pat_` inside an API key).
pub fn classify(bearer: &str) -> BearerKind {
    let is_plain = bearer.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    match bearer.len() {
        SESSION_CHARS if is_plain && bearer.starts_with(SESSION_PREFIX) => BearerKind::CliSession,
        ACCESS_CHARS if is_plain && bearer.starts_with(ACCESS_PREFIX) => BearerKind::AccessToken,
        API_KEY_CHARS if is_plain && bearer.starts_with(API_KEY_PREFIX) => BearerKind::ApiKey,
        _ if bearer.split('.').filter(|part| !part.is_empty()).count() == 3
            && bearer.matches('.').count() == 2 =>
        {
            BearerKind::Jwt
        }
        _ => BearerKind::Unknown,
    }
}

/// A mesh API key: `cm_` and base64url of 32 random bytes.
pub fn api_key(entropy: Entropy<'_>) -> SecretText {
    SecretText::new(format!("{API_KEY_PREFIX}{}", b64url(&*secret_bytes(entropy))))
}

/// The leading characters of an API key under which it is found; they are no secret.
pub fn api_key_index(key: &str) -> Option<&str> {
    key.get(..API_KEY_INDEX_CHARS)
}

/// A CLI session token: `cm_session_` and 52 characters of base32.
pub fn cli_session(entropy: Entropy<'_>) -> SecretText {
    SecretText::new(format!("{SESSION_PREFIX}{}", *base32(&secret_bytes(entropy))))
}

/// A personal access token: `cm_pat_` and 52 characters of base32.
pub fn access_token(entropy: Entropy<'_>) -> SecretText {
    SecretText::new(format!("{ACCESS_PREFIX}{}", *base32(&secret_bytes(entropy))))
}

/// The code of the first set-up: 16 characters as `XXXX-XXXX-XXXX-XXXX`.
pub fn setup_code(entropy: Entropy<'_>) -> SecretText {
    let code = Zeroizing::new(random::characters(UNAMBIGUOUS, SETUP_CODE_CHARS, entropy));
    let mut shown = String::with_capacity(SETUP_CODE_CHARS + SETUP_CODE_CHARS / SETUP_CODE_GROUP);
    for (index, character) in code.chars().enumerate() {
        if index > 0 && index % SETUP_CODE_GROUP == 0 {
            shown.push('-');
        }
        shown.push(character);
    }
    SecretText::new(shown)
}

/// The code of an invite: 8 characters, case-sensitive (40 random bits; claims are rate-limited).
pub fn invite_code(entropy: Entropy<'_>) -> SecretText {
    SecretText::new(random::characters(UNAMBIGUOUS, INVITE_CODE_CHARS, entropy))
}

/// The token of a one-time dashboard link: base64url of 32 random bytes.
pub fn dashboard_link(entropy: Entropy<'_>) -> SecretText {
    SecretText::new(b64url(&*secret_bytes(entropy)))
}

/// 64 hexadecimal characters: local API tokens, session tokens of the daemon, webhook addresses.
pub fn hex_token(entropy: Entropy<'_>) -> SecretText {
    SecretText::new(hex::encode(*secret_bytes(entropy)))
}

/// Compares a presented secret with its stored hash, in constant time.
pub fn matches_stored_hash(presented: &str, stored_hash: &str) -> bool {
    constant_time_eq(sha256_hex(presented.as_bytes()).as_bytes(), stored_hash.as_bytes())
}

fn secret_bytes(entropy: Entropy<'_>) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy(bytes.as_mut_slice());
    bytes
}

/// RFC 4648 §6, lower case, without padding.
fn base32(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(52));
    let mut buffer = 0_u32;
    let mut bits = 0_u32;
    let mut push = |index: u32| {
        let character = usize::try_from(index & 31).ok().and_then(|index| BASE32.get(index));
        text.extend(character.map(|byte| char::from(*byte)));
    };
    for byte in bytes {
        buffer = (buffer << 8 | u32::from(*byte)) & 0xffff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(buffer >> bits);
        }
    }
    if bits > 0 {
        push(buffer << (5 - bits));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_form_and_are_told_apart() {
        let cases = [
            (cli_session(&mut random::fill), 63, BearerKind::CliSession),
            (access_token(&mut random::fill), 59, BearerKind::AccessToken),
            (api_key(&mut random::fill), 46, BearerKind::ApiKey),
        ];
        for (token, length, kind) in cases {
            assert_eq!((token.expose().len(), classify(token.expose())), (length, kind));
            assert!(matches_stored_hash(token.expose(), &token.stored_hash()));
            assert!(!matches_stored_hash(&format!("{}x", token.expose()), &token.stored_hash()));
        }
        let spelled = format!("cm_pat_{}", "a".repeat(39));
        assert_eq!(classify(&spelled), BearerKind::ApiKey);
        assert_eq!(classify("a.b.c"), BearerKind::Jwt);
        for text in ["", "a.b", "a..c", "a.b.c.d", "cm_session_short"] {
            assert_eq!(classify(text), BearerKind::Unknown, "{text}");
        }
    }

    #[test]
    fn base32_follows_the_standard() {
        let mut bytes = [0; 32];
        bytes[..6].copy_from_slice(b"foobar");
        assert!(base32(&bytes).starts_with("mzxw6ytboi"));
        assert_eq!(*base32(&[0xff; 32]), format!("{}q", "7".repeat(51)));
    }

    #[test]
    fn codes_use_the_unambiguous_alphabet() {
        let code = invite_code(&mut random::fill);
        assert_eq!(code.expose().len(), 8);
        assert!(code.expose().bytes().all(|byte| UNAMBIGUOUS.contains(&byte)));
        let setup = setup_code(&mut random::fill);
        let groups: Vec<usize> = setup.expose().split('-').map(str::len).collect();
        assert_eq!(groups, [4, 4, 4, 4]);
        assert_eq!(hex_token(&mut random::fill).expose().len(), 64);
        assert_eq!(dashboard_link(&mut random::fill).expose().len(), 43);
    }
}

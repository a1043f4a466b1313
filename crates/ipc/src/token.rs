//! The session token a launched agent carries (daemon spec §8.2).

use std::fmt::Write as _;

use zeroize::Zeroizing;

use crate::env;

/// Characters of a token.
pub const TOKEN_CHARS: usize = 64;

/// 32 random bytes as 64 lowercase hexadecimal characters.
///
/// # Security
/// Whoever has it acts as the session. Has no `Debug` and no `Display`; wiped on drop.
#[derive(Clone)]
pub struct SessionToken(Zeroizing<String>);

/// The text is no session token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session token has 64 hexadecimal characters")]
pub struct TokenError;

impl SessionToken {
    /// Wraps 32 random bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_CHARS));
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// Reads 64 hexadecimal characters.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.len() != TOKEN_CHARS || !is_hex {
            return Err(TokenError);
        }
        Ok(Self(Zeroizing::new(text.to_ascii_lowercase())))
    }

    /// The token of this process: `CLAUDEMESH_IPC_TOKEN`, else the file `CLAUDEMESH_IPC_TOKEN_FILE` names. A file that
    /// cannot be read, or something that is no token, counts as none: the session it belonged to has ended.
    pub fn from_env() -> Option<Self> {
        if let Some(text) = env::text(env::IPC_TOKEN) {
            return Self::parse(Zeroizing::new(text).trim()).ok();
        }
        let file = env::path(env::IPC_TOKEN_FILE)?;
        let text = Zeroizing::new(std::fs::read_to_string(file).ok()?);
        Self::parse(text.trim()).ok()
    }

    /// The 64 characters, for a header or a file of mode 0600.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The first 8 characters, as lists show it.
    pub fn prefix(&self) -> &str {
        self.0.get(..8).unwrap_or_default()
    }
}

impl serde::Serialize for SessionToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_64_hex_characters() {
        let token = SessionToken::from_bytes(&[0xab; 32]);
        assert_eq!(token.reveal(), "ab".repeat(32));
        assert_eq!(token.prefix(), "abababab");
        assert!(SessionToken::parse(&"AB".repeat(32)).is_ok());
        for bad in ["", "ab", &"zz".repeat(32), &"ab".repeat(33)] {
            assert!(SessionToken::parse(bad).is_err());
        }
    }
}

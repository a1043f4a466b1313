//! Row identifiers: opaque 32-character strings over `0-9A-Za-z`, one newtype per kind of row (wire spec §0).

use serde::{Deserialize, Serialize};

/// Characters of a row id, in the order a random byte selects them.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters in a row id (wire spec §0).
pub const ROW_ID_CHARS: usize = 32;

/// Draws a row id from a source of uniform random bytes, without modulo bias.
///
/// `fill` must overwrite the whole buffer; with a cryptographic source the id carries about 190 bits.
pub fn random_row_id(mut fill: impl FnMut(&mut [u8])) -> String {
    /// Largest multiple of 62 that fits a byte; bytes at or above it are drawn again.
    const UNBIASED_BELOW: u8 = 248;
    let mut id = String::with_capacity(ROW_ID_CHARS);
    let mut bytes = [0_u8; 48];
    while id.len() < ROW_ID_CHARS {
        fill(&mut bytes);
        let fresh = bytes
            .iter()
            .filter(|byte| **byte < UNBIASED_BELOW)
            .filter_map(|byte| ALPHABET.get(usize::from(byte % 62)))
            .map(|byte| char::from(*byte));
        id.extend(fresh.take(ROW_ID_CHARS - id.len()));
    }
    id
}

macro_rules! row_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes an identifier as it stands; ids are opaque, so any text is one.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// Draws a fresh identifier; see [`random_row_id`].
            pub fn random(fill: impl FnMut(&mut [u8])) -> Self {
                Self(random_row_id(fill))
            }

            /// The identifier as written on the wire and in the store.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Gives up the newtype.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

row_id! {
    /// A mesh: the trust boundary with its roster.
    MeshId;
    /// A member: one durable key in one mesh.
    MemberId;
    /// A presence: one live or leased connection.
    PresenceId;
    /// A message accepted by the broker.
    MessageId;
    /// An invite.
    InviteId;
    /// An account at the broker.
    UserId;
}

/// True when `text` has the shape of a row id made by this system.
pub fn is_row_id(text: &str) -> bool {
    text.len() == ROW_ID_CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_ids_have_the_documented_shape() {
        let mut counter = 0_u8;
        let id = random_row_id(|buffer| {
            for byte in buffer {
                *byte = counter;
                counter = counter.wrapping_add(7);
            }
        });
        assert!(is_row_id(&id), "{id}");
    }

    #[test]
    fn biased_bytes_are_drawn_again() {
        let mut draws = 0;
        let id = random_row_id(|buffer| {
            draws += 1;
            buffer.fill(if draws == 1 { 255 } else { 61 });
        });
        assert_eq!(draws, 2);
        assert_eq!(id, "z".repeat(ROW_ID_CHARS));
    }
}

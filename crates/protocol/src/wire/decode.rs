//! Reading a frame: first its type and request id, then exactly the struct of that type.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::frame::ClientFrame;
use crate::error::ErrorCode;
use crate::limits;

/// A frame of a client with its request id.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// To be echoed in the one reply.
    pub req_id: Option<String>,
    /// The frame.
    pub frame: ClientFrame,
}

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not a JSON object, nested too deeply, or without a `type`.
    #[error("not a JSON object with a type")]
    InvalidJson,
    /// A type this build does not know.
    #[error("unknown message type {word:?}")]
    UnknownType {
        /// The type, shortened.
        word: String,
        /// The request id.
        req_id: Option<String>,
    },
    /// A known type with a field of the wrong shape.
    #[error("{word}: {reason}")]
    Malformed {
        /// The type.
        word: String,
        /// What is wrong; names fields and types, never values of secrets.
        reason: String,
        /// The request id.
        req_id: Option<String>,
    },
}

impl DecodeError {
    /// The code to answer with.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidJson => ErrorCode::InvalidJson,
            Self::UnknownType { .. } => ErrorCode::UnknownMessageType,
            Self::Malformed { .. } => ErrorCode::Malformed,
        }
    }

    /// The request to answer.
    pub fn req_id(&self) -> Option<&str> {
        match self {
            Self::InvalidJson => None,
            Self::UnknownType { req_id, .. } | Self::Malformed { req_id, .. } => req_id.as_deref(),
        }
    }
}

/// Longest type word echoed back.
const WORD_SHOWN_CHARS: usize = 64;

/// Type and request id of a frame.
pub(super) struct Head<'a> {
    pub(super) word: Cow<'a, str>,
    pub(super) req_id: Option<String>,
}

#[derive(Deserialize)]
struct RawHead<'a> {
    #[serde(rename = "type", borrow)]
    word: Cow<'a, str>,
    #[serde(rename = "_reqId", default, borrow)]
    req_id: Option<Cow<'a, str>>,
}

impl<'a> Head<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, DecodeError> {
        if exceeds_depth(text, limits::JSON_MAX_DEPTH) {
            return Err(DecodeError::InvalidJson);
        }
        let raw: RawHead<'a> = serde_json::from_str(text).map_err(|_| DecodeError::InvalidJson)?;
        let req_id = raw.req_id.map(Cow::into_owned);
        if req_id.as_ref().is_some_and(|id| id.len() > limits::REQUEST_ID_MAX_BYTES) {
            return Err(DecodeError::Malformed {
                word: raw.word.into_owned(),
                reason: "_reqId is longer than 128 bytes".to_owned(),
                req_id: None,
            });
        }
        Ok(Self { word: raw.word, req_id })
    }

    pub(super) fn payload<T: DeserializeOwned>(&self, text: &str) -> Result<T, DecodeError> {
        serde_json::from_str(text).map_err(|error| DecodeError::Malformed {
            word: self.word.clone().into_owned(),
            reason: error.to_string(),
            req_id: self.req_id.clone(),
        })
    }

    pub(super) fn unknown_type(self) -> DecodeError {
        DecodeError::UnknownType {
            word: crate::text::sanitized_line(&self.word, WORD_SHOWN_CHARS),
            req_id: self.req_id,
        }
    }
}

/// True when the brackets of a JSON text are nested deeper than `max`; brackets inside strings do not count.
pub fn exceeds_depth(text: &str, max: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert!(!exceeds_depth(r#"{"a":["[[[[[","\"[["]}"#, 2));
        assert!(exceeds_depth("[[[]]]", 2));
    }

    #[test]
    fn a_deep_bomb_is_refused_before_parsing() {
        let bomb = "[".repeat(1_000_000);
        assert!(matches!(ClientFrame::decode(&bomb), Err(DecodeError::InvalidJson)));
    }
}

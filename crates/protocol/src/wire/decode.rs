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
                word: shown(&raw.word),
                reason: "_reqId is longer than 128 bytes".to_owned(),
                req_id: None,
            });
        }
        Ok(Self { word: raw.word, req_id })
    }

    /// Refuses a frame with U+0000 anywhere in it: PostgreSQL stores no text that contains it, and no frame needs it.
    pub(super) fn refuse_nul(&self, text: &str) -> Result<(), DecodeError> {
        if !has_nul(text) {
            return Ok(());
        }
        Err(DecodeError::Malformed {
            word: shown(&self.word),
            reason: "a text contains NUL (U+0000)".to_owned(),
            req_id: self.req_id.clone(),
        })
    }

    pub(super) fn payload<T: DeserializeOwned>(&self, text: &str) -> Result<T, DecodeError> {
        serde_json::from_str(text).map_err(|error| DecodeError::Malformed {
            word: self.word.clone().into_owned(),
            reason: error.to_string(),
            req_id: self.req_id.clone(),
        })
    }

    pub(super) fn unknown_type(self) -> DecodeError {
        DecodeError::UnknownType { word: shown(&self.word), req_id: self.req_id }
    }
}

/// The type of a frame as it may be told: short, and harmless to show.
fn shown(word: &str) -> String {
    crate::text::sanitized_line(word, WORD_SHOWN_CHARS)
}

/// True when a string of a valid JSON text contains U+0000. Only its escape can do that; an escaped backslash before
/// `u0000` is no escape.
pub fn has_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(place, _)| {
        let before = json.as_bytes().iter().take(place).rev();
        before.take_while(|byte| **byte == b'\\').count() % 2 == 0
    })
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
    fn nul_is_an_escape_with_an_even_number_of_backslashes_before_it() {
        for text in [r#""\u0000""#, r#"{"a\u0000":1}"#, r#""\\\u0000""#, r#"["\\u0000","\u0000"]"#]
        {
            assert!(has_nul(text), "{text}");
            serde_json::from_str::<serde_json::Value>(text).unwrap();
        }
        for text in [r#""\\u0000""#, r#""u0000""#, r#""\u0001""#, r#""\\\\u0000""#, "\"\u{1}0\""] {
            assert!(!has_nul(text), "{text}");
        }
    }

    #[test]
    fn a_frame_with_nul_is_refused_and_keeps_its_request_id() {
        for fields in [
            r#""type":"set_summary","summary":"a\u0000b""#,
            r#""type":"set_state","key":"k","value":{"deep":["\u0000"]}"#,
            r#""type":"set_state","key":"k","value":{"\u0000":1}"#,
            r#""type":"list_peers","unknown":"\u0000""#,
            r#""type":"no\u0000pe""#,
        ] {
            let text = format!(r#"{{{fields},"_reqId":"x"}}"#);
            let refused = ClientFrame::decode(&text).unwrap_err();
            let DecodeError::Malformed { req_id, word, reason } = refused else { panic!("{text}") };
            assert_eq!(req_id.as_deref(), Some("x"), "{text}");
            assert!(!word.contains('\0') && reason.contains("NUL"), "{word}: {reason}");
        }
        let harmless = r#"{"type":"set_summary","summary":"a\\u0000b"}"#;
        assert!(ClientFrame::decode(harmless).is_ok());
    }

    #[test]
    fn a_deep_bomb_is_refused_before_parsing() {
        let bomb = "[".repeat(1_000_000);
        assert!(matches!(ClientFrame::decode(&bomb), Err(DecodeError::InvalidJson)));
    }
}

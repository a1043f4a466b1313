//! The error frame (wire spec §1.5).

use serde::{Deserialize, Serialize};

use crate::error::ErrorCode;

/// Tells the sender of a frame why it was refused; the socket stays open unless the handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct ErrorFrame {
    /// The stable code; a client keeps unknown words.
    pub code: String,
    /// One sentence for people.
    #[serde(default)]
    pub message: String,
    /// Request id again, where old clients look for it (wire spec §1.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The request it answers.
    #[serde(rename = "_reqId", default, skip_serializing_if = "Option::is_none")]
    pub req_id: Option<String>,
    /// The broker's clock in Unix milliseconds, with `timestamp_skew`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<i64>,
    /// How long to wait before trying again, in milliseconds.
    #[serde(rename = "retry_after_ms", default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What the caller can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ErrorFrame {
    /// An error that answers `req_id`.
    pub fn new(code: ErrorCode, message: impl Into<String>, req_id: Option<&str>) -> Self {
        Self {
            code: code.as_str().to_owned(),
            message: message.into(),
            id: req_id.map(str::to_owned),
            req_id: req_id.map(str::to_owned),
            server_time: None,
            retry_after_ms: None,
            hint: None,
        }
    }

    /// The code, when it is one this build knows.
    pub fn known_code(&self) -> Option<ErrorCode> {
        ErrorCode::parse(&self.code)
    }
}

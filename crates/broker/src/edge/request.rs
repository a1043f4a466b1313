//! Reading requests: bounded bodies, JSON objects field by field, path parameters.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use claudemesh_protocol::limits::{HTTP_BODY_MAX_BYTES, HTTP_BODY_TIMEOUT, JSON_MAX_DEPTH};
use claudemesh_protocol::wire::has_nul;
use claudemesh_protocol::{ErrorCode, PublicKey};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};

use crate::edge::error::{ApiError, ApiResult};

/// Reads a whole body within size and time.
///
/// # Errors
/// `payload_too_large`, `timeout` (408), `bad_request` when the client went away.
pub(crate) async fn read_body(body: Body) -> ApiResult<Bytes> {
    read_body_within(body, HTTP_BODY_TIMEOUT).await
}

async fn read_body_within(body: Body, time: Duration) -> ApiResult<Bytes> {
    let limited = Limited::new(body, HTTP_BODY_MAX_BYTES);
    match tokio::time::timeout(time, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorCode::PayloadTooLarge,
            format!("a body has at most {HTTP_BODY_MAX_BYTES} bytes"),
        )),
        Ok(Err(_)) => Err(ApiError::new(ErrorCode::BadRequest, "the body could not be read")),
        Err(_elapsed) => Err(ApiError::new(ErrorCode::Timeout, "the body did not arrive in time")
            .with_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

/// The fields of a JSON object, read one by one so that an error names its field. Unknown fields are ignored.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body. An empty one is an empty object.
    pub(crate) async fn read(body: Body) -> ApiResult<Self> {
        Self::parse(&read_body(body).await?)
    }

    pub(crate) fn parse(bytes: &[u8]) -> ApiResult<Self> {
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        if nesting(bytes) > JSON_MAX_DEPTH {
            return Err(ApiError::new(ErrorCode::Malformed, "the body is nested too deeply"));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(_)) if std::str::from_utf8(bytes).is_ok_and(has_nul) => {
                // PostgreSQL stores no such text.
                Err(ApiError::new(ErrorCode::Malformed, "a text of the body contains NUL (U+0000)"))
            }
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::new(ErrorCode::Malformed, "the body is not a JSON object")),
            Err(_) => Err(ApiError::new(ErrorCode::Malformed, "the body is not JSON")),
        }
    }

    fn present(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// True when the body names this field, with a value or null.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A text that may be missing or null.
    pub(crate) fn optional_text(&self, name: &str) -> ApiResult<Option<&str>> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::field(name, "a text")),
        }
    }

    /// A text that must be there.
    pub(crate) fn text(&self, name: &str) -> ApiResult<&str> {
        self.optional_text(name)?.ok_or_else(|| ApiError::field(name, "a text"))
    }

    /// A whole number that may be missing or null.
    pub(crate) fn optional_integer(&self, name: &str) -> ApiResult<Option<i64>> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => {
                value.as_i64().map(Some).ok_or_else(|| ApiError::field(name, "a whole number"))
            }
        }
    }

    /// A public key, 64 lowercase hexadecimal characters, that may be missing.
    pub(crate) fn optional_key(&self, name: &str) -> ApiResult<Option<PublicKey>> {
        self.optional_text(name)?
            .map(|text| {
                text.parse()
                    .map_err(|_| ApiError::field(name, "64 lowercase hexadecimal characters"))
            })
            .transpose()
    }

    /// A structured value that may be missing.
    pub(crate) fn optional_value<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
        expected: &str,
    ) -> ApiResult<Option<T>> {
        self.present(name)
            .map(|value| T::deserialize(value).map_err(|_| ApiError::field(name, expected)))
            .transpose()
    }

    /// A short free text for the records (host name, platform); cut, never refused for its length.
    pub(crate) fn note(&self, name: &str) -> ApiResult<Option<String>> {
        const NOTE_MAX_CHARS: usize = 128;
        let note = self.optional_text(name)?;
        Ok(note.map(|text| claudemesh_protocol::text::sanitized_line(text, NOTE_MAX_CHARS)))
    }
}

/// Deepest nesting of objects and arrays outside strings.
fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in bytes {
        if is_text {
            match (is_escaped, byte) {
                (true, _) => is_escaped = false,
                (false, b'\\') => is_escaped = true,
                (false, b'"') => is_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => is_text = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str, read: impl FnOnce(&Fields) -> ApiResult<()>) -> Option<String> {
        let fields = Fields::parse(body.as_bytes()).unwrap();
        read(&fields).err().map(|error| format!("{error:?}"))
    }

    /// HTTP-2.
    #[test]
    fn a_wrong_field_is_named() {
        for body in ["{}", r#"{"name":null}"#, r#"{"name":5}"#, r#"{"name":["x"]}"#] {
            let error = refused(body, |fields| fields.text("name").map(drop)).unwrap();
            assert!(error.contains("name"), "{error}");
        }
        assert!(
            refused(r#"{"max_uses":1.5}"#, |fields| fields.optional_integer("max_uses").map(drop))
                .is_some()
        );
        assert!(
            refused(r#"{"max_uses":3}"#, |fields| fields.optional_integer("max_uses").map(drop))
                .is_none()
        );
        assert!(refused(r#"{"k":"AB"}"#, |fields| fields.optional_key("k").map(drop)).is_some());
    }

    /// HTTP-2.
    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["[]", "5", "{", "nope", "\"text\"", "{\"a\":1}}"] {
            assert!(Fields::parse(body.as_bytes()).is_err(), "{body}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
        assert!(Fields::parse(deep.as_bytes()).is_err());
        let brackets_in_text = format!("{{\"a\":\"{}\"}}", "[".repeat(40));
        assert!(Fields::parse(brackets_in_text.as_bytes()).is_ok());
    }

    #[test]
    fn nul_is_refused_wherever_it_stands() {
        for body in [r#"{"a":"\u0000"}"#, r#"{"\u0000":1}"#, r#"{"a":{"b":["x\u0000y"]}}"#] {
            assert!(Fields::parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(Fields::parse(br#"{"a":"\\u0000"}"#).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let body =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read_body(body).await.unwrap_err().code(), ErrorCode::Timeout);
    }

    #[tokio::test]
    async fn the_largest_body_passes_and_one_byte_more_does_not() {
        let at = Body::from(vec![b' '; HTTP_BODY_MAX_BYTES]);
        assert_eq!(read_body(at).await.unwrap().len(), HTTP_BODY_MAX_BYTES);
        let over = Body::from(vec![b' '; HTTP_BODY_MAX_BYTES + 1]);
        assert_eq!(read_body(over).await.unwrap_err().code(), ErrorCode::PayloadTooLarge);
    }
}

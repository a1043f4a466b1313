//! Query parameters of a request.

use serde::Serialize;
use serde_json::Value;

use crate::error::IpcError;

/// Appends the fields of a flat struct as query parameters; absent ones are left out.
pub(super) fn with_query(path: &str, query: &impl Serialize) -> Result<String, IpcError> {
    let fields =
        serde_json::to_value(query).map_err(|error| IpcError::Malformed(error.to_string()))?;
    let mut text = path.to_owned();
    let mut separator = '?';
    for (name, value) in fields.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => continue,
            Value::String(value) => encoded(value),
            other => encoded(&other.to_string()),
        };
        text.push(separator);
        text.push_str(name);
        text.push('=');
        text.push_str(&value);
        separator = '&';
    }
    Ok(text)
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3).
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;

    #[test]
    fn query_parameters_are_encoded_and_absent_ones_left_out() {
        let query = api::InboxQuery {
            from: Some("a b&c".to_owned()),
            limit: Some(5),
            unread_only: Some(true),
            ..Default::default()
        };
        assert_eq!(
            with_query("/v1/inbox", &query).unwrap(),
            "/v1/inbox?from=a%20b%26c&limit=5&unread_only=true"
        );
        assert_eq!(with_query("/v1/version", &()).unwrap(), "/v1/version");
    }
}

//! Reading bodies, queries and path segments within their limits (daemon spec §9.5).

use std::time::Duration;

use axum::extract::Request;
use bytes::BytesMut;
use claudemesh_protocol::{ErrorCode, Timestamp};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::Failure;

/// A body that does not go on for this long is given up.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// Nesting of a JSON body.
const JSON_DEPTH_MAX: usize = 64;
/// Members of a JSON body.
const JSON_MEMBERS_MAX: usize = 10_000;

/// Body limit of small routes.
pub(super) const SMALL: usize = 4 * 1024;
/// Body limit of routes with a few fields.
pub(super) const MEDIUM: usize = 16 * 1024;
/// Body limit of routes with lists.
pub(super) const LARGE: usize = 64 * 1024;
/// Body limit of routes with message text.
pub(super) const MESSAGE: usize = claudemesh_protocol::limits::IPC_BODY_MAX_BYTES;

/// Reads a JSON body of at most `max_bytes`.
pub(super) async fn json<T: DeserializeOwned>(
    request: Request,
    max_bytes: usize,
) -> Result<T, Failure> {
    let bytes = read(request, max_bytes).await?;
    check_shape(&bytes)?;
    serde_json::from_slice(&bytes).map_err(|error| refusal(&error))
}

async fn read(request: Request, max_bytes: usize) -> Result<BytesMut, Failure> {
    let too_large = || {
        Failure::new(
            ErrorCode::PayloadTooLarge,
            format!("the body is larger than {max_bytes} bytes"),
        )
        .with("max_bytes", max_bytes)
    };
    let mut body = request.into_body();
    if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > max_bytes {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(BODY_IDLE, body.frame()).await.map_err(|_| {
            Failure::new(ErrorCode::BodyTimeout, "the body did not come within 30 s")
        })?;
        match frame {
            None => return Ok(bytes),
            Some(Err(_)) => {
                return Err(Failure::new(ErrorCode::BadRequest, "the body broke off"));
            }
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if bytes.len() + data.len() > max_bytes {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
    }
}

/// Depth and number of members, before anything is built from the text.
fn check_shape(bytes: &[u8]) -> Result<(), Failure> {
    let (mut depth, mut members, mut in_text, mut is_escaped) = (0_usize, 0_usize, false, false);
    for byte in bytes {
        if in_text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' | b':' => members += 1,
            _ => {}
        }
        if depth > JSON_DEPTH_MAX || members > JSON_MEMBERS_MAX {
            return Err(Failure::new(
                ErrorCode::InvalidJson,
                "the body is nested too deep or has too many members",
            ));
        }
    }
    Ok(())
}

/// The failure for a body that is no JSON, or lacks or mistypes a field.
fn refusal(error: &serde_json::Error) -> Failure {
    if !error.is_data() {
        let place = format!("line {}, column {}", error.line(), error.column());
        return Failure::new(ErrorCode::InvalidJson, format!("the body is no JSON at {place}"));
    }
    let text = error.to_string();
    let named = |prefix: &str| {
        let (_, rest) = text.split_once(prefix)?;
        rest.split_once('`').map(|(field, _)| field.to_owned())
    };
    if let Some(field) = named("missing field `") {
        return Failure::new(ErrorCode::MissingField, format!("\"{field}\" is missing"))
            .with("field", field);
    }
    if let Some(field) = named("unknown field `") {
        return Failure::field(&field, format!("\"{field}\" is no field of this route"));
    }
    Failure::new(ErrorCode::InvalidField, "a field has a wrong type or value")
        .with("field", Value::Null)
}

/// Reads the query string.
pub(super) fn query<T: DeserializeOwned>(request: &Request) -> Result<T, Failure> {
    axum::extract::Query::<T>::try_from_uri(request.uri())
        .map(|query| query.0)
        .map_err(|_| Failure::new(ErrorCode::InvalidField, "a query parameter has a wrong value"))
}

/// A decoded path segment; NUL and `/` are refused.
pub(super) fn segment(text: &str) -> Result<&str, Failure> {
    if text.is_empty() || text.contains(['\0', '/']) {
        return Err(Failure::new(ErrorCode::BadRequest, "the path holds no valid id"));
    }
    Ok(text)
}

/// A time: RFC 3339 or Unix milliseconds.
pub(crate) fn time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = text else { return Ok(None) };
    text.parse()
        .map(Timestamp::from_millis)
        .ok()
        .or_else(|| Timestamp::parse_iso(text))
        .map(Some)
        .ok_or_else(|| {
            Failure::field(field, format!("\"{field}\" is neither RFC 3339 nor Unix milliseconds"))
        })
}

/// A page size within its bounds.
pub(crate) fn limit(given: Option<u32>, default: u32, max: u32) -> Result<u32, Failure> {
    match given {
        None => Ok(default),
        Some(limit) if (1..=max).contains(&limit) => Ok(limit),
        Some(_) => Err(Failure::field("limit", format!("\"limit\" is a number from 1 to {max}"))),
    }
}

/// Percent-decoding without judgement, for looking at names only.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next().unwrap_or_default(), bytes.next().unwrap_or_default()];
            let mut decoded = [0];
            if hex::decode_to_slice(pair, &mut decoded).is_ok() {
                out.extend(decoded);
                continue;
            }
        }
        out.push(byte);
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_members_are_bounded_outside_texts_only() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check_shape(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        assert!(check_shape(nested(JSON_DEPTH_MAX + 1).as_bytes()).is_err());
        let text = format!("{{\"message\":\"{}\\\"{}\"}}", "[".repeat(200), ",".repeat(20_000));
        assert!(check_shape(text.as_bytes()).is_ok());
        let members = |count: usize| format!("[{}0]", "0,".repeat(count));
        assert!(check_shape(members(JSON_MEMBERS_MAX).as_bytes()).is_ok());
        assert!(check_shape(members(JSON_MEMBERS_MAX + 1).as_bytes()).is_err());
    }

    #[test]
    fn times_are_read_in_two_forms() {
        assert_eq!(time("since", Some("5")).unwrap(), Some(Timestamp::from_millis(5)));
        let iso = time("since", Some("1970-01-01T00:00:01Z")).unwrap();
        assert_eq!(iso, Some(Timestamp::from_millis(1000)));
        assert!(time("since", Some("yesterday")).is_err());
    }
}

//! JSON-RPC 2.0 as MCP uses it: reading one line from a client, and writing replies and notifications (MCP spec §3).
//!
//! Pure text in, values out; the pipes are in [`crate::stdio`], the meaning of methods in [`crate::server`].

use serde_json::{Map, Value, json};

/// The line is no JSON.
pub(crate) const PARSE_ERROR: i64 = -32700;
/// The line is JSON but no request, notification or response.
pub(crate) const INVALID_REQUEST: i64 = -32600;
/// The method is not known here.
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters do not fit the method.
pub(crate) const INVALID_PARAMS: i64 = -32602;
/// The request was understood and could not be carried out.
pub(crate) const INTERNAL_ERROR: i64 = -32603;
/// MCP: no resource under that URI.
pub(crate) const RESOURCE_NOT_FOUND: i64 = -32002;

/// What one line of a client is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    /// Wants an answer under `id`, which is echoed with its JSON type (string, number or null).
    Request {
        /// The caller's id.
        id: Value,
        /// The method name.
        method: String,
        /// Its parameters, an empty object when absent.
        params: Map<String, Value>,
    },
    /// Wants no answer.
    Notification {
        /// The method name.
        method: String,
        /// Its parameters, an empty object when absent or of another shape.
        params: Map<String, Value>,
    },
    /// An answer to a request of ours.
    Response {
        /// The id of our request.
        id: Value,
        /// The result; `None` for an error.
        result: Option<Value>,
    },
}

/// Why a line was refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    /// The id of the refused request where it could be read, else null.
    pub id: Value,
    /// JSON-RPC error code.
    pub code: i64,
    /// One sentence for the client's log.
    pub message: String,
}

impl Fault {
    /// A fault that answers request `id`.
    pub(crate) fn new(id: Value, code: i64, message: impl Into<String>) -> Self {
        Self { id, code, message: message.into() }
    }

    /// The error reply for it.
    pub(crate) fn reply(&self) -> Value {
        json!({"jsonrpc": "2.0", "id": self.id, "error": {"code": self.code, "message": self.message}})
    }
}

/// The result reply to request `id`.
pub(crate) fn result(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// A request of ours under `id`.
pub(crate) fn request(id: &Value, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A notification of ours with parameters.
pub(crate) fn notification_with(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

/// A notification of ours without parameters.
pub(crate) fn notification(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": method})
}

/// Reads one line, without its line feed.
///
/// # Errors
/// A [`Fault`] that the caller answers with: `-32700` for what is no JSON (invalid UTF-8 included), `-32600` for JSON of
/// another shape, the batch arrays of old revisions included, `-32602` for positional parameters.
pub(crate) fn parse(line: &[u8]) -> Result<Incoming, Fault> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|_| Fault::new(Value::Null, PARSE_ERROR, "the line is not JSON"))?;
    let Value::Object(mut object) = value else {
        let message = "expected one JSON-RPC object per line; batches are not supported";
        return Err(Fault::new(Value::Null, INVALID_REQUEST, message));
    };
    let id = match object.remove("id") {
        None => None,
        Some(id @ (Value::String(_) | Value::Number(_) | Value::Null)) => Some(id),
        Some(_) => {
            let message = "an id is a string, a number or null";
            return Err(Fault::new(Value::Null, INVALID_REQUEST, message));
        }
    };
    let invalid =
        |message: &str| Fault::new(id.clone().unwrap_or_default(), INVALID_REQUEST, message);
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid("jsonrpc must be \"2.0\""));
    }
    let method = match object.remove("method") {
        Some(Value::String(method)) => method,
        None if object.contains_key("result") || object.contains_key("error") => {
            return Ok(Incoming::Response {
                id: id.unwrap_or_default(),
                result: object.remove("result"),
            });
        }
        _ => return Err(invalid("method must be a string")),
    };
    let Some(id) = id else {
        let params = match object.remove("params") {
            Some(Value::Object(params)) => params,
            _ => Map::new(),
        };
        return Ok(Incoming::Notification { method, params });
    };
    match object.remove("params") {
        None | Some(Value::Null) => Ok(Incoming::Request { id, method, params: Map::new() }),
        Some(Value::Object(params)) => Ok(Incoming::Request { id, method, params }),
        Some(_) => Err(Fault::new(id, INVALID_PARAMS, "params must be an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_json_type() {
        for id in [json!("a"), json!(7), json!(1.5), Value::Null] {
            let line = json!({"jsonrpc": "2.0", "id": id, "method": "ping"}).to_string();
            let Ok(Incoming::Request { id: read, .. }) = parse(line.as_bytes()) else {
                panic!("{line}")
            };
            assert_eq!(read, id);
        }
    }

    #[test]
    fn what_is_no_request_gets_its_code() {
        for (line, code, id) in [
            ("{", PARSE_ERROR, Value::Null),
            ("", PARSE_ERROR, Value::Null),
            ("[]", INVALID_REQUEST, Value::Null),
            ("17", INVALID_REQUEST, Value::Null),
            ("{}", INVALID_REQUEST, Value::Null),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, INVALID_REQUEST, Value::Null),
            (r#"{"jsonrpc":"1.0","id":4,"method":"ping"}"#, INVALID_REQUEST, json!(4)),
            (r#"{"jsonrpc":"2.0","id":5,"method":6}"#, INVALID_REQUEST, json!(5)),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":"ping","params":[1]}"#,
                INVALID_PARAMS,
                json!("x"),
            ),
        ] {
            let fault = parse(line.as_bytes()).unwrap_err();
            assert_eq!((fault.code, &fault.id), (code, &id), "{line}");
        }
        assert_eq!(parse(b"{\"jsonrpc\":\"2.0\",\"id\":1\xff}").unwrap_err().code, PARSE_ERROR);
    }

    #[test]
    fn notifications_and_responses_want_no_answer() {
        let line = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(
            parse(line),
            Ok(Incoming::Notification {
                method: "notifications/initialized".into(),
                params: Map::new()
            })
        );
        let response = |result| Ok(Incoming::Response { id: json!(1), result });
        let line = br#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        assert_eq!(parse(line), response(Some(json!({}))));
        let line = br#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#;
        assert_eq!(parse(line), response(None));
    }
}

//! Errors of the local API (daemon spec §9.4). The request id is added at the gate, which knows it.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::error::ErrorBody;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value};

use crate::storage::{Causes, StorageError};

/// A refused or failed request. Boxed, since it is the rare side of every result here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    status: u16,
    code: String,
    message: String,
    hint: Option<String>,
    extra: Map<String, Value>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with the status of its code.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::with_status(code.http_status(), code.as_str(), message.into())
    }

    /// A broker's error, passed on under its own code.
    pub(crate) fn of_broker(code: &str, message: impl Into<String>) -> Self {
        const BAD_GATEWAY: u16 = 502;
        let status = ErrorCode::parse(code).map_or(BAD_GATEWAY, ErrorCode::http_status);
        Self::with_status(status, code, message.into())
    }

    fn with_status(status: u16, code: &str, message: String) -> Self {
        Self(Box::new(Parts {
            status,
            code: code.to_owned(),
            message,
            hint: None,
            extra: Map::new(),
            retry_after: None,
        }))
    }

    /// A field has a wrong value.
    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidField, message).with("field", field)
    }

    /// With a named extra field.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(name.to_owned(), value.into());
        self
    }

    /// With several.
    pub(crate) fn with_all(mut self, fields: Map<String, Value>) -> Self {
        self.0.extra.extend(fields);
        self
    }

    /// With what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// With when to try again; rounded up to seconds.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &str {
        &self.0.code
    }

    /// One sentence for people.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// Status, body, and when to try again.
    pub(crate) fn into_body(self, request_id: String) -> (u16, ErrorBody, Option<Duration>) {
        let Parts { status, code, message, hint, extra, retry_after } = *self.0;
        (status, ErrorBody { error: code, message, hint, request_id, extra }, retry_after)
    }

    /// The answer, complete.
    pub(crate) fn into_answer(self, request_id: &str) -> Response {
        let (status, body, retry_after) = self.into_body(request_id.to_owned());
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(axum::body::Body::new(Full::from(bytes)));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        if let Some(wait) = retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = seconds.to_string().parse() {
                headers.insert(RETRY_AFTER, value);
            }
        }
        response
    }
}

/// The gate replaces this by the complete answer.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Full => Self::new(
                ErrorCode::InsufficientStorage,
                "no space is left for messages on this disk",
            )
            .hint("free some space, then try again"),
            StorageError::Unavailable(_) => {
                tracing::warn!(error = %Causes(&error), "storage_unavailable");
                Self::new(ErrorCode::Unavailable, "the message database is busy")
            }
            StorageError::Failed(_) => {
                tracing::error!(error = %Causes(&error), "storage_failed");
                Self::new(ErrorCode::Internal, "the message database failed")
            }
        }
    }
}

pub(crate) async fn not_found() -> Failure {
    Failure::new(ErrorCode::NotFound, "no such route")
}

pub(crate) async fn method_not_allowed() -> Failure {
    Failure::new(ErrorCode::MethodNotAllowed, "this route does not have that method")
}

//! HTTP errors: one type that every handler answers with, and the one place that turns it into a body.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::error::ErrorBody;
use claudemesh_store::StoreError;
use serde_json::{Map, Value};

use crate::edge::limit::Limited;

/// What a handler answers instead of a result. The request id is added by the outermost layer.
#[derive(Debug, Clone)]
pub(crate) struct ApiError(Box<Failure>);

/// Boxed, so that a result of a handler is small.
#[derive(Debug, Clone)]
struct Failure {
    code: ErrorCode,
    status: StatusCode,
    message: String,
    hint: Option<&'static str>,
    extra: Map<String, Value>,
    retry_after_seconds: Option<u64>,
}

/// Result of a handler.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error with the status of its code.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.http_status());
        Self(Box::new(Failure {
            code,
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            message: message.into(),
            hint: None,
            extra: Map::new(),
            retry_after_seconds: None,
        }))
    }

    /// A field of the body is missing or wrong; 400 `malformed` that names it.
    pub(crate) fn field(name: &str, expected: &str) -> Self {
        Self::new(ErrorCode::Malformed, format!("field \"{name}\": expected {expected}"))
            .with("field", name)
    }

    /// Nothing the caller may see has that name.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("{what} not found"))
    }

    /// The same code under another status than usual.
    #[must_use]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: &'static str) -> Self {
        self.0.hint = Some(hint);
        self
    }

    /// Adds a named field.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Says when another try can succeed, in the body and as `Retry-After`.
    #[must_use]
    pub(crate) fn retry_after_seconds(mut self, seconds: u64) -> Self {
        self.0.retry_after_seconds = Some(seconds);
        self.with("retry_after_ms", seconds.saturating_mul(1000))
    }

    /// Adds `"ok": false`, for routes that always carried it.
    #[must_use]
    pub(crate) fn with_ok_false(self) -> Self {
        self.with("ok", false)
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The complete response.
    pub(crate) fn render(self, request_id: &str) -> Response {
        let failure = *self.0;
        let body = ErrorBody {
            error: failure.code.as_str().to_owned(),
            message: failure.message,
            hint: failure.hint.map(str::to_owned),
            request_id: request_id.to_owned(),
            extra: failure.extra,
        };
        let mut response = (failure.status, axum::Json(body)).into_response();
        if let Some(seconds) = failure.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// Carries the error outward; the outermost layer renders it with the request id.
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Limited> for ApiError {
    fn from(limited: Limited) -> Self {
        Self::new(ErrorCode::RateLimited, "too many requests")
            .retry_after_seconds(limited.retry_after_seconds)
    }
}

impl From<StoreError> for ApiError {
    /// Internal text stays in the log.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Full | StoreError::Closed => {
                tracing::warn!(%error, "store refused a request");
                Self::new(ErrorCode::Unavailable, "the broker cannot reach its database")
                    .hint("try again")
            }
            other => {
                tracing::error!(error = %other, source = ?std::error::Error::source(&other), "store failed");
                Self::internal()
            }
        }
    }
}

impl ApiError {
    /// Something that should not have happened; the log has the cause.
    pub(crate) fn internal() -> Self {
        Self::new(ErrorCode::Internal, "internal error")
    }
}

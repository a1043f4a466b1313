//! Why a tool call failed, in the words of the daemon (MCP spec §6).

use claudemesh_ipc::IpcError;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::ops::{Class, Operation};
use serde_json::{Map, Value, json};

/// How a daemon is started by hand.
pub(crate) const START_COMMAND: &str = "start it with: claudemesh daemon up";

/// A failed call; the model reads it as the result of its call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    code: String,
    message: String,
    hint: Option<String>,
    retry_after_ms: Option<u64>,
    extra: Map<String, Value>,
}

impl Failure {
    /// A failure under a stable code.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            hint: None,
            retry_after_ms: None,
            extra: Map::new(),
        }
    }

    /// With what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the wait after which another try makes sense.
    #[must_use]
    pub(crate) const fn retry_after_ms(mut self, millis: u64) -> Self {
        self.retry_after_ms = Some(millis);
        self
    }

    /// With a named extra field.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Every place is taken.
    pub(crate) fn busy() -> Self {
        Self::new(ErrorCode::RateLimited.as_str(), "too many calls are running")
            .retry_after_ms(1000)
    }

    /// The daemon could not be reached; nothing was done.
    pub(crate) fn unreachable(code: ErrorCode, reason: &str) -> Self {
        let failure = Self::new(code.as_str(), reason);
        match code {
            ErrorCode::DaemonUnreachable => {
                let message = format!("the claudemesh daemon is not running ({reason})");
                Self { message, ..failure }.hint(START_COMMAND)
            }
            _ => failure,
        }
    }

    /// A call that was sent and has no answer that tells what became of it.
    pub(crate) fn unknown_outcome(spec: &Operation, what: &str) -> Self {
        let failure = Self::new(
            ErrorCode::OutcomeUnknown.as_str(),
            format!("{what}; {} may have happened", spec.name),
        );
        failure.hint(if spec.is_idempotent {
            "the same call may be repeated"
        } else {
            "look before you repeat it"
        })
    }

    /// An answer of the daemon that is no result, or none at all.
    pub(crate) fn of_ipc(error: &IpcError, spec: &Operation) -> Self {
        match error {
            IpcError::Api(answer) => {
                let body = &answer.body;
                Self {
                    code: body.error.clone(),
                    message: body.message.clone(),
                    hint: body.hint.clone(),
                    retry_after_ms: answer
                        .retry_after
                        .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                    extra: body.extra.clone(),
                }
            }
            IpcError::TimedOut(_) | IpcError::Broken(_) if spec.class != Class::Read => {
                Self::unknown_outcome(spec, &error.to_string())
            }
            IpcError::NotRunning(_) | IpcError::TimedOut(_) | IpcError::Broken(_) => {
                Self::unreachable(ErrorCode::DaemonUnreachable, &error.to_string())
            }
            _ => Self::new(error.code().as_str(), error.to_string()),
        }
    }

    /// For a reader: the sentence and what to do.
    pub(crate) fn text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}: {} ({hint})", self.code, self.message),
            None => format!("{}: {}", self.code, self.message),
        }
    }

    /// `{error: {code, message, hint?, retry_after_ms?, …}}`.
    pub(crate) fn structured(&self) -> Value {
        let mut error = self.extra.clone();
        error.insert("code".to_owned(), self.code.as_str().into());
        error.insert("message".to_owned(), self.message.as_str().into());
        if let Some(hint) = &self.hint {
            error.insert("hint".to_owned(), hint.as_str().into());
        }
        if let Some(millis) = self.retry_after_ms {
            error.insert("retry_after_ms".to_owned(), millis.into());
        }
        json!({ "error": error })
    }
}

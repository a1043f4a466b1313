//! What can go wrong between a client and the daemon, each with the exit code of the command that met it.

use std::time::Duration;

use claudemesh_protocol::error::{ErrorBody, ErrorCode, ExitCode};

/// The daemon answered with an error (daemon spec §9.4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", body.message)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Box<ErrorBody>,
    /// `Retry-After`, when sent.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// The stable code, when it is one this build knows.
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::parse(&self.body.error)
    }

    /// The exit code of a command that failed with it.
    pub fn exit_code(&self) -> ExitCode {
        match (self.code(), self.status) {
            (Some(code), _) => code.exit_code(),
            (None, 401) => ExitCode::Auth,
            (None, 403) => ExitCode::PermissionDenied,
            (None, 404) => ExitCode::NotFound,
            (None, 400..=499) => ExitCode::InvalidArgs,
            (None, 502..=504) => ExitCode::Network,
            (None, _) => ExitCode::Internal,
        }
    }

    /// A named extra field of the body.
    pub fn extra(&self, name: &str) -> Option<&serde_json::Value> {
        self.body.extra.get(name)
    }
}

/// A call to the daemon did not give its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpcError {
    /// Nobody listens: no socket, or a stale one. Nothing was sent.
    #[error("the daemon does not answer")]
    NotRunning(#[source] std::io::Error),
    /// No answer in time; a write may have happened.
    #[error("the daemon did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection broke on the way; a write may have happened.
    #[error("the connection to the daemon broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what the API promises.
    #[error("the daemon's answer cannot be read: {0}")]
    Malformed(String),
    /// The daemon speaks another API.
    #[error("the daemon speaks the local API \"{0}\", this program \"v1\"")]
    Incompatible(String),
    /// The daemon refused or failed.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl IpcError {
    /// The exit code of a command that failed with it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotRunning(_) | Self::TimedOut(_) | Self::Broken(_) => ExitCode::Network,
            Self::Malformed(_) | Self::Incompatible(_) => ExitCode::Internal,
            Self::Api(error) => error.exit_code(),
        }
    }

    /// The stable code: the daemon's own, `daemon_unreachable` when it was not reached, `internal` otherwise.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotRunning(_) | Self::TimedOut(_) | Self::Broken(_) => {
                ErrorCode::DaemonUnreachable
            }
            Self::Malformed(_) | Self::Incompatible(_) => ErrorCode::Internal,
            Self::Api(error) => error.code().unwrap_or(ErrorCode::Internal),
        }
    }

    /// The daemon's own answer, when it gave one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }

    /// True when the daemon answered with `code`.
    pub fn is(&self, code: ErrorCode) -> bool {
        self.api().is_some_and(|error| error.code() == Some(code))
    }
}

//! What went wrong, as the command line says it: one sentence, why, one action, one exit code (CLI spec §1.6, §1.8).

use claudemesh_protocol::error::{ErrorBody, ErrorCode, ExitCode};
use serde_json::{Map, Value};

/// A failed command. Printed once, at the end of `main`, for people or as the JSON error object.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Stable word (`error` in JSON).
    pub(crate) code: String,
    /// One sentence, the offending value quoted.
    pub(crate) message: String,
    /// Why, what is expected, candidates: one line each.
    pub(crate) details: Vec<String>,
    /// The one thing to do next, without the arrow.
    pub(crate) action: Option<String>,
    /// Process exit code.
    pub(crate) exit: u8,
    /// What is rarely printed.
    pub(crate) background: Box<Background>,
}

/// The part of a failure that stands behind the sentence.
#[derive(Debug, Clone, Default)]
pub(crate) struct Background {
    /// Fields the JSON object carries besides the fixed ones.
    pub(crate) extra: Map<String, Value>,
    /// What a person sees only with `--debug`: the cause chain.
    pub(crate) causes: Vec<String>,
}

/// What every verb gives back.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure of a known code, with the exit code of the table.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::of_word(code.as_str(), message)
    }

    /// A failure under any code word.
    pub(crate) fn of_word(word: &str, message: impl Into<String>) -> Self {
        Self {
            code: word.to_owned(),
            message: message.into(),
            details: Vec::new(),
            action: None,
            exit: exit_of(word) as u8,
            background: Box::default(),
        }
    }

    /// Bad input.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgs, message)
    }

    /// Something that is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// A local file or database failed.
    pub(crate) fn io(message: impl Into<String>, cause: &dyn std::error::Error) -> Self {
        Self::new(ErrorCode::Io, message).detail(cause.to_string()).caused_by(cause)
    }

    /// A bug, or a reply that makes no sense.
    pub(crate) fn internal(cause: &dyn std::error::Error) -> Self {
        Self::new(ErrorCode::Internal, "internal error")
            .action("re-run with --debug and report")
            .caused_by(cause)
    }

    /// Adds a line below the sentence.
    #[must_use]
    pub(crate) fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Sets the one action.
    #[must_use]
    pub(crate) fn action(mut self, action: impl Into<String>) -> Self {
        self.action = Some(action.into());
        self
    }

    /// Sets another exit code than the one of the code word.
    #[must_use]
    pub(crate) fn exit(mut self, exit: ExitCode) -> Self {
        self.exit = exit as u8;
        self
    }

    /// Adds a field to the JSON object.
    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.background.extra.insert(key.to_owned(), value.into());
        self
    }

    /// Remembers the cause chain for `--debug`.
    #[must_use]
    pub(crate) fn caused_by(mut self, cause: &dyn std::error::Error) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            self.background.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// An error body of the broker or of the local API, in its own words.
    pub(crate) fn from_body(body: ErrorBody) -> Self {
        let message =
            if body.message.is_empty() { body.error.replace('_', " ") } else { body.message };
        let mut failure = Self::of_word(&body.error, without_code(&body.error, &message));
        failure.action = body.hint;
        failure.background.extra = body.extra;
        if let Some(candidates) =
            failure.background.extra.get("candidates").and_then(Value::as_array)
        {
            failure.details.extend(candidates.iter().filter_map(candidate_line));
        }
        failure
    }
}

/// `name prefix… @mesh` of one entry of `candidates`.
fn candidate_line(candidate: &Value) -> Option<String> {
    if let Some(text) = candidate.as_str() {
        return Some(claudemesh_protocol::text::sanitized_line(text, 100));
    }
    let field = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| candidate.get(*name))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let name = claudemesh_protocol::text::sanitized_line(
        field(&["display_name", "displayName", "name"]),
        40,
    );
    let key: String = field(&["pubkey", "key"]).chars().take(16).collect();
    let mesh = field(&["mesh"]);
    let place = if mesh.is_empty() { String::new() } else { format!(" @{mesh}") };
    (!key.is_empty()).then(|| format!("{name} {key}…{place}"))
}

/// Some servers write `code: sentence`; the code stands in a field of its own already.
fn without_code(code: &str, message: &str) -> String {
    message
        .strip_prefix(code)
        .and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(message)
        .to_owned()
}

/// The table of CLI spec §1.6, first matching row.
pub(crate) fn exit_of(word: &str) -> ExitCode {
    match word {
        "revoked" | "expired" | "api_key_missing" | "api_key_invalid" | "session_expired"
        | "reauth_required" | "token_already_used" => return ExitCode::Auth,
        "limit" | "quota_exceeded" | "topic_exists" | "version_conflict" | "epoch_conflict" => {
            return ExitCode::AlreadyExists;
        }
        "scope_missing" | "policy_denied" | "admin_managed" => return ExitCode::PermissionDenied,
        _ => {}
    }
    match ErrorCode::parse(word) {
        Some(code) => code.exit_code(),
        None if word.ends_with("_not_found") => ExitCode::NotFound,
        None if word.starts_with("invalid_") => ExitCode::InvalidArgs,
        None => ExitCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_map_to_the_documented_exit_codes() {
        for (word, exit) in [
            ("unauthorized", 2),
            ("bad_signature", 2),
            ("revoked", 2),
            ("expired", 2),
            ("missing_bearer_token", 2),
            ("invalid_or_revoked_token", 2),
            ("invalid", 3),
            ("invalid_args", 3),
            ("malformed", 3),
            ("payload_too_large", 3),
            ("mesh_required", 3),
            ("ambiguous_target", 3),
            ("encryption_required", 3),
            ("invalid_something_new", 3),
            ("validation", 3),
            ("timeout", 4),
            ("rate_limited", 4),
            ("broker_unavailable", 4),
            ("daemon_unreachable", 4),
            ("recipient_offline", 4),
            ("queue_full", 4),
            ("unavailable", 4),
            ("not_found", 5),
            ("target_not_found", 5),
            ("mesh_not_attached", 5),
            ("thing_not_found", 5),
            ("mesh_archived", 5),
            ("idempotency_conflict", 6),
            ("slug_taken", 6),
            ("setup_done", 6),
            ("limit", 6),
            ("forbidden", 7),
            ("loop_stopped", 7),
            ("scope_missing", 7),
            ("something_else", 8),
            ("internal", 8),
            ("io_error", 10),
        ] {
            assert_eq!(exit_of(word) as u8, exit, "{word}");
        }
    }

    #[test]
    fn a_server_sentence_is_kept_without_its_code() {
        let body = ErrorBody {
            error: "slug_taken".into(),
            message: "slug_taken: \"home\" is taken".into(),
            hint: None,
            request_id: String::new(),
            extra: Map::new(),
        };
        let failure = Failure::from_body(body);
        assert_eq!(failure.message, "\"home\" is taken");
        assert_eq!(failure.exit, 6);
    }
}

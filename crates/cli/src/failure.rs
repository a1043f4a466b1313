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
        if let ("forbidden", Some(capability)) =
            (failure.code.as_str(), failure.background.extra.get("cap").and_then(Value::as_str))
        {
            failure.message = format!("this session lacks the \"{capability}\" capability");
            let way = format!("start the session with {capability} among its --caps");
            failure.action = failure.action.or(Some(way));
        }
        if let Some(candidates) =
            failure.background.extra.get("candidates").and_then(Value::as_array)
        {
            failure.details.extend(candidates.iter().filter_map(candidate_line));
        }
        failure.with_way_to_permission()
    }

    /// A permission that is missing, with who can give it (wire spec §1.5 fixes the sentence).
    #[must_use]
    pub(crate) fn with_way_to_permission(mut self) -> Self {
        let missing = self.message.strip_prefix("missing permission \"");
        if let (Some(permission), "forbidden", None) = (missing, self.code.as_str(), &self.action) {
            let permission = permission.trim_end_matches('"');
            self.action =
                Some(format!("ask the owner: claudemesh member allow <your name> {permission}"));
        }
        self
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
        "not_unique" | "topic_unencrypted" | "not_encrypted" | "unknown_template" => {
            return ExitCode::InvalidArgs;
        }
        "slow_down" | "busy" | "key_not_sealed_for_member" => return ExitCode::Network,
        "limit" | "quota_exceeded" | "topic_exists" | "webhook_exists" | "already_encrypted"
        | "already_sealed" | "version_conflict" | "epoch_conflict" | "task_not_claimable" => {
            return ExitCode::AlreadyExists;
        }
        "scope_missing"
        | "policy_denied"
        | "admin_managed"
        | "not_web_member"
        | "user_scope_required"
        | "api_key_missing_capability"
        | "api_key_topic_out_of_scope"
        | "url_blocked" => return ExitCode::PermissionDenied,
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
        // The rows of the specification, word for word, then what follows from them.
        for (words, exit) in [
            (
                "unauthorized bad_signature revoked expired missing_bearer_token empty_bearer_token \
                 invalid_or_revoked_token api_key_missing api_key_invalid session_expired \
                 reauth_required token_already_used",
                2,
            ),
            (
                "invalid invalid_args invalid_field invalid_request malformed missing_field \
                 payload_too_large too_large mesh_required ambiguous_target ambiguous_prefix \
                 not_unique encryption_required topic_unencrypted not_encrypted validation \
                 unknown_template invalid_cron invalid_something_new",
                3,
            ),
            (
                "timeout rate_limited slow_down broker_unavailable broker_timeout \
                 daemon_unreachable recipient_offline unavailable queue_full busy \
                 key_not_sealed_for_member",
                4,
            ),
            (
                "not_found target_not_found topic_not_found thing_not_found mesh_not_attached \
                 mesh_archived",
                5,
            ),
            (
                "idempotency_conflict slug_taken topic_exists webhook_exists already_encrypted \
                 already_sealed epoch_conflict version_conflict task_not_claimable limit \
                 quota_exceeded setup_done",
                6,
            ),
            (
                "forbidden loop_stopped scope_missing policy_denied admin_managed not_web_member \
                 user_scope_required api_key_missing_capability api_key_topic_out_of_scope \
                 url_blocked",
                7,
            ),
            ("something_else internal", 8),
            ("io_error", 10),
        ] {
            for word in words.split_whitespace() {
                assert_eq!(exit_of(word) as u8, exit, "{word}");
            }
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

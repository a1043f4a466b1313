//! What a hook says on its standard output (daemon spec §16.3, §16.6): nothing, or one JSON object.

use claudemesh_protocol::Priority;
use claudemesh_protocol::limits::HOOK_REASON_MAX_CHARS;
use claudemesh_protocol::text::sanitized_line;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The output is neither nothing nor an object of the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hook's output is no JSON object of the expected form")]
pub(super) struct BadOutput;

/// What a hook that heard of something wants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(super) struct Answer {
    /// Sent to where the event came from.
    pub(super) reply: Option<String>,
    /// Its urgency.
    #[serde(default)]
    pub(super) priority: Option<Priority>,
}

impl Answer {
    /// Reads standard output; other fields are left for later versions.
    ///
    /// # Errors
    /// [`BadOutput`].
    pub(super) fn read(stdout: &[u8]) -> Result<Self, BadOutput> {
        let answer: Self = object(stdout)?.unwrap_or_default();
        if answer.reply.as_deref() == Some("") { Err(BadOutput) } else { Ok(answer) }
    }
}

/// What `pre-send` says about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes out.
    Allow,
    /// It does not.
    Deny(String),
    /// This goes out in its place.
    Replace(String),
}

#[derive(Deserialize)]
struct Said {
    action: String,
    reason: Option<String>,
    message: Option<String>,
}

impl Verdict {
    /// Reads standard output; nothing is [`Verdict::Allow`].
    ///
    /// # Errors
    /// [`BadOutput`].
    pub(super) fn read(stdout: &[u8]) -> Result<Self, BadOutput> {
        let Some(said) = object::<Said>(stdout)? else { return Ok(Self::Allow) };
        match (said.action.as_str(), said.message) {
            ("allow", _) => Ok(Self::Allow),
            ("deny", _) => {
                let reason = said.reason.unwrap_or_default();
                Ok(Self::Deny(sanitized_line(&reason, HOOK_REASON_MAX_CHARS)))
            }
            ("replace", Some(message)) => Ok(Self::Replace(message)),
            _ => Err(BadOutput),
        }
    }
}

fn object<T: DeserializeOwned>(stdout: &[u8]) -> Result<Option<T>, BadOutput> {
    if stdout.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(stdout).map(Some).map_err(|_| BadOutput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_nothing_or_one_object() {
        assert_eq!(Answer::read(b" \n").unwrap(), Answer::default());
        let answer = Answer::read(b"{\"reply\":\"hi\",\"priority\":\"low\",\"new\":1}\n").unwrap();
        assert_eq!(answer, Answer { reply: Some("hi".to_owned()), priority: Some(Priority::Low) });
        assert_eq!(Answer::read(b"{}").unwrap(), Answer::default());
        for bad in ["hi", "{\"reply\":1}", "{}{}", "{\"reply\":\"\"}", "{\"reply\":\"a\"", "\"x\""]
        {
            assert_eq!(Answer::read(bad.as_bytes()), Err(BadOutput), "{bad}");
        }
        assert_eq!(Answer::read(b"\xff"), Err(BadOutput));
    }

    #[test]
    fn verdicts_are_three() {
        assert_eq!(Verdict::read(b"").unwrap(), Verdict::Allow);
        assert_eq!(Verdict::read(b"{\"action\":\"allow\"}").unwrap(), Verdict::Allow);
        let deny = Verdict::read(b"{\"action\":\"deny\",\"reason\":\"a\\u001b[31m\\nb\"}").unwrap();
        assert!(matches!(deny, Verdict::Deny(reason) if !reason.contains(['\u{1b}', '\n'])));
        assert_eq!(Verdict::read(b"{\"action\":\"deny\"}").unwrap(), Verdict::Deny(String::new()));
        let replace = Verdict::read(b"{\"action\":\"replace\",\"message\":\"x\"}").unwrap();
        assert_eq!(replace, Verdict::Replace("x".to_owned()));
        for bad in ["{\"action\":\"replace\"}", "{\"action\":\"else\"}", "{}", "ok", "null"] {
            assert_eq!(Verdict::read(bad.as_bytes()), Err(BadOutput), "{bad}");
        }
    }
}

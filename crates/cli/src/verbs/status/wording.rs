//! One recipient of a message in words: how far the message came, since when, who says so, what happened, what comes
//! next. The words of the wire stay in the JSON.

use claudemesh_protocol::{PublicKey, Timestamp};
use serde_json::Value;

use super::{KEY_SHOWN_CHARS, NAME_MAX_CHARS};
use crate::context::Context;
use crate::output::{Line, Screen, Token};

/// What is told about one recipient; empty where nothing is.
pub(super) struct Told<'a> {
    name: &'a str,
    key: &'a str,
    state: &'a str,
    since: Option<Timestamp>,
    asserted_by: &'a str,
    path: &'a str,
    evidence: &'a str,
    reason: &'a str,
    next: &'a str,
    /// The broker's refusal, a sentence.
    refusal: &'a str,
}

impl<'a> Told<'a> {
    pub(super) fn read(recipient: &'a Value, refusal: Option<&'a str>) -> Self {
        let text = |key: &str| recipient.get(key).and_then(Value::as_str).unwrap_or_default();
        Self {
            // A key says nothing in a sentence.
            name: Some(text("name")).filter(|name| !is_key(name)).unwrap_or_default(),
            key: text("pubkey"),
            // A broker of older days knows no state.
            state: Some(text("state")).filter(|state| !state.is_empty()).unwrap_or(text("status")),
            since: Timestamp::parse_iso(text("since")),
            asserted_by: text("assertedBy"),
            path: text("path"),
            evidence: text("evidence"),
            reason: text("reason"),
            next: text("next"),
            refusal: refusal.unwrap_or_default(),
        }
    }

    /// A line for what is known, one for what happened, one for what comes next.
    pub(super) fn show(&self, screen: &mut Screen, now: Timestamp) {
        let mut line = Line::new().foreign(Token::Accent, &self.who());
        if !self.name.is_empty() && is_key(self.key) {
            let short: String = self.key.chars().take(KEY_SHOWN_CHARS).collect();
            line = line.foreign(Token::Dim, &format!(" {short}"));
        }
        line = line.put(Token::Dim, " · ").foreign(Token::Plain, &self.word());
        if let Some(since) = self.since {
            line = line.put(Token::Dim, format!(" {}", Context::age_of(since)));
        }
        if let Some(by) = self.says() {
            line = line.foreign(Token::Dim, &format!(" (says {by})"));
        }
        screen.line(line.cut());
        let happened = self.happened();
        if !happened.is_empty() {
            screen.line(Line::new().indent(INDENT).foreign(Token::Plain, &happened).cut());
        }
        if !self.next.is_empty() {
            let next = match self.state {
                "handed" => "next: the agent's own record shows when it is read".to_owned(),
                _ if self.next.starts_with("waits ") => {
                    format!("it {}", with_spans(self.next, now))
                }
                _ => format!("next: {}", with_spans(self.next, now)),
            };
            screen.line(Line::new().indent(INDENT).foreign(Token::Dim, &next));
        }
    }

    fn who(&self) -> String {
        if self.name.is_empty() {
            let short: String = self.key.chars().take(KEY_SHOWN_CHARS).collect();
            return format!("{short}…");
        }
        claudemesh_protocol::text::sanitized_line(self.name, NAME_MAX_CHARS)
    }

    /// The state in words of people.
    fn word(&self) -> String {
        match (self.state, self.reason) {
            ("refused", "aborted") => "dropped".to_owned(),
            (state, _) => state.replace('_', " "),
        }
    }

    /// The name in a sentence.
    fn they(&self) -> &'a str {
        if self.name.is_empty() { "the recipient" } else { self.name }
    }

    fn says(&self) -> Option<String> {
        let they = self.they();
        Some(match self.asserted_by {
            "" => return None,
            "broker" => "the broker".to_owned(),
            "recipient_daemon" => format!("{they}'s daemon"),
            "agent_record" => format!("the record of {they}'s agent"),
            "sender_daemon" => "this machine".to_owned(),
            other => other.replace('_', " "),
        })
    }

    /// What happened, in one sentence; empty when the state says it all.
    fn happened(&self) -> String {
        let they = self.they();
        match self.state {
            "accepted" => "the broker has it on disk".to_owned(),
            "on_device" => {
                format!("{they}'s machine has it on disk; no agent has been given it yet")
            }
            "handed" => self.handed(),
            "in_context" => format!("{they}'s agent is reading it{}", self.shown_by()),
            "turn_ended" => {
                format!(
                    "{they}'s agent has finished the turn in which it read it{}",
                    self.shown_by()
                )
            }
            "answered" if self.evidence.is_empty() => format!("{they} has answered"),
            "answered" => format!("{} has answered", self.evidence),
            "held" => self.held(),
            "deferred" => match self.reason {
                "dnd" => format!("{they} is not to be disturbed"),
                _ => format!("{they} is busy"),
            },
            "rerouted" => match self.reason {
                "session_ended" => {
                    format!("the session it was for has ended; it goes to {they}'s inbox instead")
                }
                "merged" => format!("{they} has it already, by another way"),
                _ => format!("it goes to {they}'s inbox instead"),
            },
            "session_gone" => "the session it was for ended before it was shown there".to_owned(),
            "unreadable" => format!("{they} cannot open it: it was sealed for another key"),
            "refused" => self.refused(),
            "expired" => match self.reason {
                "max_age_exceeded" => "it was too old when it could be sent".to_owned(),
                _ => "its time was over before it was delivered".to_owned(),
            },
            _ => self.reason.replace('_', " "),
        }
    }

    fn handed(&self) -> String {
        let they = if self.evidence.is_empty() { self.they() } else { self.evidence };
        match self.path {
            "channel" | "mcp_channel" => format!("it was pushed into the conversation of {they}"),
            "inbox" | "" => format!("{they} has listed it from the inbox"),
            path if path.starts_with("hook:") => format!("a hook of {they}'s agent took it along"),
            path => format!("it was given to {they} by {}", path.replace('_', " ")),
        }
    }

    /// Where the agent's own record shows it.
    fn shown_by(&self) -> String {
        match self.evidence {
            "" => String::new(),
            evidence => format!(" ({evidence})"),
        }
    }

    fn held(&self) -> String {
        let they = self.they();
        match self.reason {
            "absent" => format!("{they} is not connected; the broker keeps it on disk"),
            "busy" => format!("{they}'s agent is busy; it is on {they}'s machine"),
            "dnd" => format!("{they} is not to be disturbed; it is on {they}'s machine"),
            "dialog" => format!("a dialog is open in {they}'s session; it is on {they}'s machine"),
            "approval" => format!("a person has to approve it on {they}'s machine"),
            "recipient_removed" => format!("{they} is no member of the mesh any more"),
            "sender_removed" => "who sent it is no member of the mesh any more".to_owned(),
            "broker_unreachable" => {
                "the broker cannot be reached; it is kept on this machine".to_owned()
            }
            "sending" => "it is on disk on this machine".to_owned(),
            "" => "it waits".to_owned(),
            reason => match self.refusal {
                "" => reason.replace('_', " "),
                refusal => format!("not sent yet: {}", without_code(refusal, reason)),
            },
        }
    }

    fn refused(&self) -> String {
        let they = self.they();
        match (self.reason, self.asserted_by) {
            ("aborted", _) => "it was taken out of the outbox before it was sent".to_owned(),
            ("forbidden", _) if self.refusal.contains("recipient grants") => {
                format!("the broker refused it: {they} does not take messages from you")
            }
            (reason, _) if !self.refusal.is_empty() => {
                format!("the broker refused it: {}", without_code(self.refusal, reason))
            }
            ("blocked", _) => format!("{they} does not take messages from you"),
            ("", _) => format!("it was not let through to {they}"),
            (reason, _) => {
                format!("it was not let through to {they}: {}", reason.replace('_', " "))
            }
        }
    }
}

fn is_key(text: &str) -> bool {
    text.parse::<PublicKey>().is_ok()
}

/// Under the recipient's line.
const INDENT: usize = 4;

/// The sentence of a refusal that begins with its own code.
fn without_code<'a>(refusal: &'a str, code: &str) -> &'a str {
    let rest = refusal.strip_prefix(code).and_then(|rest| rest.strip_prefix(": "));
    rest.unwrap_or(refusal)
}

/// A sentence with its points in time as spans from now: "expires in 6d".
fn with_spans(sentence: &str, now: Timestamp) -> String {
    let words = sentence.split(' ').map(|word| match Timestamp::parse_iso(word) {
        Some(at) if at > now => format!("in {}", Context::span(at.since(now))),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::wire::ReceiptState;
    use serde_json::json;

    use super::*;

    fn shown(recipient: &Value, refusal: Option<&str>) -> String {
        let mut screen = Screen::new();
        Told::read(recipient, refusal).show(&mut screen, Context::now());
        let style = crate::output::Style { colour: false, unicode: true, width: None };
        screen.render(style, crate::output::screen::WithHint::Yes)
    }

    #[test]
    fn every_state_reads_as_a_sentence_without_words_of_the_wire() {
        for state in ReceiptState::ALL {
            for by in ["broker", "recipient_daemon", "agent_record", "sender_daemon"] {
                let recipient = json!({
                    "name": "Bob", "pubkey": "ab".repeat(32), "state": state, "assertedBy": by,
                    "since": "2026-01-01T00:00:00.000Z",
                });
                let text = shown(&recipient, None);
                assert!(!text.contains('_'), "{text}");
                assert!(text.lines().count() == 2, "{text}");
                assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
            }
        }
    }

    #[test]
    fn points_in_time_become_spans() {
        let at = Timestamp::parse_iso("2026-01-01T00:00:00.000Z").unwrap();
        let told = with_spans("waits until Bob connects, expires 2026-01-07T01:00:00.000Z", at);
        assert_eq!(told, "waits until Bob connects, expires in 6d");
        assert_eq!(
            with_spans("tried again in 3 s (attempt 2)", at),
            "tried again in 3 s (attempt 2)"
        );
    }

    #[test]
    fn a_key_is_no_name() {
        let key = "ab".repeat(32);
        let text = shown(&json!({ "name": key, "pubkey": key, "state": "accepted" }), None);
        assert_eq!(text.lines().next(), Some("  abababababab… · accepted"), "{text}");
    }

    #[test]
    fn a_refusal_tells_its_sentence_once() {
        let recipient = json!({
            "name": "Bob", "pubkey": "ab".repeat(32), "state": "refused", "reason": "payload_too_large",
            "assertedBy": "sender_daemon",
        });
        let text = shown(&recipient, Some("payload_too_large: at most 1 MiB"));
        assert!(text.contains("the broker refused it: at most 1 MiB"), "{text}");
        assert!(!text.contains("payload"), "{text}");
    }
}

//! What is said to an agent at an event, and the JSON in which its hook says it (agents spec §1.2 path 4, §1.4, §1.6b; MCP
//! spec §10.3).

use claudemesh_protocol::limits::{AGENT_HOOK_MESSAGES_MAX, AGENT_HOOK_TEXT_MAX_BYTES};
use claudemesh_protocol::ops::messaging::InboxItem;
use serde_json::{Value, json};

use crate::agent::Takes;
use crate::event::Moment;
use crate::render::{Batch, Provenance, Room, batch, name, words};

/// Bytes of the line below the messages.
const REST_BYTES: usize = 96;
/// What one hook may put before an agent.
const ROOM: Room =
    Room { messages: AGENT_HOOK_MESSAGES_MAX, bytes: AGENT_HOOK_TEXT_MAX_BYTES - REST_BYTES };

/// What is to be said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// Who the agent is to others: its name, and its mesh.
    pub identity: Option<(&'a str, &'a str)>,
    /// Messages, oldest first.
    pub messages: &'a [InboxItem],
    /// Keys, in hex, of the agent's own person.
    pub own: &'a [String],
    /// Unread messages in all, those above among them.
    pub unread: u64,
    /// Warnings about what the agent is about to do.
    pub warnings: &'a [String],
}

/// How many of the messages, from the first on, one hook has room for.
pub fn room_for(messages: &[InboxItem], own: &[String], unread: u64) -> usize {
    put_together(messages, own, unread).shown
}

/// What the hook of a moment prints; `None` for nothing.
pub fn answer(moment: &Moment, said: &Said<'_>) -> Option<Value> {
    match moment.takes {
        Takes::Nothing => None,
        Takes::Context => context(moment, &text(said)?),
        Takes::Continuation => {
            // A count alone is not worth another turn.
            let text = if said.messages.is_empty() { None } else { text(said) }?;
            Some(json!({ "decision": "block", "reason": text }))
        }
        Takes::Warning => {
            let warning = said.warnings.join("\n");
            let mut answer = context(moment, &warning)?;
            answer.as_object_mut()?.insert("systemMessage".to_owned(), Value::from(warning));
            Some(answer)
        }
    }
}

fn context(moment: &Moment, text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| {
        json!({ "hookSpecificOutput": {
            "hookEventName": moment.event, "additionalContext": text } })
    })
}

fn text(said: &Said<'_>) -> Option<String> {
    let batch = put_together(said.messages, said.own, said.unread);
    if batch.shown > 0 {
        let rest = said.unread.saturating_sub(batch.shown as u64);
        return Some(match rest {
            0 => batch.text,
            rest => format!("{}\n[{rest} more unread: claudemesh inbox]", batch.text),
        });
    }
    let unread = match said.unread {
        0 => None,
        1 => Some("1 unread peer message: claudemesh inbox".to_owned()),
        unread => Some(format!("{unread} unread peer messages: claudemesh inbox")),
    };
    let who = said
        .identity
        .map(|(own, mesh)| format!("this session is \"{}\" in mesh {}", name(own), name(mesh)));
    let parts: Vec<String> = who.into_iter().chain(unread).collect();
    (!parts.is_empty()).then(|| format!("claudemesh: {}", parts.join("; ")))
}

fn put_together(messages: &[InboxItem], own: &[String], unread: u64) -> Batch {
    let messages: Vec<_> =
        messages.iter().map(|item| (Provenance::of(item, own), words(item))).collect();
    batch(&messages, usize::try_from(unread).unwrap_or(usize::MAX), ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentKind;
    use crate::render::read;

    fn moment(word: &str, told: &Value) -> Moment {
        let kind = AgentKind::Claude;
        Moment::read(kind, kind.agent().hook(word).unwrap(), told)
    }

    fn item(number: usize, body: &str) -> InboxItem {
        let key = "7d".repeat(32);
        serde_json::from_value(json!({
            "id": format!("01JD2M7Q8Z3K5V6W9X0Y1A2B{number:02}"), "client_message_id": "c", "broker_message_id": null,
            "mesh": "dev", "channel": "dm", "topic": null, "sender_pubkey": key,
            "sender_member_pubkey": key, "sender_name": "Mou", "priority": "next",
            "subtype": null, "body": body, "meta": null, "decrypt": "ok", "reply_to_id": null,
            "created_at": null, "received_at": "2026-11-22T10:00:00.000Z", "seen_at": null,
            "pushed_at": null, "addressed_to": null, "recipient_pubkey": null,
            "recipient_kind": null, "transport": "broker", "sender_verified": true
        }))
        .unwrap()
    }

    fn context_of(answer: &Value) -> &str {
        answer["hookSpecificOutput"]["additionalContext"].as_str().unwrap()
    }

    #[test]
    fn messages_go_where_the_event_takes_them() {
        let messages = [item(1, "one"), item(2, "two")];
        let said = Said { messages: &messages, unread: 2, ..Said::default() };
        for word in ["UserPromptSubmit", "PostToolUse"] {
            let answer = answer(&moment(word, &json!({})), &said).unwrap();
            assert_eq!(answer["hookSpecificOutput"]["hookEventName"], word);
            let bodies: Vec<String> =
                read(context_of(&answer)).into_iter().map(|found| found.body).collect();
            assert_eq!(bodies, ["one", "two"]);
        }
        let stop = answer(&moment("Stop", &json!({})), &said).unwrap();
        assert_eq!(stop["decision"], "block");
        assert_eq!(read(stop["reason"].as_str().unwrap()).len(), 2);
        let again = moment("Stop", &json!({ "stop_hook_active": true }));
        for deaf in [again, moment("Notification", &json!({})), moment("SessionEnd", &json!({}))] {
            assert_eq!(answer(&deaf, &said), None, "{deaf:?}");
        }
    }

    #[test]
    fn nothing_to_say_is_nothing() {
        for word in ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop"] {
            assert_eq!(answer(&moment(word, &json!({})), &Said::default()), None, "{word}");
        }
        // A count does not prolong a turn.
        let counted = Said { unread: 3, ..Said::default() };
        assert_eq!(answer(&moment("Stop", &json!({})), &counted), None);
        let said = answer(&moment("UserPromptSubmit", &json!({})), &counted).unwrap();
        assert_eq!(context_of(&said), "claudemesh: 3 unread peer messages: claudemesh inbox");
    }

    #[test]
    fn a_session_hears_at_its_start_who_it_is() {
        let said = |unread| Said { identity: Some(("Ana <b>", "home")), unread, ..Said::default() };
        let start = |unread| answer(&moment("SessionStart", &json!({})), &said(unread)).unwrap();
        assert_eq!(context_of(&start(0)), "claudemesh: this session is \"Ana _b_\" in mesh home");
        assert_eq!(
            context_of(&start(1)),
            "claudemesh: this session is \"Ana _b_\" in mesh home; 1 unread peer message: claudemesh inbox"
        );
    }

    /// MCP spec §10.3: at most 5 messages and 4 KiB; the rest is counted.
    #[test]
    fn what_does_not_fit_is_counted() {
        let messages: Vec<InboxItem> = (0..8).map(|number| item(number, "short")).collect();
        let said = Said { messages: &messages, unread: 12, ..Said::default() };
        let text = answer(&moment("PostToolUse", &json!({})), &said).unwrap();
        let text = context_of(&text);
        assert_eq!(read(text).len(), AGENT_HOOK_MESSAGES_MAX);
        assert_eq!(room_for(&messages, &[], 12), AGENT_HOOK_MESSAGES_MAX);
        assert!(text.starts_with("claudemesh: 12 unread peer messages"), "{text}");
        assert!(text.ends_with("\n[7 more unread: claudemesh inbox]"), "{text}");
        let long = [item(1, &"long\n".repeat(20_000)), item(2, "short")];
        let said = Said { messages: &long, unread: u64::MAX, ..Said::default() };
        let text = answer(&moment("PostToolUse", &json!({})), &said).unwrap();
        let text = context_of(&text);
        assert!(text.len() <= AGENT_HOOK_TEXT_MAX_BYTES, "{}", text.len());
        assert_eq!((read(text).len(), room_for(&long, &[], u64::MAX)), (1, 1));
    }

    #[test]
    fn a_warning_is_for_the_person_and_the_model() {
        let warnings = ["/a is reserved by Mou".to_owned()];
        let said = Said { warnings: &warnings, unread: 4, ..Said::default() };
        let answer = answer(&moment("PreToolUse", &json!({})), &said).unwrap();
        assert_eq!(answer["systemMessage"], "/a is reserved by Mou");
        assert_eq!(context_of(&answer), "/a is reserved by Mou");
        assert_eq!(answer["hookSpecificOutput"].get("permissionDecision"), None);
    }
}

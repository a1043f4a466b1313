//! Events that are not messages, as the model reads them (MCP spec §4.4).

use claudemesh_ipc::api::EventKind;
use claudemesh_protocol::limits::CHANNEL_NAMES_MAX;
use claudemesh_protocol::time::Timestamp;
use serde_json::Value;

use crate::channel::Notification;
use crate::pace::{self, Move, PeerMove};
use crate::{clock, untrusted};

/// Longest value shown of a state entry, in characters.
const STATE_VALUE_CHARS: usize = 500;
/// Longest value shown of a stream item, in characters.
const STREAM_VALUE_CHARS: usize = 2_000;
/// Longest JSON shown of an event without a sentence of its own, in characters.
const OTHER_VALUE_CHARS: usize = 240;

/// Kinds that wake nobody: bookkeeping of the daemon, and noise that is off by default.
const SILENT: [&str; 13] = [
    "message_sent",
    "receipt",
    "broker_status",
    "session_registered",
    "session_updated",
    "session_ended",
    "hook_executed",
    "peer_file_access",
    "outbox_pressure_high",
    "reservation_change",
    "tick",
    "system",
    "feature_negotiation_failed",
];

/// The peer an event of kind `peer_join` or `peer_leave` is about; `None` when it names none
/// that a session would talk to.
pub(crate) fn peer_move(data: &Value) -> Option<PeerMove> {
    let went = match text(data, "event")? {
        "peer_joined" => Move::Joined,
        "peer_returned" => Move::Returned,
        "peer_left" => Move::Left,
        _ => return None,
    };
    // A daemon's own connection is no peer to talk to; its sessions say so themselves.
    if text(data, "peerRole") == Some("control-plane") {
        return None;
    }
    let groups = data.get("groups").and_then(Value::as_array).into_iter().flatten();
    let name_of = |group: &Value| group.as_str().or_else(|| text(group, "name")).map(str::to_owned);
    Some(PeerMove {
        went,
        mesh: text(data, "mesh").unwrap_or_default().to_owned(),
        name: untrusted::speaker(text(data, "name").unwrap_or_default()),
        key: text(data, "pubkey")?.to_owned(),
        groups: groups.filter_map(name_of).collect(),
        last_seen_at: text(data, "lastSeenAt").map(str::to_owned),
        summary: text(data, "summary").filter(|summary| !summary.is_empty()).map(str::to_owned),
    })
}

/// The one line that stands for late group and broadcast messages.
pub(crate) fn digest(data: &Value, now: Timestamp) -> Notification {
    let count = data.get("count").and_then(Value::as_u64).unwrap_or_default();
    let at = |key: &str| text(data, key).unwrap_or_default();
    let (oldest, newest) = (at("oldest"), at("newest"));
    let senders: Vec<String> =
        strings(data, "senders").iter().map(|name| untrusted::speaker(name)).collect();
    let senders = senders.get(..CHANNEL_NAMES_MAX.min(senders.len())).unwrap_or_default();
    let from =
        if senders.is_empty() { String::new() } else { format!("; from {}", senders.join(", ")) };
    let span = format!("{} … {}{from}", clock::age(oldest, now), clock::age(newest, now));
    let text_line = format!(
        "[inbox] {count} messages arrived while you were away ({span}). Use: claudemesh inbox"
    );
    Notification::new("digest", &text_line)
        .with("event", "inbox_digest")
        .with_some("mesh_slug", text(data, "mesh"))
        .with("count", &count.to_string())
        .with_some("oldest_at", Some(oldest))
        .with_some("newest_at", Some(newest))
        .with_list("senders", senders)
}

/// The notification for any other event; `None` for kinds that wake nobody.
pub(crate) fn notification(kind: &EventKind, data: &Value) -> Option<Notification> {
    let word = kind.as_str();
    if SILENT.contains(&word) {
        return None;
    }
    let notification = match word {
        "state_changed" => {
            let key = text(data, "key").unwrap_or_default();
            let who = untrusted::speaker(text(data, "updated_by").unwrap_or_default());
            let value = compact(data.get("value"), STATE_VALUE_CHARS);
            let shown = untrusted::word(key);
            Notification::new("state", &format!("[state] {shown} = {value} (set by {who})"))
                .with("event", word)
                .with("key", key)
                .with("updated_by", &who)
        }
        "stream_data" => {
            let stream = text(data, "stream").unwrap_or_default();
            let who = untrusted::speaker(text(data, "published_by").unwrap_or_default());
            let value = compact(data.get("data"), STREAM_VALUE_CHARS);
            let shown = untrusted::word(stream);
            Notification::new("stream", &format!("[stream:{shown}] from {who}: {value}"))
                .with("event", word)
                .with("stream", stream)
                .with("published_by", &who)
        }
        "daemon_disconnect" => system(word, data, "lost the connection to the mesh; retrying"),
        "daemon_reconnect" => system(word, data, "connected to the mesh again"),
        "outbox_dead" => {
            let sentence =
                "a message of yours could not be sent; see: claudemesh outbox list --failed";
            system(word, data, sentence)
                .with_some("client_message_id", text(data, "client_message_id"))
        }
        "loop_stopped" => {
            system(word, data, "two agents kept answering each other; the exchange was stopped")
        }
        other => system(other, data, &compact(Some(data), OTHER_VALUE_CHARS)),
    };
    Some(notification.with_some("mesh_slug", text(data, "mesh")))
}

/// The line about messages that waited and are not shown one by one.
pub(crate) fn more_waiting(count: usize, is_complete: bool) -> Notification {
    let at_least = if is_complete { "" } else { "at least " };
    let text_line =
        format!("[inbox] {at_least}{count} more messages waited. Use: claudemesh inbox");
    Notification::new("digest", &text_line)
        .with("event", "catch_up")
        .with("count", &count.to_string())
}

/// The line of message mode `inbox`: who wrote, never what.
pub(crate) fn inbox_line(senders: &[String], unread: usize) -> Notification {
    let who = pace::names_and_more(senders);
    let noun = if senders.len() == 1 { "New message" } else { "New messages" };
    let text_line = format!("[inbox] {noun} from {who} ({unread} unread). Use: claudemesh inbox");
    Notification::new("inbox", &text_line)
        .with_some("from_name", senders.last().map(String::as_str))
        .with("unread_count", &unread.to_string())
}

fn system(event: &str, data: &Value, sentence: &str) -> Notification {
    let mesh = text(data, "mesh").map(|mesh| format!(" ({mesh})")).unwrap_or_default();
    Notification::system(event, &format!("[system] {event}{mesh}: {sentence}"))
}

fn text<'a>(data: &'a Value, key: &str) -> Option<&'a str> {
    data.get(key).and_then(Value::as_str)
}

fn strings<'a>(data: &'a Value, key: &str) -> Vec<&'a str> {
    data.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn compact(value: Option<&Value>, max_chars: usize) -> String {
    let text = value.map(Value::to_string).unwrap_or_default();
    claudemesh_protocol::text::sanitized_line(&text, max_chars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_digest_counts_and_names_at_most_five() {
        let data = json!({"mesh": "dev", "count": 40, "oldest": "2026-01-01T00:00:00Z",
            "newest": "2026-01-01T01:50:00Z", "senders": ["a", "b", "c", "d", "e", "f"]});
        let now = Timestamp::parse_iso("2026-01-01T02:00:00Z").unwrap();
        let notification = digest(&data, now);
        assert_eq!(
            notification.content(),
            "[inbox] 40 messages arrived while you were away (2h … 10m; from a, b, c, d, e). Use: claudemesh inbox"
        );
        let meta = &notification.to_json()["params"]["meta"];
        assert_eq!((&meta["kind"], &meta["count"]), (&json!("digest"), &json!("40")));
    }

    #[test]
    fn bookkeeping_and_ticks_wake_nobody() {
        for kind in SILENT {
            assert!(notification(&EventKind::parse(kind), &json!({})).is_none(), "{kind}");
        }
    }

    #[test]
    fn events_of_newer_daemons_are_shown_as_short_json() {
        let data = json!({"mesh": "dev", "text": "</channel>".repeat(60)});
        let content = notification(&EventKind::Other("brand_new".into()), &data).unwrap().content();
        assert!(
            content.starts_with("[system] brand_new (dev): {") && !content.contains("</channel"),
            "{content}"
        );
        assert!(content.chars().count() < 300);
    }

    #[test]
    fn state_and_stream_lines_carry_their_kind() {
        let data =
            json!({"key": "build", "value": {"red": true}, "updated_by": "claude", "mesh": "dev"});
        let state = notification(&EventKind::StateChanged, &data).unwrap();
        assert_eq!(state.content(), "[state] build = {\"red\":true} (set by peer:claude)");
        let data = json!({"stream": "logs", "data": 7, "published_by": "mou"});
        let stream = notification(&EventKind::Other("stream_data".into()), &data).unwrap();
        assert_eq!(stream.content(), "[stream:logs] from mou: 7");
        assert_eq!(stream.to_json()["params"]["meta"]["kind"], "stream");
    }
}

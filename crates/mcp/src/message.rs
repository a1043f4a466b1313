//! An inbox item as the model reads it (MCP spec §4.3, §4.9).

use claudemesh_ipc::api::{Decrypt, InboxItem};
use claudemesh_protocol::Priority;

use crate::channel::Notification;
use crate::{clock, untrusted};

/// Characters of a message shown in the welcome.
const PREVIEW_CHARS: usize = 60;

/// Attribute `also_given` of a message to the member: one of its sessions answers, not all.
const ALSO_GIVEN: &str = "also given to your other sessions";

/// Who speaks, as shown and as replied to.
struct Sender {
    /// In front of the text.
    shown: String,
    /// Attribute `from_name`: what `claudemesh send` takes.
    reply_to: String,
}

/// The notification for one message.
pub(crate) fn notification(item: &InboxItem) -> Notification {
    let sender = sender(item);
    let kind = kind(item);
    let badge = if item.priority == Priority::Now { "[URGENT] " } else { "" };
    let reminder = if kind == "reminder" { "[REMINDER] " } else { "" };
    let body = match &item.body {
        Some(body) if item.decrypt.is_readable() => body.as_str(),
        _ => "⚠ could not decrypt (tampered or wrong key)",
    };
    let content = format!("{badge}{reminder}{}{}: {body}", sender.shown, place(item));
    let is_session = item.sender_verified && item.sender_pubkey != item.sender_member_pubkey;
    let member = Some(item.sender_member_pubkey.as_str()).filter(|_| item.sender_verified);
    let mentions =
        (!item.mentions.is_empty()).then(|| serde_json::json!(item.mentions).to_string());
    let topic = item.topic.as_deref();
    Notification::new(kind, &content)
        .with("from_name", &sender.reply_to)
        .with("from_pubkey", &item.sender_pubkey)
        .with_some("from_session_pubkey", is_session.then_some(item.sender_pubkey.as_str()))
        .with_some("from_member_pubkey", member)
        .with_some("from_id", member)
        .with("mesh_slug", &item.mesh)
        .with("priority", item.priority.as_str())
        .with("message_id", item.broker_message_id.as_deref().unwrap_or_default())
        .with("client_message_id", &item.client_message_id)
        .with("inbox_id", &item.id)
        .with_some("sent_at", item.created_at.as_deref())
        .with("received_at", &item.received_at)
        .with_some("topic", topic.filter(|_| item.channel == "topic"))
        .with_some("group", topic.filter(|_| item.channel == "group"))
        .with_some("reply_to_id", item.reply_to_id.as_deref())
        .with_some("subtype", item.subtype.as_deref())
        .with_some("mentions", mentions.as_deref())
        .with_some("decrypt", exception(item.decrypt))
        .with_some("also_given", (item.also_given > 0).then_some(ALSO_GIVEN))
        .with_some("state", item.state.as_deref())
        .full_text_by(format!("claudemesh inbox show {}", item.id))
}

/// One line of the welcome: `<name> (<8 hex>) <time>: <60 characters>`.
pub(crate) fn preview(item: &InboxItem) -> String {
    let short_key: String = item.sender_pubkey.chars().take(8).collect();
    let time = clock::hour_and_minute(&item.received_at);
    let body = item.body.as_deref().unwrap_or("[encrypted]");
    let text =
        claudemesh_protocol::text::sanitized_line(&untrusted::neutral_line(body), PREVIEW_CHARS);
    format!("{} ({short_key}) {time}: {text}", sender(item).shown)
}

/// The sender's name as it may be shown.
pub(crate) fn sender_name(item: &InboxItem) -> String {
    sender(item).shown
}

/// What makes two deliveries the same message: mesh, sender and the sender's id (MCP spec §4.9).
pub(crate) fn identity(item: &InboxItem) -> (String, String, String) {
    let sender = if item.sender_member_pubkey.is_empty() {
        &item.sender_pubkey
    } else {
        &item.sender_member_pubkey
    };
    (item.mesh.clone(), sender.clone(), item.client_message_id.clone())
}

/// An unverified sender never speaks under a name: anybody could have put that name there (daemon spec §15).
fn sender(item: &InboxItem) -> Sender {
    if item.sender_verified {
        let name = untrusted::speaker(&item.sender_name);
        return Sender { shown: name.clone(), reply_to: name };
    }
    let short_key: String = item.sender_pubkey.chars().take(8).collect();
    Sender { shown: format!("unverified {short_key}…"), reply_to: item.sender_pubkey.clone() }
}

fn kind(item: &InboxItem) -> &'static str {
    match (item.subtype.as_deref(), item.channel.as_str()) {
        (Some("reminder"), _) => "reminder",
        (Some("webhook"), _) => "webhook",
        (_, "group") => "group",
        (_, "topic") => "topic",
        (_, "broadcast") => "broadcast",
        (_, "rpc") => "rpc",
        _ => "dm",
    }
}

fn place(item: &InboxItem) -> String {
    let name = item.topic.as_deref().map(untrusted::speaker).unwrap_or_default();
    match item.channel.as_str() {
        "topic" => format!(" (#{name})"),
        "group" => format!(" (@{name})"),
        "broadcast" => " (broadcast)".to_owned(),
        _ => String::new(),
    }
}

fn exception(decrypt: Decrypt) -> Option<&'static str> {
    match decrypt {
        Decrypt::Failed | Decrypt::NoKey | Decrypt::ArchivedKey => Some(decrypt.as_str()),
        Decrypt::Ok | Decrypt::Plain => None,
    }
}

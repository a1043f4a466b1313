//! An inbox item as the model reads it (MCP spec §4.3, §4.9).

use claudemesh_agents::render::{Place, Provenance, Trust, words};
use claudemesh_ipc::api::{Decrypt, InboxItem};

use crate::channel::Notification;
use crate::{clock, untrusted};

/// Characters of a message shown in the welcome.
const PREVIEW_CHARS: usize = 60;

/// Attribute `also_given` of a message to the member: one of its sessions answers, not all.
const ALSO_GIVEN: &str = "also given to your other sessions";

/// The notification for one message; `own` are keys of the session and its member.
pub(crate) fn notification(item: &InboxItem, own: &[String]) -> Notification {
    let from = Provenance::of(item, own);
    let is_session = item.sender_verified && item.sender_pubkey != item.sender_member_pubkey;
    let member = Some(item.sender_member_pubkey.as_str()).filter(|_| item.sender_verified);
    let mentions: Vec<String> =
        item.mentions.iter().map(|mention| untrusted::speaker(mention)).collect();
    let topic = item.topic.as_deref();
    let notification = Notification::new(kind(item, &from), "")
        .with("from_name", &from.answer_to())
        .with("from_pubkey", &item.sender_pubkey)
        .with_some("from_session_pubkey", is_session.then_some(item.sender_pubkey.as_str()))
        .with_some("from_member_pubkey", member)
        .with_some("from_id", member)
        .with("trust", trust(from.trust))
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
        .with_some("decrypt", exception(item.decrypt))
        .with_some("also_given", (item.also_given > 0).then_some(ALSO_GIVEN))
        .with_some("state", item.state.as_deref());
    let notification = match mentions.as_slice() {
        [] => notification,
        mentions => notification.with_list("mentions", mentions),
    };
    notification.saying(&from, words(item))
}

/// One line of the welcome: `<name> (<8 hex>) <time>: <60 characters>`.
pub(crate) fn preview(item: &InboxItem) -> String {
    let time = clock::hour_and_minute(&item.received_at);
    let text = claudemesh_protocol::text::sanitized_line(
        &untrusted::neutral_line(words(item)),
        PREVIEW_CHARS,
    );
    format!("{} ({}) {time}: {text}", sender_name(item), short_key(item))
}

/// The sender's name as it stands in a notice. An unverified sender never speaks under a name: anybody could have put that
/// name there (daemon spec §15).
pub(crate) fn sender_name(item: &InboxItem) -> String {
    if item.sender_verified {
        return untrusted::speaker(&item.sender_name);
    }
    format!("unverified {}", short_key(item))
}

fn short_key(item: &InboxItem) -> String {
    item.sender_pubkey.chars().filter(char::is_ascii_hexdigit).take(8).collect()
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

fn kind(item: &InboxItem, from: &Provenance<'_>) -> &'static str {
    match (item.subtype.as_deref(), item.channel.as_str()) {
        _ if from.place == Place::Reminder => "reminder",
        (Some("webhook"), _) => "webhook",
        (_, "group") => "group",
        (_, "topic") => "topic",
        (_, "broadcast") => "broadcast",
        (_, "rpc") => "rpc",
        _ => "dm",
    }
}

/// The trust level as an attribute.
const fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::Own => "own",
        Trust::Verified => "verified",
        Trust::Unverified => "unverified",
        Trust::ThirdParty => "third_party",
    }
}

fn exception(decrypt: Decrypt) -> Option<&'static str> {
    match decrypt {
        Decrypt::Failed | Decrypt::NoKey | Decrypt::ArchivedKey => Some(decrypt.as_str()),
        Decrypt::Ok | Decrypt::Plain => None,
    }
}

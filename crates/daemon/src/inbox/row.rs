//! What goes into and comes out of the inbox table.

use claudemesh_ipc::api::inbox::ANSWERED_ELSEWHERE;
use claudemesh_ipc::api::{Decrypt, InboxItem, RecipientKind};
use claudemesh_protocol::{Priority, PublicKey, Timestamp};
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteRow;

use crate::storage::{Columns as _, decode_error};

/// A message that came in, opened as far as possible.
#[derive(Clone)]
pub struct NewItem {
    /// Mesh slug.
    pub mesh: String,
    /// The sender's id; the broker's where an old sender gave none.
    pub client_message_id: String,
    /// The broker's id.
    pub broker_message_id: Option<String>,
    /// Own key that received it.
    pub recipient_pubkey: PublicKey,
    /// Kind of that key.
    pub recipient_kind: RecipientKind,
    /// `dm`, `group`, `topic`, `broadcast`, `rpc`, `stream` or `system`.
    pub channel: String,
    /// Name of the topic or group.
    pub topic: Option<String>,
    /// Id of the topic.
    pub topic_id: Option<String>,
    /// Key that sent it.
    pub sender_pubkey: PublicKey,
    /// Member behind it, when known.
    pub sender_member_pubkey: Option<PublicKey>,
    /// Name to show.
    pub sender_name: String,
    /// Urgency.
    pub priority: Priority,
    /// `webhook`, `reminder`, …
    pub subtype: Option<String>,
    /// The text, when it could be opened.
    pub body: Option<String>,
    /// User metadata.
    pub meta: Option<Map<String, Value>>,
    /// Names mentioned.
    pub mentions: Vec<String>,
    /// Wire `bodyVersion`.
    pub body_version: u32,
    /// How it was opened.
    pub decrypt: Decrypt,
    /// `{nonce, ciphertext}`, kept only while it could not be opened.
    pub raw: Option<String>,
    /// Message it answers.
    pub reply_to_id: Option<String>,
    /// By the broker's clock.
    pub created_at: Option<Timestamp>,
    /// When it loses its meaning.
    pub expires_at: Option<Timestamp>,
    /// `broker`, `p2p` or `webhook`.
    pub transport: &'static str,
    /// Automatic answers before it.
    pub hops: u32,
    /// The sender's key is proved to be that member's.
    pub sender_verified: bool,
    /// Ended session it was addressed to.
    pub addressed_to: Option<PublicKey>,
}

impl NewItem {
    /// The item as clients see it.
    pub(super) fn into_item(self, id: String, received_at: Timestamp, digest: bool) -> InboxItem {
        InboxItem {
            id,
            client_message_id: self.client_message_id,
            broker_message_id: self.broker_message_id,
            mesh: self.mesh,
            channel: self.channel,
            topic: self.topic,
            sender_pubkey: self.sender_pubkey.to_hex(),
            sender_member_pubkey: member_text(self.sender_member_pubkey),
            sender_name: self.sender_name,
            priority: self.priority,
            subtype: self.subtype,
            body: self.body.filter(|_| self.decrypt.is_readable()),
            meta: self.meta,
            mentions: self.mentions,
            decrypt: self.decrypt,
            reply_to_id: self.reply_to_id,
            created_at: self.created_at.map(Timestamp::to_iso),
            received_at: received_at.to_iso(),
            seen_at: None,
            pushed_at: None,
            digest,
            addressed_to: self.addressed_to.map(PublicKey::to_hex),
            recipient_pubkey: Some(self.recipient_pubkey),
            recipient_kind: Some(self.recipient_kind),
            transport: self.transport.to_owned(),
            hops: self.hops,
            sender_verified: self.sender_verified,
            held: false,
            also_given: 0,
            state: None,
            answered_by: None,
        }
    }
}

/// The member key as it is stored: empty when unknown.
pub(super) fn member_text(key: Option<PublicKey>) -> String {
    key.map(PublicKey::to_hex).unwrap_or_default()
}

/// The kind of key it was addressed to.
pub(super) fn kind(row: &SqliteRow) -> Result<RecipientKind, sqlx::Error> {
    Ok(match row.column::<&str>("recipient_kind")? {
        "session" => RecipientKind::Session,
        _ => RecipientKind::Member,
    })
}

/// As [`item`], with the number of the row.
pub(super) fn numbered(row: &SqliteRow) -> Result<(i64, InboxItem), sqlx::Error> {
    Ok((row.column("seq")?, item(row)?))
}

/// Reads a row whose `shown_…` columns are those of the caller.
pub(super) fn item(row: &SqliteRow) -> Result<InboxItem, sqlx::Error> {
    let iso = |time: Option<Timestamp>| time.map(Timestamp::to_iso);
    let kind = kind(row)?;
    let is_elsewhere: bool = row.column("shown_elsewhere")?;
    let decrypt = match row.column::<&str>("decrypt")? {
        "ok" => Decrypt::Ok,
        "archived_key" => Decrypt::ArchivedKey,
        "plain" => Decrypt::Plain,
        "failed" => Decrypt::Failed,
        _ => Decrypt::NoKey,
    };
    let body: Option<String> = row.column("body")?;
    Ok(InboxItem {
        id: row.column("id")?,
        client_message_id: row.column("client_message_id")?,
        broker_message_id: row.column("broker_message_id")?,
        mesh: row.column("mesh")?,
        channel: row.column("channel")?,
        topic: row.column("topic")?,
        sender_pubkey: row.column("sender_pubkey")?,
        sender_member_pubkey: row.column("sender_member_pubkey")?,
        sender_name: row.column("sender_name")?,
        priority: row.parsed("priority")?,
        subtype: row.column("subtype")?,
        body: body.filter(|_| decrypt.is_readable()),
        meta: json(row, "meta")?,
        mentions: json(row, "mentions")?.unwrap_or_default(),
        decrypt,
        reply_to_id: row.column("reply_to_id")?,
        created_at: iso(row.time_option("created_at")?),
        received_at: row.time("received_at")?.to_iso(),
        seen_at: iso(row.time_option("shown_seen_at")?),
        pushed_at: iso(row.time_option("shown_pushed_at")?),
        digest: row.column("digest")?,
        addressed_to: row.column("addressed_to")?,
        recipient_pubkey: Some(row.parsed("recipient_pubkey")?),
        recipient_kind: Some(kind),
        transport: row.column("transport")?,
        hops: row.unsigned("hops")?,
        sender_verified: row.column("sender_verified")?,
        held: false,
        also_given: row.unsigned("shown_given")?,
        state: is_elsewhere.then(|| ANSWERED_ELSEWHERE.to_owned()),
        answered_by: row.column("answered_by")?,
    })
}

fn json<T: serde::de::DeserializeOwned>(
    row: &SqliteRow,
    name: &'static str,
) -> Result<Option<T>, sqlx::Error> {
    let text: Option<&str> = row.column(name)?;
    text.map(|text| serde_json::from_str(text).map_err(|error| decode_error(name, error)))
        .transpose()
}

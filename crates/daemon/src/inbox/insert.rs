//! A message arrives: stored once, then told to whoever listens.

use claudemesh_ipc::api::{EventKind, InboxItem, RecipientKind};
use claudemesh_protocol::{Priority, PublicKey, Timestamp};
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteConnection;

use super::{Inbox, NewItem, row};
use crate::events::{Audience, Event, MessageKey};
use crate::ids;
use crate::storage::StorageError;

/// Answer of [`Inbox::insert`].
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// It is new.
    New(Box<InboxItem>),
    /// This key has it already. What the repeat proves about its sender was added.
    Duplicate,
}

impl Inbox {
    /// Stores a message and answers after the commit; then, when it is new, publishes it: at once, or for late group
    /// messages in a digest (daemon spec §13.2). The caller acknowledges to the broker afterwards, also a duplicate.
    ///
    /// # Errors
    /// [`StorageError`]: nothing is stored, and nothing may be acknowledged.
    pub async fn insert(&self, new: NewItem, now: Timestamp) -> Result<Inserted, StorageError> {
        let is_late = self.digests.is_late(&new, now);
        let row = new.clone();
        let id = self.db.write(move |conn| Box::pin(insert(conn, row, now, is_late))).await?;
        claudemesh_sqlite::crash_point("inbox.after_insert_before_ack");
        let Some(id) = id else { return Ok(Inserted::Duplicate) };
        let (recipient, kind) = (new.recipient_pubkey, new.recipient_kind);
        let item = new.into_item(id, now, is_late);
        if is_late {
            self.digests.add(&item, now);
        } else {
            self.events.publish(message_event(&item, recipient, kind));
        }
        Ok(Inserted::New(Box::new(item)))
    }
}

fn message_event(item: &InboxItem, recipient: PublicKey, kind: RecipientKind) -> Event {
    let mut data = match serde_json::to_value(item) {
        Ok(Value::Object(data)) => data,
        _ => Map::new(),
    };
    data.insert("push".to_owned(), Value::Bool(item.priority != Priority::Low));
    Event {
        kind: EventKind::Message,
        mesh: Some(item.mesh.clone()),
        audience: match kind {
            RecipientKind::Session => Audience::Session(recipient),
            RecipientKind::Member => Audience::Member,
        },
        message: Some(MessageKey {
            sender: item.sender_pubkey.clone(),
            client_message_id: item.client_message_id.clone(),
        }),
        data,
    }
}

async fn insert(
    conn: &mut SqliteConnection,
    new: NewItem,
    now: Timestamp,
    digest: bool,
) -> Result<Option<String>, StorageError> {
    let sql = "INSERT INTO inbox (id, client_message_id, broker_message_id, mesh, recipient_pubkey, \
               recipient_kind, channel, topic, topic_id, sender_pubkey, sender_member_pubkey, sender_name, \
               priority, subtype, body, meta, mentions, body_version, decrypt, raw, reply_to_id, created_at, \
               received_at, expires_at, transport, hops, sender_verified, addressed_to, digest) \
               VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,\
               $24,$25,$26,$27,$28,$29) \
               ON CONFLICT DO NOTHING";
    // Drawn here, where rows are in their order.
    let id = ids::next();
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let repeat = Repeat::of(&new);
    let ran = sqlx::query(sql)
        .bind(&id)
        .bind(new.client_message_id)
        .bind(new.broker_message_id)
        .bind(new.mesh)
        .bind(new.recipient_pubkey.to_hex())
        .bind(new.recipient_kind.as_str())
        .bind(new.channel)
        .bind(new.topic)
        .bind(new.topic_id)
        .bind(new.sender_pubkey.to_hex())
        .bind(row::member_text(new.sender_member_pubkey))
        .bind(new.sender_name)
        .bind(new.priority.as_str())
        .bind(new.subtype)
        .bind(new.body.filter(|_| new.decrypt.is_readable()))
        .bind(new.meta.as_ref().map(|meta| json(serde_json::to_string(meta))))
        .bind((!new.mentions.is_empty()).then(|| json(serde_json::to_string(&new.mentions))))
        .bind(i64::from(new.body_version))
        .bind(new.decrypt.as_str())
        .bind(new.raw)
        .bind(new.reply_to_id)
        .bind(new.created_at.map(Timestamp::as_millis))
        .bind(now.as_millis())
        .bind(new.expires_at.map(Timestamp::as_millis))
        .bind(new.transport)
        .bind(i64::from(new.hops))
        .bind(new.sender_verified)
        .bind(new.addressed_to.map(PublicKey::to_hex))
        .bind(digest)
        .execute(&mut *conn)
        .await?;
    if ran.rows_affected() > 0 {
        return Ok(Some(id));
    }
    if let Some(repeat) = repeat {
        repeat.prove(conn).await?;
    }
    Ok(None)
}

/// What a repeated message proves about its sender: the first one may have come before the roster that knows it.
struct Repeat {
    mesh: String,
    recipient: String,
    sender: String,
    client_message_id: String,
    broker_message_id: Option<String>,
    member: String,
    name: String,
}

impl Repeat {
    /// `None` when it proves nothing.
    fn of(new: &NewItem) -> Option<Self> {
        new.sender_verified.then(|| Self {
            mesh: new.mesh.clone(),
            recipient: new.recipient_pubkey.to_hex(),
            sender: new.sender_pubkey.to_hex(),
            client_message_id: new.client_message_id.clone(),
            broker_message_id: new.broker_message_id.clone(),
            member: row::member_text(new.sender_member_pubkey),
            name: new.sender_name.clone(),
        })
    }

    /// Writes it to the row that is there.
    async fn prove(self, conn: &mut SqliteConnection) -> Result<(), StorageError> {
        let sql = "UPDATE inbox SET sender_verified=1, sender_member_pubkey=$1, sender_name=$2 \
                   WHERE mesh=$3 AND recipient_pubkey=$4 AND sender_pubkey=$5 AND sender_verified=0 \
                   AND (client_message_id=$6 OR broker_message_id=$7)";
        sqlx::query(sql)
            .bind(self.member)
            .bind(self.name)
            .bind(self.mesh)
            .bind(self.recipient)
            .bind(self.sender)
            .bind(self.client_message_id)
            .bind(self.broker_message_id)
            .execute(conn)
            .await?;
        Ok(())
    }
}

//! A message arrives: stored once, then told to whoever listens.

use std::sync::Arc;

use claudemesh_ipc::api::{InboxItem, MessageMode, RecipientKind};
use claudemesh_protocol::{PublicKey, Timestamp};
use claudemesh_sqlite::{WriteError, planted_bug};
use sqlx::sqlite::SqliteConnection;

use super::{Inbox, Line, NewItem, row};
use crate::ids;
use crate::sessions::Sessions;
use crate::storage::{Columns as _, StorageError};

/// Answer of [`Inbox::insert`].
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// It is new; `held` when every session it is for is busy.
    New(Box<InboxItem>),
    /// This key has it already. What the repeat proves about its sender was added.
    Duplicate,
}

impl Inbox {
    /// Stores a message and answers after the commit; then, when it is new, publishes it: at once, or for late group
    /// messages in a digest, to busy sessions when their gate opens (daemon spec §13.2). The caller acknowledges to the
    /// broker afterwards, also a duplicate.
    ///
    /// # Errors
    /// [`StorageError`]: nothing is stored, and nothing may be acknowledged.
    pub async fn insert(&self, new: NewItem, now: Timestamp) -> Result<Inserted, StorageError> {
        self.insert_in(&Line::default(), new, now).await
    }

    /// As [`Inbox::insert`], behind the other messages of `line`; once one of them could not be stored, none is.
    ///
    /// # Errors
    /// As [`Inbox::insert`].
    pub async fn insert_in(
        &self,
        line: &Line,
        mut new: NewItem,
        now: Timestamp,
    ) -> Result<Inserted, StorageError> {
        if planted_bug("daemon.inbox_not_unique") {
            new.client_message_id = ids::next();
            new.broker_message_id = None;
        }
        let is_late = self.digests.is_late(&new, now);
        let row = new.clone();
        let sessions = self.sessions.clone();
        let place = line.enter();
        let (stored, place) = self
            .db
            .write(move |conn| {
                Box::pin(async move {
                    if place.is_cut_off() {
                        let reason = Arc::from("an earlier message could not be stored");
                        return Err(WriteError::Unavailable(reason).into());
                    }
                    // Decided with the row: no death can part what was stored from whom it was told to.
                    let told = session_told(&sessions, &row);
                    match insert(conn, row, told, now, is_late).await {
                        Ok(stored) => Ok((stored, place)),
                        // The statement failed, not the disk: others need not wait for this one.
                        Err(error @ StorageError::Failed(_)) => {
                            place.settled();
                            Err(error)
                        }
                        Err(error) => Err(error),
                    }
                })
            })
            .await?;
        place.settled();
        claudemesh_sqlite::crash_point("inbox.after_insert_before_ack");
        let Some(Stored { seq, id, told, twins }) = stored else { return Ok(Inserted::Duplicate) };
        let mut item = new.into_item(id, now, is_late);
        self.events.arrived(&item);
        if is_late {
            self.count_late(&item);
            self.digests.add(&item, now);
        } else {
            item.held = self.announce(&item, seq, told.as_deref(), &twins);
            self.take_over_state(&item, seq, &twins).await;
        }
        Ok(Inserted::New(Box::new(item)))
    }
}

/// The session that has the key of a message to a session, and hears of its messages.
fn session_told(sessions: &Sessions, new: &NewItem) -> Option<String> {
    if new.recipient_kind != RecipientKind::Session {
        return None;
    }
    let session = sessions.by_key(&new.mesh, &new.recipient_pubkey)?;
    (session.message_mode != MessageMode::Off).then(|| session.session_id.clone())
}

async fn insert(
    conn: &mut SqliteConnection,
    new: NewItem,
    told: Option<String>,
    now: Timestamp,
    digest: bool,
) -> Result<Option<Stored>, StorageError> {
    let sql = "INSERT INTO inbox (id, client_message_id, broker_message_id, mesh, recipient_pubkey, \
               recipient_kind, channel, topic, topic_id, sender_pubkey, sender_member_pubkey, sender_name, \
               priority, subtype, body, meta, mentions, body_version, decrypt, raw, reply_to_id, created_at, \
               received_at, expires_at, transport, hops, sender_verified, addressed_to, digest, \
               told_session) \
               VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,\
               $24,$25,$26,$27,$28,$29,$30) \
               ON CONFLICT DO NOTHING";
    // Drawn here, where rows are in their order.
    let id = ids::next();
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let repeat = Repeat::of(&new);
    if is_known_to_session(conn, &new).await? {
        return Ok(None);
    }
    let twin = TwinOf {
        mesh: new.mesh.clone(),
        sender: new.sender_pubkey.to_hex(),
        client_message_id: new.client_message_id.clone(),
    };
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
        .bind(&told)
        .execute(&mut *conn)
        .await?;
    if ran.rows_affected() > 0 {
        let seq = ran.last_insert_rowid();
        let twins = twin.find(conn, seq).await?;
        return Ok(Some(Stored { seq, id, told, twins }));
    }
    if let Some(repeat) = repeat {
        repeat.prove(conn).await?;
    }
    Ok(None)
}

/// True when the direct message is here already and only its address differs: a message to a session whose acknowledgement
/// was lost goes to the member when that session ends at the broker, while its row here stays with the session or has
/// moved too.
async fn is_known_to_session(
    conn: &mut SqliteConnection,
    new: &NewItem,
) -> Result<bool, StorageError> {
    if new.channel != "dm" {
        return Ok(false);
    }
    let sql = "SELECT 1 FROM inbox WHERE client_message_id=$1 AND +mesh=$2 AND +sender_pubkey=$3 \
               AND (recipient_pubkey=$4 OR addressed_to=$5) LIMIT 1";
    let found = sqlx::query(sql)
        .bind(&new.client_message_id)
        .bind(&new.mesh)
        .bind(new.sender_pubkey.to_hex())
        .bind(new.addressed_to.map(PublicKey::to_hex))
        .bind(new.recipient_pubkey.to_hex())
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// A row that was inserted.
struct Stored {
    seq: i64,
    id: String,
    /// The session it is for, when it is there to be told.
    told: Option<String>,
    twins: Vec<Twin>,
}

/// The same message to another own key, stored earlier.
pub(super) struct Twin {
    /// Number of its row.
    pub(super) seq: i64,
    /// The key it is for.
    pub(super) recipient: PublicKey,
    /// Kind of that key.
    pub(super) kind: RecipientKind,
}

struct TwinOf {
    mesh: String,
    sender: String,
    client_message_id: String,
}

impl TwinOf {
    async fn find(self, conn: &mut SqliteConnection, seq: i64) -> Result<Vec<Twin>, StorageError> {
        let sql = "SELECT seq, recipient_pubkey, recipient_kind FROM inbox WHERE client_message_id=$1 \
                   AND +mesh=$2 AND +sender_pubkey=$3 AND seq<>$4";
        let rows = sqlx::query(sql)
            .bind(self.client_message_id)
            .bind(self.mesh)
            .bind(self.sender)
            .bind(seq)
            .fetch_all(conn)
            .await?;
        let twin = |row| -> Result<Twin, sqlx::Error> {
            let row: &sqlx::sqlite::SqliteRow = row;
            Ok(Twin {
                seq: row.column("seq")?,
                recipient: row.parsed("recipient_pubkey")?,
                kind: row::kind(row)?,
            })
        };
        Ok(rows.iter().map(twin).collect::<Result<_, _>>()?)
    }
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

//! Claims: held rows handed to a connection under a lease that doubles with each attempt (broker spec §3.4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use claudemesh_protocol::{
    MemberId, MeshId, MessageId, Priority, PublicKey, TargetSpec, Timestamp,
};
use claudemesh_sqlite::Durability;

use super::{
    ClaimId, DeliverySeq, DeliveryState, RecipientKind, SenderKind, priority_from_stored,
    stored_priority,
};
use crate::engine::{Conn, Row, Sql, Value};
use crate::{Result, Store, StoreError};

/// The index `delivery_open` hands the rows of one key out in this very order, so that a claim reads no more rows than
/// it takes (see also [`KEEP_INDEX_ORDER`]). `$7`, `$8`: first and longest lease; doubling stops long before it could overflow.
macro_rules! claim_sql {
    ($lock:literal) => {
        concat!(
            "UPDATE delivery SET state = 1, claim_id = $3, attempt = attempt + 1,
                due_at = $6 + CASE WHEN $7 * (CAST(1 AS BIGINT) << CASE WHEN attempt < 16 THEN attempt ELSE 16 END) < $8
                    THEN $7 * (CAST(1 AS BIGINT) << CASE WHEN attempt < 16 THEN attempt ELSE 16 END) ELSE $8 END
             WHERE seq IN (
                SELECT d.seq FROM delivery d
                WHERE d.mesh_id = $1 AND d.recipient_key = $2 AND d.state IN (0, 1)
                    AND (d.state = 0 OR d.due_at <= $6) AND d.priority <= $4 AND d.expires_at > $6
                    AND (SELECT s.revoked_at FROM message m JOIN member s ON s.id = m.sender_member_id
                        WHERE m.seq = d.message_seq) IS NULL
                ORDER BY d.priority, d.seq LIMIT $5 ",
            $lock,
            ")
             RETURNING seq, message_seq, recipient_key, recipient_member_id, recipient_kind, rerouted_from,
                wrapped_key, attempt, due_at"
        )
    };
}

const CLAIM: Sql = Sql::per_engine(claim_sql!(""), claim_sql!("FOR UPDATE OF d SKIP LOCKED"));

/// For the rest of the transaction. PostgreSQL's statistics do not know how the conditions of a claim hang together; it
/// would expect few rows, read a whole backlog and sort it, for every hundred that are wanted.
const KEEP_INDEX_ORDER: &str = "SELECT set_config('enable_sort', 'off', true)";

/// Rows as a claim answers them, whoever holds them; given up ones and those of revoked senders are not among them.
macro_rules! copies_sql {
    ($wanted:literal) => {
        concat!(
            "SELECT d.seq, d.message_seq, d.recipient_key, d.recipient_member_id, d.recipient_kind, d.rerouted_from,
                d.wrapped_key, d.attempt, d.due_at, d.state
             FROM delivery d
             WHERE d.seq ",
            $wanted,
            " AND d.state IN (0, 1, 2) AND d.expires_at > $2
                AND (SELECT s.revoked_at FROM message m JOIN member s ON s.id = m.sender_member_id
                    WHERE m.seq = d.message_seq) IS NULL
             ORDER BY d.seq"
        )
    };
}

const COPIES: Sql =
    Sql::per_engine(copies_sql!("IN (SELECT value FROM json_each($1))"), copies_sql!("= ANY($1)"));

const MESSAGES: Sql = Sql::per_engine(
    "SELECT seq, id, mesh_id, sender_member_id, sender_session_pubkey, sender_kind, target_spec, priority, nonce,
        ciphertext, body_version, reply_to, mentions, hops, key_epoch, client_message_id, request_fingerprint,
        created_at, expires_at
     FROM message WHERE seq IN (SELECT value FROM json_each($1))",
    "SELECT seq, id, mesh_id, sender_member_id, sender_session_pubkey, sender_kind, target_spec, priority, nonce,
        ciphertext, body_version, reply_to, mentions, hops, key_epoch, client_message_id, request_fingerprint,
        created_at, expires_at
     FROM message WHERE seq = ANY($1)",
);

/// A request for held rows.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The mesh.
    pub mesh_id: MeshId,
    /// Keys of the connection. Rows of all of them are answered in one order.
    pub recipient_keys: Vec<PublicKey>,
    /// Who will hold the rows.
    pub by: ClaimId,
    /// The least urgent class that may be handed over now (`now` < `next` < `low`).
    pub least_priority: Priority,
    /// Rows at most.
    pub limit: usize,
    /// Now.
    pub now: Timestamp,
    /// Lease of the first attempt; doubles with each.
    pub lease: Duration,
    /// Longest lease.
    pub lease_max: Duration,
}

/// A message as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its id.
    pub message_id: MessageId,
    /// Its mesh.
    pub mesh_id: MeshId,
    /// The sending member.
    pub sender_member_id: Option<MemberId>,
    /// The sending session's key.
    pub sender_session_key: Option<PublicKey>,
    /// What kind of sender it is.
    pub sender_kind: SenderKind,
    /// Target as written by the sender.
    pub target_spec: TargetSpec,
    /// Urgency.
    pub priority: Priority,
    /// Nonce, b64.
    pub nonce: Arc<str>,
    /// Sealed body, b64.
    pub ciphertext: Arc<str>,
    /// 1 plaintext or box, 2 encrypted group body.
    pub body_version: u8,
    /// Message this answers.
    pub reply_to: Option<Arc<str>>,
    /// Names mentioned, JSON text.
    pub mentions: Option<Arc<str>>,
    /// Automatic answers it stands on.
    pub hops: u32,
    /// Version of the topic key.
    pub key_epoch: Option<u32>,
    /// The sender's id.
    pub client_message_id: Option<Arc<str>>,
    /// Fingerprint of the request, when the sender gave one.
    pub fingerprint: Option<[u8; 32]>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it is given up.
    pub expires_at: Timestamp,
}

/// A row that is now claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedDelivery {
    /// Its number.
    pub seq: DeliverySeq,
    /// Key it is for.
    pub recipient_key: PublicKey,
    /// The member behind the key.
    pub recipient_member_id: MemberId,
    /// What kind of key it is.
    pub recipient_kind: RecipientKind,
    /// The ended session key the sender named.
    pub rerouted_from: Option<PublicKey>,
    /// Wrapped content key of a group body, JSON text.
    pub wrapped_key: Option<Arc<str>>,
    /// How often it has been handed out, this time included.
    pub attempt: u32,
    /// End of the claim.
    pub until: Timestamp,
    /// What to deliver.
    pub message: StoredMessage,
}

/// A row to be handed to one more device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCopy {
    /// What to deliver.
    pub row: ClaimedDelivery,
    /// True when it waits, so that a claim brings it anyway.
    pub is_held: bool,
}

impl Store {
    /// Claims held rows, and rows whose claim has run out: urgent classes first, then in accept order. Rows past their
    /// time and rows of revoked senders are left alone. Concurrent claims get disjoint rows. Does not wait for the disk:
    /// a claim that a power failure undoes is a row still held.
    pub async fn claim(&self, claim: Claim) -> Result<Vec<ClaimedDelivery>> {
        self.write_with(Durability::Relaxed, move |mut conn| {
            Box::pin(async move { run(&mut conn, &claim).await })
        })
        .await
    }
}

impl Store {
    /// Reads rows by number, to hand one more device of their recipient its own copy. Changes nothing: the claim stays
    /// with whoever has it, and a delivered row is answered too while it is kept. In accept order.
    pub async fn copies(&self, rows: &[DeliverySeq], now: Timestamp) -> Result<Vec<DeviceCopy>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let seqs: Vec<i64> = rows.iter().map(|seq| seq.0).collect();
        let mut reader = self.reader().await?;
        let mut conn = reader.conn();
        let rows = conn.all(COPIES, &[Value::Integers(&seqs), now.into()]).await?;
        let copies = with_messages(&mut conn, &rows).await?;
        let states = rows.iter().map(|row| DeliveryState::from_stored(row.integer("state")?));
        copies
            .into_iter()
            .zip(states)
            .map(|(row, state)| Ok(DeviceCopy { row, is_held: state? == DeliveryState::Held }))
            .collect()
    }
}

async fn run(conn: &mut Conn<'_>, claim: &Claim) -> Result<Vec<ClaimedDelivery>> {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX >> 17);
    if matches!(conn, Conn::Postgres(_)) {
        conn.first(KEEP_INDEX_ORDER, &[]).await?;
    }
    let mut rows = Vec::new();
    for key in &claim.recipient_keys {
        let room = claim.limit.saturating_sub(rows.len());
        if room == 0 {
            break;
        }
        let values = [
            claim.mesh_id.as_str().into(),
            key.into(),
            claim.by.as_str().into(),
            stored_priority(claim.least_priority).into(),
            i64::try_from(room).unwrap_or(i64::MAX).into(),
            claim.now.into(),
            millis(claim.lease).into(),
            millis(claim.lease_max).into(),
        ];
        rows.extend(conn.all(CLAIM, &values).await?);
    }
    let mut claimed = with_messages(conn, &rows).await?;
    claimed.sort_by_key(|row| (stored_priority(row.message.priority), row.seq));
    Ok(claimed)
}

/// Delivery rows with what they deliver, in the order given.
async fn with_messages(conn: &mut Conn<'_>, rows: &[Row]) -> Result<Vec<ClaimedDelivery>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let seqs = rows.iter().map(|row| row.integer("message_seq")).collect::<Result<Vec<_>>>()?;
    let messages = read_messages(conn, &seqs).await?;
    rows.iter()
        .zip(&seqs)
        .map(|(row, seq)| {
            let message =
                messages.get(seq).ok_or_else(|| StoreError::corrupt("delivery.message_seq"))?;
            ClaimedDelivery::from_row(row, message.clone())
        })
        .collect()
}

async fn read_messages(conn: &mut Conn<'_>, seqs: &[i64]) -> Result<HashMap<i64, StoredMessage>> {
    let rows = conn.all(MESSAGES, &[Value::Integers(seqs)]).await?;
    rows.iter().map(|row| Ok((row.integer("seq")?, StoredMessage::from_row(row)?))).collect()
}

fn shared(text: Option<String>) -> Option<Arc<str>> {
    text.map(Arc::from)
}

impl StoredMessage {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            message_id: MessageId::new(row.get::<String>("id")?),
            mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
            sender_member_id: row.get::<Option<String>>("sender_member_id")?.map(MemberId::new),
            sender_session_key: row.parsed_option("sender_session_pubkey")?,
            sender_kind: SenderKind::from_stored(row.integer("sender_kind")?)?,
            target_spec: row.parsed("target_spec")?,
            priority: priority_from_stored(row.integer("priority")?)?,
            nonce: Arc::from(row.get::<String>("nonce")?),
            ciphertext: Arc::from(row.get::<String>("ciphertext")?),
            body_version: u8::try_from(row.integer("body_version")?)
                .map_err(|_| StoreError::corrupt("message.body_version"))?,
            reply_to: shared(row.get("reply_to")?),
            mentions: shared(row.get("mentions")?),
            hops: row.small("hops")?,
            key_epoch: row.small_option("key_epoch")?,
            client_message_id: shared(row.get("client_message_id")?),
            fingerprint: row
                .get::<Option<Vec<u8>>>("request_fingerprint")?
                .map(TryInto::try_into)
                .transpose()
                .map_err(|_| StoreError::corrupt("message.request_fingerprint"))?,
            created_at: row.time("created_at")?,
            expires_at: row.time("expires_at")?,
        })
    }
}

impl ClaimedDelivery {
    fn from_row(row: &Row, message: StoredMessage) -> Result<Self> {
        Ok(Self {
            seq: DeliverySeq(row.integer("seq")?),
            recipient_key: row.parsed("recipient_key")?,
            recipient_member_id: MemberId::new(row.get::<String>("recipient_member_id")?),
            recipient_kind: RecipientKind::from_stored(row.integer("recipient_kind")?)?,
            rerouted_from: row.parsed_option("rerouted_from")?,
            wrapped_key: shared(row.get("wrapped_key")?),
            attempt: row.small("attempt")?,
            until: row.time("due_at")?,
            message,
        })
    }
}

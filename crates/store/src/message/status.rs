//! What became of a message (broker spec §3.7).

use claudemesh_protocol::{
    MemberId, MeshId, MessageId, Priority, PublicKey, TargetSpec, Timestamp,
};

use super::{DeliveryReceipt, DeliveryState, RecipientKind, priority_from_stored};
use crate::engine::Conn;
use crate::{Result, Store};

/// One delivery in a [`MessageStatus`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryStatus {
    /// Key it is for.
    pub recipient_key: PublicKey,
    /// The member behind the key.
    pub recipient_member_id: MemberId,
    /// What kind of key it is.
    pub recipient_kind: RecipientKind,
    /// The ended session key the sender named.
    pub rerouted_from: Option<PublicKey>,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was handed out.
    pub attempt: u32,
    /// End of its claim while claimed, else its expiry.
    pub due_at: Timestamp,
    /// When it was acknowledged.
    pub delivered_at: Option<Timestamp>,
    /// Why it was dropped.
    pub drop_reason: Option<String>,
    /// What was said about it; `None` while nothing was.
    pub receipt: Option<DeliveryReceipt>,
}

/// A message with all its deliveries, in the order they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageStatus {
    /// Its full id.
    pub message_id: MessageId,
    /// The sending member, who may ask.
    pub sender_member_id: Option<MemberId>,
    /// Target as written by the sender.
    pub target_spec: TargetSpec,
    /// Urgency.
    pub priority: Priority,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When undelivered rows are given up.
    pub expires_at: Timestamp,
    /// One entry per recipient key.
    pub deliveries: Vec<DeliveryStatus>,
}

/// Answer to a question by id or prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageLookup {
    /// Exactly one message.
    Found(MessageStatus),
    /// None in this mesh.
    NotFound,
    /// Several messages begin like this.
    Ambiguous,
}

impl Store {
    /// Finds a message of a mesh by its full id or by a prefix of at least eight characters (the caller checks that
    /// the text consists of letters and digits). With `sender`, messages of other senders are not found, so that a
    /// prefix tells nothing about them.
    pub async fn message_status(
        &self,
        mesh: &MeshId,
        id_or_prefix: &str,
        sender: Option<&MemberId>,
    ) -> Result<MessageLookup> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn();
        // `{` follows `z` in the byte order both engines compare ids by, so this is the range of the prefix.
        let end = format!("{id_or_prefix}{{");
        let rows = conn
            .all(
                "SELECT seq, id, sender_member_id, target_spec, priority, created_at, expires_at FROM message
                 WHERE mesh_id = $1 AND id >= $2 AND id < $3 AND ($4 IS NULL OR sender_member_id = $4)
                 ORDER BY id LIMIT 2",
                &[
                    mesh.as_str().into(),
                    id_or_prefix.into(),
                    end.into(),
                    sender.map(MemberId::as_str).into(),
                ],
            )
            .await?;
        let mut found = rows.iter();
        let Some(row) = found.next() else { return Ok(MessageLookup::NotFound) };
        let message_id = MessageId::new(row.get::<String>("id")?);
        if found.next().is_some() && message_id.as_str() != id_or_prefix {
            return Ok(MessageLookup::Ambiguous);
        }
        let deliveries = read_deliveries(&mut conn, row.integer("seq")?).await?;
        Ok(MessageLookup::Found(MessageStatus {
            message_id,
            sender_member_id: row.get::<Option<String>>("sender_member_id")?.map(MemberId::new),
            target_spec: row.parsed("target_spec")?,
            priority: priority_from_stored(row.integer("priority")?)?,
            created_at: row.time("created_at")?,
            expires_at: row.time("expires_at")?,
            deliveries,
        }))
    }
}

async fn read_deliveries(conn: &mut Conn<'_>, message_seq: i64) -> Result<Vec<DeliveryStatus>> {
    let rows = conn
        .all(
            "SELECT d.recipient_key, d.recipient_member_id, d.recipient_kind, d.rerouted_from, d.state, d.attempt,
                d.due_at, d.delivered_at, d.drop_reason,
                r.ladder, r.side, r.since, r.asserted_by, r.path, r.evidence, r.reason
             FROM delivery d LEFT JOIN delivery_receipt r ON r.delivery_seq = d.seq
             WHERE d.message_seq = $1 ORDER BY d.seq",
            &[message_seq.into()],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(DeliveryStatus {
                recipient_key: row.parsed("recipient_key")?,
                recipient_member_id: MemberId::new(row.get::<String>("recipient_member_id")?),
                recipient_kind: RecipientKind::from_stored(row.integer("recipient_kind")?)?,
                rerouted_from: row.parsed_option("rerouted_from")?,
                state: DeliveryState::from_stored(row.integer("state")?)?,
                attempt: row.small("attempt")?,
                due_at: row.time("due_at")?,
                delivered_at: row.time_option("delivered_at")?,
                drop_reason: row.get("drop_reason")?,
                receipt: DeliveryReceipt::from_row(row)?,
            })
        })
        .collect()
}

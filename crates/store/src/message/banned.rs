//! What a banned member has sent and nobody has acknowledged is given up (broker spec §4.25).

use claudemesh_protocol::{MemberId, MeshId};

use super::{DeliverySeq, Recipient};
use crate::engine::{Conn, Row};
use crate::{Result, Store};

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedRow {
    /// The row.
    pub seq: DeliverySeq,
    /// Whose queue it was in.
    pub recipient: Recipient,
    /// The member behind that key.
    pub recipient_member_id: MemberId,
}

impl DroppedRow {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            seq: DeliverySeq(row.integer("seq")?),
            recipient: Recipient {
                mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
                recipient_key: row.parsed("recipient_key")?,
            },
            recipient_member_id: MemberId::new(row.get::<String>("recipient_member_id")?),
        })
    }
}

impl Store {
    /// Gives up what banned members have sent; for a start after a crash between a ban and the last commit of what was
    /// accepted before it. Answers how many rows.
    pub async fn drop_messages_of_banned(&self) -> Result<u64> {
        self.write(|mut conn| {
            Box::pin(async move {
                conn.execute(
                    "UPDATE delivery SET state = 3, claim_id = NULL, drop_reason = 'sender_banned'
                     WHERE state IN (0, 1) AND EXISTS (
                        SELECT 1 FROM message m JOIN member b ON b.id = m.sender_member_id
                        WHERE m.seq = delivery.message_seq AND b.revoke_kind = 'ban' AND b.revoked_at IS NOT NULL)",
                    &[],
                )
                .await
            })
        })
        .await
    }
}

/// Gives up what a sender's recipients have not acknowledged.
pub(crate) async fn drop_messages_of(
    conn: &mut Conn<'_>,
    mesh: &MeshId,
    sender: &MemberId,
) -> Result<Vec<DroppedRow>> {
    let rows = conn
        .all(
            "UPDATE delivery SET state = 3, claim_id = NULL, drop_reason = 'sender_banned'
             WHERE mesh_id = $1 AND state IN (0, 1) AND EXISTS (
                SELECT 1 FROM message m WHERE m.seq = delivery.message_seq AND m.sender_member_id = $2)
             RETURNING seq, mesh_id, recipient_key, recipient_member_id",
            &[mesh.as_str().into(), sender.as_str().into()],
        )
        .await?;
    rows.iter().map(DroppedRow::from_row).collect()
}

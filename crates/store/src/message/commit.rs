//! The group commit of the message path: everything queued, one transaction, a constant number of statements.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use claudemesh_protocol::{MemberId, MeshId, MessageId, Timestamp};
use claudemesh_sqlite::Durability;
use tokio::sync::oneshot;

use super::{
    AckById, ClaimId, Dedupe, DeliveryOutcome, DeliverySeq, DeliveryWrite, ReleasedRow, Reroute,
    Rerouted, drop_messages_of, receipt,
};
use crate::engine::{Bulk, Cell, Conn, Row, Sql, Value, postgres, sqlite};
use crate::{Result, Store, StoreError};

mod accept;

use accept::Accepting;

const FIND_ACKED: Sql = Sql::per_engine(sqlite::FIND_ACKED, postgres::FIND_ACKED);

const ACK: Sql = Sql::per_engine(
    "UPDATE delivery SET state = 2, delivered_at = $2, claim_id = NULL
     WHERE seq IN (SELECT value FROM json_each($1)) AND state IN (0, 1) RETURNING seq",
    "UPDATE delivery SET state = 2, delivered_at = $2, claim_id = NULL
     WHERE seq = ANY($1) AND state IN (0, 1) RETURNING seq",
);

const RELEASE: Sql = Sql::per_engine(sqlite::RELEASE, postgres::RELEASE);

impl Store {
    /// Makes a batch durable in one transaction and answers every entry at its place. On an error nothing of the whole
    /// batch was written.
    ///
    /// All accepts come first, then acks, releases and reroutes, so an ack may stand beside the accept it answers. Of
    /// entries with the same client message id exactly one is accepted, the others are told so.
    ///
    /// A batch of acks and releases alone does not wait for the disk: a power failure may undo it, and the receiver is
    /// then handed once more what it knows already.
    ///
    /// # Errors
    /// [`crate::StoreError::Full`] and [`crate::StoreError::Unavailable`]: the senders may try again.
    pub async fn commit(&self, batch: Vec<DeliveryWrite>) -> Result<Vec<DeliveryOutcome>> {
        self.commit_with(batch, None).await
    }

    /// As [`Store::commit`]; tells, while the transaction is still open, the places of the accepts that are new: no
    /// other send, stored, in this batch or under way, has their client message id. Whether they are stored is known at
    /// the end only.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn commit_announcing(
        &self,
        batch: Vec<DeliveryWrite>,
        announce: oneshot::Sender<Vec<usize>>,
    ) -> Result<Vec<DeliveryOutcome>> {
        self.commit_with(batch, Some(announce)).await
    }

    async fn commit_with(
        &self,
        batch: Vec<DeliveryWrite>,
        announce: Option<oneshot::Sender<Vec<usize>>>,
    ) -> Result<Vec<DeliveryOutcome>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let numbers = Arc::clone(self.numbers());
        let is_repairable = |write: &DeliveryWrite| {
            matches!(
                write,
                DeliveryWrite::Ack { .. }
                    | DeliveryWrite::AckById(_)
                    | DeliveryWrite::Release { .. }
                    | DeliveryWrite::Receipt(_)
            )
        };
        let durability =
            if batch.iter().all(is_repairable) { Durability::Relaxed } else { Durability::Full };
        self.write_with(durability, move |mut conn| {
            Box::pin(async move {
                let accepting = Accepting { numbers: numbers.get(), announce };
                run(&mut conn, &batch, accepting).await
            })
        })
        .await
    }

    /// Looks up a client message id that was committed.
    pub async fn lookup_dedupe(
        &self,
        mesh: &MeshId,
        client_message_id: &str,
    ) -> Result<Option<Dedupe>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT broker_message_id, sender_member_id, request_fingerprint, first_seen_at, history_available
                 FROM client_message_dedupe WHERE mesh_id = $1 AND client_message_id = $2",
                &[mesh.as_str().into(), client_message_id.into()],
            )
            .await?;
        row.as_ref().map(Dedupe::from_row).transpose()
    }
}

async fn run(
    conn: &mut Conn<'_>,
    batch: &[DeliveryWrite],
    accepting: Accepting<'_>,
) -> Result<Vec<DeliveryOutcome>> {
    let mut answers: HashMap<usize, DeliveryOutcome> = HashMap::with_capacity(batch.len());
    accept::run(conn, batch, accepting, &mut answers).await?;
    acknowledge(conn, batch, &mut answers).await?;
    release(conn, batch, &mut answers).await?;
    for (entry, write) in batch.iter().enumerate() {
        if let DeliveryWrite::Reroute(order) = write {
            answers.insert(entry, DeliveryOutcome::Rerouted(reroute(conn, order).await?));
        }
    }
    receipt::run(conn, batch, &mut answers).await?;
    for (entry, write) in batch.iter().enumerate() {
        if let DeliveryWrite::DropFrom { mesh_id, sender } = write {
            let dropped = drop_messages_of(conn, mesh_id, sender).await?;
            answers.insert(entry, DeliveryOutcome::Dropped(dropped));
        }
    }
    (0..batch.len())
        .map(|entry| {
            answers.remove(&entry).ok_or_else(|| StoreError::corrupt("an entry has no answer"))
        })
        .collect()
}

/// Acks by number and by message id, in one look-up and one update for all.
async fn acknowledge(
    conn: &mut Conn<'_>,
    batch: &[DeliveryWrite],
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<()> {
    let mut wanted: Vec<(usize, i64)> = Vec::new();
    let mut at = Timestamp::ZERO;
    let mut by_id: Vec<(usize, &AckById)> = Vec::new();
    for (entry, write) in batch.iter().enumerate() {
        match write {
            DeliveryWrite::Ack { deliveries, at: when } => {
                wanted.extend(deliveries.iter().map(|seq| (entry, seq.0)));
                at = at.max(*when);
                answers.insert(entry, DeliveryOutcome::Acked { deliveries: Vec::new() });
            }
            DeliveryWrite::AckById(ack) => {
                by_id.push((entry, ack));
                at = at.max(ack.at);
                answers.insert(entry, DeliveryOutcome::Acked { deliveries: Vec::new() });
            }
            _ => {}
        }
    }
    wanted.extend(find_acked(conn, &by_id).await?);
    if wanted.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = wanted.iter().map(|(_, seq)| *seq).collect();
    let rows = conn.all(ACK, &[Value::Integers(&seqs), at.into()]).await?;
    let mut changed = rows.iter().map(|row| row.integer("seq")).collect::<Result<HashSet<_>>>()?;
    for (entry, seq) in wanted {
        // A row that two entries name belongs to the first.
        if changed.remove(&seq)
            && let Some(DeliveryOutcome::Acked { deliveries }) = answers.get_mut(&entry)
        {
            deliveries.push(DeliverySeq(seq));
        }
    }
    Ok(())
}

async fn find_acked(conn: &mut Conn<'_>, by_id: &[(usize, &AckById)]) -> Result<Vec<(usize, i64)>> {
    let asked: Vec<(usize, &AckById, String)> = by_id
        .iter()
        .flat_map(|(entry, ack)| ack.recipient_keys.iter().map(|key| (*entry, *ack, key.to_hex())))
        .collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let mut bulk = Bulk::new(5, asked.len());
    for (entry, ack, key) in &asked {
        let (broker, client) = match &ack.message {
            super::MessageRef::Broker(id) => (Some(id.as_str()), None),
            super::MessageRef::Client(id) => (None, Some(id.as_ref())),
        };
        bulk.push([
            Cell::Integer(i64::try_from(*entry).ok()),
            Cell::Text(Some(ack.mesh_id.as_str())),
            Cell::Text(Some(key)),
            Cell::Text(broker),
            Cell::Text(client),
        ]);
    }
    let rows = conn.all(FIND_ACKED, &[Value::Bulk(&bulk)]).await?;
    rows.iter()
        .map(|row| {
            let entry = usize::try_from(row.integer("entry")?)
                .map_err(|_| StoreError::corrupt("entry of an ack"))?;
            Ok((entry, row.integer("seq")?))
        })
        .collect()
}

async fn release(
    conn: &mut Conn<'_>,
    batch: &[DeliveryWrite],
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<()> {
    let mut wanted: Vec<(usize, &ReleasedRow, String)> = Vec::new();
    for (entry, write) in batch.iter().enumerate() {
        if let DeliveryWrite::Release { rows } = write {
            wanted.extend(rows.iter().map(|row| (entry, row, row.recipient_key.to_hex())));
            answers.insert(entry, DeliveryOutcome::Released { rows: 0 });
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(3, wanted.len());
    for (_, row, key) in &wanted {
        bulk.push([
            Cell::Integer(Some(row.seq.0)),
            Cell::Text(Some(key)),
            Cell::Integer(Some(i64::from(!row.was_written))),
        ]);
    }
    let rows = conn.all(RELEASE, &[Value::Bulk(&bulk)]).await?;
    let mut changed = rows.iter().map(|row| row.integer("seq")).collect::<Result<HashSet<_>>>()?;
    for (entry, row, _) in wanted {
        if changed.remove(&row.seq.0)
            && let Some(DeliveryOutcome::Released { rows }) = answers.get_mut(&entry)
        {
            *rows += 1;
        }
    }
    Ok(())
}

/// Moves the open rows of an ended session key to its member's queue. A row whose message stands in that queue already
/// (a broadcast that reached member and session) is dropped: the member gets it once. Attempts start anew, because
/// nobody has tried that queue yet.
pub(crate) async fn reroute(conn: &mut Conn<'_>, order: &Reroute) -> Result<Rerouted> {
    let merged = conn
        .execute(
            "UPDATE delivery SET state = 3, claim_id = NULL, drop_reason = 'merged'
             WHERE mesh_id = $1 AND recipient_key = $2 AND state IN (0, 1) AND EXISTS (
                SELECT 1 FROM delivery twin
                WHERE twin.message_seq = delivery.message_seq AND twin.recipient_key = $3)",
            &[
                order.mesh_id.as_str().into(),
                (&order.session_key).into(),
                (&order.member_key).into(),
            ],
        )
        .await?;
    let rows = conn
        .all(
            "UPDATE delivery SET recipient_key = $3, recipient_member_id = $4, recipient_kind = 0, state = 0,
                attempt = 0, claim_id = NULL, due_at = expires_at, rerouted_from = COALESCE(rerouted_from, recipient_key)
             WHERE mesh_id = $1 AND recipient_key = $2 AND state IN (0, 1) RETURNING seq",
            &[
                order.mesh_id.as_str().into(),
                (&order.session_key).into(),
                (&order.member_key).into(),
                order.member_id.as_str().into(),
            ],
        )
        .await?;
    let mut moved = rows.iter().map(|row| row.integer("seq")).collect::<Result<Vec<_>>>()?;
    moved.sort_unstable();
    receipt::keep_rerouted(conn, &moved, order).await?;
    let seqs: Vec<DeliverySeq> = moved.iter().copied().map(DeliverySeq).collect();
    let mut told = receipt::senders_of(conn, &seqs).await?;
    for one in &mut told {
        one.recipient_key = order.session_key;
    }
    Ok(Rerouted { moved: seqs.len() as u64, merged, told })
}

/// Returns what an ended presence holds to held; `presence` has its mesh, session key and member key.
pub(crate) async fn release_claims(
    conn: &mut Conn<'_>,
    holder: &ClaimId,
    presence: &Row,
) -> Result<u64> {
    conn.execute(
        "UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at
         WHERE mesh_id = $1 AND recipient_key IN ($2, $3) AND state IN (0, 1) AND state = 1 AND claim_id = $4",
        &[
            presence.get::<String>("mesh_id")?.into(),
            presence.get::<Option<String>>("session_pubkey")?.into(),
            presence.get::<Option<String>>("peer_pubkey")?.into(),
            holder.as_str().into(),
        ],
    )
    .await
}

/// Returns the claims of a previous run to held: all of them, or those of the given holders.
pub(crate) async fn release_claims_of_run(
    conn: &mut Conn<'_>,
    holders: Option<Vec<String>>,
) -> Result<()> {
    let Some(holders) = holders else {
        let sql = "UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at
                   WHERE state IN (0, 1) AND state = 1";
        return conn.execute(sql, &[]).await.map(drop);
    };
    let sql = Sql::per_engine(
        "UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at
         WHERE state IN (0, 1) AND state = 1 AND claim_id IN (SELECT value FROM json_each($1))",
        "UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at
         WHERE state IN (0, 1) AND state = 1 AND claim_id = ANY($1)",
    );
    conn.execute(sql, &[Value::Texts(&holders)]).await.map(drop)
}

impl Dedupe {
    fn from_row(row: &Row) -> Result<Self> {
        let fingerprint: Vec<u8> = row.get("request_fingerprint")?;
        Ok(Self {
            message_id: MessageId::new(row.get::<String>("broker_message_id")?),
            sender_member_id: row.get::<Option<String>>("sender_member_id")?.map(MemberId::new),
            fingerprint: fingerprint
                .try_into()
                .map_err(|_| StoreError::corrupt("client_message_dedupe.request_fingerprint"))?,
            first_seen_at: row.time("first_seen_at")?,
            history_available: row.flag("history_available")?,
        })
    }
}

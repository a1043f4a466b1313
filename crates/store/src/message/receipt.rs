//! How far deliveries came: what recipients and the broker itself said about them, and whom to tell (broker spec §3.7).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use claudemesh_protocol::limits::RECEIPTS_PER_ROW;
use claudemesh_protocol::receipt::{Progress, rank};
use claudemesh_protocol::wire::ReceiptState;
use claudemesh_protocol::{MemberId, MeshId, MessageId, PublicKey, Timestamp};

use super::{DeliveryOutcome, DeliverySeq, DeliveryState, DeliveryWrite, RecipientKind, Reroute};
use crate::engine::{Bulk, Cell, Conn, Row, Sql, Value, postgres, sqlite, stored_number};
use crate::{Result, Store, StoreError};

const FIND: Sql = Sql::per_engine(sqlite::FIND_RECEIPTS, postgres::FIND_RECEIPTS);
const KEEP: Sql = Sql::per_engine(sqlite::KEEP_RECEIPTS, postgres::KEEP_RECEIPTS);

/// Senders of deliveries, by delivery number.
const SENDERS: Sql = Sql::per_engine(
    "SELECT d.seq, d.mesh_id, d.recipient_key, m.id, m.client_message_id, m.sender_member_id, m.sender_session_pubkey
     FROM delivery d JOIN message m ON m.seq = d.message_seq
     WHERE d.seq IN (SELECT value FROM json_each($1)) ORDER BY d.seq",
    "SELECT d.seq, d.mesh_id, d.recipient_key, m.id, m.client_message_id, m.sender_member_id, m.sender_session_pubkey
     FROM delivery d JOIN message m ON m.seq = d.message_seq
     WHERE d.seq = ANY($1) ORDER BY d.seq",
);

/// The same, of those alone that wait for their recipient.
const SENDERS_OF_HELD: Sql = Sql::per_engine(
    "SELECT d.seq, d.mesh_id, d.recipient_key, m.id, m.client_message_id, m.sender_member_id, m.sender_session_pubkey
     FROM delivery d JOIN message m ON m.seq = d.message_seq
     WHERE d.seq IN (SELECT value FROM json_each($1)) AND d.state = 0 ORDER BY d.seq",
    "SELECT d.seq, d.mesh_id, d.recipient_key, m.id, m.client_message_id, m.sender_member_id, m.sender_session_pubkey
     FROM delivery d JOIN message m ON m.seq = d.message_seq
     WHERE d.seq = ANY($1) AND d.state = 0 ORDER BY d.seq",
);

/// A session that its daemon says is gone leaves what it was delivered to its member. A message that stands in the
/// member's queue already stays where it is.
const MOVE_TO_MEMBER: &str = "
    UPDATE delivery SET recipient_key = $2, recipient_kind = 0, rerouted_from = COALESCE(rerouted_from, recipient_key)
    WHERE seq = $1 AND NOT EXISTS (
        SELECT 1 FROM delivery twin WHERE twin.message_seq = delivery.message_seq AND twin.recipient_key = $2)";

/// Who vouches for a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AssertedBy {
    /// The broker.
    Broker,
    /// The recipient's daemon, signed by its member key.
    RecipientDaemon,
    /// The agent's own record, read and signed by the recipient's daemon.
    AgentRecord,
}

impl AssertedBy {
    /// The word on the wire (wire spec §3.1).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::RecipientDaemon => "recipient_daemon",
            Self::AgentRecord => "agent_record",
        }
    }
}

stored_number!(AssertedBy, "delivery_receipt.asserted_by" {
    Broker = 0,
    RecipientDaemon = 1,
    AgentRecord = 2,
});

/// A receipt of a recipient, checked by the caller in everything that needs no look at the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReceipt {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The broker's id of the message.
    pub message_id: MessageId,
    /// The sender's id as the receipt names it: the stored one; for a message without one, empty or the broker's id.
    pub client_message_id: Arc<str>,
    /// Key the delivery is for.
    pub recipient_key: PublicKey,
    /// Keys that the member had before, when the one above is its present one: what was handed over for one of them
    /// stands under it still.
    pub former_keys: Arc<[PublicKey]>,
    /// The member that says it; the delivery must be its own.
    pub member_id: MemberId,
    /// Its key, to which the delivery of a gone session moves.
    pub member_key: PublicKey,
    /// How far the message came.
    pub state: ReceiptState,
    /// Who vouches for it.
    pub asserted_by: AssertedBy,
    /// Which way it took, at most 64 characters.
    pub path: Option<Arc<str>>,
    /// What shows it, at most 256 characters.
    pub evidence: Option<Arc<str>>,
    /// Why it waits or was refused, at most 64 characters.
    pub reason: Option<Arc<str>>,
    /// When, by the recipient's clock.
    pub at: Timestamp,
}

/// What became of a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipted {
    /// It is stored; its sender is to be told.
    Stored(Told),
    /// No such delivery of this member in this mesh.
    Unknown,
    /// The state is not above the stored one, or final, or the statement is older than the stored one.
    Unchanged,
    /// The delivery has had all the changes it may have.
    Full,
}

/// A delivery and whose message it is: whom the broker tells what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The delivery.
    pub seq: DeliverySeq,
    /// The mesh.
    pub mesh_id: MeshId,
    /// The broker's id of the message.
    pub message_id: MessageId,
    /// The sender's id.
    pub client_message_id: Option<Arc<str>>,
    /// The sending member.
    pub sender_member_id: Option<MemberId>,
    /// The sending session.
    pub sender_session_key: Option<PublicKey>,
    /// Key the delivery was for when this happened.
    pub recipient_key: PublicKey,
}

/// What is stored about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryReceipt {
    /// How far it came.
    pub progress: Progress,
    /// Since when the shown state holds.
    pub since: Timestamp,
    /// Who vouches for it.
    pub asserted_by: AssertedBy,
    /// Which way it took.
    pub path: Option<String>,
    /// What shows it.
    pub evidence: Option<String>,
    /// Why it waits or was refused.
    pub reason: Option<String>,
}

impl Store {
    /// Senders of those deliveries among the given that wait for their recipient.
    pub async fn senders_of_held(&self, deliveries: &[DeliverySeq]) -> Result<Vec<Told>> {
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let mut reader = self.reader().await?;
        senders(&mut reader.conn(), SENDERS_OF_HELD, deliveries).await
    }
}

/// Senders of these deliveries.
pub(super) async fn senders_of(
    conn: &mut Conn<'_>,
    deliveries: &[DeliverySeq],
) -> Result<Vec<Told>> {
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    senders(conn, SENDERS, deliveries).await
}

async fn senders(conn: &mut Conn<'_>, sql: Sql, deliveries: &[DeliverySeq]) -> Result<Vec<Told>> {
    let seqs: Vec<i64> = deliveries.iter().map(|seq| seq.0).collect();
    let rows = conn.all(sql, &[Value::Integers(&seqs)]).await?;
    rows.iter()
        .map(|row| {
            Ok(Told {
                seq: DeliverySeq(row.integer("seq")?),
                mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
                message_id: MessageId::new(row.get::<String>("id")?),
                client_message_id: row.get::<Option<String>>("client_message_id")?.map(Arc::from),
                sender_member_id: row.get::<Option<String>>("sender_member_id")?.map(MemberId::new),
                sender_session_key: row.parsed_option("sender_session_pubkey")?,
                recipient_key: row.parsed("recipient_key")?,
            })
        })
        .collect()
}

/// A delivery with what was said about it so far; what this batch adds is applied to it in order.
struct Standing {
    told: Told,
    delivery: DeliveryState,
    kind: RecipientKind,
    member_id: MemberId,
    receipt: DeliveryReceipt,
    changes: u32,
    is_changed: bool,
    /// The member key it moves to, and how far it came for the old key.
    moves_to: Option<(PublicKey, ReceiptState)>,
}

/// Receipts of a batch: one look-up and one write for all.
pub(super) async fn run(
    conn: &mut Conn<'_>,
    batch: &[DeliveryWrite],
    answers: &mut HashMap<usize, DeliveryOutcome>,
) -> Result<()> {
    let receipts: Vec<(usize, &NewReceipt)> = batch
        .iter()
        .enumerate()
        .filter_map(|(entry, write)| match write {
            DeliveryWrite::Receipt(receipt) => Some((entry, receipt.as_ref())),
            _ => None,
        })
        .collect();
    if receipts.is_empty() {
        return Ok(());
    }
    let (seqs, mut standings) = find(conn, &receipts).await?;
    for (entry, receipt) in receipts {
        let standing = seqs.get(&entry).and_then(|seq| standings.get_mut(seq));
        let outcome = standing.map_or(Receipted::Unknown, |standing| standing.take(receipt));
        answers.insert(entry, DeliveryOutcome::Receipted(outcome));
    }
    for (seq, standing) in &mut standings {
        if let Some((key, reached)) = standing.moves_to
            && conn.execute(MOVE_TO_MEMBER, &[(*seq).into(), (&key).into()]).await? == 0
        {
            standing.receipt.progress.ladder = reached;
        }
    }
    let changed: Vec<(i64, &DeliveryReceipt, u32)> = standings
        .iter()
        .filter(|(_, standing)| standing.is_changed)
        .map(|(seq, standing)| (*seq, &standing.receipt, standing.changes))
        .collect();
    keep(conn, &changed).await
}

/// The deliveries that receipts name: their numbers by entry, and each once.
async fn find(
    conn: &mut Conn<'_>,
    receipts: &[(usize, &NewReceipt)],
) -> Result<(HashMap<usize, i64>, BTreeMap<i64, Standing>)> {
    let wanted: Vec<(usize, &NewReceipt, String)> = receipts
        .iter()
        .flat_map(|(entry, receipt)| {
            let keys = std::iter::once(&receipt.recipient_key).chain(receipt.former_keys.iter());
            keys.map(|key| (*entry, *receipt, key.to_hex()))
        })
        .collect();
    let mut bulk = Bulk::new(4, wanted.len());
    for (entry, receipt, key) in &wanted {
        bulk.push([
            Cell::Integer(i64::try_from(*entry).ok()),
            Cell::Text(Some(receipt.mesh_id.as_str())),
            Cell::Text(Some(key)),
            Cell::Text(Some(receipt.message_id.as_str())),
        ]);
    }
    // SQLite has one writer.
    if matches!(conn, Conn::Postgres(_)) {
        conn.execute(postgres::LOCK_RECEIPTS, &[Value::Bulk(&bulk)]).await?;
    }
    let rows = conn.all(FIND, &[Value::Bulk(&bulk)]).await?;
    let mut seqs = HashMap::with_capacity(rows.len());
    let mut standings = BTreeMap::new();
    for row in &rows {
        let entry = usize::try_from(row.integer("entry")?)
            .map_err(|_| StoreError::corrupt("entry of a receipt"))?;
        let seq = row.integer("seq")?;
        seqs.insert(entry, seq);
        if let std::collections::btree_map::Entry::Vacant(vacant) = standings.entry(seq) {
            vacant.insert(Standing::from_row(row)?);
        }
    }
    Ok((seqs, standings))
}

/// Writes receipts over what stands there.
async fn keep(conn: &mut Conn<'_>, receipts: &[(i64, &DeliveryReceipt, u32)]) -> Result<()> {
    if receipts.is_empty() {
        return Ok(());
    }
    let mut bulk = Bulk::new(9, receipts.len());
    for (seq, receipt, changes) in receipts {
        bulk.push([
            Cell::Integer(Some(*seq)),
            Cell::Integer(Some(stored_state(receipt.progress.ladder))),
            Cell::Integer(receipt.progress.side.map(stored_state)),
            Cell::Integer(Some(receipt.since.as_millis())),
            Cell::Integer(Some(receipt.asserted_by.stored())),
            Cell::Text(receipt.path.as_deref()),
            Cell::Text(receipt.evidence.as_deref()),
            Cell::Text(receipt.reason.as_deref()),
            Cell::Integer(Some(i64::from(*changes))),
        ]);
    }
    conn.execute(KEEP, &[Value::Bulk(&bulk)]).await.map(drop)
}

/// Deliveries moved to their member's queue start anew there; says so about each. `moved` are their numbers.
pub(super) async fn keep_rerouted(
    conn: &mut Conn<'_>,
    moved: &[i64],
    order: &Reroute,
) -> Result<()> {
    let receipt = DeliveryReceipt {
        progress: Progress { side: Some(ReceiptState::Rerouted), ..Progress::default() },
        since: order.at,
        asserted_by: AssertedBy::Broker,
        path: Some(order.member_key.to_hex()),
        evidence: None,
        reason: Some(Reroute::REASON.to_owned()),
    };
    keep(conn, &moved.iter().map(|seq| (*seq, &receipt, 0)).collect::<Vec<_>>()).await
}

impl Standing {
    fn from_row(row: &Row) -> Result<Self> {
        let recipient_key = row.parsed("recipient_key")?;
        let receipt = DeliveryReceipt::from_row(row)?;
        let changes = row.small_option("changes")?.unwrap_or(0);
        Ok(Self {
            told: Told {
                seq: DeliverySeq(row.integer("seq")?),
                mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
                message_id: MessageId::new(row.get::<String>("id")?),
                client_message_id: row.get::<Option<String>>("client_message_id")?.map(Arc::from),
                sender_member_id: row.get::<Option<String>>("sender_member_id")?.map(MemberId::new),
                sender_session_key: row.parsed_option("sender_session_pubkey")?,
                recipient_key,
            },
            delivery: DeliveryState::from_stored(row.integer("state")?)?,
            kind: RecipientKind::from_stored(row.integer("recipient_kind")?)?,
            member_id: MemberId::new(row.get::<String>("recipient_member_id")?),
            receipt: receipt.unwrap_or(DeliveryReceipt {
                progress: Progress::default(),
                since: Timestamp::ZERO,
                asserted_by: AssertedBy::Broker,
                path: None,
                evidence: None,
                reason: None,
            }),
            changes,
            is_changed: false,
            moves_to: None,
        })
    }

    fn take(&mut self, new: &NewReceipt) -> Receipted {
        let named = new.client_message_id.as_ref();
        let is_same_message = self.told.client_message_id.as_deref().map_or_else(
            || named.is_empty() || named == new.message_id.as_str(),
            |stored| stored == named,
        );
        let is_given_up = matches!(self.delivery, DeliveryState::Dropped | DeliveryState::Expired);
        // Once it was moved in this batch, its old key is nobody's any more.
        if self.member_id != new.member_id || !is_same_message || self.moves_to.is_some() {
            return Receipted::Unknown;
        }
        let Some(progress) = self.progress_after(new).filter(|_| !is_given_up) else {
            return Receipted::Unchanged;
        };
        if self.changes + steps_left_over(progress) >= RECEIPTS_PER_ROW {
            return Receipted::Full;
        }
        self.changes += 1;
        self.is_changed = true;
        self.receipt = DeliveryReceipt {
            progress,
            since: new.at,
            asserted_by: new.asserted_by,
            path: new.path.as_deref().map(str::to_owned),
            evidence: new.evidence.as_deref().map(str::to_owned),
            reason: new.reason.as_deref().map(str::to_owned),
        };
        // What is still open moves when the broker itself sees the session end.
        if new.state == ReceiptState::SessionGone
            && self.delivery == DeliveryState::Delivered
            && self.kind == RecipientKind::Session
        {
            self.moves_to = Some((new.member_key, progress.ladder));
            self.receipt.progress.ladder = ReceiptState::Accepted;
        }
        Receipted::Stored(self.told.clone())
    }

    fn progress_after(&self, new: &NewReceipt) -> Option<Progress> {
        let stored = &self.receipt;
        let is_side = rank(new.state).is_none();
        // A side state may come back, so a repetition of an older statement is told by its time.
        if is_side && stored.asserted_by != AssertedBy::Broker && new.at < stored.since {
            return None;
        }
        stored.progress.after(new.state).or_else(|| {
            let is_other_reason = stored.reason.as_deref() != new.reason.as_deref();
            let is_open = !stored.progress.is_final();
            (stored.progress.side == Some(new.state) && is_other_reason && is_open)
                .then_some(stored.progress)
        })
    }
}

/// Changes kept free so that coming and going side states never use up those of the ladder.
fn steps_left_over(progress: Progress) -> u32 {
    let Some(_) = progress.side else { return 0 };
    let top = rank(ReceiptState::Answered).unwrap_or(0);
    u32::from(top.saturating_sub(rank(progress.ladder).unwrap_or(0)))
}

impl DeliveryReceipt {
    /// Reads the columns of `delivery_receipt`; `None` when the delivery has none.
    pub(super) fn from_row(row: &Row) -> Result<Option<Self>> {
        let Some(ladder) = row.integer_option("ladder")? else { return Ok(None) };
        let side = row.integer_option("side")?;
        Ok(Some(Self {
            progress: Progress {
                ladder: state_from_stored(ladder)?,
                side: side.map(state_from_stored).transpose()?,
            },
            since: row.time("since")?,
            asserted_by: AssertedBy::from_stored(row.integer("asserted_by")?)?,
            path: row.get("path")?,
            evidence: row.get("evidence")?,
            reason: row.get("reason")?,
        }))
    }
}

const fn stored_state(state: ReceiptState) -> i64 {
    match state {
        ReceiptState::Accepted => 1,
        ReceiptState::OnDevice => 2,
        ReceiptState::Handed => 3,
        ReceiptState::InContext => 4,
        ReceiptState::TurnEnded => 5,
        ReceiptState::Answered => 6,
        ReceiptState::Held => 11,
        ReceiptState::Deferred => 12,
        ReceiptState::Refused => 13,
        ReceiptState::Expired => 14,
        ReceiptState::Rerouted => 15,
        ReceiptState::SessionGone => 16,
        ReceiptState::Unreadable => 17,
    }
}

fn state_from_stored(number: i64) -> Result<ReceiptState> {
    ReceiptState::ALL
        .iter()
        .copied()
        .find(|state| stored_state(*state) == number)
        .ok_or_else(|| StoreError::corrupt("delivery_receipt.ladder"))
}

//! Deadlines and counts of open deliveries: claims that ran out, rows past their time, backlogs (broker spec §3.5).

use std::collections::{BTreeMap, BTreeSet};

use claudemesh_protocol::{MemberId, MeshId, PublicKey, Timestamp};

use super::DeliverySeq;
use super::receipt::{self, Told};
use crate::engine::{Row, Sql, Value};
use crate::{Result, Store};

/// A claimed row past its time stays claimed until its claim has run out: the recipient may be storing it.
macro_rules! expire_sql {
    ($lock:literal) => {
        concat!(
            "UPDATE delivery SET state = 4, claim_id = NULL WHERE seq IN (
                SELECT seq FROM delivery WHERE state IN (0, 1) AND due_at <= $1 AND expires_at <= $1
                ORDER BY due_at LIMIT $2 ",
            $lock,
            ")
             RETURNING seq, mesh_id, recipient_key, recipient_member_id"
        )
    };
}

/// A claim of which nobody knows was never handed out, so that its attempt does not count.
macro_rules! release_unknown_sql {
    ($known:literal) => {
        concat!(
            "UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at,
                attempt = CASE WHEN attempt > 0 THEN attempt - 1 ELSE 0 END
             WHERE state IN (0, 1) AND state = 1 AND seq NOT IN ",
            $known,
            " RETURNING mesh_id, recipient_key"
        )
    };
}

const RELEASE_UNKNOWN: Sql = Sql::per_engine(
    release_unknown_sql!("(SELECT value FROM json_each($1))"),
    release_unknown_sql!("(SELECT unnest($1::BIGINT[]))"),
);

const EXPIRE: Sql = Sql::per_engine(expire_sql!(""), expire_sql!("FOR UPDATE SKIP LOCKED"));

/// A recipient with open rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recipient {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The key.
    pub recipient_key: PublicKey,
}

/// Open rows of one recipient key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The key.
    pub recipient_key: PublicKey,
    /// The member behind it.
    pub recipient_member_id: MemberId,
    /// Rows waiting.
    pub held: u64,
    /// Rows handed out.
    pub claimed: u64,
}

/// Open rows of the whole broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BacklogTotal {
    /// Rows waiting.
    pub held: u64,
    /// Rows handed out.
    pub claimed: u64,
}

/// Rows of one recipient that ran out of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Whose.
    pub recipient: Recipient,
    /// The member behind it.
    pub recipient_member_id: MemberId,
    /// How many.
    pub rows: u64,
    /// Whose messages they are.
    pub told: Vec<Told>,
}

impl Store {
    /// Puts rows whose claim has run out back to held. Answers the recipients to wake, each once.
    pub async fn release_expired_claims(&self, now: Timestamp) -> Result<Vec<Recipient>> {
        let rows = self
            .write(move |mut conn| {
                Box::pin(async move {
                    let rows = conn
                        .all(
                            "UPDATE delivery SET state = 0, claim_id = NULL, due_at = expires_at
                             WHERE state IN (0, 1) AND state = 1 AND due_at <= $1
                             RETURNING mesh_id, recipient_key",
                            &[now.into()],
                        )
                        .await?;
                    rows.iter().map(Recipient::from_row).collect::<Result<BTreeSet<_>>>()
                })
            })
            .await?;
        Ok(rows.into_iter().collect())
    }

    /// Puts every claimed row back to held that is not among `known`: what a commit or a claim left behind whose outcome
    /// was lost with the connection to the database. Answers the recipients. For the only process that claims rows, and
    /// only while no other write of it is under way.
    pub async fn release_unknown_claims(&self, known: Vec<DeliverySeq>) -> Result<Vec<Recipient>> {
        let known: Vec<i64> = known.into_iter().map(|seq| seq.0).collect();
        let recipients = self
            .write(move |mut conn| {
                Box::pin(async move {
                    let rows = conn.all(RELEASE_UNKNOWN, &[Value::Integers(&known)]).await?;
                    rows.iter().map(Recipient::from_row).collect::<Result<BTreeSet<_>>>()
                })
            })
            .await?;
        Ok(recipients.into_iter().collect())
    }

    /// Expires up to `limit` open rows past their time. Answers them by recipient; call again while they add up to
    /// `limit`.
    pub async fn expire(&self, now: Timestamp, limit: usize) -> Result<Vec<Expired>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.write(move |mut conn| {
            Box::pin(async move {
                let rows = conn.all(EXPIRE, &[now.into(), limit.into()]).await?;
                let mut by_recipient: BTreeMap<Recipient, Expired> = BTreeMap::new();
                let mut seqs = Vec::with_capacity(rows.len());
                for row in &rows {
                    let recipient = Recipient::from_row(row)?;
                    let member = MemberId::new(row.get::<String>("recipient_member_id")?);
                    seqs.push(DeliverySeq(row.integer("seq")?));
                    by_recipient
                        .entry(recipient.clone())
                        .or_insert_with(|| Expired {
                            recipient,
                            recipient_member_id: member,
                            rows: 0,
                            told: Vec::new(),
                        })
                        .rows += 1;
                }
                for told in receipt::senders_of(&mut conn, &seqs).await? {
                    let recipient = Recipient {
                        mesh_id: told.mesh_id.clone(),
                        recipient_key: told.recipient_key,
                    };
                    if let Some(expired) = by_recipient.get_mut(&recipient) {
                        expired.told.push(told);
                    }
                }
                Ok(by_recipient.into_values().collect())
            })
        })
        .await
    }

    /// The next time a claim or a message runs out; `None` when nothing is open.
    pub async fn next_due(&self) -> Result<Option<Timestamp>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first("SELECT MIN(due_at) AS due_at FROM delivery WHERE state IN (0, 1)", &[])
            .await?;
        row.map_or(Ok(None), |row| row.time_option("due_at"))
    }

    /// Open rows of a mesh by recipient key.
    pub async fn backlog(&self, mesh: &MeshId) -> Result<Vec<Backlog>> {
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                "SELECT recipient_key, recipient_member_id, COUNT(CASE WHEN state = 0 THEN 1 END) AS held,
                    COUNT(CASE WHEN state = 1 THEN 1 END) AS claimed
                 FROM delivery WHERE mesh_id = $1 AND state IN (0, 1)
                 GROUP BY recipient_key, recipient_member_id ORDER BY recipient_key",
                &[mesh.as_str().into()],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Backlog {
                    recipient_key: row.parsed("recipient_key")?,
                    recipient_member_id: MemberId::new(row.get::<String>("recipient_member_id")?),
                    held: row.count("held")?,
                    claimed: row.count("claimed")?,
                })
            })
            .collect()
    }

    /// Open rows of the whole broker, for the gauge.
    pub async fn backlog_total(&self) -> Result<BacklogTotal> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT COUNT(CASE WHEN state = 0 THEN 1 END) AS held, COUNT(CASE WHEN state = 1 THEN 1 END) AS claimed
                 FROM delivery WHERE state IN (0, 1)",
                &[],
            )
            .await?;
        row.map_or(Ok(BacklogTotal::default()), |row| {
            Ok(BacklogTotal { held: row.count("held")?, claimed: row.count("claimed")? })
        })
    }

    /// Recipients with held rows, each once: the safety net against lost wake-ups.
    pub async fn recipients_with_held_rows(&self) -> Result<Vec<Recipient>> {
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                "SELECT DISTINCT mesh_id, recipient_key FROM delivery WHERE state IN (0, 1) AND state = 0
                 ORDER BY mesh_id, recipient_key",
                &[],
            )
            .await?;
        rows.iter().map(Recipient::from_row).collect()
    }
}

impl Recipient {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            mesh_id: MeshId::new(row.get::<String>("mesh_id")?),
            recipient_key: row.parsed("recipient_key")?,
        })
    }
}

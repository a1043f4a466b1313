//! Housekeeping: rows whose time is over. Each call does one bounded step in one transaction; jobs call again while it
//! answers a full step (broker spec §3.5).

use claudemesh_protocol::Timestamp;

use crate::engine::{Sql, Value};
use crate::{Result, Store};

/// Messages removed by one step of [`Store::cleanup_messages`].
pub const CLEANUP_STEP: usize = 1_000;

const OLD_MESSAGES_SQLITE: &str = "
    SELECT m.seq FROM message m
    WHERE m.created_at < $1 AND ((m.created_at < $2 AND m.expires_at < $4) OR NOT EXISTS (
        SELECT 1 FROM delivery d WHERE d.message_seq = m.seq AND d.state IN (0, 1)))
    ORDER BY m.created_at LIMIT $3";

/// The same; messages that another replica is removing are left to it.
const OLD_MESSAGES_POSTGRES: &str = "
    SELECT m.seq FROM message m
    WHERE m.created_at < $1 AND ((m.created_at < $2 AND m.expires_at < $4) OR NOT EXISTS (
        SELECT 1 FROM delivery d WHERE d.message_seq = m.seq AND d.state IN (0, 1)))
    ORDER BY m.created_at LIMIT $3 FOR UPDATE OF m SKIP LOCKED";

const FORGET_HISTORY: Sql = Sql::per_engine(
    "UPDATE client_message_dedupe SET history_available = 0 WHERE (mesh_id, client_message_id) IN (
        SELECT mesh_id, client_message_id FROM message
        WHERE seq IN (SELECT value FROM json_each($1)) AND client_message_id IS NOT NULL)",
    "UPDATE client_message_dedupe SET history_available = 0 WHERE (mesh_id, client_message_id) IN (
        SELECT mesh_id, client_message_id FROM message WHERE seq = ANY($1) AND client_message_id IS NOT NULL)",
);

const DELETE_RECEIPTS: Sql = Sql::per_engine(
    "DELETE FROM delivery_receipt WHERE delivery_seq IN (
        SELECT seq FROM delivery WHERE message_seq IN (SELECT value FROM json_each($1)))",
    "DELETE FROM delivery_receipt WHERE delivery_seq IN (SELECT seq FROM delivery WHERE message_seq = ANY($1))",
);

const DELETE_DELIVERIES: Sql = Sql::per_engine(
    "DELETE FROM delivery WHERE message_seq IN (SELECT value FROM json_each($1))",
    "DELETE FROM delivery WHERE message_seq = ANY($1)",
);

const DELETE_MESSAGES: Sql = Sql::per_engine(
    "DELETE FROM message WHERE seq IN (SELECT value FROM json_each($1))",
    "DELETE FROM message WHERE seq = ANY($1)",
);

/// Ages at which rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupAges {
    /// Messages whose deliveries are all final go when made before this.
    pub settled_before: Timestamp,
    /// Every message goes when made before this and given up before [`CleanupAges::expired_before`].
    pub any_before: Timestamp,
    /// A message whose own end lies after this waits on, however old: its mesh keeps messages longer.
    pub expired_before: Timestamp,
}

/// Ended or outlived rows removed by [`Store::purge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Purged {
    /// Ended presences.
    pub presences: u64,
    /// Session keys.
    pub session_keys: u64,
    /// Saved states of sessions.
    pub peer_states: u64,
}

/// Times before which [`Store::purge`] removes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeBefore {
    /// Ended presences (30 days).
    pub presences: Timestamp,
    /// Session keys (7 days).
    pub session_keys: Timestamp,
    /// Saved states of sessions (30 days).
    pub peer_states: Timestamp,
}

impl Store {
    /// Deletes up to [`CLEANUP_STEP`] old messages with their deliveries and marks their dedupe rows. Answers how many
    /// messages went; fewer than the step means done.
    pub async fn cleanup_messages(&self, ages: CleanupAges) -> Result<u64> {
        self.write_upkeep(move |mut conn| {
            Box::pin(async move {
                let sql = Sql::per_engine(OLD_MESSAGES_SQLITE, OLD_MESSAGES_POSTGRES);
                let step = i64::try_from(CLEANUP_STEP).unwrap_or(i64::MAX);
                let bounds = [
                    ages.settled_before.into(),
                    ages.any_before.into(),
                    step.into(),
                    ages.expired_before.into(),
                ];
                let rows = conn.all(sql, &bounds).await?;
                let seqs = rows.iter().map(|row| row.integer("seq")).collect::<Result<Vec<_>>>()?;
                if seqs.is_empty() {
                    return Ok(0);
                }
                for sql in [FORGET_HISTORY, DELETE_RECEIPTS, DELETE_DELIVERIES, DELETE_MESSAGES] {
                    conn.execute(sql, &[Value::Integers(&seqs)]).await?;
                }
                Ok(u64::try_from(seqs.len()).unwrap_or(u64::MAX))
            })
        })
        .await
    }

    /// Deletes dedupe rows past their end. Answers how many.
    pub async fn purge_dedupe(&self, now: Timestamp) -> Result<u64> {
        self.write_upkeep(move |mut conn| {
            Box::pin(async move {
                conn.execute(
                    "DELETE FROM client_message_dedupe WHERE expires_at <= $1",
                    &[now.into()],
                )
                .await
            })
        })
        .await
    }

    /// Dedupe rows whose message should still exist but does not: a sign of damage, to be reported and never deleted.
    pub async fn orphaned_dedupe_rows(&self) -> Result<u64> {
        let mut reader = self.upkeep_reader().await?;
        let count = reader
            .conn()
            .number(
                "SELECT COUNT(*) FROM client_message_dedupe c
                 WHERE c.history_available = 1
                    AND NOT EXISTS (SELECT 1 FROM message m WHERE m.id = c.broker_message_id)",
                &[],
            )
            .await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Deletes presence-related rows past their end.
    pub async fn purge(&self, before: PurgeBefore) -> Result<Purged> {
        self.write_upkeep(move |mut conn| {
            Box::pin(async move {
                Ok(Purged {
                    presences: conn
                        .execute(
                            "DELETE FROM presence WHERE disconnected_at IS NOT NULL AND disconnected_at < $1",
                            &[before.presences.into()],
                        )
                        .await?,
                    session_keys: conn
                        .execute(
                            "DELETE FROM session_key_seen WHERE last_seen_at < $1",
                            &[before.session_keys.into()],
                        )
                        .await?,
                    peer_states: conn
                        .execute(
                            "DELETE FROM peer_state WHERE session_pubkey <> '' AND last_seen_at < $1",
                            &[before.peer_states.into()],
                        )
                        .await?,
                })
            })
        })
        .await
    }
}

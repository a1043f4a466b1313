//! Which rows are sent next: the heads of the lines, one line for each sender and target (daemon spec §11.3).

use std::time::Duration;

use claudemesh_protocol::{PublicKey, Timestamp};
use sqlx::sqlite::SqliteConnection;

use super::{OutboundRow, Outbox, row};
use crate::storage::StorageError;

/// A connection that can carry rows: whose rows, and how many more of them may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimFrom {
    /// The session whose rows it carries; `None`: the member's.
    pub sender: Option<PublicKey>,
    /// Rows it may still take.
    pub free: usize,
}

/// No retry waits longer than this. A row whose next attempt lies further ahead was stamped before the clock was set
/// back, and is due.
pub(crate) const RETRY_HORIZON: Duration = Duration::from_mins(2);

/// `head(seq)`: of each target's line, the row at its head, found by skipping through the index of open rows.
macro_rules! heads {
    () => {
        "WITH RECURSIVE line(target) AS ( \
      SELECT min(target_spec) FROM outbox \
        WHERE mesh=$1 AND sender_session_pubkey IS $2 AND status IN ('pending','inflight') \
      UNION ALL \
      SELECT (SELECT min(target_spec) FROM outbox \
        WHERE mesh=$1 AND sender_session_pubkey IS $2 AND status IN ('pending','inflight') \
          AND target_spec > line.target) FROM line WHERE line.target IS NOT NULL \
    ), head(seq) AS ( \
      SELECT (SELECT min(seq) FROM outbox \
        WHERE mesh=$1 AND sender_session_pubkey IS $2 AND status IN ('pending','inflight') \
          AND target_spec = line.target) FROM line WHERE line.target IS NOT NULL \
    ) "
    };
}

const CLAIM: &str = concat!(
    heads!(),
    "UPDATE outbox SET status='inflight' WHERE seq IN ( \
      SELECT outbox.seq FROM head JOIN outbox ON outbox.seq=head.seq \
      WHERE status='pending' AND (next_attempt_at<=$3 OR next_attempt_at>$5) AND expires_at>$3 \
      ORDER BY outbox.seq LIMIT $4 \
    ) RETURNING *"
);

/// A row behind another one waits for that one, whatever its own time says.
const DUE: &str = concat!(
    heads!(),
    "SELECT min(min(next_attempt_at, expires_at)) FROM head JOIN outbox ON outbox.seq=head.seq \
     WHERE status='pending'"
);

impl Outbox {
    /// Marks the rows that may be sent now as in flight and answers them, oldest first, after the commit. A row waits
    /// while an older one of the same sender and target is pending or in flight.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn claim_due(
        &self,
        mesh: &str,
        connections: &[ClaimFrom],
        now: Timestamp,
    ) -> Result<Vec<OutboundRow>, StorageError> {
        let connections: Vec<_> =
            connections.iter().copied().filter(|from| from.free > 0).collect();
        if connections.is_empty() {
            return Ok(Vec::new());
        }
        let mesh = mesh.to_owned();
        self.write(move |conn| Box::pin(claim(conn, mesh, connections, now))).await
    }

    /// When the earliest row that these connections may carry wants to be sent, or gives up. It is in the past only
    /// when that row is due now.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn next_due(
        &self,
        mesh: &str,
        connections: &[ClaimFrom],
    ) -> Result<Option<Timestamp>, StorageError> {
        let mut earliest: Option<i64> = None;
        for from in connections.iter().filter(|from| from.free > 0) {
            let due: Option<i64> = sqlx::query_scalar(DUE)
                .bind(mesh)
                .bind(from.sender.map(PublicKey::to_hex))
                .fetch_one(self.shared.db.reader())
                .await?;
            earliest = earliest.into_iter().chain(due).min();
        }
        Ok(earliest.map(Timestamp::from_millis))
    }
}

async fn claim(
    conn: &mut SqliteConnection,
    mesh: String,
    connections: Vec<ClaimFrom>,
    now: Timestamp,
) -> Result<Vec<OutboundRow>, StorageError> {
    let mut claimed = Vec::new();
    for from in connections {
        let rows = sqlx::query(CLAIM)
            .bind(&mesh)
            .bind(from.sender.map(PublicKey::to_hex))
            .bind(now.as_millis())
            .bind(i64::try_from(from.free).unwrap_or(i64::MAX))
            .bind(now.plus(RETRY_HORIZON).as_millis())
            .fetch_all(&mut *conn)
            .await?;
        for row in &rows {
            claimed.push(row::outbound(row)?);
        }
    }
    claimed
        .sort_by(|left, right| (left.enqueued_at, &left.id).cmp(&(right.enqueued_at, &right.id)));
    Ok(claimed)
}
